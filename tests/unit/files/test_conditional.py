"""Conditions and ranges, in the order of RFC 9110 13.2.2."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.files.conditional import SETTLED_S, Selection, Validators, select

MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
STRONG = Validators("abc-3e8", datetime(1994, 11, 6, 8, 49, 37, tzinfo=timezone.utc), weak=False)
WEAK = Validators("abc-3e8", STRONG.modified, weak=True)
SIZE = 1000
WHOLE = Selection(200, 0, SIZE)


def selected(validators: Validators = STRONG, method: str = "GET", size: int = SIZE, **fields: str) -> Selection:
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    return select(method, sent.get, validators, size)


def test_validators_are_weak_while_the_file_may_change_within_its_time_stamp() -> None:
    settled = Validators.of(mtime_ns=10**18, size=5, now=10**9 + SETTLED_S)
    fresh = Validators.of(mtime_ns=10**18, size=5, now=10**9 + SETTLED_S - 0.5)
    assert settled.etag == '"de0b6b3a7640000-5"'
    assert fresh.etag == f"W/{settled.etag}"
    assert Validators.of(mtime_ns=10**18, size=5, now=0).weak, "a time stamp from the future"
    assert Validators.of(mtime_ns=10**18 + 1, size=5, now=2 * 10**9).tag != settled.tag
    assert Validators.of(mtime_ns=10**18, size=6, now=2 * 10**9).tag != settled.tag


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"if_none_match": '"abc-3e8"'}, 304),
        ({"if_none_match": 'W/"abc-3e8"'}, 304),
        ({"if_none_match": '"x", "abc-3e8"'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_none_match": "abc"}, 200),
        ({"if_modified_since": MODIFIED}, 304),
        ({"if_modified_since": LATER}, 304),
        ({"if_modified_since": EARLIER}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_none_match": '"x"', "if_modified_since": LATER}, 200),
        ({"if_match": '"abc-3e8"'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": 'W/"abc-3e8"'}, 412),
        ({"if_match": '"x"'}, 412),
        ({"if_match": '"x"', "if_none_match": '"abc-3e8"'}, 412),
        ({"if_match": '"abc-3e8"', "if_none_match": '"abc-3e8"'}, 304),
        ({"if_unmodified_since": MODIFIED}, 200),
        ({"if_unmodified_since": EARLIER}, 412),
        ({"if_match": '"abc-3e8"', "if_unmodified_since": EARLIER}, 200),
        ({"if_unmodified_since": "yesterday"}, 200),
    ],
)
def test_conditions(method: str, fields: dict[str, str], status: int) -> None:
    assert selected(method=method, **fields).status == status


def test_weak_validators_are_good_for_a_cache_and_not_for_if_match() -> None:
    assert selected(WEAK, if_none_match='W/"abc-3e8"').status == 304
    assert selected(WEAK, if_match='"abc-3e8"').status == 412
    assert selected(WEAK, if_match='W/"abc-3e8"').status == 412
    assert selected(WEAK, if_match="*").status == 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", Selection(206, 0, 1)),
        ("bytes=0-99", Selection(206, 0, 100)),
        ("BYTES=100-", Selection(206, 100, 900)),
        ("bytes=999-", Selection(206, 999, 1)),
        ("bytes=900-5000", Selection(206, 900, 100)),
        ("bytes=-1", Selection(206, 999, 1)),
        ("bytes=-1000", Selection(206, 0, 1000)),
        ("bytes=-5000", Selection(206, 0, 1000)),
        ("bytes=1000-", Selection(416)),
        ("bytes=1000-1001", Selection(416)),
        ("bytes=-0", Selection(416)),
        ("bytes=5-4", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=1-2x", WHOLE),
        ("bytes=0-1,3-4", WHOLE),
        ("bytes 0-1", WHOLE),
        ("items=0-1", WHOLE),
        ("bytes=" + "9" * 18 + "-", Selection(416)),
        ("bytes=" + "9" * 5000 + "-", WHOLE),
        ("bytes=\N{ARABIC-INDIC DIGIT ONE}-2", WHOLE),
        ("", WHOLE),
    ],
    ids=lambda value: str(value)[:24],
)
def test_range(value: str, expected: Selection) -> None:
    assert selected(range=value) == expected


def test_range_of_an_empty_file_cannot_be_satisfied() -> None:
    assert selected(size=0, range="bytes=0-").status == 416
    assert selected(size=0, range="bytes=-5").status == 416


def test_range_of_head_is_ignored() -> None:
    assert selected(method="HEAD", range="bytes=0-1") == WHOLE


def test_condition_comes_before_range() -> None:
    assert selected(range="bytes=0-1", if_none_match='"abc-3e8"').status == 304
    assert selected(range="bytes=0-1", if_match='"x"').status == 412


@pytest.mark.parametrize(
    ("validators", "if_range", "status"),
    [
        (STRONG, '"abc-3e8"', 206),
        (STRONG, 'W/"abc-3e8"', 200),
        (STRONG, '"x"', 200),
        (STRONG, MODIFIED, 206),
        (STRONG, EARLIER, 200),
        (STRONG, LATER, 200),
        (STRONG, "", 200),
        (WEAK, '"abc-3e8"', 200),
        (WEAK, 'W/"abc-3e8"', 200),
        (WEAK, MODIFIED, 200),
    ],
)
def test_if_range_needs_a_strong_match(validators: Validators, if_range: str, status: int) -> None:
    assert selected(validators, range="bytes=0-1", if_range=if_range).status == status


def test_if_range_without_range_is_ignored() -> None:
    assert selected(if_range='"x"') == WHOLE


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_part_lies_within_the_file(size: int, first: int, last: int) -> None:
    chosen = selected(size=size, range=f"bytes={first}-{last}")
    if chosen.status == 206:
        assert first == chosen.start <= last
        assert chosen.start + chosen.length == min(size, last + 1)
    else:
        assert chosen == (Selection(200, 0, size) if last < first else Selection(416))
        assert last < first or first >= size
