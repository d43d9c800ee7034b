"""The end of a proxied route's chain: pick a server, send, answer; try again where that is safe.

Owns:       the attempt loop, what goes on the wire to a server, the counters of a server.
Leaves to:  balancing (whose turn it is), proxy/retry.py (may it be tried again), proxy/transport.py (the bytes),
            listener/handler.py (sending the answer).
Invariant:  a server's in-flight cell goes down exactly once for every time it went up, whatever ends the
            exchange; a request that may not be repeated is never sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gevent

from greenproxy.balancing.balancer import Balancer
from greenproxy.balancing.snapshot import ServerView
from greenproxy.config.upstreams import Upstream
from greenproxy.errors import (
    ConnectFailed,
    GreenproxyError,
    NoServerAvailable,
    UpstreamError,
    UpstreamReset,
)
from greenproxy.http import fields
from greenproxy.http.exchange import KEY, Exchange, RequestBody
from greenproxy.proxy import retry, transport
from greenproxy.proxy.retry import RetryPolicy
from greenproxy.proxy.spool import Buffer, SpooledBody
from greenproxy.proxy.transport import Answer, Connection, ServerPool
from greenproxy.proxy.upload import Pieces, Upload, client_pieces
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment

_NO_ROWS: frozenset[int] = frozenset()


class Member:
    """One server of an upstream as this worker uses it: its pool, and its cells in shared memory."""

    __slots__ = ("_base", "_cells", "pool")

    def __init__(self, pool: ServerPool, segment: Segment, column: int, row: int) -> None:
        self.pool = pool
        self._cells = segment.cells
        self._base = segment.cell_base(column, row)

    def begun(self) -> None:
        """Count a request in."""
        self._cells[self._base + shm.C_IN_FLIGHT] += 1

    def ended(self, seconds: float, status: int) -> None:
        """Count a request out; `status` 0 means that no answer came."""
        cells, base = self._cells, self._base
        cells[base + shm.C_IN_FLIGHT] -= 1
        cells[base + shm.C_REQUESTS] += 1
        cells[base + shm.C_TIME_US] += int(seconds * 1e6)
        if status >= 500:
            cells[base + shm.C_RESPONSES_5XX] += 1

    def failed(self, error: UpstreamError) -> None:
        """Count a failure that says something about the server's health."""
        cells, base = self._cells, self._base
        cells[base + (shm.C_CONNECT_FAILED if error.retry == "always" else shm.C_FAILED)] += 1
        cells[base + shm.C_LAST_FAILED_NS] = time.monotonic_ns()


class _Flight:
    """One attempt under way: a server's connection and counters, given back exactly once."""

    __slots__ = ("_over", "_started", "answer", "conn", "exchange", "member", "upload")

    def __init__(self, member: Member, exchange: Exchange, started: float) -> None:
        self.member = member
        self._started = started
        self._over = False
        self.exchange = exchange
        self.conn: Connection | None = None
        self.answer: Answer | None = None
        self.upload: Upload | None = None
        member.begun()

    def end(self) -> None:
        """Give connection and counters back; the connection only if it is clean."""
        if self._over:
            return
        self._over = True
        seconds = time.monotonic() - self._started
        self.exchange.upstream_seconds += seconds
        answer, conn, upload = self.answer, self.conn, self.upload
        self.member.ended(seconds, answer.head.status if answer is not None else 0)
        if upload is not None:
            upload.stop()
        if conn is None:
            return
        if answer is not None and answer.reusable and (upload is None or upload.complete):
            self.member.pool.give_back(conn)
        else:
            conn.close()


class _RequestPayload:
    """The request's body in the form it will be sent: whole, on disk, or as it comes."""

    __slots__ = ("_body", "_spooled", "framing", "whole")

    def __init__(self, exchange: Exchange, buffer: int) -> None:
        """Read the body as far as `buffer` asks for. Raises DownstreamError."""
        self._body = body = exchange.body
        self._spooled: SpooledBody | None = None
        self.whole: bytes | None = b""
        self.framing = b""
        if body is None:
            return
        self.whole = body.buffered()
        if self.whole is None and buffer:
            self._spooled = SpooledBody(body, buffer)
            self.whole = self._spooled.whole()
        self.framing = self._framing(exchange, body)

    def _framing(self, exchange: Exchange, body: RequestBody) -> bytes:
        """Say how the body ends, where the client's own Content-Length does not stay among the lines."""
        if exchange.head.length_in_lines:
            return b""
        length = self._spooled.length if self._spooled is not None else body.length
        return b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length

    @property
    def chunked(self) -> bool:
        return self.framing.startswith(b"T")

    @property
    def replayable(self) -> bool:
        """Can the body be sent again? One that streams can, until its first byte was read."""
        body = self._body
        return self.whole is not None or self._spooled is not None or body is None or not body.received

    def pieces(self) -> Pieces:
        """Return a reader of the body from its beginning."""
        if self._spooled is not None:
            spooled = self._spooled
            return lambda deadline: spooled.pieces()
        assert self._body is not None
        return client_pieces(self._body)

    def close(self) -> None:
        if self._spooled is not None:
            self._spooled.close()


class ProxyApp:
    """WSGI application that carries exchanges to one upstream."""

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        balancer: Balancer,
        members: Mapping[int, Member],
    ) -> None:
        self._name = name
        self._balancer = balancer
        self.members = members  # by row
        self._policy = RetryPolicy(upstream.retry.attempts, frozenset(upstream.retry.on))
        self._retried_statuses = frozenset(int(word) for word in upstream.retry.on if word.isdigit())
        self._read_timeout = upstream.timeouts.read
        self._request_buffer = upstream.buffer.request
        self._response_buffer = upstream.buffer.response

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer with what a server says. Raises UpstreamError, DownstreamError."""
        exchange: Exchange = environ[KEY]
        exchange.upstream = self._name
        payload = _RequestPayload(exchange, self._request_buffer)
        try:
            flight = self._fly(exchange, payload)
        except BaseException:
            payload.close()
            raise
        answer = flight.answer
        assert answer is not None
        exchange.relay(answer.head)
        whole = answer.whole() if flight.upload is None else None
        if whole is not None:
            flight.end()
            return [whole]
        if self._response_buffer:
            return _BufferedBody(flight, payload, Buffer(self._response_buffer))
        return _StreamedBody(flight, payload)

    def _fly(self, exchange: Exchange, payload: _RequestPayload) -> _Flight:
        """Make attempts until one is answered, or until no other may follow."""
        tried: set[int] | None = None
        request: bytes | None = None
        while True:
            now = time.monotonic()
            server = self._balancer.pick(tried or _NO_ROWS, now)
            if server is None and tried and self._may_start_over(exchange):
                tried = None  # fewer servers than attempts: the same one again
                continue
            if server is None:
                raise NoServerAvailable(f"upstream {self._name} has no server that may be tried")
            if request is None:
                request = _request_bytes(exchange, payload, server)
            exchange.attempts += 1
            exchange.server = server.address
            flight = _Flight(self.members[server.row], exchange, now)
            try:
                self._attempt(flight, payload, request)
                if not self._retry_status(flight, payload):
                    self._balancer.note_success(server.row)
                    return flight
                flight.end()
            except UpstreamError as error:
                flight.end()
                if not self._retry_error(exchange, error, payload, server):
                    raise
            except BaseException:
                flight.end()
                raise
            tried = {server.row} if tried is None else tried | {server.row}

    def _may_start_over(self, exchange: Exchange) -> bool:
        return exchange.attempts < self._policy.attempts

    def _retry_error(
        self, exchange: Exchange, error: UpstreamError, payload: _RequestPayload, server: ServerView
    ) -> bool:
        """Note the failure; may another attempt follow?"""
        if retry.word_of(error):
            self.members[server.row].failed(error)
            self._balancer.note_failure(server.row, time.monotonic())
        error.detail = f"upstream {self._name}, server {server.address}: {error.detail}"
        return retry.may_retry(self._policy, error, exchange.method, exchange.attempts, payload.replayable)

    def _retry_status(self, flight: _Flight, payload: _RequestPayload) -> bool:
        answer, exchange = flight.answer, flight.exchange
        assert answer is not None
        if answer.head.status not in self._retried_statuses:
            return False
        return retry.may_retry_status(
            self._policy, answer.head.status, exchange.method, exchange.attempts, payload.replayable
        )

    def _attempt(self, flight: _Flight, payload: _RequestPayload, request: bytes) -> None:
        """Send the request to one server and wait for the head of its answer."""
        exchange, pool = flight.exchange, flight.member.pool
        conn = flight.conn = pool.take()
        while True:
            if not conn.used:
                conn.open()
            try:
                self._exchange_bytes(flight, conn, payload, request)
                return
            except (ConnectFailed, UpstreamReset) as error:
                # The server closed a pooled connection just as we used it: not a failure of the server.
                if not conn.used or not retry.may_resend(error, exchange.method, payload.replayable):
                    raise
            if flight.upload is not None:
                flight.upload.stop()
                flight.upload = None
            conn.close()
            conn = flight.conn = pool.fresh()

    def _exchange_bytes(self, flight: _Flight, conn: Connection, payload: _RequestPayload, request: bytes) -> None:
        exchange, timeout = flight.exchange, self._read_timeout
        deadline = exchange.deadline
        broken: UpstreamReset | None = None
        try:
            transport.send_request(conn, request, deadline, timeout)
        except UpstreamReset as error:
            broken = error  # the server may have answered before it stopped reading
        if payload.whole is None and broken is None:
            flight.upload = Upload(conn, payload.pieces(), payload.chunked, deadline, timeout)
        try:
            answer = transport.read_answer(
                conn, exchange.method, None if flight.upload else deadline, timeout, exchange.interim
            )
        except UpstreamError:
            if flight.upload is not None and flight.upload.error is not None:
                raise flight.upload.error from None
            if broken is not None:
                raise broken from None
            raise
        if broken is not None:
            answer.head.reusable = False
        deadline.clear()
        if flight.upload is not None:
            flight.upload.answered()
        flight.answer = answer


def _request_bytes(exchange: Exchange, payload: _RequestPayload, server: ServerView) -> bytes:
    """Write the request as the server will see it, with the body if that is here and small."""
    lines = exchange.lines
    authority = exchange.authority
    if not authority:
        # RFC 9112 3.2: an HTTP/1.0 client may name no host; a server needs one
        lines = b"Host: %b\r\n%b" % (_host_of(server.address), lines)
    elif authority is not exchange.head.host:
        # RFC 9112 3.2.2: an absolute target overrules Host
        lines = b"Host: %b\r\n%b" % (authority, fields.without(lines, (b"host",)))
    target = exchange.target
    head = b"%b %b%b HTTP/1.1\r\n%b%b%b\r\n" % (
        exchange.method.encode(),
        exchange.sent_path,
        target.query,
        lines,
        exchange.forwarding_lines,
        payload.framing,
    )
    return head + payload.whole if payload.whole else head


def _host_of(address: str) -> bytes:
    return b"localhost" if address.startswith("unix:") else address.encode()


class _StreamedBody:
    """An answer's body as it comes from the server, at the pace of the client."""

    __slots__ = ("_flight", "_payload")

    def __init__(self, flight: _Flight, payload: _RequestPayload) -> None:
        self._flight = flight
        self._payload = payload

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        flight = self._flight
        answer = flight.answer
        assert answer is not None
        piece = answer.read_some(flight.exchange.deadline)
        if not piece:
            flight.end()
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the attempt, complete or not (PEP 3333)."""
        self._flight.end()
        self._payload.close()


class _BufferedBody:
    """An answer's body taken from the server at its own pace and kept for a slower client."""

    __slots__ = ("_buffer", "_flight", "_greenlet", "_payload")

    def __init__(self, flight: _Flight, payload: _RequestPayload, buffer: Buffer) -> None:
        self._flight = flight
        self._payload = payload
        self._buffer = buffer
        self._greenlet = gevent.spawn(self._fill)

    def _fill(self) -> None:
        deadline = self._flight.exchange.deadline.watch_current()
        answer = self._flight.answer
        assert answer is not None
        try:
            while piece := answer.read_some(deadline):
                self._buffer.write(piece)
            self._flight.end()
            self._buffer.end()
        except GreenproxyError as error:
            self._buffer.end(error)
        finally:
            deadline.forget()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._flight.exchange.deadline.clear()  # the filler has a deadline of its own
        piece = self._buffer.read()
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the attempt, complete or not (PEP 3333)."""
        self._greenlet.kill()
        self._flight.end()
        self._buffer.close()
        self._payload.close()
