"""The configuration as typed, frozen values; attribute names are the YAML's keys.

Durations are float seconds, sizes int bytes, shares floats from 0 to 1, rates events a second,
networks `ipaddress` objects, paths absolute.

Owns:       the top of the tree, and all names by which others import the models.
Leaves to:  upstreams.py, routes.py, protection.py (their parts), load.py (reading a file),
            references.py (checks across sections), availability.py (what is not built yet).
Invariant:  picklable; imports neither gevent nor anything else of a worker.
"""

from __future__ import annotations

import os
import pwd
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from greenproxy.config.names import HostPattern, UpstreamName
from greenproxy.config.protection import Ban, CacheStore, RateLimit, Waf, WafExclude
from greenproxy.config.routes import Files, HeaderEdit, Match, Respond, Route, RouteHeaders
from greenproxy.config.scale import count_of
from greenproxy.config.section import Section, refuse, setting
from greenproxy.config.upstreams import (
    Buffer,
    HealthCheck,
    HostedApp,
    Outlier,
    Pool,
    Retry,
    Sticky,
    Timeouts,
    Upstream,
    UpstreamServer,
    UpstreamTls,
)
from greenproxy.config.values import (
    AnyAddress,
    Count,
    Duration,
    FilePath,
    Flag,
    LogTarget,
    Network,
    OrOff,
    Size,
)

__all__ = [
    "Admin",
    "Ban",
    "Buffer",
    "CacheStore",
    "Certificate",
    "Config",
    "Files",
    "HeaderEdit",
    "HealthCheck",
    "HostedApp",
    "Limits",
    "Listener",
    "ListenerTls",
    "Log",
    "Match",
    "Outlier",
    "Pool",
    "RateLimit",
    "Respond",
    "Retry",
    "Route",
    "RouteHeaders",
    "ServerSettings",
    "Sticky",
    "Timeouts",
    "Upstream",
    "UpstreamServer",
    "UpstreamTls",
    "Waf",
    "WafExclude",
]

Positive = Annotated[Duration, Field(gt=0)]
MAX_WORKERS = 127  # two generations (a reload) and the retired column fit the 256 columns of the shared segment


def _workers(value: object, info: ValidationInfo) -> object:
    if value == "auto":
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return count_of(value, info)


def _user(name: str) -> str:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise ValueError("there is no user {value}") from None
    return name


def _optional_token(token: str | None) -> str | None:
    if not token:
        return None
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token holds visible ASCII characters only, for it travels in a header field")
    return token


def _tls_version(value: object) -> object:
    return str(value) if isinstance(value, float) else value


Workers = Annotated[
    int,
    BeforeValidator(_workers),
    Field(strict=True, ge=1, le=MAX_WORKERS),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}, {"type": "object"}]}
    ),
]


class Limits(Section):
    """What one client may use up. Beyond them: 408, 413, 414, 431, or no connection."""

    header_timeout: Positive = setting("10s", "a request's head must be complete by then; absolute")
    body_timeout: Positive = setting("30s", "a body must be complete by then, plus 1 s for each 500 bytes that came")
    keepalive_timeout: Positive = setting("75s", "an idle connection is closed after this")
    max_request_line: Annotated[Size, Field(ge=128)] = setting("8KB", "longest request line")
    max_header_bytes: Annotated[Size, Field(ge=256)] = setting("32KB", "longest head, request line included")
    max_headers: Annotated[Count, Field(ge=1)] = setting(100, "most header fields")
    max_body: Size = setting("10MB", "largest request body")
    max_connections: Annotated[Count, Field(ge=1)] = setting(10000, "open connections of each worker")
    max_requests_per_connection: Annotated[Count, Field(ge=1)] = setting(1000, "then the connection is closed")


class ServerSettings(Section):
    """The proxy itself."""

    workers: Workers = setting("auto", "auto (usable cores), a number, or {min, max}")
    graceful_timeout: Positive = setting("30s", "longest wait for what is in flight when stopping")
    watchdog: Positive = setting("30s", "a worker silent for so long is killed and replaced")
    pid_file: FilePath | None = setting(None, "where the master writes its process id")
    user: Annotated[str, AfterValidator(_user)] | None = setting(None, "user that the children run as")
    state_dir: FilePath | None = setting(None, "folder for what outlives a run; one per run by default")
    trusted_proxies: tuple[Network, ...] = setting((), "networks whose X-Forwarded-* and Forwarded are believed")
    allow_underscores: Flag = setting(False, "let header names with underscores pass")
    limits: Limits = setting({}, "what one client may use up")


class Certificate(Section):
    """A certificate with its key."""

    cert: FilePath = setting(..., "PEM file with the chain")
    key: FilePath = setting(..., "PEM file with the private key")


class ListenerTls(Section):
    """Encryption towards the clients."""

    certificates: tuple[Certificate, ...] = setting(..., "picked by the name the client asks for", min_length=1)
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_tls_version)] = setting("1.2", "oldest version")
    client_ca: FilePath | None = setting(None, "authorities for client certificates")
    client_auth: Literal["required", "optional"] | None = setting(None, "must a client show a certificate?")


class Listener(Section):
    """An address that clients connect to."""

    address: AnyAddress = setting(..., "host:port, [IPv6]:port or unix:/path; port 0 = any free port")
    mode: Literal["http", "tcp", "tls_passthrough"] = setting("http", "what is understood")
    redirect_https: Flag = setting(False, "answer every request with its https address")
    proxy_protocol: Flag = setting(False, "expect the PROXY protocol before each connection")
    tls: ListenerTls | None = setting(None, "terminate TLS")
    sni: dict[HostPattern, UpstreamName] = setting({}, "mode tls_passthrough: name -> upstream")
    upstream: UpstreamName | None = setting(None, "mode tcp: where the bytes go")


class Log(Section):
    """Where JSON lines go: stdout, stderr or a file."""

    access: Annotated[LogTarget | None, OrOff()] = setting("stdout", "one line a request; or off")
    error: LogTarget = setting("stderr", "everything else")
    level: Literal["debug", "info", "warning", "error"] = setting("info", "least important level written")
    security: LogTarget | None = setting(None, "what was refused, and why")


class Admin(Section):
    """The admin API."""

    address: AnyAddress = setting("127.0.0.1:9900", "where it listens")
    token: Annotated[str | None, AfterValidator(_optional_token)] = setting(
        None, "bearer token that callers must show", repr=False
    )

    @model_validator(mode="after")
    def _check(self) -> Admin:
        if self.token is None and not self.address.is_loopback:
            refuse([(("address",), "{value} can be reached from other machines: that needs a token")])
        return self


class Config(Section):
    """The whole file."""

    server: ServerSettings = setting({}, "the proxy itself")
    listeners: tuple[Listener, ...] = setting(..., "addresses that clients connect to", min_length=1)
    upstreams: dict[UpstreamName, Upstream] = setting({}, "groups of servers by name")
    routes: tuple[Route, ...] = setting(..., "which request goes where; the first match wins", min_length=1)
    rate_limit: Annotated[RateLimit | None, OrOff()] = setting(None, "for every route")
    waf: Annotated[Waf | None, OrOff()] = setting(None, "for every route")
    cache: Annotated[CacheStore | None, OrOff()] = setting(None, "where responses are kept")
    log: Log = setting({}, "logs")
    admin: Annotated[Admin | None, OrOff()] = setting({}, "the admin API; on loopback by default")
