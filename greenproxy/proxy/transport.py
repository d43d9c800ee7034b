"""Connections to one server, kept in a urllib3 pool. The only file that imports urllib3.

urllib3 keeps, counts and opens the connections; its `urlopen` is not used (five times the cost,
and it re-encodes the target). Requests are written and answers read here, on the bytes.

Owns:       pooled connections, connecting, reading heads and bodies of answers.
Leaves to:  proxy/app.py (what to send, retries), http/head.py (the grammar of answers).
Invariant:  a connection goes back to its pool only when its answer was read to the end, the server
            keeps it open and nothing more has arrived; foreign exceptions become UpstreamErrors here.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from greenproxy.config.address import Address
from greenproxy.errors import (
    ConnectFailed,
    ConnectTimeout,
    GreenproxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamTimeout,
)
from greenproxy.http.body import ChunkedDecoder
from greenproxy.http.exchange import Deadline
from greenproxy.http.head import ResponseHead, ResponseParser, explain_response, parse_response
from greenproxy.net.stream import NothingSent, Stream

MAX_HEAD_BYTES = 256 * 1024  # of an answer; applications set large cookies and policies
MAX_INTERIM = 16  # 1xx answers before the final one; more is an attack or a loop
# A head without its body waits so long for it: then both go out together, or a server that dies in
# between costs no GET. A deadline is late by up to net/deadline.py TICK_S.
FIRST_BODY_S = 0.02
SWEEP_S = 1.0  # how often idle connections are looked through


class _NotYet(GreenproxyError):
    """The first byte of a body takes its time; never leaves this file."""


NOT_ANSWERED = UpstreamTimeout("the server did not answer in time")
_NOT_READ = UpstreamTimeout("the server does not read the request")
_NOT_YET = _NotYet()
_STALLED = UpstreamTimeout("the server stopped in the middle of its answer")

Interim = Callable[[int, bytes], None]


class _Stack:
    """What urllib3 keeps idle connections in: last in, first out, without the locks of queue.LifoQueue.

    One worker is one thread, and greenlets do not switch in here.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.items: list[Any] = []

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        if not self.items:
            raise queue.Empty
        return self.items.pop()

    def put(self, item: Any, block: bool = False) -> None:
        if item is None:
            return  # urllib3 fills a new pool with None; an empty stack says the same
        if len(self.items) >= self.maxsize:
            raise queue.Full
        self.items.append(item)

    def qsize(self) -> int:
        return len(self.items)


class Connection(HTTPConnection):
    """One connection to a server. `used` says whether it carried an exchange before."""

    stream: Stream
    used = False
    idle_since = 0.0
    buffer = b""  # bytes received and not yet used
    heads: ResponseParser  # of the server
    # where to, when no name must be looked up first: family and address as the socket wants them
    endpoint: tuple[int, Any] | None = None

    @property
    def is_connected(self) -> bool:
        # urllib3 would poll the descriptor before each use; a stale connection shows by itself
        return True

    def _new_conn(self) -> socket.socket:
        if self.endpoint is None:
            return super()._new_conn()
        # getaddrinfo runs in a thread, also for what is an address already: 300 of 430 µs of a connect
        family, address = self.endpoint
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Close, watched or not."""
        stream = getattr(self, "stream", None)
        if stream is not None:
            stream.release()
        super().close()

    def open(self) -> None:
        """Connect. Raises ConnectFailed, ConnectTimeout."""
        try:
            self.connect()
        except NewConnectionError as exc:  # before its base class ConnectTimeoutError
            raise ConnectFailed(f"cannot connect: {_cause(exc)}") from exc
        except (ConnectTimeoutError, TimeoutError) as exc:
            raise ConnectTimeout("the server did not accept the connection in time") from exc
        except (HTTPError, OSError) as exc:
            raise ConnectFailed(f"cannot connect: {_cause(exc)}") from exc
        sock = self.sock
        assert sock is not None
        sock.settimeout(None)
        self.stream = Stream(sock)


class ServerPool(HTTPConnectionPool):
    """Connections to one server."""

    ConnectionCls = Connection
    QueueCls = _Stack  # type: ignore[assignment]  # what urllib3 needs of a queue

    def __init__(self, address: Address, connect_timeout: float, max_idle: int, idle_timeout: float) -> None:
        super().__init__(
            address.host or "localhost", address.port or None, maxsize=max_idle, timeout=connect_timeout, block=False
        )
        stack: Any = self.pool
        self.idle: list[Connection] = stack.items  # oldest first; at hand without urllib3's four calls
        self._max_idle = max_idle
        self._endpoint = _endpoint(address)
        self._heads = ResponseParser()
        self._idle_timeout = idle_timeout
        self._sweeper = gevent.get_hub().loop.timer(SWEEP_S, SWEEP_S, ref=False)
        self._sweeper.start(self._close_idle)

    def take(self) -> Connection:
        """Return an idle connection or a new, not yet connected one.

        An idle connection that has something to read was closed by the server, or carries bytes that
        nobody asked for and that must not answer a request: it is given up.
        """
        idle = self.idle
        while idle:
            conn = idle.pop()
            if conn.stream.quiet():
                return conn
            conn.close()
        return self.fresh()

    def fresh(self) -> Connection:
        """Return a new, not yet connected connection."""
        conn: Connection = self._new_conn()  # type: ignore[assignment]
        conn.endpoint = self._endpoint
        conn.heads = self._heads
        return conn

    def give_back(self, conn: Connection) -> None:
        """Keep a connection whose exchange ended cleanly."""
        if len(self.idle) >= self._max_idle:
            conn.close()
            return
        conn.used = True
        conn.idle_since = time.monotonic()
        self.idle.append(conn)

    def _close_idle(self) -> None:
        """Close what was idle too long: before the server does, so that no request meets a closing connection."""
        idle, oldest = self.idle, time.monotonic() - self._idle_timeout
        expired = 0
        while expired < len(idle) and idle[expired].idle_since < oldest:
            expired += 1
        for conn in idle[:expired]:
            conn.close()
        del idle[:expired]


def _endpoint(address: Address) -> tuple[int, Any] | None:
    """Return family and socket address of a server, None for one whose name must be looked up."""
    if address.kind == "unix":
        return socket.AF_UNIX, address.path
    try:
        version = ipaddress.ip_address(address.host).version
    except ValueError:
        return None
    return (socket.AF_INET6 if version == 6 else socket.AF_INET), (address.host, address.port)


class Answer:
    """One answer: its head, and its body as it comes."""

    __slots__ = ("_conn", "_decoder", "_left", "_timeout", "complete", "head", "whole")

    def __init__(self, conn: Connection, head: ResponseHead, method: str, timeout: float) -> None:
        self._conn = conn
        self._timeout = timeout
        self.head = head
        self._decoder: ChunkedDecoder | None = None
        self._left = left = head.content_length
        self.complete = False
        self.whole: bytes | None = None  # the body, if all of it came with the head
        if method == "HEAD" or head.status in (204, 304):
            self.complete = True
            self.whole = b""
        elif head.chunked:
            self._decoder = ChunkedDecoder(UpstreamProtocolError)
        elif left is None:
            head.reusable = False  # ends with the connection
        elif len(conn.buffer) >= left:
            self._collect(left)

    @property
    def begun(self) -> bool:
        """Is there nothing to wait for, or has a byte of the body come with the head?"""
        return self.complete or bool(self._conn.buffer)

    def _collect(self, length: int) -> None:
        buffer = self._conn.buffer
        self.whole = buffer[:length]
        self._conn.buffer = buffer[length:]
        self.complete = True

    def await_body(self, deadline: Deadline) -> bool:
        """Wait a moment for the first byte of the body; False when it takes its time, as a stream of events may.

        Raises UpstreamReset when the server is gone: nothing has been passed on, so it may be tried again.
        """
        conn = self._conn
        deadline.set(FIRST_BODY_S, _NOT_YET)
        try:
            conn.buffer = conn.stream.receive()
        except _NotYet:
            return False
        except OSError as exc:
            raise UpstreamReset(f"the connection broke before the body of an answer: {_cause(exc)}") from exc
        finally:
            deadline.clear()
        if not conn.buffer and not self._ends_with_connection:
            raise UpstreamReset("the server closed before the body of its answer")
        if not conn.buffer:
            self.complete = True
            self.whole = b""
        elif self._left is not None and len(conn.buffer) >= self._left:
            self._collect(self._left)
        return True

    @property
    def _ends_with_connection(self) -> bool:
        return self._decoder is None and self._left is None

    def read_some(self, deadline: Deadline) -> bytes:
        """Return the next bytes of the body, b"" at its end.

        Raises UpstreamError when the server stops in the middle, UpstreamTimeout when it stalls.
        """
        if self.whole:
            body, self.whole = self.whole, None
            return body
        conn = self._conn
        while not self.complete:
            data = conn.buffer
            conn.buffer = b""
            if not data:
                data = _receive(conn, deadline, self._timeout)
            if not data:
                return self._ended()
            piece = self._take(data)
            if piece:
                return piece
        return b""

    def _take(self, data: bytes) -> bytes:
        if self._decoder is not None:
            piece = self._decoder.feed(data)
            if self._decoder.done:
                self.complete = True
                self._conn.buffer = self._decoder.rest
            return piece
        if self._left is not None:
            if len(data) >= self._left:
                self._conn.buffer = data[self._left :]
                data = data[: self._left]
                self.complete = True
            self._left -= len(data)
        return data

    def _ended(self) -> bytes:
        if self._ends_with_connection:
            self.complete = True
            return b""
        raise UpstreamError("the server closed in the middle of its answer", reason="upstream_cut")


def send_request(conn: Connection, data: bytes, deadline: Deadline, timeout: float) -> None:
    """Send a request from its first byte. Raises ConnectFailed (nothing went out), UpstreamReset, UpstreamTimeout."""
    try:
        conn.stream.send(data, deadline, timeout, _NOT_READ)
    except NothingSent as exc:
        raise ConnectFailed(f"the connection was closed before the request: {_cause(exc)}") from exc
    except OSError as exc:
        raise UpstreamReset(f"sending the request failed: {_cause(exc)}") from exc


def send_more(conn: Connection, data: bytes, deadline: Deadline, timeout: float) -> None:
    """Send further bytes of a request. Raises UpstreamReset, UpstreamTimeout."""
    try:
        conn.stream.send(data, deadline, timeout, _NOT_READ)
    except OSError as exc:
        raise UpstreamReset(f"sending the request failed: {_cause(exc)}") from exc


def ask(conn: Connection, request: bytes, method: str, deadline: Deadline, timeout: float, interim: Interim) -> Answer:
    """Send a whole request and wait for the head of its answer.

    Raises ConnectFailed, UpstreamReset, UpstreamTimeout, UpstreamProtocolError.
    """
    broken: UpstreamReset | None = None
    try:
        conn.stream.send(request, deadline, timeout, _NOT_READ)
    except NothingSent as exc:
        raise ConnectFailed(f"the connection was closed before the request: {_cause(exc)}") from exc
    except OSError as exc:
        # it may have answered before it stopped reading
        broken = UpstreamReset(f"sending the request failed: {_cause(exc)}")
    deadline.set(timeout, NOT_ANSWERED)
    try:
        answer = read_answer(conn, method, timeout, interim)
    except UpstreamError:
        if broken is not None:
            raise broken from None
        raise
    if broken is not None:
        answer.head.reusable = False
    return answer


def read_answer(conn: Connection, method: str, timeout: float, interim: Interim) -> Answer:
    """Wait for the final response head, under the deadline that the caller set.

    Raises UpstreamReset (nothing came), UpstreamTimeout (nothing came in time), UpstreamProtocolError.
    """
    try:
        data = conn.buffer or conn.stream.receive()
    except OSError as exc:
        raise UpstreamReset(f"the connection broke before an answer: {_cause(exc)}") from exc
    if not data:
        raise UpstreamReset("the server closed the connection without an answer")
    head, size = conn.heads.parse(data, MAX_HEAD_BYTES) or (None, 0)
    if head is not None and head.status >= 200:
        conn.buffer = data[size:]
    else:
        head = _final_head(conn, data, interim)
    return Answer(conn, head, method, timeout)


def _final_head(conn: Connection, data: bytes, interim: Interim) -> ResponseHead:
    """Read a head that did not come in one piece, or that interim responses came before."""
    head, conn.buffer = _whole_head(conn, data)
    interims = 0
    while head.status < 200:
        interims += 1
        _check_interim(head, interims)
        if head.status != 100:  # we answer Expect ourselves, so a 100 is for nobody
            interim(head.status, head.lines)
        head, conn.buffer = _whole_head(conn, conn.buffer or _more(conn))
    return head


def _whole_head(conn: Connection, data: bytes) -> tuple[ResponseHead, bytes]:
    """Parse the head that begins with `data`, reading on as needed: (head, bytes after it)."""
    parsed = parse_response(data, MAX_HEAD_BYTES)
    checked = 0
    while parsed is None:
        checked = explain_response(data, checked, MAX_HEAD_BYTES)
        more = _more(conn)
        data += more
        # no line is looked at twice, however slowly the bytes come
        if data.find(b"\r\n\r\n", max(0, len(data) - len(more) - 3)) >= 0:
            parsed = parse_response(data, MAX_HEAD_BYTES)
    head, size = parsed
    return head, data[size:]


def _more(conn: Connection) -> bytes:
    """Receive further bytes of a head."""
    try:
        data = conn.stream.receive()
    except OSError as exc:
        raise UpstreamError(f"the server's connection broke in a response head: {_cause(exc)}") from exc
    if not data:
        raise UpstreamError("the server closed in the middle of a response head", reason="upstream_cut")
    return data


def _check_interim(head: ResponseHead, count: int) -> None:
    if head.status == 101:
        raise UpstreamProtocolError("the server switched protocols unasked")
    if count > MAX_INTERIM:
        raise UpstreamProtocolError("too many interim responses")


def _receive(conn: Connection, deadline: Deadline, timeout: float) -> bytes:
    deadline.set(timeout, _STALLED)
    try:
        return conn.stream.receive()
    except OSError as exc:
        raise UpstreamError(
            f"the server's connection broke in its answer: {_cause(exc)}", reason="upstream_cut"
        ) from exc


def _cause(exc: BaseException) -> str:
    """Say in one clause what went wrong below urllib3's wrapping."""
    inner: BaseException = exc
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return (inner.strerror or str(inner)) if isinstance(inner, OSError) else str(inner)
