"""wsgi.input over a request body that comes in pieces."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from greenproxy.worker.apphost import (
    MAX_DRAIN_BYTES,
    MAX_TRAILER_BYTES,
    BadRequest,
    Disconnected,
    open_body,
    parse_head,
)
from tests.unit.apphost.fakes import connection

CHUNKED = b"4\r\none\n\r\n5;x=y\r\ntwo\nt\r\n4\r\nhree\r\n0\r\nX-Trailer: a\r\n\r\n"
SIZED = b"one\ntwo\nthree"
NEXT = b"GET /next HTTP/1.1\r\n"


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def head_of(framing: str) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: a\r\n{framing}".encode()


FRAMINGS = [("Content-Length: 13", SIZED), ("Transfer-Encoding: chunked", CHUNKED)]
READS: list[Callable[[io.BufferedIOBase], bytes]] = [
    lambda source: source.read(),
    lambda source: source.read(13),
    lambda source: source.read(1000),
    lambda source: b"".join(iter(lambda: source.read(1), b"")),
    lambda source: b"".join(iter(lambda: source.read(5), b"")),
    lambda source: b"".join(iter(source.readline, b"")),
    lambda source: b"".join(iter(lambda: source.readline(2), b"")),
    lambda source: b"".join(source.readlines()),
    lambda source: b"".join(source),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("framing", "wire"), FRAMINGS)
@pytest.mark.parametrize("read", READS)
def test_every_way_of_reading_gives_the_body_and_nothing_after_it(
    read: Callable[[io.BufferedIOBase], bytes], framing: str, wire: bytes, size: int
) -> None:
    made, fake = connection(*split(wire + NEXT, size))
    source, _ = open_body(made, parse_head(head_of(framing)))
    assert read(source) == SIZED  # type: ignore[arg-type]
    assert source.read() == b""
    assert (made.buffer + b"".join(fake.pieces)).endswith(NEXT)
    assert not made.broken


@pytest.mark.parametrize(("framing", "wire"), FRAMINGS)
@pytest.mark.parametrize("read", [0, 1, 13])
def test_drain_leads_to_the_next_request(framing: str, wire: bytes, read: int) -> None:
    made, _ = connection(wire[7:] + NEXT, buffered=wire[:7])
    source, body = open_body(made, parse_head(head_of(framing)))
    source.read(read)
    assert body is not None
    assert body.drain()
    made.read_line(1000)
    assert made.buffer == b""


def test_drain_gives_up_beyond_its_limit() -> None:
    made, fake = connection(*[b"x" * 1024] * 1024)
    _, body = open_body(made, parse_head(head_of("Content-Length: 1048576")))
    assert body is not None
    assert not body.drain()
    assert len(fake.pieces) == 1024 - MAX_DRAIN_BYTES // 1024


def test_body_that_came_with_the_head_is_read_without_the_socket() -> None:
    made, _ = connection(buffered=b"abc" + NEXT)
    source, body = open_body(made, parse_head(head_of("Content-Length: 3")))
    assert (source.read(), body, made.buffer) == (b"abc", None, NEXT)


@pytest.mark.parametrize(
    ("framing", "wire"),
    [("Content-Length: 13", SIZED[:-1])] + [("Transfer-Encoding: chunked", CHUNKED[:-cut]) for cut in (1, 3, 17, 23)],
)
def test_cut_body_is_never_a_short_body(framing: str, wire: bytes) -> None:
    made, _ = connection(wire)
    source, _ = open_body(made, parse_head(head_of(framing)))
    with pytest.raises(Disconnected):
        source.read()
    assert made.broken


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n", b"g\r\n", b"-1\r\n", b"+1\r\na\r\n0\r\n\r\n", b"0x1\r\na\r\n0\r\n\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n",
        b"1_0\r\n", b"1\na\r\n0\r\n\r\n", b"1\r\nab\r\n", b"1\r\na0\r\n\r\n", b"1;\x00\r\na\r\n", b"1;a\nb\r\na\r\n",
        b"f" * 16 + b"\r\n", b"1;" + b"x" * 5000, b"0\r\n" + b"X: y\r\n" * (MAX_TRAILER_BYTES // 3),
    ],
)  # fmt: skip
def test_malformed_chunk_is_refused_and_ends_the_connection(wire: bytes) -> None:
    made, _ = connection(*split(wire, 100))
    source, _ = open_body(made, parse_head(head_of("Transfer-Encoding: chunked")))
    with pytest.raises(BadRequest):
        source.read()
    assert made.broken


def test_continue_is_sent_once_when_the_body_is_first_read() -> None:
    made, fake = connection(b"a", b"bc")
    source, _ = open_body(made, parse_head(head_of("Expect: 100-Continue\r\nContent-Length: 3")))
    assert fake.sent == b""
    assert source.read() == b"abc"
    assert fake.sent == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("head", [b"Expect: 100-continue\r\nContent-Length: 3", b"Content-Length: 3"])
def test_continue_is_not_sent_to_a_client_that_did_not_wait(head: bytes) -> None:
    made, fake = connection(b"bc", buffered=b"a")
    source, _ = open_body(made, parse_head(b"POST / HTTP/1.1\r\nHost: a\r\n" + head))
    assert (source.read(), fake.sent) == (b"abc", b"")
