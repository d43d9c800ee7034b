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

from greenproxy.config.schema import Route

ReadHeader = Callable[[bytes], "bytes | None"]
ReadCookie = Callable[[str], "str | None"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """The conditions of one route, ready to compare."""

    index: int
    host: str | None  # None: any
    exact: str  # this path itself ...
    below: str  # ... and all that begin with this; "" is every path, "*" of OPTIONS too
    methods: frozenset[str]  # empty: any
    headers: tuple[tuple[bytes, bytes], ...]
    cookies: tuple[tuple[str, str], ...]
    plain: bool  # the path decides alone

    @property
    def first_segment(self) -> str | None:
        """The first segment of the paths that can match; None if any can."""
        return self.below.split("/", 2)[1] if self.below else None

    def holds(self, method: str, header: ReadHeader, cookie: ReadCookie) -> bool:
        """Does the request fulfil what the route asks beside host and path?"""
        return (
            (not self.methods or method in self.methods)
            and all(header(name) == value for name, value in self.headers)
            and all(cookie(name) == value for name, value in self.cookies)
        )


_Rules = tuple[_Rule, ...]


def _rule(index: int, route: Route) -> _Rule:
    match = route.match
    prefix = match.path or "/"
    methods = frozenset(match.methods or ())
    headers = tuple((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in match.headers.items())
    cookies = tuple(match.cookies.items())
    return _Rule(
        index=index,
        host=match.host,
        exact=prefix,
        below="" if prefix == "/" else prefix.rstrip("/") + "/",
        methods=methods,
        headers=headers,
        cookies=cookies,
        plain=not (methods or headers or cookies),
    )


class _Site:
    """The routes that one host can have, by the first segment of the path."""

    __slots__ = ("_by_segment", "_otherwise")

    def __init__(self, rules: Iterable[_Rule]) -> None:
        rules = tuple(rules)
        segments = {rule.first_segment for rule in rules} - {None}
        self._by_segment = {
            segment: _shorten(r for r in rules if r.first_segment in (None, segment)) for segment in segments
        }
        self._otherwise = _shorten(rule for rule in rules if rule.first_segment is None)

    def rules(self, path: str) -> _Rules:
        """The routes that can match this path, in order."""
        end = path.find("/", 1)
        return self._by_segment.get(path[1:] if end < 0 else path[1:end], self._otherwise)


def _shorten(rules: Iterable[_Rule]) -> _Rules:
    """Leave out what comes after a route that always matches."""
    kept: list[_Rule] = []
    for rule in rules:
        kept.append(rule)
        if rule.plain and not rule.below:
            break
    return tuple(kept)


class RouteTable:
    """All routes of a configuration, compiled."""

    __slots__ = ("_any_host", "_by_host", "_by_suffix")

    def __init__(self, routes: Sequence[Route]) -> None:
        rules = [_rule(index, route) for index, route in enumerate(routes)]
        patterns = {rule.host for rule in rules if rule.host}
        self._by_host = {host: _site_of(host, rules) for host in patterns if not host.startswith("*.")}
        # All hosts whose longest wildcard is this one have the same routes; "any" stands for what the star covers.
        self._by_suffix = {host[1:]: _site_of(f"any{host[1:]}", rules) for host in patterns if host.startswith("*.")}
        self._any_host = _Site(rule for rule in rules if rule.host is None)

    def match(self, method: str, host: str, path: str, header: ReadHeader, cookie: ReadCookie) -> int | None:
        """Return the index of the first route that matches, None if none does.

        `host` is in lower case and without port; `header` takes a lower-case name. Both callables
        are asked only by routes that have such conditions.
        """
        site = self._by_host.get(host) or self._site_below(host)
        for rule in site.rules(path):
            if (path.startswith(rule.below) or path == rule.exact) and (
                rule.plain or rule.holds(method, header, cookie)
            ):
                return rule.index
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


def _site_of(host: str, rules: Sequence[_Rule]) -> _Site:
    return _Site(rule for rule in rules if rule.host is None or _covers(rule.host, host))


def _covers(pattern: str, host: str) -> bool:
    """Is `host` the pattern, or at any depth below the pattern `*.suffix`?"""
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
