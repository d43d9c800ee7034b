"""What the command line makes of its words, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenproxy import cli

GOOD = "listeners: [{address: 127.0.0.1:0}]\nroutes: [{respond: {body: hello}}]\n"


@pytest.fixture
def good(tmp_path: Path) -> str:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    return str(file)


def test_check_says_what_the_file_holds(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", good]) == 0
    assert capsys.readouterr().out.startswith(f"{good}: OK (1 listener, 0 upstreams, 1 route, ")


def test_check_names_every_problem_on_its_own_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("routes: [{upstream: shop}]\nlistners: []\n")
    assert cli.main(["check", str(tmp_path / "bad.yaml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_file_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["missing.yaml"]) == 2
    assert capsys.readouterr().err == "missing.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekc", "a.yaml"], "invalid choice: 'chekc'"),
        (["check"], "required: CONFIG"),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["run", "a.yaml", "b.yaml"], "unrecognized arguments: b.yaml"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_usage_says_what_is_wrong(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
