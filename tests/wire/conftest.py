"""The proxies that the wire cases are sent through: small limits, one worker, a recording origin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness.origin import RecordingOrigin
from tests.harness.proxy import Proxy, config_for, running_proxy

LIMITS = {
    "header_timeout": "10s",
    "body_timeout": "10s",
    "keepalive_timeout": "10s",
    "max_request_line": "4KB",
    "max_header_bytes": "8KB",
    "max_headers": 50,
    "max_body": "64KB",
}


@dataclass(frozen=True)
class Wire:
    """A running proxy with its origin; `buffered`: whole requests are read before the upstream gets any byte."""

    proxy: Proxy
    origin: RecordingOrigin
    buffered: bool


def _wire(buffered: bool, factory: pytest.TempPathFactory) -> Iterator[Wire]:
    upstream: dict[str, Any] = {"buffer": {"request": "128KB"}} if buffered else {}
    with (
        RecordingOrigin() as origin,
        running_proxy(
            config_for(origin.address, server={"limits": LIMITS}, upstream=upstream), factory.mktemp("wire")
        ) as proxy,
    ):
        yield Wire(proxy, origin, buffered)


@pytest.fixture(scope="session")
def streaming_wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    yield from _wire(False, tmp_path_factory)


@pytest.fixture(scope="session")
def buffering_wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    yield from _wire(True, tmp_path_factory)
