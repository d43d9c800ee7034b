"""Places, paths, and which values a problem may show."""

from __future__ import annotations

import pytest

from greenproxy.config.document import compose
from greenproxy.config.problems import Places
from greenproxy.config.section import KEY


def places(text: str, *, literal: bool = True) -> Places:
    node = compose(text, lambda value, line, column: (value, literal), pytest.fail)
    assert node is not None
    return Places("f", node)


def test_value_is_shown_in_quotes_and_cut() -> None:
    assert places("a: x").problem(("a",), "{value} is bad").message == "'x' is bad"
    assert places("a: " + "x" * 999).problem(("a",), "{value}").message == repr("x" * 60 + "...")
    assert places('a: "\\n"').problem(("a",), "{value}").message == "'\\n'"


@pytest.mark.parametrize("name", ["token", "key", "env", "set", "headers", "cookies"])
def test_value_below_a_secret_key_is_not_shown(name: str) -> None:
    assert places(f"{name}: x").problem((name,), "{value} is bad").message == "the value is bad"
    assert places(f"{name}: {{a: [x]}}").problem((name, "a", 0), "{value} is bad").message == "the value is bad"


def test_value_of_the_environment_is_not_shown() -> None:
    assert places("a: x", literal=False).problem(("a",), "{value} is bad").message == "the value is bad"


@pytest.mark.parametrize("text", ["a: {b: x}", "a: [x]", "b: x"])
def test_only_a_scalar_that_is_there_is_shown(text: str) -> None:
    assert places(text).problem(("a",), "{value} is bad").message == "the value is bad"


@pytest.mark.parametrize(
    ("loc", "expected"),
    [
        ((), "f:1:1"),
        (("a",), "f:1:4: a"),
        (("a", KEY), "f:1:1: a"),
        (("a", 1), "f:1:8: a[1]"),
        (("a", 1, "b.c"), "f:1:14: a[1]['b.c']"),
        (("a", 1, "b.c", KEY), "f:1:9: a[1]['b.c']"),
        (("a", 1, "none"), "f:1:8: a[1].none"),
        (("a", 9, "none"), "f:1:4: a[9]"),
        (("zz", "none"), "f:1:1: zz"),
        ((KEY,), "f:2:10: ['[key]']"),
    ],
)
def test_place_and_path(loc: tuple[str | int, ...], expected: str) -> None:
    problem = places("a: [x, {b.c: y}]\n'[key]': z").problem(loc, "m")
    assert str(problem) == f"{expected}: m"
