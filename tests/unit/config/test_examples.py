"""The files in conf/: the production example passes, the JSON Schema is that of the models."""

from __future__ import annotations

import json
import time

import pytest

from greenproxy.config.jsonschema import SCHEMA_FILE, schema_text
from greenproxy.config.load import load_config

CONF = SCHEMA_FILE.parent


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "GREENPROXY_LISTEN",
        "GREENPROXY_ADMIN_TOKEN",
        "SHOP_1",
        "SHOP_2",
        "SHOP_3",
        "API_1",
        "API_2",
        "SHOP_NEXT",
    ):
        monkeypatch.delenv(name, raising=False)


def test_production_example_passes() -> None:
    config = load_config(str(CONF / "prod.yaml"))
    assert [server.weight for server in config.upstreams["shop"].servers] == [3, 2, 1]
    assert config.admin is not None
    assert config.admin.token is None


def test_production_example_loads_in_a_tenth_of_a_second() -> None:
    best = min(_seconds_to_load() for _ in range(3))
    assert best < 0.1


def _seconds_to_load() -> float:
    start = time.perf_counter()
    load_config(str(CONF / "prod.yaml"))
    return time.perf_counter() - start


def test_json_schema_is_in_step_with_the_models() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run: python -m greenproxy.config.jsonschema"


def test_json_schema_is_the_same_on_every_machine() -> None:
    assert "python" in json.loads(schema_text())["$defs"]["HostedApp"]["properties"]
    assert "default" not in json.loads(schema_text())["$defs"]["HostedApp"]["properties"]["python"]
