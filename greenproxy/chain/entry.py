"""The head of every chain: who is asking, which route, on to the route's own chain.

Owns:       the request id, what servers are told about the client, the choice of the route.
Leaves to:  http/forwarding.py and routing/table.py (the decisions), the listener (errors become answers there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from greenproxy.errors import DownstreamError
from greenproxy.http import fields
from greenproxy.http.exchange import KEY, Exchange
from greenproxy.http.forwarding import Network
from greenproxy.http.requestid import request_ids
from greenproxy.http.wsgi import Application
from greenproxy.routing.table import RouteTable

ErrorPage = Callable[[int], "tuple[bytes, str] | None"]


class NotFound(DownstreamError):
    """No route matches."""

    status = 404
    reason = "no_route"


@dataclass(frozen=True, slots=True)
class Chain:
    """One route as it is served: its layers around its end, and its own error pages."""

    name: str
    application: Application
    error_page: ErrorPage | None


class Entry:
    """The WSGI application of a worker."""

    def __init__(self, table: RouteTable, chains: Sequence[Chain], trusted_proxies: Sequence[Network]) -> None:
        self._match = table.match
        self._chains = chains
        self._trusted_proxies = trusted_proxies
        self._ids = request_ids()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request. Raises NotFound, and what the route's chain raises."""
        exchange: Exchange = environ[KEY]
        forwarding = exchange.peer.forwarding(exchange.head, exchange.authority, self._trusted_proxies)
        request_id = forwarding.request_id or next(self._ids)
        exchange.request_id = request_id
        exchange.host = host = forwarding.host
        if exchange.peer.trusted:  # it may speak for somebody else
            exchange.client_ip = forwarding.client_ip
            exchange.scheme = forwarding.scheme
            exchange.prefix = forwarding.prefix
        exchange.forwarding_lines = b"%bX-Request-ID: %b\r\n" % (forwarding.lines, request_id)
        if exchange.target.authority is not None:
            # RFC 9112 3.2.2: an absolute target overrules Host
            rest = fields.without(exchange.lines, (b"host",))
            exchange.lines = b"Host: %b\r\n%b" % (exchange.authority, rest)
        index = self._match(exchange.method, host, exchange.target.path, exchange.head.header, exchange.cookie)
        if index is None:
            raise NotFound("no route matches")
        chain = self._chains[index]
        exchange.route = chain.name
        if chain.error_page is not None:
            exchange.error_page = chain.error_page
        return chain.application(environ, start_response)
