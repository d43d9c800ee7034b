"""Servers that fail, hang, lie and come back, behind a running proxy; and a checker that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import RawClient
from tests.harness.origin import Answer, RecordingOrigin, ScriptedOrigin, answer, reply
from tests.harness.ports import reserve_port
from tests.harness.proxy import Proxy, config_for, quiet_for, running_proxy
from tests.harness.wait import wait_for

pytestmark = pytest.mark.integration

FAST_CHECK = {"path": "/healthz", "interval": "100ms", "timeout": "300ms", "rise": 2, "fall": 2}
SERVER_PROGRAM = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class ServerProcess:
    """An upstream server in a process of its own, which answers with its port."""

    def __init__(self) -> None:
        self.port = reserve_port()
        self.address = f"127.0.0.1:{self.port.number}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER_PROGRAM, str(self.port.number)])
        wait_for(self._answers, f"the server {self.address}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.port.release()

    def _answers(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError), RawClient(("127.0.0.1", self.port.number)) as client:
            return client.request(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status == 200
        return False


class Load:
    """GETs without a pause over kept-alive connections, until the with block ends."""

    def __init__(self, proxy: Proxy, clients: int = 4) -> None:
        self._proxy = proxy
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self.answered = 0
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_answers(self, more: int) -> None:
        """Wait until so many more requests were answered, well or badly."""
        goal = self.answered + more
        wait_for(lambda: self.answered >= goal, f"{more} more answers")

    def _run(self) -> None:
        client = self._proxy.client()
        while not self._stop.is_set():
            try:
                response = client.request(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if response.status != 200:
                    self.failures.append(f"{response.status} {response.body!r}")
                if response.get("connection") == b"close":
                    client.close()
                    client = self._proxy.client()
            except (AssertionError, OSError) as error:
                self.failures.append(repr(error))
                client.close()
                client = self._proxy.client()
            self.answered += 1
        client.close()


def servers_of(proxy: Proxy) -> dict[str, dict[str, Any]]:
    """The upstream `origin` as the admin API shows it, by address."""
    [upstream] = proxy.admin_get("/api/v1/upstreams")["upstreams"]
    return {server["address"]: server for server in upstream["servers"]}


def wait_state(proxy: Proxy, address: str, state: str) -> dict[str, Any]:
    """Wait until a server has a state, and give it as the admin API shows it."""

    def fits() -> dict[str, Any] | None:
        server = servers_of(proxy)[address]
        return server if server["state"] == state else None

    server = wait_for(fits, lambda: f"{address} {state}, is {servers_of(proxy)[address]}")
    assert server is not None
    return server


def flips(proxy: Proxy, address: str) -> list[tuple[str, str]]:
    """The changes of a server's state that were logged."""
    return [(record["from"], record["to"]) for record in proxy.logs("server_state") if record["server"] == address]


@pytest.fixture
def pair() -> Iterator[tuple[RecordingOrigin, RecordingOrigin]]:
    with RecordingOrigin() as one, RecordingOrigin() as two:
        yield one, two


# Probes


def test_stopped_server_goes_down_and_comes_back(pair: tuple[RecordingOrigin, RecordingOrigin], tmp_path: Path) -> None:
    one, two = pair
    with running_proxy(config_for(one.address, two.address, upstream={"health_check": FAST_CHECK}), tmp_path) as proxy:
        wait_for(lambda: servers_of(proxy)[one.address]["probes"]["good"] >= 2, "good probes")
        one.stop()
        server = wait_state(proxy, one.address, "down")
        assert server["reason"] == "probes fail: connect: Connection refused"
        assert servers_of(proxy)[two.address]["state"] == "up"
        one.restart()
        assert wait_state(proxy, one.address, "up")["reason"] == "2 good probes"
        assert flips(proxy, one.address) == [("up", "down"), ("down", "up")]
        record = proxy.logs("server_state")[0]
        assert (record["upstream"], record["level"], record["role"]) == ("origin", "warning", "checker")
        assert record["reason"] == "probes fail: connect: Connection refused"


def test_traffic_avoids_a_server_that_is_down(tmp_path: Path) -> None:
    sick = ScriptedOrigin([answer(reply(b"no", status=b"500 Sick"))])
    with sick, RecordingOrigin() as well:
        config = config_for(sick.address, well.address, upstream={"health_check": FAST_CHECK})
        with running_proxy(config, tmp_path) as proxy:
            assert wait_state(proxy, sick.address, "down")["reason"] == "probes fail: status 500"
            assert [proxy.get("/page").status for _ in range(20)] == [200] * 20


@pytest.mark.parametrize(
    ("scripted", "reason"),
    [
        (answer(then="hang"), "answer timed out after 0.3 s"),
        (answer(b"\x00\x01 hello\r\n\r\n", then="close"), "garbage answer"),
        (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then="close"), "answer cut short"),
        (answer(reply(b"gone", status=b"404 Not Found")), "status 404"),
        (answer(*[b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 40], then="hang"), "endless answer"),
    ],
    ids=["hanging", "garbage", "half", "unexpected status", "endless"],
)
def test_server_with_a_bad_answer_is_down_for_that_reason(scripted: Answer, reason: str, tmp_path: Path) -> None:
    with ScriptedOrigin([scripted]) as bad, RecordingOrigin() as good:
        config = config_for(bad.address, good.address, upstream={"health_check": FAST_CHECK})
        with running_proxy(config, tmp_path) as proxy:
            assert reason in wait_state(proxy, bad.address, "down")["reason"]
            # The checker lives on: the other server's probes go on being counted.
            before = servers_of(proxy)[good.address]["probes"]["good"]
            wait_for(lambda: servers_of(proxy)[good.address]["probes"]["good"] > before + 2, "further probes")
            assert not proxy.logs("checker_error") and not proxy.logs("checker_died")


def test_fall_and_rise_are_counted_in_probes(tmp_path: Path) -> None:
    status = [b"200 OK"]
    with ScriptedOrigin(lambda *_: answer(reply(b"x", status=status[0]))) as origin:
        check = {**FAST_CHECK, "interval": "200ms", "rise": 3, "fall": 4}
        with running_proxy(config_for(origin.address, upstream={"health_check": check}), tmp_path) as proxy:
            wait_for(lambda: servers_of(proxy)[origin.address]["probes"]["good"] >= 1, "a good probe")
            status[0] = b"503 Busy"
            server = wait_state(proxy, origin.address, "down")
            assert server["probes"]["bad"] == 4
            good = server["probes"]["good"]
            status[0] = b"204 Fine"
            assert wait_state(proxy, origin.address, "up")["probes"]["good"] == good + 3


def test_expected_status_is_the_configured_one(tmp_path: Path) -> None:
    with ScriptedOrigin([answer(reply(b"in", status=b"401 Who"))]) as locked, RecordingOrigin() as open_:
        check = {**FAST_CHECK, "expect": "401"}
        config = config_for(locked.address, open_.address, upstream={"health_check": check})
        with running_proxy(config, tmp_path) as proxy:
            assert wait_state(proxy, open_.address, "down")["reason"] == "probes fail: status 200"
            assert servers_of(proxy)[locked.address]["state"] == "up"


def test_check_without_path_only_connects(origin: RecordingOrigin, tmp_path: Path) -> None:
    check = {name: value for name, value in FAST_CHECK.items() if name != "path"}
    with running_proxy(config_for(origin.address, upstream={"health_check": check}), tmp_path) as proxy:
        wait_for(lambda: servers_of(proxy)[origin.address]["probes"]["good"] >= 2, "good probes")
        assert origin.received == b""
        origin.stop()
        wait_state(proxy, origin.address, "down")


def test_last_server_is_tried_though_it_is_down(tmp_path: Path) -> None:
    def by_path(request: Any, *_: object) -> Answer:
        return answer(reply(b"x", status=b"500 No" if request.target == b"/healthz" else b"200 OK"))

    with ScriptedOrigin(by_path) as origin:
        config = config_for(origin.address, upstream={"health_check": FAST_CHECK})
        with running_proxy(config, tmp_path) as proxy:
            wait_state(proxy, origin.address, "down")
            assert proxy.get("/page").status == 200
            assert servers_of(proxy)[origin.address]["state"] == "down"


# Live traffic


def test_killed_server_under_load_costs_no_get(tmp_path: Path) -> None:
    with ServerProcess() as victim, ServerProcess() as other:
        config = config_for(victim.address, other.address, server={"workers": 2})
        with running_proxy(config, tmp_path) as proxy, Load(proxy) as load:
            load.wait_answers(200)
            victim.kill()
            wait_state(proxy, victim.address, "ejected")
            load.wait_answers(500)
            victim.start()
            wait_state(proxy, victim.address, "up")
            served = servers_of(proxy)[victim.address]["requests"]
            wait_for(lambda: servers_of(proxy)[victim.address]["requests"] > served + 50, "traffic for the server")
        assert load.failures == []
        assert flips(proxy, victim.address)[0] == ("up", "ejected")


def test_killed_server_with_probes_under_load_costs_no_get(tmp_path: Path) -> None:
    with ServerProcess() as victim, ServerProcess() as other:
        # Probes too rare to notice anything: it is live traffic that takes the server out.
        check = {**FAST_CHECK, "interval": "2s", "fall": 3}
        config = config_for(victim.address, other.address, upstream={"health_check": check})
        with running_proxy(config, tmp_path) as proxy, Load(proxy) as load:
            load.wait_answers(200)
            killed = time.monotonic()
            victim.kill()
            server = wait_state(proxy, victim.address, "down")
            assert time.monotonic() - killed < 2
            assert "live requests" in server["reason"] or "Connection refused" in server["reason"]
            victim.start()
            wait_state(proxy, victim.address, "up")
        assert load.failures == []


def test_ejections_last_longer_while_the_server_stays_away(tmp_path: Path) -> None:
    with RecordingOrigin() as gone, RecordingOrigin() as there:
        with running_proxy(config_for(gone.address, there.address), tmp_path) as proxy, Load(proxy, 1) as load:
            gone.stop()
            ejected = "the third ejection"
            wait_for(lambda: flips(proxy, gone.address).count(("up", "ejected")) >= 3, ejected, deadline_s=30)
        times = [record["time"] for record in proxy.logs("server_state") if record["to"] == "ejected"]
        assert seconds_between(times[0], times[1]) >= 1
        assert seconds_between(times[1], times[2]) >= 2
        assert load.failures == []


def seconds_between(one: str, two: str) -> float:
    """Seconds between two times of log records."""
    moments = [datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (one, two)]
    return (moments[1] - moments[0]).total_seconds()


# The checker


def test_killed_checker_is_started_again_and_nothing_is_forgotten(tmp_path: Path) -> None:
    with RecordingOrigin() as gone, RecordingOrigin() as there:
        gone.stop()
        config = config_for(gone.address, there.address, upstream={"health_check": FAST_CHECK})
        with running_proxy(config, tmp_path) as proxy, Load(proxy) as load:
            wait_state(proxy, gone.address, "down")
            checker = proxy.wait_log("checker_ready")["child"]
            os.kill(checker, signal.SIGKILL)
            wait_for(lambda: len(proxy.logs("checker_ready")) == 2, "the next checker")
            load.wait_answers(200)
            probes = servers_of(proxy)[gone.address]["probes"]["bad"]
            wait_for(lambda: servers_of(proxy)[gone.address]["probes"]["bad"] > probes + 2, "its probes")
            assert flips(proxy, gone.address) == [("up", "down")]
            gone.restart()
            wait_state(proxy, gone.address, "up")
        assert load.failures == []


def test_traffic_goes_on_while_there_is_no_checker(
    pair: tuple[RecordingOrigin, RecordingOrigin], tmp_path: Path
) -> None:
    one, two = pair
    with running_proxy(config_for(one.address, two.address), tmp_path) as proxy:
        checker = proxy.wait_log("checker_ready")["child"]
        os.kill(checker, signal.SIGSTOP)
        try:
            one.stop()
            quiet_for(0.5, lambda: _is_200(proxy))
        finally:
            os.kill(checker, signal.SIGCONT)


def _is_200(proxy: Proxy) -> None:
    assert proxy.get("/").status == 200
