"""The models under `upstreams`: groups of servers, how they are chosen, watched, reached and hosted.

Owns:       keys, types, defaults and limits of one upstream, and what its keys say about each other.
Leaves to:  availability.py (what is not built yet), hosted.py (the servers of a hosted application).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from greenproxy.config.names import FieldValue, ModuleAttribute, PathPrefix, Token
from greenproxy.config.scale import count_of
from greenproxy.config.section import KEY, Finding, Section, refuse, setting
from greenproxy.config.values import (
    AnyAddress,
    Count,
    Duration,
    Executable,
    ExistingFolder,
    FilePath,
    Flag,
    OrOff,
    Percentage,
    Size,
    Text,
)

Balance = Literal[
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "peak_ewma",
    "random_two",
    "ip_hash",
    "consistent_hash",
    "adaptive",
]
Weight = Annotated[Count, Field(ge=1, le=1000)]
Positive = Annotated[Duration, Field(gt=0)]

# A hosted application has few threads: a slow client must not hold one, and a dead process is seen within a second.
_HOSTED_DEFAULTS = {"buffer": {"request": "1MB", "response": "1MB"}, "health_check": {"interval": "1s"}}

_STATUS_RANGE = re.compile(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?\Z")
_HASH_ON = re.compile(r"(?:ip|path|(?:header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]+)\Z")
_RETRY_WORDS = ("connect", "reset", "timeout")
_RETRY_STATUS = re.compile(r"5[0-9][0-9]\Z")


def _status_ranges(value: object) -> tuple[tuple[int, int], ...]:
    """`200-399`, `200` or a list of both -> pairs of first and last status. Raises ValueError."""
    ranges = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        match = _STATUS_RANGE.match(str(item))
        if match is None:
            raise ValueError("{value} is not a status, a range such as 200-399, or a list of them")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError("the range ends before it begins")
        ranges.append((first, last))
    if not ranges:
        raise ValueError("must not be empty")
    return tuple(ranges)


def _retry_word(value: object) -> str:
    word = str(value)
    if word not in _RETRY_WORDS and not _RETRY_STATUS.match(word):
        raise ValueError(f"{{value}} is none of {', '.join(_RETRY_WORDS)} or a status such as 503")
    return word


def _hash_on(value: str) -> str:
    if not _HASH_ON.match(value):
        raise ValueError("{value} is none of ip, path, header:NAME, cookie:NAME, query:NAME")
    return value


StatusRanges = Annotated[
    tuple[tuple[int, int], ...],
    BeforeValidator(_status_ranges),
    WithJsonSchema({"type": ["string", "integer", "array"], "examples": ["200-399"]}),
]
RetryWord = Annotated[
    str,
    BeforeValidator(_retry_word),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_RETRY_WORDS)},
                {"type": "string", "pattern": "^5[0-9][0-9]$"},
                {"type": "integer", "minimum": 500, "maximum": 599},
            ]
        }
    ),
]


Processes = Annotated[
    int,
    BeforeValidator(count_of),
    Field(strict=True, ge=1, le=256),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 256}, {"type": "object"}]}),
]


class UpstreamServer(Section):
    """One member of an upstream."""

    address: AnyAddress = setting(..., "host:port, [IPv6]:port or unix:/path")
    weight: Weight = setting(1, "share of the requests, beside the other servers' weights")
    max_connections: Annotated[Count, Field(ge=1)] | None = setting(None, "most requests at once, over all workers")
    resolve: Flag = setting(False, "look the name up again; every address is a server")
    backup: Flag = setting(False, "used when no other server is up")

    @model_validator(mode="after")
    def _check(self) -> UpstreamServer:
        if self.address.kind == "tcp" and self.address.port == 0:
            refuse([(("address",), "a server needs a port from 1 to 65535")])
        return self


class HealthCheck(Section):
    """Active probes; without this section a server is up until requests show otherwise."""

    path: PathPrefix | None = setting(None, "what to GET; without it a probe only connects")
    host: FieldValue | None = setting(None, "Host of a probe; the server's address by default")
    interval: Positive = setting("2s", "time between two probes of a server")
    timeout: Positive = setting("1s", "longest wait for a probe's answer")
    rise: Annotated[Count, Field(ge=1)] = setting(2, "good probes in a row that take a server in")
    fall: Annotated[Count, Field(ge=1)] = setting(3, "bad probes in a row that take a server out")
    expect: StatusRanges = setting("200-399", "statuses that are good")


class Outlier(Section):
    """Ejection by live failures."""

    consecutive_failures: Annotated[Count, Field(ge=1)] = setting(5, "failures in a row that eject a server")
    ejection: Positive = setting("10s", "first ejection; longer each time")
    max_ejection: Positive = setting("5m", "longest ejection")


class Retry(Section):
    """Which failures are tried again, on another server while there is one."""

    attempts: Annotated[Count, Field(ge=1, le=10)] = setting(2, "sends in all; 1 = never again")
    budget: Percentage = setting("20%", "share of the last 10 s of requests, over all workers, that may be retries")
    on: tuple[RetryWord, ...] = setting(("connect", "reset"), "connect, reset, timeout, or statuses of the 5xx class")


class Timeouts(Section):
    """How long a server may take."""

    # The kernel sends a lost SYN again after 1 s (RFC 6298 2): 2 s survives one lost packet.
    connect: Positive = setting("2s", "until the connection stands")
    read: Positive = setting("30s", "silence before and within an answer")


class Pool(Section):
    """Kept-alive connections to each server, in each worker."""

    max_idle: Annotated[Count, Field(ge=0)] = setting(128, "idle connections kept for one server")
    idle_timeout: Positive = setting("55s", "an idle connection is closed after this; less than the server's own time")


class Buffer(Section):
    """How much of a body is held for a slow client, so that it holds no server; 0 = none, bodies stream."""

    request: Size = setting(0, "read from the client before a server is taken")
    response: Size = setting(0, "taken from the server ahead of the client")


class Sticky(Section):
    """A client stays on its server."""

    cookie: Token = setting("gp_srv", "name of the cookie")
    ttl: Positive | None = setting(None, "how long; for the browser's session by default")


class UpstreamTls(Section):
    """Encryption towards the servers."""

    verify: Flag = setting(True, "check the server's certificate")
    ca: FilePath | None = setting(None, "authorities that are trusted; the system's by default")
    server_name: Text | None = setting(None, "name asked for and checked; the address's host by default")
    cert: FilePath | None = setting(None, "our own certificate")
    key: FilePath | None = setting(None, "our own key")


class HostedApp(Section):
    """A WSGI application that runs in processes of its own, started by us."""

    app: ModuleAttribute = setting(..., "module:attribute of the application")
    chdir: ExistingFolder = setting(".", "folder the application starts in and imports from")
    python: Executable = Field(
        default_factory=lambda: sys.executable, description="its interpreter (3.8 or newer); ours by default"
    )
    processes: Processes = setting(2, "how many processes, or {min, max}")
    threads: Annotated[Count, Field(ge=1, le=1024)] = setting(8, "threads in each process")
    weights: tuple[Weight, ...] | None = setting(None, "weight of each process; all 1 by default")
    env: dict[str, Text] = setting({}, "environment variables, beside those we were started with")
    start_timeout: Positive = setting("30s", "a process must accept within this time")

    @model_validator(mode="after")
    def _check(self) -> HostedApp:
        refuse(self._findings())
        return self

    def _findings(self) -> Iterator[Finding]:
        if self.weights is not None and len(self.weights) != self.processes:
            yield ("weights",), f"{len(self.weights)} weights for {self.processes} processes"
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name:
                yield ("env", name, KEY), "is no name of an environment variable"
            if "\0" in value:
                yield ("env", name), "holds a NUL"


class Upstream(Section):
    """A named group of servers, or of processes of one hosted application."""

    servers: tuple[UpstreamServer, ...] = setting((), "the members")
    wsgi: HostedApp | None = setting(None, "an application that we host, instead of servers")
    balance: Balance = setting("round_robin", "how a server is chosen")
    hash_on: Annotated[str, AfterValidator(_hash_on)] | None = setting(None, "what consistent_hash looks at")
    sticky: Sticky | None = setting(None, "keep a client on its server")
    health_check: Annotated[HealthCheck | None, OrOff()] = setting(None, "active probes")
    outlier: Annotated[Outlier | None, OrOff()] = setting(None, "ejection by live failures")
    slow_start: Positive | None = setting(None, "time in which a returning server comes up to its weight")
    retry: Retry = setting({}, "what is tried again")
    timeouts: Timeouts = setting({}, "how long a server may take")
    pool: Pool = setting({}, "kept-alive connections")
    buffer: Annotated[Buffer, OrOff({})] = setting({}, "bodies held for slow clients")
    proxy_protocol: Annotated[Literal["v1", "v2"] | None, OrOff()] = setting(None, "say who called")
    tls: UpstreamTls | None = setting(None, "encrypt towards the servers")

    @model_validator(mode="before")
    @classmethod
    def _hosted_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("wsgi") is None:
            return data
        return {**_HOSTED_DEFAULTS, **data}

    @model_validator(mode="after")
    def _check(self) -> Upstream:
        refuse(self._findings())
        return self

    def _findings(self) -> Iterator[Finding]:
        given = self.model_fields_set
        if self.wsgi is not None and "servers" in given:
            yield (
                ("servers",),
                "an upstream has either servers or wsgi: a hosted application's processes are its servers",
            )
        elif self.wsgi is None and not self.servers:
            yield ("servers",) if "servers" in given else (), "an upstream needs servers (at least one) or wsgi"
        seen: set[tuple[str, str, int]] = set()
        for index, server in enumerate(self.servers):
            if server.address.identity in seen:
                yield (
                    ("servers", index, "address"),
                    "{value} is in this upstream twice; give one server more weight instead",
                )
            seen.add(server.address.identity)
