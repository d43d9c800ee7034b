"""Exchanges without a connection: a head in bytes, a deadline that never comes, a body from a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from greenproxy.errors import GreenproxyError
from greenproxy.http.exchange import Exchange
from greenproxy.http.forwarding import Peer
from greenproxy.http.head import HeadLimits, RequestHead, ResponseHead, parse_request
from greenproxy.http.target import parse_target

LIMITS = HeadLimits(max_header_bytes=32_768, max_headers=100, max_request_line=8_192)


class FakeDeadline:
    """Never comes; notes what it was set to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def set(self, seconds: float, error: GreenproxyError) -> None:
        self.seconds.append(seconds)

    def clear(self) -> None:
        pass

    def watch_current(self) -> FakeDeadline:
        return self

    def forget(self) -> None:
        pass


class FakeBody:
    """A request body that comes in the given pieces; an exception among them is raised in its turn."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        self._pieces = list(pieces)
        self.length = length
        self.received = 0
        self.complete = False
        self.continue_owed = False
        self.deadline = FakeDeadline()

    def read_some(self) -> bytes:
        if not self._pieces:
            self.complete = True
            return b""
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        self.received += len(piece)
        return piece

    def buffered(self) -> bytes | None:
        return None


def parsed(data: bytes, limits: HeadLimits = LIMITS) -> RequestHead:
    """The head of a request that is whole and well-formed."""
    head = parse_request(data, limits)
    assert head is not None, f"not a well-formed head: {data!r}"
    return head


def request(*lines: str | bytes, first: str = "GET / HTTP/1.1", host: str | None = "shop.example.com") -> bytes:
    """Write a request head; `lines` are its field lines after Host."""
    whole: Iterable[str | bytes] = (first, *([] if host is None else [f"Host: {host}"]), *lines, "", "")
    return b"\r\n".join(line if isinstance(line, bytes) else line.encode("latin-1") for line in whole)


def exchange_for(
    data: bytes,
    peer: Peer | None = None,
    body: FakeBody | None = None,
    relay: Callable[[ResponseHead], None] | None = None,
) -> Exchange:
    """An exchange as the listener makes it, over no connection."""
    head = parsed(data)
    return Exchange(
        head,
        parse_target(head.target, head.method),
        peer or Peer("192.0.2.1", 4711, "http", trusted=False),
        0.0,
        body,
        FakeDeadline(),
        relay or (lambda head: None),
        lambda status, lines: None,
    )
