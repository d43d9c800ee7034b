"""Who may ask the admin API, and what it says: the WSGI application by itself, over a real segment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from greenproxy.admin.app import AdminApp
from greenproxy.balancing.snapshot import State
from greenproxy.config.schema import Admin, Config
from greenproxy.health.table import HealthTable
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import ProcessState, Segment

TOKEN = "a-token-of-the-tests"
SERVERS = ("10.0.0.1:8000", "unix:/run/app.sock")


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment.create()
    yield segment
    segment.close()


@pytest.fixture
def table(segment: Segment) -> HealthTable:
    table = HealthTable(segment)
    for weight, address in enumerate(SERVERS, 1):
        table.add("shop", address, weight)
    return table


def config_with(**admin: str) -> Config:
    return Config.model_validate(
        {
            "listeners": [{"address": "127.0.0.1:8080"}],
            "upstreams": {"shop": {"servers": [{"address": address} for address in SERVERS]}},
            "routes": [{"match": {"path": "/"}, "upstream": "shop"}],
            "admin": admin,
        }
    )


def app_with(segment: Segment, **admin: str) -> AdminApp:
    config = config_with(**admin)
    return AdminApp(config, config.admin or Admin(), segment)


def get(app: AdminApp, path: str, host: str = "localhost:9900", **headers: str) -> TestResponse:
    return Client(app).get(path, headers={"Host": host, **headers})


def add_worker(segment: Segment, column: int, state: ProcessState, **cells: int) -> None:
    base = segment.process_base(column)
    for name, value in {"P_PID": 100 + column, "P_SLOT": column, "P_STATE": state, **cells}.items():
        segment.cells[base + getattr(shm, name)] = value


# What it says


def test_healthz_is_200_without_workers(segment: Segment, table: HealthTable) -> None:
    response = get(app_with(segment), "/healthz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([], 503),
        ([ProcessState.BOOTING], 503),
        ([ProcessState.SPARE], 503),
        ([ProcessState.DRAINING], 503),
        ([ProcessState.BOOTING, ProcessState.READY], 200),
    ],
)
def test_readyz_needs_one_worker_that_accepts(
    segment: Segment, table: HealthTable, states: list[ProcessState], status: int
) -> None:
    for column, state in enumerate(states, 1):
        add_worker(segment, column, state)
    assert get(app_with(segment), "/readyz").status_code == status


def test_status_lists_workers_by_slot_and_adds_up_requests(segment: Segment, table: HealthTable) -> None:
    segment.cells[segment.process_base(0) + shm.P_REQUESTS] = 5
    add_worker(segment, 7, ProcessState.READY, P_SLOT=2, P_REQUESTS=20, P_CONNECTIONS=3, P_IN_FLIGHT=2)
    add_worker(segment, 8, ProcessState.DRAINING, P_SLOT=1, P_REQUESTS=100)
    add_worker(segment, 9, ProcessState.SPARE, P_SLOT=0)
    status: Any = get(app_with(segment), "/api/v1/status").json
    assert status["requests"] == 125
    assert status["uptime_s"] >= 0
    assert [(worker["slot"], worker["state"], worker["requests"]) for worker in status["workers"]] == [
        (0, "draining", 100),
        (1, "ready", 20),
        (None, "spare", 0),
    ]
    assert (status["workers"][1]["connections"], status["workers"][1]["in_flight"]) == (3, 2)


def test_upstreams_show_state_reason_and_counters(segment: Segment, table: HealthTable) -> None:
    add_worker(segment, 1, ProcessState.READY)
    row = table.row("shop", SERVERS[1])
    table.set_state(row, State.DOWN, "probes fail: status 500")
    base = segment.cell_base(1, row)
    cells = {shm.C_IN_FLIGHT: 2, shm.C_REQUESTS: 4, shm.C_CONNECT_FAILED: 1, shm.C_FAILED: 3, shm.C_TIME_US: 10_000}
    for cell, value in cells.items():
        segment.cells[base + cell] = value
    answer: Any = get(app_with(segment), "/api/v1/upstreams").json
    [shop] = answer["upstreams"]
    assert (shop["name"], shop["balance"]) == ("shop", "round_robin")
    up, down = shop["servers"]
    assert (up["address"], up["state"], up["weight"], up["mean_latency_ms"]) == (SERVERS[0], "up", 1, None)
    since = down.pop("since")
    assert since.endswith("Z") and since > up["since"][:10]
    assert down == {
        "address": SERVERS[1],
        "state": "down",
        "reason": "probes fail: status 500",
        "weight": 2,
        "in_flight": 2,
        "requests": 4,
        "failures": {"connect": 1, "no_answer": 3},
        "responses_5xx": 0,
        "mean_latency_ms": 2.5,
        "probes": {"good": 0, "bad": 0},
    }


def test_index_points_at_the_api(segment: Segment, table: HealthTable) -> None:
    answer: Any = get(app_with(segment), "/").json
    assert "/api/v1/upstreams" in answer["see"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/api/v1/status", "/nothing"])
def test_every_answer_is_json_that_nobody_stores_or_sniffs(segment: Segment, table: HealthTable, path: str) -> None:
    response = get(app_with(segment), path)
    assert response.mimetype == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_unknown_path_is_404(segment: Segment, table: HealthTable) -> None:
    response = get(app_with(segment), "/api/v2/status")
    assert response.status_code == 404
    assert response.json is not None and "error" in response.json


def test_other_method_is_405_with_allow(segment: Segment, table: HealthTable) -> None:
    response = Client(app_with(segment)).post("/healthz", headers={"Host": "localhost"})
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_head_has_no_body(segment: Segment, table: HealthTable) -> None:
    response = Client(app_with(segment)).head("/healthz", headers={"Host": "localhost"})
    assert (response.status_code, response.data) == (200, b"")


# Who may ask


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/upstreams"])
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer \xff\xfe", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
    ],
)
def test_api_needs_the_token_when_there_is_one(
    segment: Segment, table: HealthTable, path: str, authorization: str | None, status: int
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = get(app_with(segment, token=TOKEN), path, **headers)
    assert response.status_code == status
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_probes_need_no_token(segment: Segment, table: HealthTable, path: str) -> None:
    assert get(app_with(segment, token=TOKEN), path).status_code in (200, 503)


@pytest.mark.parametrize(
    ("address", "host", "allowed"),
    [
        ("127.0.0.1:9900", "localhost", True),
        ("127.0.0.1:9900", "LocalHost:9900", True),
        ("127.0.0.1:9900", "127.0.0.1:9900", True),
        ("127.0.0.1:9900", "[::1]:9900", True),
        ("127.0.0.1:9900", "[::1]", True),
        ("127.0.0.2:9900", "127.0.0.2:9900", True),
        ("127.0.0.1:9900", "127.0.0.2:9900", False),
        ("127.0.0.1:9900", "evil.example", False),
        ("127.0.0.1:9900", "localhost.evil.example:9900", False),
        ("127.0.0.1:9900", "evil.example:9900", False),
        ("127.0.0.1:9900", "", False),
        ("[::1]:9900", "evil.example", False),
        ("unix:/run/admin.sock", "anything", True),
    ],
)
def test_host_is_checked_on_loopback(
    segment: Segment, table: HealthTable, address: str, host: str, allowed: bool
) -> None:
    response = get(app_with(segment, address=address), "/healthz", host)
    assert response.status_code == (200 if allowed else 421)


def test_host_is_free_where_others_reach_it_by_a_name(segment: Segment, table: HealthTable) -> None:
    app = app_with(segment, address="192.0.2.1:9900", token=TOKEN)
    assert get(app, "/healthz", "admin.internal").status_code == 200
    assert get(app, "/api/v1/status", "admin.internal").status_code == 401
