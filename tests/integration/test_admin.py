"""The admin process beside real traffic: what it shows, who may ask, and its death, which nobody feels."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import RawClient
from tests.harness.origin import RecordingOrigin
from tests.harness.ports import Port, reserve_port
from tests.harness.proxy import config_for, one_request, running_proxy
from tests.harness.wait import wait_for

pytestmark = pytest.mark.integration

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def port() -> Iterator[Port]:
    port = reserve_port()
    yield port
    port.release()


def test_admin_shows_workers_and_counts_of_real_traffic(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address, server={"workers": 2}), tmp_path) as proxy:
        assert proxy.admin_get("/healthz") == {"status": "ok"}
        assert proxy.admin_get("/readyz") == {"status": "ready"}
        for _ in range(10):
            assert proxy.get("/page").status == 200
        status = wait_for(lambda: _with_requests(proxy.admin_get("/api/v1/status"), 10), "10 requests")
        workers = [worker for worker in status["workers"] if worker["state"] == "ready"]
        assert [worker["slot"] for worker in workers] == [0, 1]
        assert {worker["pid"] for worker in workers} == set(proxy.worker_pids()) - _spares(status)
        assert all(worker["heartbeat_age_s"] < 5 for worker in workers)
        assert (status["master_pid"], status["generation"]) == (proxy.pid, 1)
        [upstream] = proxy.admin_get("/api/v1/upstreams")["upstreams"]
        [server] = upstream["servers"]
        assert (server["address"], server["state"], server["requests"]) == (origin.address, "up", 10)
        assert (server["in_flight"], server["failures"]) == (0, {"connect": 0, "no_answer": 0})
        assert 0 < server["mean_latency_ms"] < 10_000


def _with_requests(status: Any, requests: int) -> Any:
    return status if status["requests"] >= requests else None


def _spares(status: Any) -> set[int]:
    return {worker["pid"] for worker in status["workers"] if worker["state"] == "spare"}


def test_admin_asks_for_the_token(origin: RecordingOrigin, port: Port, tmp_path: Path) -> None:
    admin = {"address": f"127.0.0.1:{port.number}", "token": TOKEN}
    with running_proxy({**config_for(origin.address), "admin": admin}, tmp_path) as proxy:
        assert one_request(proxy.admin, "GET", "/healthz").status == 200
        assert one_request(proxy.admin, "GET", "/api/v1/upstreams").status == 401
        given = {"Authorization": f"Bearer {TOKEN}"}
        assert one_request(proxy.admin, "GET", "/api/v1/upstreams", given).status == 200
        assert TOKEN not in proxy.log_text()


def test_admin_refuses_a_rebound_name_and_other_methods(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:
        assert one_request(proxy.admin, "GET", "/api/v1/status", {"Host": "evil.example"}).status == 421
        refused = one_request(proxy.admin, "POST", "/api/v1/status", body=b"x" * 1000)
        assert refused.status == 405
        assert one_request(proxy.admin, "GET", "/api/v1/nothing").status == 404


def test_admin_parses_as_strictly_as_the_proxy(origin: RecordingOrigin, tmp_path: Path) -> None:
    smuggled = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running_proxy(config_for(origin.address), tmp_path) as proxy, RawClient(proxy.admin) as client:
        client.send(smuggled + b"0\r\n\r\n")
        [response] = client.responses(["POST"])
        assert response.status == 400


def test_admin_works_on_a_unix_socket(origin: RecordingOrigin, tmp_path: Path) -> None:
    config = {**config_for(origin.address), "admin": {"address": "unix:admin.sock"}}
    with running_proxy(config, tmp_path), RawClient(str(tmp_path / "admin.sock")) as client:
        assert client.request(b"GET /readyz HTTP/1.1\r\nHost: any\r\n\r\n").status == 200
    assert not (tmp_path / "admin.sock").exists()


def test_admin_can_be_off(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy({**config_for(origin.address), "admin": False}, tmp_path) as proxy:
        assert proxy.get("/").status == 200
        assert not proxy.logs("admin_ready")


def test_killed_admin_comes_back_on_its_port_and_traffic_does_not_notice(
    origin: RecordingOrigin, tmp_path: Path
) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy, proxy.client() as client:
        os.kill(proxy.wait_log("admin_ready")["child"], signal.SIGKILL)
        # The master holds the socket: a request made meanwhile waits in the backlog instead of being refused.
        assert proxy.admin_get("/readyz") == {"status": "ready"}
        assert client.request(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
        wait_for(lambda: len(proxy.logs("admin_ready")) == 2, "the next admin process")
        assert len(proxy.logs("worker_ready")) == len(set(proxy.worker_pids()))
