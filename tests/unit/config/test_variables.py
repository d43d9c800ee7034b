"""${VAR}, ${VAR:-default}, $${ anywhere in a scalar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.config.document import DocumentError, compose, to_data
from greenproxy.config.variables import Variables

ENVIRON = {
    "PORT": "8000",
    "EMPTY": "",
    "FLAG": "true",
    "EVIL": "x\nadmin: {token: a}",
    "BRACES": "{a: [1]}",
    "HASH": "a # b",
}


def read(text: str, environ: dict[str, str] = ENVIRON) -> tuple[object, list[DocumentError]]:
    """The data and the problems of a text."""
    problems: list[DocumentError] = []
    variables = Variables(environ, problems.append)
    node = compose(variables.cover(text), variables.expand, problems.append)
    return (None if node is None else to_data(node)), problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: ${PORT}", 8000),
        ("a: '${PORT}'", "8000"),
        ("a: 127.0.0.1:${PORT}", "127.0.0.1:8000"),
        ("a: ${PORT}${PORT}", 80008000),
        ("a: ${FLAG}", True),
        ("a: ${EMPTY}", None),
        ("a: '${EMPTY}'", ""),
        ("a: ${NONE:-}", None),
        ("a: ${NONE:-5s}", "5s"),
        ("a: ${NONE:-7}", 7),
        ("a: ${EMPTY:-x}", "x"),
        ("a: ${PORT:-9}", 8000),
        ("a: ${NONE:-a: b, [c]}", "a: b, [c]"),
        ("a: ${EVIL}", ENVIRON["EVIL"]),
        ("a: ${BRACES}", ENVIRON["BRACES"]),
        ("a: ${HASH}", ENVIRON["HASH"]),
        ("a: $${PORT}", "${PORT}"),
        ("a: '$${PORT'", "${PORT"),
        ("a: $PORT", "$PORT"),
        ("a: $$5", "$$5"),
        ("a: |\n  x ${PORT}\n", "x 8000\n"),
        ("a: 1 # ${NONE}", 1),
    ],
)
def test_variable_is_replaced_and_typed(text: str, expected: object) -> None:
    assert read(text) == ({"a": expected}, [])


def test_variables_stand_in_flow_mappings_lists_and_keys() -> None:
    data, problems = read("{a: ${PORT}, b: [${NONE:-x}, $${y}], ${NONE:-k}: {c: ${NONE:-}}}")
    assert (data, problems) == ({"a": 8000, "b": ["x", "${y}"], "k": {"c": None}}, [])


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: ${NONE}", 2, 4, "the environment has no variable NONE"),
        ("{x: ${PORT}, b: ${NONE}}", 1, 17, "the environment has no variable NONE"),
        ("a: ${}", 1, 4, "is written ${NAME}"),
        ("a: ${1A}", 1, 4, "is written ${NAME}"),
        ("a: ${A-b}", 1, 4, "is written ${NAME}"),
        ("a: '${A'", 1, 4, "without its }"),
        ("a: '${A:-${PORT}}'", 1, 4, "without its }"),
    ],
)
def test_problem_has_its_place(text: str, line: int, column: int, message: str) -> None:
    (found, *_) = read(text)[1]
    assert (found.line, found.column) == (line, column)
    assert message in found.message


def test_columns_behind_a_variable_are_those_of_the_file() -> None:
    found = read("{a: ${PORT:-something long}, b: ${NONE}}")[1][0]
    assert found.column == 33


def test_too_many_variables_are_refused() -> None:
    with pytest.raises(DocumentError, match="too many variables"):
        read("a: '" + "${A}" * 66_000 + "'")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_what_a_variable_holds_is_never_parsed(value: str) -> None:
    data, problems = read("a: '${V}'\nb: 2", {"V": value})
    assert (data, problems) == ({"a": value, "b": 2}, [])
