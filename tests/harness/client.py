"""A raw client: sends exactly the bytes it is given, reads responses strictly, always with a deadline.

Owns:       one connection to the proxy and what was read from it and not yet taken.
Leaves to:  harness/message.py what a response is.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from tests.harness.message import Malformed, Response, take_response
from tests.harness.wait import DEADLINE_S

Address = tuple[str, int] | str  # (host, port), or the path of a Unix socket


class RawClient:
    """One connection. `received` holds all bytes ever read from it."""

    def __init__(self, address: Address, deadline_s: float = DEADLINE_S) -> None:
        self._socket = connect(address, deadline_s)
        self._deadline_s = deadline_s
        self._buffer = b""
        self.received = bytearray()
        self.eof = False
        self.was_reset = False

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Send the pieces one by one, each as its own write, with a pause between them."""
        for number, piece in enumerate(pieces):
            if number and pause_s:
                time.sleep(pause_s)
            self._socket.sendall(piece)

    def try_send(self, *pieces: bytes, pause_s: float = 0.0) -> bool:
        """Send, and say whether the peer took it: it may answer and close before all is sent."""
        try:
            self.send(*pieces, pause_s=pause_s)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def finish_sending(self) -> None:
        """Close our half: the peer reads the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def response(self, method: str = "GET") -> Response:
        """Read the next response, interim ones too.

        Raises AssertionError when it is cut, malformed or does not come in time.
        """
        end = time.monotonic() + self._deadline_s
        while True:
            taken = take_response(self._buffer, method, eof=self.eof)
            if taken is not None:
                response, at = taken
                self._buffer = self._buffer[at:]
                return response
            assert not self.eof, f"the connection ended within a response: {self._buffer[:2000]!r}"
            assert self._read(end), f"no whole response in {self._deadline_s:g} s, so far: {self._buffer[:2000]!r}"

    def final_response(self, method: str = "GET") -> Response:
        """Read responses up to the first one that is not interim."""
        while True:
            response = self.response(method)
            if response.status >= 200:
                return response

    def request(self, data: bytes, method: str | None = None) -> Response:
        """Send the bytes of one request and read its final response."""
        self.send(data)
        return self.final_response(method or data.split(b" ", 1)[0].decode("latin-1"))

    def rest(self) -> bytes:
        """Read until the peer closes or resets, and give what was not yet taken."""
        end = time.monotonic() + self._deadline_s
        while not self.eof:
            assert self._read(end), f"still open after {self._deadline_s:g} s, so far: {self._buffer[:2000]!r}"
        rest, self._buffer = self._buffer, b""
        return rest

    def responses(self, methods: Sequence[str] = ()) -> list[Response]:
        """Read until the peer closes; everything must parse as a sequence of whole responses."""
        return split_responses(self.rest(), methods)

    def is_closed(self, within_s: float = DEADLINE_S) -> bool:
        """Say whether the peer closes within a time; bytes that arrive meanwhile stay readable."""
        end = time.monotonic() + within_s
        while not self.eof:
            if not self._read(end):
                return False
        return True

    def read_some(self, within_s: float = DEADLINE_S) -> bytes:
        """Wait for any bytes and take all that came; b"" at the end of the stream or the deadline."""
        if not self._buffer and not self.eof:
            self._read(time.monotonic() + within_s)
        some, self._buffer = self._buffer, b""
        return some

    def reset(self) -> None:
        """Close with a TCP reset."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """Our own end's port, to find this connection in a log."""
        return int(self._socket.getsockname()[1])

    def _read(self, end: float) -> bool:
        """Read once; False when the deadline passed."""
        left = end - time.monotonic()
        if left <= 0:
            return False
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(262_144)
        except TimeoutError:
            return False
        except ConnectionResetError:
            self.eof = self.was_reset = True
            return True
        finally:
            self._socket.settimeout(self._deadline_s)
        if not data:
            self.eof = True
        self._buffer += data
        self.received += data
        return True


def connect(address: Address, deadline_s: float = DEADLINE_S) -> socket.socket:
    """Connect a plain socket with TCP_NODELAY, so that each send is a segment of its own."""
    if isinstance(address, str):
        unix = socket.socket(socket.AF_UNIX)
        unix.settimeout(deadline_s)
        try:
            unix.connect(address)
        except BaseException:
            unix.close()
            raise
        return unix
    tcp = socket.create_connection(address, timeout=deadline_s)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tcp


def split_responses(data: bytes, methods: Sequence[str] = ()) -> list[Response]:
    """Split all bytes of a closed connection into responses; `methods` are those of the requests (default GET).

    Raises Malformed when something is left over that is no whole response.
    """
    found: list[Response] = []
    asked: Iterable[str] = iter(methods)
    method = next(iter(asked), "GET")
    while data:
        taken = take_response(data, method, eof=True)
        if taken is None:
            raise Malformed(f"cut response {data[:500]!r}")
        response, at = taken
        data = data[at:]
        found.append(response)
        if response.status >= 200:
            method = next(iter(asked), "GET")
    return found
