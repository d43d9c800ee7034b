"""The keys whose feature is not built yet: known, checked in type, and refused.

One table; a feature that is done takes its line out. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from greenproxy.config.section import KEY, Finding, Loc


def _given(_value: object) -> bool:
    return True


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _beyond(*built: str) -> Callable[[object], bool]:
    return lambda value: value not in built


# Path of the key (* = any name or index) -> is this value one that is not built?
NOT_AVAILABLE: dict[str, Callable[[object], bool]] = {
    "server.workers": _is_mapping,
    "listeners.*.mode": _beyond("http"),
    "listeners.*.redirect_https": _given,
    "listeners.*.proxy_protocol": _given,
    "listeners.*.tls": _given,
    "listeners.*.sni": _given,
    "listeners.*.upstream": _given,
    "upstreams.*.balance": _beyond("round_robin", "weighted_round_robin"),
    "upstreams.*.hash_on": _given,
    "upstreams.*.sticky": _given,
    "upstreams.*.servers.*.max_connections": _given,
    "upstreams.*.servers.*.resolve": _given,
    "upstreams.*.servers.*.backup": _given,
    "upstreams.*.outlier": _given,
    "upstreams.*.slow_start": _given,
    "upstreams.*.retry.budget": _given,
    "upstreams.*.proxy_protocol": _given,
    "upstreams.*.tls": _given,
    "upstreams.*.wsgi.processes": _is_mapping,
    "routes.*.rate_limit": _given,
    "routes.*.waf": _given,
    "routes.*.cache": _given,
    "rate_limit": _given,
    "waf": _given,
    "cache": _given,
    "log.security": _given,
}


def unavailable(data: object) -> Iterator[Finding]:
    """Find what `data` (the file as plain values) uses of the table."""
    for path, refused in NOT_AVAILABLE.items():
        for loc, value in _select(data, tuple(path.split(".")), ()):
            if not refused(value):
                continue
            if refused is _given:
                yield (*loc, KEY), "not available yet"
            else:
                yield (
                    loc,
                    "bounds {min, max} are not available yet"
                    if refused is _is_mapping
                    else "{value} is not available yet",
                )


def _select(data: object, pattern: tuple[str, ...], loc: Loc) -> Iterator[tuple[Loc, object]]:
    """Find the values whose path matches `pattern`."""
    if not pattern:
        yield loc, data
        return
    first, rest = pattern[0], pattern[1:]
    if isinstance(data, dict):
        for name in data if first == "*" else data.keys() & {first}:
            yield from _select(data[name], rest, (*loc, name))
    elif isinstance(data, list) and first == "*":
        for index, item in enumerate(data):
            yield from _select(item, rest, (*loc, index))
