"""The admin process: who may ask, what there is to ask, and the answer as JSON.

Owns:       routes, the token, the Host check, the headers of every answer.
Leaves to:  admin/api.py (what the answers say), listener/server.py (HTTP), master (the bound socket,
            and starting the process again).
Invariant:  a crash here never touches traffic: this process reads shared memory and writes nothing there
            but its own column.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from werkzeug.exceptions import HTTPException, NotFound, Unauthorized
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from greenproxy import __version__
from greenproxy.admin import api
from greenproxy.config.address import Address
from greenproxy.config.schema import Admin, Config, Listener
from greenproxy.errors import WorkerBootError
from greenproxy.health.table import HealthTable
from greenproxy.http.wsgi import add_http_variables
from greenproxy.listener.server import Server
from greenproxy.master.heritage import Heritage
from greenproxy.shm.segment import Segment
from greenproxy.telemetry.accesslog import AccessLog
from greenproxy.worker.helper import serve_until_told

# Probes of a container platform carry no token, and these answers tell nothing that is worth one.
OPEN = frozenset({"index", "healthz", "readyz"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

ROUTES = Map(
    [
        Rule("/", endpoint="index", methods=["GET"]),
        Rule("/healthz", endpoint="healthz", methods=["GET"]),
        Rule("/readyz", endpoint="readyz", methods=["GET"]),
        Rule("/api/v1/status", endpoint="status", methods=["GET"]),
        Rule("/api/v1/upstreams", endpoint="upstreams", methods=["GET"]),
    ],
    merge_slashes=False,
)

PRIVATE_COLUMN = 1
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Answer = tuple[int, api.Json]


class Misdirected(HTTPException):
    """421: the request names a host that is not us (RFC 9110 15.5.20)."""

    code = 421
    description = "this is the admin server of greenproxy; ask for it by its own address"


class AdminApp:
    """The admin API as a WSGI application."""

    def __init__(self, config: Config, settings: Admin, segment: Segment) -> None:
        self._config = config
        self._segment = segment
        self._table = HealthTable(segment)
        self._token = (settings.token or "").encode()
        self._hosts = _own_hosts(settings.address)
        self._endpoints: Mapping[str, Callable[[], Answer]] = {
            "index": self._index,
            "healthz": self._healthz,
            "readyz": self._readyz,
            "status": self._status,
            "upstreams": self._upstreams,
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        try:
            status, body = self._endpoints[self._admit(Request(environ))]()
            response = _json(status, body)
        except HTTPException as error:
            response = _refusal(error, environ)
        return response(environ, start_response)

    def _admit(self, request: Request) -> str:
        """The endpoint that is asked for, if the client may ask. Raises HTTPException."""
        # DNS rebinding: a page whose name was pointed at 127.0.0.1 is same-origin with us, but its Host gives it away.
        if self._hosts and _host_without_port(request.headers.get("Host", "")) not in self._hosts:
            raise Misdirected
        endpoint: str = ROUTES.bind_to_environ(request.environ).match()[0]
        if endpoint not in OPEN and not self._has_token(request):
            raise Unauthorized("a token is needed: Authorization: Bearer TOKEN")
        return endpoint

    def _has_token(self, request: Request) -> bool:
        if not self._token:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token)

    def _index(self) -> Answer:
        see = [rule.rule for rule in ROUTES.iter_rules() if rule.rule != "/"]
        return 200, {"name": "greenproxy", "version": __version__, "see": see}

    def _healthz(self) -> Answer:
        return 200, {"status": "ok"}

    def _readyz(self) -> Answer:
        if api.is_ready(self._segment):
            return 200, {"status": "ready"}
        return 503, {"status": "no worker accepts connections"}

    def _status(self) -> Answer:
        return 200, api.status(self._segment, time.time_ns(), time.monotonic_ns())

    def _upstreams(self) -> Answer:
        return 200, api.upstreams(self._config, self._table)


def run(heritage: Heritage) -> None:
    """Be the admin process until told to leave. The server's sockets are gevent's own: nothing is monkey patched."""
    settings = heritage.config.admin
    if settings is None or heritage.admin_socket is None:
        raise WorkerBootError("the admin process was started without an address")
    # Cells of its own: our connections are not the proxy's traffic.
    server = Server(
        heritage.admin_socket,
        Listener.model_validate({"address": str(settings.address)}),
        _with_http_variables(AdminApp(heritage.config, settings, heritage.segment)),
        heritage.config.server,
        AccessLog(None),
        Segment.create(),
        PRIVATE_COLUMN,
    )
    server.start()
    serve_until_told(heritage)
    server.stop(timeout=0)


def _with_http_variables(application: AdminApp) -> Callable[..., Iterable[bytes]]:
    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        add_http_variables(environ)
        return application(environ, start_response)

    return call


def _own_hosts(address: Address) -> frozenset[str]:
    """The names a request may ask for; none = any, because no browser is led here by a name of its choice."""
    if address.kind == "unix" or not address.is_loopback:
        return frozenset()
    return LOOPBACK_HOSTS | {_host_without_port(str(address).lower())}


def _host_without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _json(status: int, body: api.Json) -> Response:
    text = orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return Response(text, status, HEADERS, content_type="application/json")


def _refusal(error: HTTPException, environ: dict[str, Any]) -> Response:
    text = "no such thing here; GET / lists what there is" if isinstance(error, NotFound) else error.description
    response = _json(error.code or 500, {"error": text or error.name})
    for name, value in error.get_headers(environ):
        if name in ("Allow", "WWW-Authenticate"):
            response.headers[name] = value
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
