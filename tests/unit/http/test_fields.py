"""Header blocks: cutting never touches another line, and values are what a slow reader would find too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.http import fields

BLOCK = b"Host: a\r\nX-A: 1\r\nx-a:\t2 \r\nAccept: X-A: 3\r\nX-AB: 4\r\nX-Empty:\r\n"

names = st.sampled_from([b"host", b"x-a", b"x-ab", b"x", b"a-x-a"])
cases = st.sampled_from([bytes.lower, bytes.upper, bytes.title])
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=8)
lines = st.lists(st.tuples(names, cases, values.map(lambda text: text.encode("latin-1"))), max_size=8)


def written(parts: list[tuple[bytes, object, bytes]]) -> list[tuple[bytes, bytes]]:
    """Each line with its lower-case name."""
    return [(name, case(name) + b": " + value + b"\r\n") for name, case, value in parts]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"host", b"a"),
        (b"x-a", b"1, 2"),
        (b"x-ab", b"4"),
        (b"x-empty", b""),
        (b"accept", b"X-A: 3"),
        (b"x", None),
        (b"a", None),
        (b"empty", None),
    ],
)
def test_value_is_found_by_whole_names_only(name: bytes, value: bytes | None) -> None:
    assert fields.value_of(BLOCK, fields.searchable(BLOCK), name) == value


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ([b"x-a"], b"Host: a\r\nAccept: X-A: 3\r\nX-AB: 4\r\nX-Empty:\r\n"),
        ([b"host"], BLOCK[9:]),
        ([b"x-empty"], BLOCK[:-10]),
        ([b"host", b"x-a", b"accept", b"x-ab", b"x-empty"], b""),
        ([b"x"], BLOCK),
        ([b"x.a", b"x-a."], BLOCK),
    ],
)
def test_fields_are_cut_by_whole_names_only(gone: list[bytes], left: bytes) -> None:
    assert fields.without(BLOCK, gone) == left


def test_prefix_finds_every_name_that_begins_so() -> None:
    block = (
        b"X-Forwarded-For: 1\r\nX-Forwarded: 2\r\nx-forwarded-: 3\r\nZ-X-Forwarded-For: 4\r\nA: x-forwarded-b: 5\r\n"
    )
    found, spans = fields.scan(block, fields.searchable(block), fields.finder([b"host"], b"x-forwarded-"))
    assert found == {b"x-forwarded-for": b"1", b"x-forwarded-": b"3"}
    assert fields.cut(block, spans) == b"X-Forwarded: 2\r\nZ-X-Forwarded-For: 4\r\nA: x-forwarded-b: 5\r\n"


def test_kept_field_is_read_but_not_among_the_places() -> None:
    found, spans = fields.scan(BLOCK, fields.searchable(BLOCK), fields.finder([b"host", b"x-ab"]), b"host")
    assert found == {b"host": b"a", b"x-ab": b"4"}
    assert fields.cut(BLOCK, spans) == BLOCK.replace(b"X-AB: 4\r\n", b"")


def test_pairs_are_native_strings_in_order() -> None:
    block = b"B: 1\r\na:\xe9 \r\nB:\r\nC: x:y\r\n"
    assert fields.pairs(block) == [("B", "1"), ("a", "\xe9"), ("B", ""), ("C", "x:y")]
    assert fields.pairs(b"") == []


@given(lines, st.sets(names, min_size=1))
def test_cutting_leaves_every_other_line_as_it_was(parts: list[tuple[bytes, object, bytes]], gone: set[bytes]) -> None:
    whole = written(parts)
    left = b"".join(line for name, line in whole if name not in gone)
    assert fields.without(b"".join(line for _, line in whole), gone) == left


@given(lines, names)
def test_value_is_all_lines_joined(parts: list[tuple[bytes, object, bytes]], name: bytes) -> None:
    block = b"".join(line for _, line in written(parts))
    found = [value.strip(b" \t") for key, _, value in parts if key == name]
    expected = b", ".join(found) if found else None
    assert fields.value_of(block, fields.searchable(block), name) == expected
    assert fields.scan(block, fields.searchable(block), fields.finder([name]))[0].get(name) == expected
