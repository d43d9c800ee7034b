"""The end of a proxied route's chain: pick a server, send, answer; try again where that is safe.

Owns:       the attempt loop, what goes on the wire to a server.
Leaves to:  balancing (whose turn it is), proxy/retry.py (may it be tried again), proxy/transport.py (the bytes),
            proxy/relay.py (the answer's body), listener/handler.py (sending the answer).
Invariant:  a request that may not be repeated is never sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from greenproxy.balancing.balancer import Balancer
from greenproxy.balancing.snapshot import ServerView
from greenproxy.config.upstreams import Upstream
from greenproxy.errors import ConnectFailed, NoServerAvailable, UpstreamError, UpstreamReset
from greenproxy.http import fields
from greenproxy.http.exchange import KEY, Exchange
from greenproxy.proxy import retry, transport
from greenproxy.proxy.flight import Flight, Member
from greenproxy.proxy.payload import NO_BODY, RequestPayload
from greenproxy.proxy.relay import BufferedBody, StreamedBody
from greenproxy.proxy.retry import RetryPolicy
from greenproxy.proxy.spool import Buffer
from greenproxy.proxy.transport import Answer, Connection
from greenproxy.proxy.upload import Upload

_NO_ROWS: frozenset[int] = frozenset()


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
        payload = NO_BODY if exchange.body is None else RequestPayload(exchange, self._request_buffer)
        try:
            flight = self._fly(exchange, payload)
        except BaseException:
            payload.close()
            raise
        answer = flight.answer
        assert answer is not None
        exchange.relay(answer.head)
        if answer.whole is not None and flight.upload is None:
            flight.end()
            return [answer.whole]
        if self._response_buffer:
            return BufferedBody(flight, payload, Buffer(self._response_buffer))
        return StreamedBody(flight, payload)

    def _fly(self, exchange: Exchange, payload: RequestPayload) -> Flight:
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
            flight = Flight(self.members[server.row], exchange, now)
            try:
                answer = self._attempt(flight, payload, request)
                if answer.whole is None and flight.upload is None and not answer.begun:
                    exchange.flush_head = not answer.await_body(exchange.deadline)
                if answer.head.status not in self._retried_statuses or not self._retry_status(flight, answer, payload):
                    if self._balancer.avoiding:
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
        self, exchange: Exchange, error: UpstreamError, payload: RequestPayload, server: ServerView
    ) -> bool:
        """Note the failure; may another attempt follow?"""
        if retry.word_of(error):
            self.members[server.row].failed(error)
            self._balancer.note_failure(server.row, time.monotonic())
        error.detail = f"upstream {self._name}, server {server.address}: {error.detail}"
        return retry.may_retry(self._policy, error, exchange.method, exchange.attempts, payload.replayable)

    def _retry_status(self, flight: Flight, answer: Answer, payload: RequestPayload) -> bool:
        """May another attempt follow an answer with such a status?"""
        exchange = flight.exchange
        return retry.may_retry_status(
            self._policy, answer.head.status, exchange.method, exchange.attempts, payload.replayable
        )

    def _attempt(self, flight: Flight, payload: RequestPayload, request: bytes) -> Answer:
        """Send the request to one server and wait for the head of its answer."""
        exchange, pool = flight.exchange, flight.member.pool
        conn = flight.conn = pool.take()
        while True:
            if not conn.used:
                exchange.deadline.clear()  # connecting has a time of its own
                conn.open()
            try:
                if payload.whole is None:
                    answer = self._ask_streaming(flight, conn, payload, request)
                else:
                    answer = transport.ask(
                        conn, request, exchange.method, exchange.deadline, self._read_timeout, exchange.interim
                    )
                flight.answer = answer
                return answer
            except (ConnectFailed, UpstreamReset) as error:
                # The server closed a pooled connection just as we used it: not a failure of the server.
                if not conn.used or not retry.may_resend(error, exchange.method, payload.replayable):
                    raise
            if flight.upload is not None:
                flight.upload.stop()
                flight.upload = None
            conn.close()
            conn = flight.conn = pool.fresh()

    def _ask_streaming(self, flight: Flight, conn: Connection, payload: RequestPayload, request: bytes) -> Answer:
        """Send a request whose body is still on its way, and wait for the head of its answer meanwhile."""
        exchange, timeout = flight.exchange, self._read_timeout
        transport.send_request(conn, request, exchange.deadline, timeout)
        flight.upload = upload = Upload(conn, payload.pieces(), payload.chunked, exchange.deadline, timeout)
        try:
            answer = transport.read_answer(conn, exchange.method, timeout, exchange.interim)
        except UpstreamError:
            if upload.error is not None:
                raise upload.error from None
            raise
        upload.answered()
        return answer


def _request_bytes(exchange: Exchange, payload: RequestPayload, server: ServerView) -> bytes:
    """Write the request as the server will see it, with the body if that is here and small."""
    lines = exchange.lines
    if not exchange.head.host and fields.value_of(lines, fields.searchable(lines), b"host") is None:
        # RFC 9112 3.2: an HTTP/1.0 client may name no host; a server needs one
        lines = b"Host: %b\r\n%b" % (_host_of(server.address), lines)
    target = exchange.target
    head = b"%b %b%b HTTP/1.1\r\n%b%b%b\r\n" % (
        exchange.method.encode(),
        target.raw_path if exchange.sent_path is None else exchange.sent_path,
        target.query,
        lines,
        exchange.forwarding_lines,
        payload.framing,
    )
    return head + payload.whole if payload.whole else head


def _host_of(address: str) -> bytes:
    return b"localhost" if address.startswith("unix:") else address.encode()
