"""What sections say about each other: the upstreams that are named, the addresses that meet.

It works on the file as plain values, not on the models, so that one wrong key elsewhere does not
hide these problems. What is of a wrong type is passed over: the models report that.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from greenproxy.config.section import KEY, Finding, Loc
from greenproxy.config.suggest import did_you_mean
from greenproxy.config.values import resolve_address

MAX_SERVERS = 4096  # rows of the health table


def references(data: object, folder: str) -> Iterator[Finding]:
    """Find names that lead nowhere and addresses given twice; `folder` is where relative paths start."""
    top = _mapping(data)
    upstreams = _mapping(top.get("upstreams"))
    for loc, name in _named_upstreams(top):
        if name not in upstreams:
            yield loc, f"{{value}} is no upstream of this file{did_you_mean(name, upstreams)}"
    yield from _addresses_twice(top, folder)
    if sum(len(_items(_mapping(upstream).get("servers"))) for upstream in upstreams.values()) > MAX_SERVERS:
        yield ("upstreams",), f"more than {MAX_SERVERS} servers"


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _named_upstreams(top: dict[str, object]) -> Iterator[tuple[Loc, str]]:
    for index, route in enumerate(map(_mapping, _items(top.get("routes")))):
        if isinstance(name := route.get("upstream"), str):
            yield ("routes", index, "upstream"), name
        for name in _mapping(route.get("split")):
            yield ("routes", index, "split", name, KEY), name
    for index, listener in enumerate(map(_mapping, _items(top.get("listeners")))):
        if isinstance(name := listener.get("upstream"), str):
            yield ("listeners", index, "upstream"), name
        for host, name in _mapping(listener.get("sni")).items():
            if isinstance(name, str):
                yield ("listeners", index, "sni", host), name


def _addresses_twice(top: dict[str, object], folder: str) -> Iterator[Finding]:
    seen: set[tuple[str, str, int]] = set()
    for loc, text in _listening(top):
        try:
            address = resolve_address(text, folder)
        except ValueError:
            continue
        if address.kind == "tcp" and address.port == 0:  # the kernel gives each its own
            continue
        if address.identity in seen:
            yield loc, "{value} is listened on twice"
        seen.add(address.identity)


def _listening(top: dict[str, object]) -> Iterator[tuple[Loc, str]]:
    for index, listener in enumerate(map(_mapping, _items(top.get("listeners")))):
        if isinstance(text := listener.get("address"), str):
            yield ("listeners", index, "address"), text
    if isinstance(text := _mapping(top.get("admin")).get("address"), str):
        yield ("admin", "address"), text
