"""A request body as it comes from the client's connection.

Owns:       framing (Content-Length or chunked), the body size limit, 100-continue, the wait for bytes.
Leaves to:  http/body.py (the chunked grammar), proxy (where the bytes go).
Invariant:  never reads past the end of the body: what follows is the next request's.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from greenproxy.errors import BadRequest, ClientClosed
from greenproxy.http.body import ChunkedDecoder
from greenproxy.http.exchange import Deadline

if TYPE_CHECKING:
    from greenproxy.listener.handler import Handler


# Bytes per second that a body must bring over and above body_timeout (Apache's mod_reqtimeout has the
# same default): the deadline of a body is absolute but for real progress, so a client that sends one
# byte a second does not hold us for hours. Time in which we did not read, for a slow server, is not counted.
MIN_RATE = 500


def _malformed(detail: str) -> BadRequest:
    return BadRequest(detail, reason="chunk_invalid")


class Body:
    """One request body. Also a WSGI input stream (PEP 3333), for applications that run inside us."""

    __slots__ = (
        "_buffered_input",
        "_decoder",
        "_handler",
        "_max_body",
        "_waited",
        "complete",
        "continue_owed",
        "deadline",
        "length",
        "received",
    )

    def __init__(self, handler: Handler, length: int | None, continue_owed: bool, max_body: int) -> None:
        """`length` None means chunked. Raises BadRequest 413 for a declared length over the limit."""
        if length is not None and max_body and length > max_body:
            raise _too_large(max_body)
        self._handler = handler
        self.deadline: Deadline = handler.deadline  # of the greenlet that reads
        self.length = length
        self.complete = False
        self.received = 0  # decoded bytes
        self.continue_owed = continue_owed  # the client waits for "100 Continue" before it sends
        self._max_body = max_body
        self._waited = 0.0  # seconds this body made us wait
        self._decoder = None if length is not None else ChunkedDecoder(_malformed)
        self._buffered_input: io.BufferedReader | None = None

    def buffered(self) -> bytes | None:
        """Return the whole body if it has arrived with the head, else None; never waits."""
        length, buffer = self.length, self._handler.buffer
        if length is None or self.received or len(buffer) < length:
            return None
        self._handler.buffer = buffer[length:]
        self.received = length
        self.complete = True
        self.continue_owed = False
        return buffer[:length]

    def read_some(self) -> bytes:
        """Return the next bytes of the body as they come, b"" at its end.

        Raises BadRequest (400 malformed, 408 too slow, 413 too large) and ClientClosed.
        """
        while not self.complete:
            data = self._handler.buffer
            if data:
                self._handler.buffer = b""
            else:
                data = self._receive()
            piece = self._plain(data) if self._decoder is None else self._decoded(self._decoder, data)
            if piece:
                return piece
        return b""

    def _receive(self) -> bytes:
        handler = self._handler
        if self.continue_owed:
            self.continue_owed = False
            handler.send_continue()
        begun = time.monotonic()
        data = handler.receive_body(self.deadline, self.received / MIN_RATE - self._waited)
        self._waited += time.monotonic() - begun
        if not data:
            raise ClientClosed("the client closed in the middle of its request body", reason="client_closed_in_body")
        return data

    def _plain(self, data: bytes) -> bytes:
        left = (self.length or 0) - self.received
        if len(data) > left:
            self._handler.buffer = data[left:]
            data = data[:left]
        self.received += len(data)
        self.complete = self.received == self.length
        return data

    def _decoded(self, decoder: ChunkedDecoder, data: bytes) -> bytes:
        piece = decoder.feed(data)
        self.received += len(piece)
        if self._max_body and self.received > self._max_body:
            raise _too_large(self._max_body)
        if decoder.done:
            self._handler.buffer = decoder.rest
            self.complete = True
        return piece

    # wsgi.input

    def _input(self) -> io.BufferedReader:
        if self._buffered_input is None:
            self._buffered_input = io.BufferedReader(_RawInput(self))
        return self._buffered_input

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes, all of the body by default."""
        return self._input().read(size)

    def readline(self, size: int | None = -1) -> bytes:
        """Read one line."""
        return self._input().readline(size)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """Read lines until about `hint` bytes."""
        return self._input().readlines(hint)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._input())


class _RawInput(io.RawIOBase):
    """Gives a Body to io.BufferedReader, which knows how to read lines."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._left or self._body.read_some()
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        self._left = data[count:]
        return count


def _too_large(max_body: int) -> BadRequest:
    return BadRequest(f"request body of more than {max_body} bytes", status=413, reason="body_too_large")
