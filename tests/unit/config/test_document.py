"""YAML as the configuration takes it: types, places, what is refused, and how much of it."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.config import document
from greenproxy.config.document import DocumentError, Mapping, compose, to_data, type_of_plain


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test holds with and without libyaml."""
    if request.param == "python":
        monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)
    return str(request.param)


def read(text: str) -> object:
    """Compose a text in which nothing is wrong."""
    problems: list[DocumentError] = []
    node = compose(text, lambda value, line, column: (value, True), problems.append)
    assert problems == []
    return None if node is None else to_data(node)


def problem(text: str) -> DocumentError:
    """The first problem of a text."""
    problems: list[DocumentError] = []
    try:
        compose(text, lambda value, line, column: (value, True), problems.append)
    except DocumentError as error:
        problems.append(error)
    return problems[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("-1", -1),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", "017"),
        ("08", "08"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2024-01-02", "2024-01-02"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("9" * 30, "9" * 30),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("=", "="),
    ],
)
def test_plain_scalar_has_the_type_of_yaml_1_2(text: str, expected: object) -> None:
    assert type_of_plain(text) == expected
    assert type(type_of_plain(text)) is type(expected)
    assert read(f"a: {text}") == {"a": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on: [connect]", {"on": ["connect"]}),
        ("502: a\n5xx: b\ntrue: c", {"502": "a", "5xx": "b", "true": "c"}),
        ("a: '1'\nb: \"on\"\nc: !!str 1", {"a": "1", "b": "on", "c": "1"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        (
            "a: &x {b: 1}\ne: &y {b: 2, c: 2}\nd: {<<: [*x, *y]}",
            {"a": {"b": 1}, "e": {"b": 2, "c": 2}, "d": {"b": 1, "c": 2}},
        ),
        ("%YAML 1.2\n---\na: 1\n...\n", {"a": 1}),
        ("", None),
        ("# only a comment\n", None),
        ("---\n", None),
    ],
)
def test_document_is_read(text: str, expected: object) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "given twice; first in line 1"),
        ('{"a": 1, "a": 2}', 1, 10, "given twice"),
        ("a: 1\n\tb: 2", 2, 1, "a tab cannot indent"),
        ("a: *nothing", 1, 4, "no anchor before it"),
        ("a: &x [*x]", 1, 8, "inside its own anchor"),
        ("a: !!python/object/apply:os.system [id]", 1, 4, "tags have no meaning"),
        ("a: !!binary aGk=", 1, 4, "tags have no meaning"),
        ("a: !secret x", 1, 4, "tags have no meaning"),
        ("? [a]\n: b", 1, 3, "a key must be a word"),
        ("a: 1\n---\nb: 2", 2, 1, "only one document"),
        ("a: {<<: 3}", 1, 9, "<< takes a mapping"),
        ("a: [1, 2\nb: 3", 2, 1, "not valid YAML"),
        ("a: 'x", 1, 6, "not valid YAML"),
    ],
)
def test_problem_has_its_place(text: str, line: int, column: int, message: str) -> None:
    found = problem(text)
    assert message in found.message
    assert found.line == line
    if "not valid YAML" not in message:  # the two parsers differ in where they give up
        assert found.column == column


def test_keys_and_values_remember_their_places() -> None:
    node = compose("ä: x\nb:\n  - {c: 'd'}\n", lambda value, line, column: (value, True), pytest.fail)
    assert isinstance(node, Mapping)
    key, value = node.entries["ä"]
    assert (key.line, key.column, value.line, value.column) == (1, 1, 1, 4)
    key, value = node.entries["b"]
    assert (key.line, key.column, value.line, value.column) == (2, 1, 3, 3)


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "a: " + "[" * 40 + "]" * 40])
def test_deep_nesting_is_refused_early(text: str) -> None:
    assert "nested deeper than 32" in problem(text).message or "not valid YAML" in problem(text).message


def test_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "an alias counts as often" in problem("\n".join(lines)).message


def test_many_values_are_refused() -> None:
    assert "more than 100000 values" in problem("[" + "a," * 100_001 + "]").message


@pytest.mark.parametrize(
    "text", ["a: !h3cret!x y", "a: *s3cret", "a: !s3cret x", "%TAG ! s3cret\na: 's3cret", "a: b: s3cret"]
)
def test_problem_quotes_nothing_of_the_file(text: str) -> None:
    assert "cret" not in problem(text).message


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_json_is_read_as_json(value: object) -> None:
    assert read(json.dumps(value)) == value
    assert read(json.dumps(value, indent=2)) == value


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#,? \n\t%@`<~0.\\"), max_size=60))
def test_any_text_gives_a_node_or_a_document_error(text: str) -> None:
    try:
        compose(text, lambda value, line, column: (value, True), lambda error: None)
    except DocumentError as error:
        assert error.line >= 1
