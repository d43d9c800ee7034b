"""Compose the application of a worker from the configuration, once, at start-up.

The one place that knows the order of layers and wires rooms together. What a route does not use is
not in its chain.

Owns:       the order of layers.
Leaves to:  the rooms what each layer does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from greenproxy.balancing.balancer import Balancer
from greenproxy.chain.entry import Chain, Entry, ErrorPage
from greenproxy.chain.layers import RequestHeaders, Responder, ResponseHeaders, Splitter, StripPrefix
from greenproxy.config.routes import Route
from greenproxy.config.schema import Config
from greenproxy.config.upstreams import Upstream
from greenproxy.files.app import FilesApp
from greenproxy.health.table import HealthTable
from greenproxy.http.wsgi import Application, direct
from greenproxy.proxy.app import ProxyApp
from greenproxy.proxy.flight import Member
from greenproxy.proxy.transport import ServerPool
from greenproxy.routing.split import Split
from greenproxy.routing.table import RouteTable
from greenproxy.shm.ticket import take_ticket


def build_application(config: Config, table: HealthTable, column: int, tickets: Mapping[str, int]) -> Entry:
    """Return the worker's application. `column` is its own in the table, `tickets` the upstreams' counters."""
    upstreams = {
        name: _proxy_app(name, upstream, table, column, tickets[name]) for name, upstream in config.upstreams.items()
    }
    chains = [_chain(route, upstreams) for route in config.routes]
    return Entry(RouteTable(config.routes), chains, config.server.trusted_proxies)


def _proxy_app(name: str, upstream: Upstream, table: HealthTable, column: int, ticket: int) -> ProxyApp:
    addresses = tuple(str(server.address) for server in upstream.servers)
    members = {}
    for server, address in zip(upstream.servers, addresses, strict=True):
        pool = ServerPool(server.address, upstream.timeouts.connect, upstream.pool.max_idle, upstream.pool.idle_timeout)
        row = table.row(name, address)
        members[row] = Member(pool, table.segment, column, row)
    balancer = Balancer(
        name,
        upstream.balance,
        snapshot=partial(table.snapshot, name, addresses),
        generation=table.generation_reader(),
        ticket=partial(take_ticket, ticket),
    )
    return ProxyApp(name, upstream, balancer, members)


def _chain(route: Route, upstreams: Mapping[str, Application]) -> Chain:
    """Wrap the route's end in its layers, innermost first."""
    app = _end(route, upstreams)
    edits = route.headers
    if edits.request.set or edits.request.remove:
        app = RequestHeaders(app, edits.request)  # innermost: the operator has the last word
    if route.strip_prefix and route.match.path and route.files is None:
        app = StripPrefix(app, route.match.path)
    if edits.response.set or edits.response.remove:
        app = ResponseHeaders(app, edits.response)
    return Chain(_name(route), direct(app), _error_page(route))


def _end(route: Route, upstreams: Mapping[str, Application]) -> Application:
    if route.upstream is not None:
        return upstreams[route.upstream]
    if route.split is not None:
        return Splitter(Split(route.split, route.split_cookie), {name: upstreams[name] for name in route.split})
    if route.respond is not None:
        return Responder(route.respond)
    assert route.files is not None  # config/routes.py: a route has exactly one end
    strip = route.match.path if route.strip_prefix else None
    return FilesApp(route.files.root, route.files.index, strip or "")


def _name(route: Route) -> str:
    """Name a route for logs by what it matches."""
    return f"{route.match.host or ''}{route.match.path or '/'}"


def _error_page(route: Route) -> ErrorPage | None:
    """Load the route's error pages now: at the time of the error the disk may be part of it."""
    pages: dict[str, tuple[bytes, str]] = {}
    for status, path in route.error_pages.items():
        with open(path, "rb") as file:
            kind = "application/json" if path.endswith(".json") else "text/html; charset=utf-8"
            pages[status] = (file.read(), kind)
    if not pages:
        return None
    return lambda status: pages.get(str(status)) or pages.get(f"{status // 100}xx")
