"""The chunked coding: strict, bounded, and the same however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.http.body import LAST_CHUNK, MAX_EXTENSIONS, MAX_SIZE_LINE, MAX_TRAILERS, ChunkedDecoder, encode_chunk

REFUSED = "refused"


class Malformed(Exception):
    """What the decoder is told to raise."""


def decoded(*pieces: bytes) -> object:
    """What becomes of a body in pieces: (data, done, rest) or REFUSED."""
    decoder = ChunkedDecoder(Malformed)
    try:
        data = b"".join([decoder.feed(piece) for piece in pieces])
    except Malformed:
        return REFUSED
    return data, decoder.done, decoder.rest if decoder.done else b""


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    ("coded", "data"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"a\r\n0123456789\r\n000\r\n\r\n", b"0123456789"),
        (b"0000000000000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
        (b'5 ; a = "b;\\"c" ; d\r\nhello\r\n0\r\n\r\n', b"hello"),
        (b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"hello"),
    ],
)
def test_well_formed_body_is_decoded(coded: bytes, data: bytes) -> None:
    assert decoded(coded + b"GET /next") == (data, True, b"GET /next")
    assert decoded(*bytewise(coded)) == (data, True, b"")


@pytest.mark.parametrize(
    "coded",
    [
        b"\r\n",
        b"g\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"5\rhello",
        b"5_0\r\n",
        b"10000000000000000\r\n",
        b"5;\r\nhello\r\n",
        b"5;a=\r\nhello\r\n",
        b'5;a="b\r\nhello\r\n',
        b"5;a=b\x00\r\nhello\r\n",
        b"5;a b\r\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello\rX",
        b"5\r\nhello0\r\n\r\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\n X: 1\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nTRANSFER-ENCODING: chunked\r\n\r\n",
        b"0\r\nhost: a\r\n\r\n",
    ],
)
def test_malformed_body_is_refused(coded: bytes) -> None:
    assert decoded(coded) == REFUSED
    assert decoded(*bytewise(coded)) == REFUSED


@pytest.mark.parametrize(
    "coded", [b"5", b"5\r", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r", b"0\r\n", b"0\r\n\r", b"0\r\nX: 1\r\n"]
)
def test_unfinished_body_is_not_done(coded: bytes) -> None:
    outcome = decoded(coded)
    assert isinstance(outcome, tuple)
    assert outcome[1] is False


@pytest.mark.parametrize(
    ("start", "room", "end"),
    [
        (b"5;a=", MAX_SIZE_LINE - len(b"5;a=\r\n"), b"\r\nhello\r\n0\r\n\r\n"),
        (b"0\r\nX: ", MAX_TRAILERS - len(b"X: \r\n"), b"\r\n\r\n"),
    ],
)
def test_line_up_to_its_limit_is_taken_and_a_longer_one_is_not(start: bytes, room: int, end: bytes) -> None:
    at_limit, over = start + b"a" * room + end, start + b"a" * (room + 1) + end
    assert decoded(at_limit) != REFUSED
    assert decoded(*bytewise(at_limit)) != REFUSED
    assert decoded(over) == REFUSED
    assert decoded(*bytewise(over)) == REFUSED


@pytest.mark.parametrize("start", [b"", b"5;a=", b"0\r\nX: ", b"0" * 20])
def test_endless_line_is_refused(start: bytes) -> None:
    decoder = ChunkedDecoder(Malformed)
    decoder.feed(start)
    with pytest.raises(Malformed):
        for _ in range(MAX_TRAILERS + 2):
            decoder.feed(b"a")


def test_extensions_are_bounded_over_the_whole_body() -> None:
    extension = b";a=" + b"b" * 997
    chunks = MAX_EXTENSIONS // len(extension)
    coded = (b"1" + extension + b"\r\nx\r\n") * chunks
    assert decoded(coded + LAST_CHUNK) == (b"x" * chunks, True, b"")
    assert decoded(coded + b"1" + extension + b"\r\nx\r\n" + LAST_CHUNK) == REFUSED


def test_trailers_are_bounded_together() -> None:
    line = b"X: " + b"a" * 1019 + b"\r\n"
    assert decoded(b"0\r\n" + line * (MAX_TRAILERS // len(line)) + b"\r\n") == (b"", True, b"")
    assert decoded(b"0\r\n" + line * (MAX_TRAILERS // len(line)) + b"X:\r\n\r\n") == REFUSED


_TOKENS = [
    b"5\r\nhello\r\n", b"1\r\nx\r\n", b"3;a=b\r\nabc\r\n", b"0\r\n", b"0\r\n\r\n", b"X: 1\r\n", b"\r\n", b"\n", b"\r",
    b"0", b"5", b"g", b"4\r\nhello\r\n", b"Host: a\r\n", b"rest",
]  # fmt: skip
bodies = st.lists(st.sampled_from(_TOKENS), max_size=6).map(b"".join)


@given(bodies, st.lists(st.integers(0, 60), max_size=8))
def test_no_split_changes_the_outcome(coded: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(coded)]
    assert decoded(*(coded[start:end] for start, end in pairwise(at))) == decoded(coded)


@given(bodies | st.binary(max_size=40))
def test_bytes_one_by_one_have_the_same_outcome_as_all_at_once(coded: bytes) -> None:
    assert decoded(*bytewise(coded)) == decoded(coded)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.binary(max_size=5))
def test_what_is_encoded_is_decoded(pieces: list[bytes], rest: bytes) -> None:
    coded = b"".join(map(encode_chunk, pieces)) + LAST_CHUNK
    assert decoded(coded + rest) == (b"".join(pieces), True, rest)
