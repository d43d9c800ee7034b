"""Find the route of a request: the first one whose conditions all hold.

Pure. Everything that can be known at start-up is worked out there: for a host, and within it for the
first segment of the path, the table holds the few routes that can match at all, in their order.

Owns:       the order of routes and what their conditions mean.
Leaves to:  config (what may be written), http/target.py (the path: decoded, without dot segments).
Called by:  chain/entry.py, once a request.
Invariant:  the answer is that of trying all routes in order. Hosts are compared without case (the caller
            gives lower case), paths byte by byte and only at the borders of segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from greenproxy.config.schema import Match, Route

ReadHeader = Callable[[bytes], "bytes | None"]
ReadCookie = Callable[[str], "str | None"]


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What a route asks beside host and path."""

    methods: frozenset[str]  # empty: any
    headers: tuple[tuple[bytes, bytes], ...]
    cookies: tuple[tuple[str, str], ...]

    def hold(self, method: str, header: ReadHeader, cookie: ReadCookie) -> bool:
        """Does the request fulfil them all?"""
        return (
            (not self.methods or method in self.methods)
            and all(header(name) == value for name, value in self.headers)
            and all(cookie(name) == value for name, value in self.cookies)
        )


class _Rule(NamedTuple):
    """One route, ready to compare. A tuple, because the loop over rules unpacks it faster than it reads fields."""

    exact: str  # this path itself ...
    below: str  # ... and all that begin with this; "" is every path, "*" of OPTIONS too
    conditions: _Conditions | None
    route: int  # its index

    @property
    def first_segment(self) -> str | None:
        """The first segment of the paths that can match; None if any can."""
        return self.below.split("/", 2)[1] if self.below else None


_Rules = tuple[_Rule, ...]
_Pattern = tuple["str | None", _Rule]  # host as configured, None: any


def _pattern(index: int, match: Match) -> _Pattern:
    prefix = match.path or "/"
    below = "" if prefix == "/" else prefix.rstrip("/") + "/"
    conditions = _Conditions(
        methods=frozenset(match.methods or ()),
        # A field value is bytes on the wire; the configuration's characters are those bytes (config/names.py).
        headers=tuple((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in match.headers.items()),
        cookies=tuple(match.cookies.items()),
    )
    asked = conditions.methods or conditions.headers or conditions.cookies
    return match.host, _Rule(prefix, below, conditions if asked else None, index)


class _Site:
    """The routes that one host can have, by the first segment of the path."""

    __slots__ = ("by_segment", "otherwise")

    def __init__(self, rules: Iterable[_Rule]) -> None:
        rules = tuple(rules)
        segments = {rule.first_segment for rule in rules} - {None}
        self.by_segment = {
            segment: _shortened(rule for rule in rules if rule.first_segment in (None, segment)) for segment in segments
        }
        self.otherwise = _shortened(rule for rule in rules if rule.first_segment is None)


def _shortened(rules: Iterable[_Rule]) -> _Rules:
    """Leave out what comes after a route that always matches."""
    kept: list[_Rule] = []
    for rule in rules:
        kept.append(rule)
        if rule.conditions is None and not rule.below:
            break
    return tuple(kept)


class RouteTable:
    """All routes of a configuration, compiled."""

    __slots__ = ("_any_host", "_by_host", "_by_suffix", "_hosts_matter")

    def __init__(self, routes: Sequence[Route]) -> None:
        patterns = [_pattern(index, route.match) for index, route in enumerate(routes)]
        hosts = {host for host, _ in patterns if host}
        self._hosts_matter = bool(hosts)
        self._by_host = {host: _site_of(host, patterns) for host in hosts if not host.startswith("*.")}
        # All hosts whose longest wildcard is this one have the same routes; "any" stands for what the star covers.
        self._by_suffix = {host[1:]: _site_of(f"any{host[1:]}", patterns) for host in hosts if host.startswith("*.")}
        self._any_host = _Site(rule for host, rule in patterns if host is None)

    def match(self, method: str, host: str, path: str, header: ReadHeader, cookie: ReadCookie) -> int | None:
        """Return the index of the first route that matches, None if none does.

        `host` is in lower case and without port; `header` takes a lower-case name. Both callables
        are asked only by routes that have such conditions.
        """
        site = self._any_host
        if self._hosts_matter:
            site = self._by_host.get(host) or self._site_below(host)
        end = path.find("/", 1)
        rules = site.by_segment.get(path[1:] if end < 0 else path[1:end], site.otherwise)
        for exact, below, conditions, route in rules:
            if (path.startswith(below) or path == exact) and (
                conditions is None or conditions.hold(method, header, cookie)
            ):
                return route
        return None

    def _site_below(self, host: str) -> _Site:
        """The routes of a host that no route names as it is: those of its longest wildcard, or of any host."""
        if host.endswith("."):  # the same host, spelled as the root of DNS has it (RFC 3986 3.2.2)
            host = host[:-1]
            if host in self._by_host:
                return self._by_host[host]
        dot = host.find(".", 1) if self._by_suffix else -1
        while dot >= 0:
            site = self._by_suffix.get(host[dot:])
            if site is not None:
                return site
            dot = host.find(".", dot + 1)
        return self._any_host


def _site_of(host: str, patterns: Sequence[_Pattern]) -> _Site:
    return _Site(rule for pattern, rule in patterns if pattern is None or _covers(pattern, host))


def _covers(pattern: str, host: str) -> bool:
    """Is `host` the pattern, or at any depth below the pattern `*.suffix`?"""
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
