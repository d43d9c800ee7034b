"""The documents say what is so: examples load, links lead somewhere, words, keys and events exist."""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenproxy.cli import main
from greenproxy.config.availability import NOT_AVAILABLE
from greenproxy.config.load import parse_config
from greenproxy.config.reference import REFERENCE_FILE, reference_text
from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README, ARCHITECTURE, OPERATIONS = ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "docs" / "operations.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE_FILE = re.compile(r"[\w./-]+\.(?:py|md|yaml|json|toml|lock|sh|js)\b")


def blocks(document: Path, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(document.read_text("utf-8")) if found == language]


def prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text("utf-8"))


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


EXAMPLES = [pytest.param(text, id=f"{name(file)}-{n}") for file in DOCS for n, text in enumerate(blocks(file, "yaml"))]


def make_paths(text: str, folder: Path) -> str:
    """Make what an example names under /srv, in `folder`: interpreters, files and folders; return the text for it."""
    for path in set(re.findall(r"/srv/[\w./-]+", text)):
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.name == "python":
            place.symlink_to(sys.executable)
        elif place.suffix:
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)
    return text.replace("/srv/", f"{folder}/srv/").replace("www-data", getpass.getuser())


def test_readme_has_a_hosted_example_and_one_with_servers() -> None:
    examples = blocks(README, "yaml")
    assert any("wsgi:" in text for text in examples)
    assert any("servers:" in text for text in examples)


@pytest.mark.parametrize("text", EXAMPLES)
def test_yaml_example_is_a_valid_configuration(text: str, tmp_path: Path) -> None:
    assert parse_config(make_paths(text, tmp_path), str(tmp_path / "example.yaml"), {}).routes


def test_reference_of_the_configuration_is_in_step_with_the_models() -> None:
    assert REFERENCE_FILE.read_text("utf-8") == reference_text(), "run: python -m greenproxy.config.reference"


def test_hosted_defaults_are_those_the_reference_tells(tmp_path: Path) -> None:
    text = "listeners: [{address: 127.0.0.1:0}]\nupstreams: {shop: {wsgi: {app: shop}}}\nroutes: [{upstream: shop}]\n"
    said = "`health_check: {interval: 1s}` and `buffer: {request: 1MB, response: 1MB}`"
    assert said in REFERENCE_FILE.read_text("utf-8")
    shop = parse_config(text.replace("app: shop", "app: shop:app"), str(tmp_path / "x.yaml"), {}).upstreams["shop"]
    assert shop.health_check is not None
    assert (shop.health_check.interval, shop.buffer.request, shop.buffer.response) == (1.0, 1 << 20, 1 << 20)


def defaults_of_reference() -> dict[str, str]:
    """Dotted key -> default as the reference shows it."""
    found, section = {}, ""
    for line in REFERENCE_FILE.read_text("utf-8").splitlines():
        if heading := re.match(r"#+ `(.+)`", line):
            section = heading[1] + "."
        elif row := re.match(r"\| `(\w+)` \| (`.+?`|\*\*needed\*\*)? *\|", line):
            found[section + row[1]] = row[2] or ""
    return found


def test_defaults_in_readme_are_those_of_the_models() -> None:
    shown = re.findall(r"^\| `([\w.*]+\.[\w.*]+)` \| (`[^`]+`) \|", README.read_text("utf-8"), re.MULTILINE)
    known = defaults_of_reference()
    assert len(shown) > 10
    assert dict(shown) == {key: known.get(key) for key, _ in shown}


def test_readme_lists_exactly_what_is_not_available() -> None:
    section = README.read_text("utf-8").split("## What it does not do yet")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert sorted(_INLINE.findall(" ".join(rows))) == sorted(NOT_AVAILABLE)


def links(document: Path) -> Iterator[str]:
    for target in _LINK.findall(document.read_text("utf-8")):
        if "://" not in target:
            yield target.partition("#")[0]


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_relative_links_lead_to_files(document: Path) -> None:
    assert [target for target in links(document) if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_files_named_exist(document: Path) -> None:
    """A file is named from the root, from the package, or by a part of its path."""
    folders = [ROOT / folder for folder in ("greenproxy", "tests", "docs", "conf", "locustfiles")]
    files = [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*.*"))]
    here = [f"/{path.relative_to(ROOT).as_posix()}" for path in files]
    said = set(_CODE_FILE.findall(re.sub(r"\w+://\S+", "", prose(document))))
    said -= {"shop.yaml"}
    assert [word for word in sorted(said) if not any(path.endswith(f"/{word.lstrip('./')}") for path in here)] == []


def commands(document: Path) -> Iterator[str]:
    """What is shown of our commands, in blocks and in running text."""
    for text in [*blocks(document, "sh"), *blocks(document, "ini"), *_INLINE.findall(prose(document))]:
        for line in text.splitlines():
            if found := re.search(
                r"(?:^|\s|=|/)(\./run\.sh|python -I? ?-m greenproxy|make|greenproxy)(?= |$)(.*)", line
            ):
                yield found[1] + found[2].partition("#")[0]


def known_words() -> set[str]:
    """The words of run.sh, besides those it hands on to the greenproxy command."""
    cases = (ROOT / "run.sh").read_text("utf-8").rpartition("case ${1:-} in")[2]
    return {"", "run", "check", *re.findall(r"^(\w+)\)$", cases, re.MULTILINE)}


def is_configuration(word: str) -> bool:
    return word == "CONFIG" or word.endswith(".yaml")


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_commands_shown_are_known(document: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    unknown = []
    for command in commands(document):
        program, _, rest = command.partition(" ")
        word = rest.replace("-I ", "").replace("-m greenproxy", "").strip().partition(" ")[0]
        known = word in targets if program == "make" else word in known_words() or is_configuration(word)
        if not known:
            unknown.append(command)
    assert unknown == []


def test_words_of_the_command_line_are_shown_in_readme() -> None:
    shown = {command.split(" ")[1] for command in commands(README) if command.startswith("./run.sh ")}
    assert shown >= known_words() - {"", "run", "setup"}


def test_help_tells_the_exit_codes_that_operations_explain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    codes = re.findall(r"^  (\d)  ", capsys.readouterr().out, re.MULTILINE)
    assert codes == re.findall(r"^\| (\d) \|", OPERATIONS.read_text("utf-8"), re.MULTILINE)


def events_of_the_code() -> set[str]:
    """Events that stand in the code as a word; those of children are put together from kind and fate."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "greenproxy").rglob("*.py"))
    literal = re.findall(r'"event"(?::|\] =) "(\w+)"', text) + re.findall(r'log_event\(\s*[\w.]+,\s*"(\w+)"', text)
    kinds = ("app", "checker", "admin", "worker")
    return {*literal, *(f"{kind}_{fate}" for kind in kinds for fate in ("ready", "died", "stopped")), "spare_ready"}


def test_operations_explain_every_event() -> None:
    rows = re.findall(
        r"^\| (`[a-z_]+`.*?) \|", OPERATIONS.read_text("utf-8").split("## The error log")[1], re.MULTILINE
    )
    assert set(_INLINE.findall(" ".join(rows))) == events_of_the_code()


def test_architecture_names_the_rooms_in_their_order() -> None:
    rows = re.findall(r"^\| ((?:`\w+/?` ?)+)\|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    rooms = [room.rstrip("/") for row in rows for room in _INLINE.findall(row)]
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    here = {path.stem for path in (ROOT / "greenproxy").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert set(rooms) == here - {"__init__", "__pycache__"}
    assert [floor_of[room] for room in rooms] == sorted(floor_of[room] for room in rooms)


def test_architecture_is_at_most_two_pages() -> None:
    assert len(ARCHITECTURE.read_text("utf-8").splitlines()) <= 130


def test_readme_has_the_place_of_the_measured_table() -> None:
    assert re.search(r"<!-- bench:begin -->\n(?:.*\n)*<!-- bench:end -->", README.read_text("utf-8"))


def test_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size < 150 * 1024
