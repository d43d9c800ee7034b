"""Real origins in threads of the test process: plain blocking sockets, nothing of gevent.

Owns:       RecordingOrigin (records exact bytes, answers properly), ScriptedOrigin (answers what it is told).
Leaves to:  harness/message.py what a request is.
Invariant:  `connections` has every accepted connection with all the bytes it ever received; threads end with
            the origin, and no exception leaves one.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.harness.message import Malformed, Request, request_framing, take_request, take_request_head
from tests.harness.wait import wait_for

Then = Literal["keep", "close", "reset", "hang", "half_close"]


@dataclass
class Connection:
    """One accepted connection. Written by its own thread only; read by the test."""

    number: int
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    requests: list[Request] = field(default_factory=list)
    error: str = ""  # why the bytes are no valid request
    closed: bool = False  # the peer closed or reset, or we did
    pending: bytes = b""  # received and not yet part of a whole request


class Origin:
    """Accept, one thread per connection, remember all. Subclasses say how one connection is served."""

    def __init__(self, path: Path | None = None, backlog: int = 256) -> None:
        self._path = path
        self._backlog = backlog
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self.connections: list[Connection] = []
        self.requests: list[Request] = []  # all whole requests in the order they came; guarded by _lock
        self.accepted = 0
        self._listener = self._listen(0)
        self._port = 0 if path else int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        """The address as the configuration writes it."""
        return f"unix:{self._path}" if self._path else f"127.0.0.1:{self._port}"

    @property
    def received(self) -> bytes:
        """All bytes of all connections."""
        return b"".join(bytes(connection.received) for connection in list(self.connections))

    @property
    def open_connections(self) -> int:
        return sum(not connection.closed for connection in list(self.connections))

    def wait_requests(self, count: int) -> list[Request]:
        """Wait until at least `count` whole requests have come."""
        wait_for(lambda: len(self.requests) >= count, lambda: f"{count} requests at the origin, got {self.requests}")
        return self.requests

    def clear(self) -> None:
        """Forget what was recorded and the connections that ended; open ones live on and go on recording."""
        with self._lock:
            self.requests.clear()
            self.connections[:] = [connection for connection in self.connections if not connection.closed]
        for connection in list(self.connections):
            connection.received.clear()
            connection.requests.clear()

    def record(self, connection: Connection, request: Request) -> None:
        """Note a whole request, under its connection and in the order of all."""
        connection.requests.append(request)
        with self._lock:
            self.requests.append(request)

    def start(self) -> None:
        thread = threading.Thread(target=self._accept, daemon=True, name=f"origin {self.address}")
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Close the listener and reset every connection, as a killed server does."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._path:
            self._path.unlink(missing_ok=True)
        with self._lock:
            connections = list(self.connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def restart(self) -> None:
        """Listen again on the same address after stop()."""
        self._threads.clear()
        self._stopping.clear()
        self._listener = self._listen(self._port)
        self.start()

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def serve(self, connection: Connection) -> None:
        """Serve one connection until it ends; OSError and Malformed are allowed to leave."""
        raise NotImplementedError

    def _listen(self, port: int) -> socket.socket:
        if self._path:
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(str(self._path))
            unix.listen(self._backlog)
            return unix
        return socket.create_server(("127.0.0.1", port), backlog=self._backlog)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            if not self._path:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                connection = Connection(self.accepted, accepted)
                self.accepted += 1
                self.connections.append(connection)
                late = self._stopping.is_set()
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()
            if late:
                with contextlib.suppress(OSError):
                    accepted.shutdown(socket.SHUT_RDWR)

    def _run(self, connection: Connection) -> None:
        try:
            self.serve(connection)
        except Malformed as error:
            connection.error = str(error)
            with contextlib.suppress(OSError):
                connection.socket.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            pass  # the peer is gone or the origin stops: `closed` says so
        finally:
            connection.closed = True
            connection.socket.close()

    def read(self, connection: Connection) -> bool:
        """Read once into `received` and `pending`; False at the end of the stream."""
        data = connection.socket.recv(262_144)
        connection.received += data
        connection.pending += data
        return bool(data)


class RecordingOrigin(Origin):
    """Answers every valid request with 200, keep-alive, and a body that says which request it was."""

    def serve(self, connection: Connection) -> None:
        continued = False
        while True:
            taken = take_request(connection.pending)
            if taken is None:
                continued = continued or _send_continue(connection)
                if not self.read(connection):
                    return
                continue
            request, end = taken
            connection.pending = connection.pending[end:]
            self.record(connection, request)
            connection.socket.sendall(self.reply(connection, request))
            continued = False
            if request.version == b"1.0" or b"close" in (request.get("connection") or b"").lower():
                return

    def reply(self, connection: Connection, request: Request) -> bytes:
        """Give the response; the header X-Origin-Request lets a client prove whose answer it holds."""
        name = b"%s %s" % (request.method, request.target)
        body = b"connection %d request %d: %s\n" % (connection.number, len(connection.requests), name)
        return reply(
            body, (b"Content-Type", b"text/plain"), (b"X-Origin-Request", name), head=request.method == b"HEAD"
        )


Piece = bytes | Callable[[], object]


@dataclass(frozen=True)
class Answer:
    """What a ScriptedOrigin does with one request.

    pieces  bytes, each sent by its own call; a callable is called instead (to wait for an event, to count, ...)
    then    keep: go on with the next request; close; reset (a TCP reset); hang: say nothing more and read on
            until the peer closes; half_close: shut down writing and read on
    early   answer when the head is there, without waiting for the body
    """

    pieces: tuple[Piece, ...]
    then: Then = "keep"
    early: bool = False


class ScriptedOrigin(Origin):
    """Answers by a script: request N, counted over all connections, gets answer N; the last one repeats.

    Instead of a sequence a callable may decide from the request and its connection. `greeting` is sent upon
    accept, unasked.
    """

    def __init__(
        self,
        script: Sequence[Answer] | Callable[[Request, Connection], Answer],
        path: Path | None = None,
        greeting: bytes = b"",
    ) -> None:
        super().__init__(path)
        self.script = script
        self.greeting = greeting
        self.heads: list[Request] = []  # every head that came, its body whole or not; guarded by _lock

    def serve(self, connection: Connection) -> None:
        if self.greeting:
            connection.socket.sendall(self.greeting)
        while True:
            head = self._next_head(connection)
            if head is None:
                return
            answer = self._answer_for(head[0], connection)
            if not answer.early and not self._finish_request(connection):
                return
            if not self._act(connection, answer):
                return
            if answer.early and not self._finish_request(connection):
                return

    def _answer_for(self, request: Request, connection: Connection) -> Answer:
        with self._lock:
            self.heads.append(request)
            script = self.script
            if callable(script):
                return script(request, connection)
            return script[min(len(self.heads), len(script)) - 1]

    def _next_head(self, connection: Connection) -> tuple[Request, int] | None:
        while True:
            head = take_request_head(connection.pending)
            if head is not None:
                return head
            if not self.read(connection):
                return None

    def _finish_request(self, connection: Connection) -> bool:
        while True:
            taken = take_request(connection.pending)
            if taken is not None:
                connection.pending = connection.pending[taken[1] :]
                self.record(connection, taken[0])
                return True
            if not self.read(connection):
                return False

    def _act(self, connection: Connection, answer: Answer) -> bool:
        """Send the pieces and do what comes then; True to go on with the connection."""
        for piece in answer.pieces:
            if isinstance(piece, bytes):
                connection.socket.sendall(piece)
            else:
                piece()
        if answer.then == "keep":
            return True
        if answer.then == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if answer.then == "half_close":
            connection.socket.shutdown(socket.SHUT_WR)
        if answer.then in ("hang", "half_close"):
            while self.read(connection):
                pass
        return False


def answer(*pieces: Piece, then: Then = "keep", early: bool = False) -> Answer:
    """Write an Answer in one line."""
    return Answer(pieces, then, early)


def split(data: bytes, size: int = 1) -> tuple[bytes, ...]:
    """Cut bytes into pieces of `size`, for Answer and RawClient.send."""
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def reply(body: bytes = b"", *headers: tuple[bytes, bytes], status: bytes = b"200 OK", head: bool = False) -> bytes:
    """Write a response framed by Content-Length; `head`: without its body, as to a HEAD."""
    lines = [b"HTTP/1.1 " + status, *(b"%s: %s" % pair for pair in headers), b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head else body)


def chunked(*chunks: bytes) -> bytes:
    """Write a chunked body of these chunks with its last chunk."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _send_continue(connection: Connection) -> bool:
    """Answer Expect: 100-continue once the head is there; True when it was sent."""
    head = take_request_head(connection.pending)
    if head is None or request_framing(head[0]) == 0:
        return False
    if (head[0].get("expect") or b"").lower() != b"100-continue":
        return False
    connection.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    return True
