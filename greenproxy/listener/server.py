"""A gevent WSGIServer over one listening socket that the master keeps.

Owns:       accepting, the connections of one listener, what all of them share.
Leaves to:  listener/handler.py (one connection), worker/worker.py (when to start, drain and stop).
"""

from __future__ import annotations

import io
import ipaddress
import logging
import socket
import time
from email.utils import formatdate
from typing import Any

import gevent
from gevent.pywsgi import WSGIServer

from greenproxy.config.schema import Listener, ServerSettings
from greenproxy.errors import ClientClosed
from greenproxy.http.exchange import Exchange
from greenproxy.http.forwarding import Peer, is_trusted
from greenproxy.http.head import HeadLimits
from greenproxy.http.requestid import request_ids
from greenproxy.http.wsgi import Application, direct
from greenproxy.listener.handler import Handler
from greenproxy.net.deadline import Deadlines
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment
from greenproxy.telemetry.accesslog import AccessLog

RETRY_ACCEPT_S = 0.05  # how soon to look again after connections have run out

_log = logging.getLogger("greenproxy.error")

_DRAINED = ClientClosed("the worker is leaving", reason="drained")


class Server(WSGIServer):
    """Serves one listener in one worker."""

    max_accept = 32

    def __init__(
        self,
        sock: socket.socket,
        listener: Listener,
        application: Application,
        settings: ServerSettings,
        access_log: AccessLog,
        segment: Segment,
        column: int,
    ) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        super().__init__(
            sock,
            direct(application),
            log=None,
            error_log=_log,
            handler_class=Handler,
            spawn=gevent.spawn_raw,  # type: ignore[call-overload]  # the stubs know no raw greenlets
        )
        self.listener = listener
        self.limits = settings.limits
        self.head_limits = HeadLimits(
            settings.limits.max_header_bytes,
            settings.limits.max_headers,
            settings.limits.max_request_line,
            settings.allow_underscores,
        )
        self.keepalive_timeout = settings.limits.keepalive_timeout
        self.send_timeout = settings.limits.body_timeout  # a client that reads nothing for so long is given up
        self.max_requests = settings.limits.max_requests_per_connection
        self.trusted_proxies = settings.trusted_proxies
        self.access_log = access_log
        self.deadlines = Deadlines()
        self.draining = False
        self.empty_input = io.BytesIO()
        self.base_environ = self._base_environ()
        self._handlers: set[Handler] = set()
        self._retry_accept: gevent.Greenlet[..., None] | None = None
        self._date = (0, b"")
        self.request_ids = request_ids()  # of requests that are refused before the chain
        self._cells = segment.cells
        self._connections = segment.process_base(column) + shm.P_CONNECTIONS
        self._requests = segment.process_base(column) + shm.P_REQUESTS

    def _base_environ(self) -> dict[str, Any]:
        address = self.listener.address
        return {
            "SCRIPT_NAME": "",
            "SERVER_NAME": address.host or "localhost",
            "SERVER_PORT": str(address.port or 80),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": self.error_log,
            "wsgi.multithread": True,  # greenlets: requests do overlap
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }

    # Connections

    @property
    def connection_count(self) -> int:
        """Open connections, idle ones included."""
        return len(self._handlers)

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(not handler.idle for handler in self._handlers)

    def peer_of(self, address: Any) -> Peer:
        """Describe the other end of a new connection."""
        if isinstance(address, tuple):
            ip = _plain_ip(address[0])
            return Peer(ip, address[1], "http", is_trusted(ip, self.trusted_proxies) if self.trusted_proxies else False)
        return Peer("unknown", 0, "http", False)  # a Unix socket; RFC 7239 6.2 has this word for it

    def connected(self, handler: Handler) -> None:
        """Count a connection in."""
        self._handlers.add(handler)
        self._cells[self._connections] += 1

    def disconnected(self, handler: Handler) -> None:
        """Count a connection out."""
        self._handlers.discard(handler)
        self._cells[self._connections] -= 1

    def full(self) -> bool:
        """Stop accepting at max_connections of this worker, over all listeners; further clients wait in the backlog."""
        if self._cells[self._connections] < self.limits.max_connections:
            return False
        if self._retry_accept is None:
            self._retry_accept = gevent.spawn_later(RETRY_ACCEPT_S, self._accept_again)
        return True

    def _accept_again(self) -> None:
        self._retry_accept = None
        if self.started and not self.draining:
            self.start_accepting()

    # Exchanges

    def finished(self, exchange: Exchange) -> None:
        """Count and record an exchange, once, when its answer is out."""
        self._cells[self._requests] += 1
        self.access_log.record(exchange)
        if exchange.status >= 500 and exchange.detail:  # what clients do wrong has its reason in the access log
            _log.warning(exchange.detail, extra=_fields(exchange))

    def log_crash(self, exchange: Exchange, exc: Exception) -> None:
        """Log what should not have happened, with its traceback."""
        _log.error("unexpected error while serving a request", exc_info=exc, extra=_fields(exchange))

    def date_line(self) -> bytes:
        """Return a Date header line (RFC 9110 6.6.1), made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, b"Date: %b\r\n" % formatdate(now, usegmt=True).encode())
        return self._date[1]

    # Life

    def drain(self) -> None:
        """Take no new connection, close idle ones, end the others after their answer."""
        self.draining = True
        self.stop_accepting()
        for handler in tuple(self._handlers):
            if handler.idle:
                handler.deadline.set(0.0, _DRAINED)


def _plain_ip(ip: str) -> str:
    """Return an IPv4 address that came over an IPv6 socket as plain IPv4, without a scope."""
    if ip.startswith("::ffff:"):
        return str(ipaddress.IPv6Address(ip).ipv4_mapped or ip)
    return ip.partition("%")[0]


def _fields(exchange: Exchange) -> dict[str, Any]:
    return {
        "event": "request_failed",
        "reason": exchange.reason,
        "request_id": exchange.request_id.decode("latin-1"),
        "client": exchange.client_ip,
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "route": exchange.route,
        "upstream": exchange.upstream,
        "server": exchange.server,
        "attempts": exchange.attempts,
    }
