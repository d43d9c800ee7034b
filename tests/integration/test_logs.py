"""Logs of a running proxy: what an access record says, rotation, and a reader that must not hold up the traffic."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from signal import SIGUSR1
from typing import Any

import pytest

from tests.harness.origin import RecordingOrigin, ScriptedOrigin, answer
from tests.harness.ports import reserve_port
from tests.harness.proxy import Proxy, Record, config_for, running_proxy
from tests.harness.wait import wait_for

pytestmark = pytest.mark.integration

FIELDS = [
    "time", "request_id", "client", "method", "host", "path", "status", "bytes_in", "bytes_out", "duration_ms",
    "upstream_ms", "route", "upstream", "server", "attempts",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[RecordingOrigin]:
    with RecordingOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(shared_origin: RecordingOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    dead = reserve_port()
    config = config_for(
        shared_origin.address,
        server={"trusted_proxies": ["127.0.0.2/32"], "limits": {"max_body": "1KB"}},
        routes=[
            {"match": {"path": "/m"}, "upstream": "origin"},
            {"match": {"path": "/local"}, "respond": {"body": "hello"}},
            {"match": {"path": "/dead"}, "upstream": "dead"},
        ],
    )
    config["upstreams"]["dead"] = {"servers": [{"address": f"127.0.0.1:{dead.number}"}]}
    with running_proxy(config, tmp_path_factory.mktemp("logs")) as running:
        yield running
    dead.release()


def record_of(proxy: Proxy, path: str) -> Record:
    return proxy.wait_access(lambda record: record["path"] == path)


# What a record says


def test_proxied_request_is_recorded_in_full(proxy: Proxy, shared_origin: RecordingOrigin) -> None:
    response = proxy.request("POST", "/m/full%20path?secret=1", {"Host": "Shop.Example:80"}, body=b"hello")
    record = record_of(proxy, "/m/full%20path")
    assert [name for name in record if name in FIELDS] == FIELDS
    seen = shared_origin.wait_requests(1)[-1]
    assert record["request_id"].encode() == seen.get("x-request-id")
    expected: Record = {
        "client": "127.0.0.1", "method": "POST", "host": "shop.example", "status": 200, "bytes_in": 5,
        "bytes_out": len(response.body), "route": "/m", "upstream": "origin", "server": shared_origin.address,
        "attempts": 1,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert 0 < record["upstream_ms"] <= record["duration_ms"] < 20_000
    assert "reason" not in record
    assert "secret" not in proxy.stdout_path.read_text()


def test_local_answer_names_no_server(proxy: Proxy) -> None:
    proxy.get("/local/answer")
    record = record_of(proxy, "/local/answer")
    assert (record["status"], record["route"], record["bytes_out"]) == (200, "/local", 5)
    assert (record["upstream"], record["server"], record["attempts"], record["upstream_ms"]) == ("", "", 0, 0.0)


def test_head_is_recorded_without_body_bytes(proxy: Proxy) -> None:
    proxy.request("HEAD", "/m/head")
    assert record_of(proxy, "/m/head")["bytes_out"] == 0


@pytest.mark.parametrize(
    ("target", "status", "reason", "attempts"),
    [("/nowhere", 404, "no_route", 0), ("/dead/end", 502, "connect_failed", 2)],
)
def test_error_of_ours_has_its_reason(proxy: Proxy, target: str, status: int, reason: str, attempts: int) -> None:
    response = proxy.get(target)
    record = record_of(proxy, target)
    assert (response.status, record["status"], record["reason"]) == (status, status, reason)
    assert record["attempts"] == attempts
    assert record["bytes_out"] == len(response.body)
    assert record["request_id"].encode() in response.body


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET /r HTTP/1.1\r\n\r\n", 400, "host_missing"),
        (b"GET /r HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, "bare_lf"),
        (b"GET /r HTTP/3.0\r\nHost: a\r\n\r\n", 505, "version_unknown"),
        (b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "length_invalid"),
        (b"TRACE /r HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method_refused"),
        (b"GET /../r HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target_dots"),
        (b"POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n", 413, "body_too_large"),
        (b"POST /m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "chunk_invalid"),
        (b"POST /m HTTP/1.1\r\nHost: a\r\nExpect: coffee\r\nContent-Length: 1\r\n\r\n", 417, "expect_unknown"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "request_line_too_long"),
        (b"GET /r HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", 431, None),
    ],
)  # fmt: skip
def test_refused_request_has_its_reason(proxy: Proxy, data: bytes, status: int, reason: str | None) -> None:
    before = len(proxy.access_records())
    with proxy.client() as client:
        client.try_send(data)
        assert client.final_response("POST").status == status
    [record] = wait_for(lambda: proxy.access_records()[before:], "the record of a refused request")
    assert record["status"] == status
    assert record["reason"]
    assert reason in (None, record["reason"])
    assert record["client"] == "127.0.0.1"


def test_client_that_was_first_to_leave_is_499(tmp_path: Path) -> None:
    with ScriptedOrigin([answer(then="hang")]) as origin, running_proxy(config_for(origin.address), tmp_path) as proxy:
        client = proxy.client()
        client.send(b"GET /left HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: origin.heads, "the request upstream")
        client.reset()
        record = record_of(proxy, "/left")
    assert (record["status"], record["reason"], record["bytes_out"]) == (499, "client_closed", 0)
    assert (record["server"], record["attempts"]) == (origin.address, 1)


def test_attempts_name_the_server_that_answered(tmp_path: Path) -> None:
    with ScriptedOrigin([answer(then="reset")]) as bad, RecordingOrigin() as good:
        config = config_for(bad.address, good.address)
        with running_proxy(config, tmp_path) as proxy:

            def retried() -> list[Record]:
                proxy.get("/retried")
                return [record for record in proxy.access_records() if record["attempts"] == 2]

            record = wait_for(retried, "a request that met the bad server first")[0]
    assert (record["status"], record["server"]) == (200, good.address)
    assert "reason" not in record


def test_failed_request_is_in_the_error_log_too(proxy: Proxy) -> None:
    proxy.get("/dead/told")
    access = record_of(proxy, "/dead/told")
    record = proxy.wait_log(lambda record: record.get("path") == "/dead/told")
    assert (record["event"], record["reason"], record["status"]) == ("request_failed", "connect_failed", 502)
    assert record["request_id"] == access["request_id"]
    assert access["server"] in record["message"]


# Rotation


def test_usr1_opens_the_file_anew_and_no_record_is_lost(origin: RecordingOrigin, tmp_path: Path) -> None:
    access, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    stop, count = threading.Event(), 0

    def load() -> None:
        nonlocal count
        while not stop.is_set():
            assert proxy.get(f"/{count}").status == 200
            count += 1

    with running_proxy(config_for(origin.address, log={"access": str(access)}), tmp_path) as proxy:
        thread = threading.Thread(target=load)
        thread.start()
        try:
            wait_for(lambda: count > 20, "some requests")
            access.rename(moved)
            proxy.signal(SIGUSR1)
            proxy.wait_log("logs_reopened")
            wait_for(access.exists, "a new file")
            reopened_at = count
            wait_for(lambda: count > reopened_at + 20, "more requests")
        finally:
            stop.set()
            thread.join()
    paths = [json.loads(line)["path"] for file in (moved, access) for line in file.read_text().splitlines()]
    assert paths == [f"/{number}" for number in range(count)]
    assert len(access.read_text().splitlines()) >= 20


# Whoever reads our stdout


class PipedProxy(Proxy):
    """A proxy whose stdout is a pipe; `reader` is the test's end of it."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        super().__init__(config, folder)
        os.mkfifo(self.stdout_path)
        self.reader = os.open(self.stdout_path, os.O_RDONLY | os.O_NONBLOCK)

    def log_text(self) -> str:
        return self.stderr_path.read_text(errors="replace")


@pytest.fixture
def piped(origin: RecordingOrigin, tmp_path: Path) -> Iterator[PipedProxy]:
    proxy = PipedProxy(config_for(origin.address), tmp_path)
    try:
        proxy.start()
        yield proxy
        proxy.stop()
    finally:
        proxy.kill()


def ask_many(proxy: Proxy, count: int) -> None:
    """Ask for long paths, one after the other, over one connection."""
    with proxy.client() as client:
        for number in range(count):
            path = b"/%d/" % number + b"a" * 900
            assert client.request(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path).status == 200


def test_pipe_that_nobody_reads_stops_no_traffic_and_gets_all_later(piped: PipedProxy) -> None:
    count = 300  # records of a kilobyte and more: five times what a pipe holds
    ask_many(piped, count)
    data = b""

    def complete() -> bool:
        nonlocal data
        with contextlib.suppress(BlockingIOError):
            data += os.read(piped.reader, 1 << 20)
        return data.count(b"\n") >= count

    wait_for(complete, lambda: f"{count} records, got {len(data.splitlines())}")
    numbers = [int(json.loads(line)["path"].split("/")[1]) for line in data.splitlines()]
    assert numbers == list(range(count))
    os.close(piped.reader)


def test_pipe_whose_reader_is_gone_stops_no_traffic(piped: PipedProxy) -> None:
    os.close(piped.reader)
    ask_many(piped, 50)
    piped.wait_log("access_log_failed")
    ask_many(piped, 50)
