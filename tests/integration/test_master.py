"""The processes as an operator sees them: start, replacement, watchdog, signals, stop."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGABRT, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, Signals
from typing import Any

import pytest

from tests.harness.client import RawClient
from tests.harness.origin import RecordingOrigin
from tests.harness.processes import session_members
from tests.harness.proxy import ROOT, Proxy, config_for, running_proxy
from tests.harness.wait import wait_for

# One hosted application for all tests: it sleeps, dies, prints and tells its pid, as the path says.
APP = """
import os, sys, time
print("the application is there", file=sys.stderr)

def application(environ, start_response):
    word, _, argument = environ["PATH_INFO"].lstrip("/").partition("/")
    if word == "sleep":
        time.sleep(float(argument))
    if word == "die":
        print("the application dies", file=sys.stderr)
        os._exit(7)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def hosted(folder: Path, app: str = "slow:application", processes: int = 1, **server: Any) -> dict[str, Any]:
    (folder / "slow.py").write_text(APP)
    wsgi = {"app": app, "chdir": str(folder), "processes": processes}
    return {
        "server": {"workers": 1, "graceful_timeout": "5s", **server},
        "upstreams": {"shop": {"wsgi": wsgi}},
        "routes": [{"match": {"path": "/"}, "upstream": "shop"}],
    }


def run_to_its_end(config: dict[str, Any], folder: Path, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Start a proxy that is not to become ready; return its exit status and what it wrote."""
    proxy = Proxy(config, folder, environ)
    try:
        proxy.start()
    except AssertionError as error:
        ended = re.search(r"ended with (-?\d+) before it was ready", str(error))
        assert ended, error
        return int(ended[1]), proxy.stderr_path.read_text()
    finally:
        proxy.kill()
    raise AssertionError("the proxy became ready")


def sleeper(proxy: Proxy, seconds: float) -> RawClient:
    """Send a request that takes its time, and wait until it is in flight."""
    client = proxy.client()
    client.send(b"GET /sleep/%a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % seconds)
    wait_for(lambda: sum(worker["connections"] for worker in proxy.admin_get("/api/v1/status")["workers"]) == 1)
    return client


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


# Start


def test_master_imports_nothing_that_serves() -> None:
    code = (
        "import sys, greenproxy.cli, greenproxy.master.master, greenproxy.master.spawn\n"
        "print(sorted({'gevent', 'greenlet', 'urllib3', 'werkzeug'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ready_tells_the_addresses_and_comes_after_every_child(tmp_path: Path) -> None:
    with running_proxy(hosted(tmp_path, processes=2, workers=2), tmp_path) as proxy:
        events = [record["event"] for record in proxy.logs()]
        before = events[: events.index("ready")]
        assert {event: before.count(event) for event in ("worker_ready", "app_ready", "checker_ready")} == {
            "worker_ready": 2,
            "app_ready": 2,
            "checker_ready": 1,
        }
        assert max(i for i, event in enumerate(events) if event == "app_ready") < events.index("worker_ready")
        assert proxy.logs("ready")[0]["listeners"] == [proxy.config["listeners"][0]["address"]]
        assert proxy.get("/").status == 200


def test_second_instance_is_refused_and_the_first_goes_on(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:
        command = [sys.executable, "-m", "greenproxy", str(proxy.config_path)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert f"cannot listen on {proxy.config['listeners'][0]['address']}: Address already in use" in second.stderr
        assert proxy.get("/").status == 200


def test_worker_that_cannot_boot_stops_the_start_with_its_reason(origin: RecordingOrigin, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['greenproxy.chain.build'] = None")
    environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    status, log = run_to_its_end(config_for(origin.address), tmp_path, environ)
    assert status == 3
    last = log.rstrip().splitlines()[-1]
    assert "ModuleNotFoundError" in last
    assert "greenproxy.chain.build" in last
    # the worker, and the spare if it was as quick
    assert log.count('"event": "worker_died"') in (1, 2), "what cannot boot must not be started again and again"


def test_hosted_app_that_cannot_be_loaded_stops_the_start_with_its_last_lines(tmp_path: Path) -> None:
    status, log = run_to_its_end(hosted(tmp_path, app="missing_module:application"), tmp_path)
    assert status == 3
    plain = [line for line in log.splitlines() if not line.startswith("{")]
    assert plain[0] == "greenproxy: app shop/0 exited with 3 before it was ready"
    assert any("missing_module" in line for line in plain)


def test_bad_configuration_exits_2_with_every_problem_and_binds_nothing(tmp_path: Path) -> None:
    config = {"listeners": [{"adress": "127.0.0.1:1"}], "routes": [{"upstream": "nobody"}], "nonsense": 1}
    status, log = run_to_its_end(config, tmp_path)
    assert status == 2
    assert len(log.splitlines()) >= 2
    assert all(re.match(r".*greenproxy\.yaml:\d+:\d+: ", line) for line in log.splitlines())


def test_pid_file_is_there_while_the_proxy_runs(origin: RecordingOrigin, tmp_path: Path) -> None:
    path = tmp_path / "gp.pid"
    with running_proxy(config_for(origin.address, server={"pid_file": str(path)}), tmp_path) as proxy:
        assert path.read_text() == f"{proxy.pid}\n"
        other = tmp_path / "other.yaml"
        other.write_text(proxy.config_path.read_text().replace(proxy.config["listeners"][0]["address"], "127.0.0.1:0"))
        other.write_text(other.read_text().replace(proxy.config["admin"]["address"], "127.0.0.1:0"))
        command = [sys.executable, "-m", "greenproxy", str(other)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert f"another instance is running with pid {proxy.pid}" in second.stderr
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_children_run_as_the_configured_user_and_the_master_does_not(tmp_path: Path, origin: RecordingOrigin) -> None:
    log = tmp_path / "logs" / "access.log"
    log.parent.mkdir()
    for folder in (log.parent, *log.parents[1:4]):
        folder.chmod(folder.stat().st_mode | 0o011)
    config = config_for(origin.address, server={"user": "nobody"}, log={"access": str(log)})
    with running_proxy(config, tmp_path) as proxy:
        proxy.wait_log("spare_ready")  # it has become that user, too
        users = {
            pid: Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split()[0]
            for pid in session_members(proxy.pid)
        }
        assert users.pop(proxy.pid) == "0"
        assert "0" not in users.values()
        assert proxy.get("/").status == 200
        log.rename(log.with_suffix(".1"))
        proxy.signal(SIGUSR1)
        proxy.wait_log("logs_reopened")
        wait_for(lambda: proxy.get("/after").status == 200 and "/after" in log.read_text(), "a line in the new log")


# Replacement


class Load:
    """Clients that send one request after the other, each on a connection of its own, and count what fails."""

    def __init__(self, address: tuple[str, int], clients: int = 4) -> None:
        self.good = 0
        self.refused = 0
        self.failed = 0
        self._address = address
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            outcome = self._one()
            with self._lock:
                setattr(self, outcome, getattr(self, outcome) + 1)

    def _one(self) -> str:
        try:
            with socket.create_connection(self._address, timeout=10) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return "good" if sock.recv(65536).startswith(b"HTTP/1.1 200") else "failed"
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "failed"


def test_killed_worker_is_replaced_at_once_and_only_its_own_requests_fail(
    origin: RecordingOrigin, tmp_path: Path
) -> None:
    clients, kills = 4, 3
    with running_proxy(config_for(origin.address, server={"workers": 2}), tmp_path) as proxy:
        with Load(proxy.address, clients) as load:
            for number in range(kills):
                wait_for(lambda number=number: len(proxy.logs("spare_ready")) > number, "a booted spare")
                victim = proxy.worker_pids()[0]
                good = load.good
                os.kill(victim, SIGKILL)
                wait_for(lambda number=number: len(proxy.logs("worker_replaced")) > number, "a replacement")
                wait_for(lambda good=good: load.good > good + 20, "requests that are served")
        assert load.refused == 0
        assert load.failed <= clients * kills, "more failed than were in flight"
        died = proxy.logs("worker_died")
        assert [record["signal"] for record in died] == ["SIGKILL"] * kills
        assert all(record["lived_s"] > 0 for record in died)
        statuses = proxy.admin_get("/api/v1/status")
        assert sorted(worker["slot"] for worker in statuses["workers"] if worker["state"] == "ready") == [0, 1]


def test_a_booted_spare_takes_the_place_of_a_killed_worker(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:  # make bench says how fast
        spare = proxy.wait_log("spare_ready")["child"]
        [worker] = proxy.worker_pids()
        os.kill(worker, SIGKILL)
        assert proxy.get("/").status == 200
        assert proxy.worker_pids() == [spare]


def test_counters_of_a_dead_worker_are_kept_and_its_column_is_freed(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:
        proxy.wait_log("spare_ready")
        for _ in range(3):
            assert proxy.get("/").status == 200
        [victim] = proxy.worker_pids()
        os.kill(victim, SIGKILL)
        assert proxy.get("/").status == 200
        wait_for(lambda: proxy.admin_get("/api/v1/status")["requests"] == 4, "the sum of both workers")
        assert victim not in [worker["pid"] for worker in proxy.admin_get("/api/v1/status")["workers"]]


def test_hung_worker_is_replaced_by_the_watchdog(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address, server={"watchdog": "2s"}), tmp_path) as proxy:
        proxy.wait_log("spare_ready")
        [worker] = proxy.worker_pids()
        os.kill(worker, SIGSTOP)
        proxy.wait_log(lambda record: record["event"] == "child_killed" and record["verb"] == "abort")
        died = proxy.wait_log("worker_died")
        assert (died["worker"], died["signal"]) == (worker, "SIGKILL"), "a stopped process cannot die of SIGABRT"
        assert proxy.get("/").status == 200


def test_aborted_worker_leaves_its_traceback_in_the_log(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:
        os.kill(proxy.worker_pids()[0], SIGABRT)
        died = proxy.wait_log("worker_died")
        assert died["signal"] == "SIGABRT"
        assert "Fatal Python error: Aborted" in died["traceback"]
        assert 'File "' in died["traceback"]


@pytest.mark.parametrize("kind", ["checker", "admin"])
def test_killed_helper_is_started_again_and_traffic_does_not_notice(
    origin: RecordingOrigin, tmp_path: Path, kind: str
) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:
        [ready] = proxy.logs(f"{kind}_ready")
        os.kill(ready["child"], SIGKILL)
        assert proxy.get("/").status == 200
        wait_for(lambda: len(proxy.logs(f"{kind}_ready")) == 2, f"a new {kind}")
        assert proxy.get("/").status == 200


def test_crashed_app_process_is_started_again_and_what_it_said_is_logged(tmp_path: Path) -> None:
    with running_proxy(hosted(tmp_path), tmp_path) as proxy:
        first = proxy.get("/").body
        assert proxy.get("/die").status == 502
        died = proxy.wait_log("app_died")
        assert (died["upstream"], died["index"], died["exit"]) == ("shop", 0, 7)
        said = proxy.wait_log(lambda record: record.get("message") == "the application dies")
        assert (said["event"], said["upstream"], said["index"], said["stream"]) == ("app_output", "shop", 0, "stderr")
        assert said["pid"] == int(first)
        wait_for(lambda: proxy.get("/").status == 200, "the new process")
        assert proxy.get("/").body != first


# Signals and stop


def test_term_lets_a_slow_request_finish(tmp_path: Path) -> None:
    with running_proxy(hosted(tmp_path), tmp_path) as proxy:
        with sleeper(proxy, 1.0) as client:
            proxy.signal(SIGTERM)
            proxy.wait_log("stopping")
            response = client.response()
        assert response.status == 200
        assert proxy.wait_exit() == 0
        stopped = [record["event"] for record in proxy.logs() if record["event"].endswith(("_stopped", "_died"))]
        assert stopped[:2] == ["worker_stopped"] * 2, "workers leave before the apps they send to"
        assert stopped[2] == "app_stopped"
        assert sorted(stopped[3:]) == ["admin_stopped", "checker_stopped"]


def test_term_waits_no_longer_than_the_graceful_timeout(tmp_path: Path) -> None:
    with running_proxy(hosted(tmp_path, graceful_timeout="1s"), tmp_path) as proxy, sleeper(proxy, 30):
        told = time.monotonic()
        proxy.signal(SIGTERM)
        assert proxy.wait_exit() == 0
        assert 0.9 < time.monotonic() - told < 6


@pytest.mark.parametrize("orders", [[SIGINT], [SIGTERM, SIGTERM]])
def test_int_and_a_second_term_are_quick(tmp_path: Path, orders: list[Signals]) -> None:
    with running_proxy(hosted(tmp_path, graceful_timeout="30s"), tmp_path) as proxy, sleeper(proxy, 30) as client:
        told = time.monotonic()
        for number in orders:
            proxy.signal(number)
            proxy.wait_log("stopping")
        assert client.is_closed()
        assert proxy.wait_exit() == 0
        assert time.monotonic() - told < 4


@pytest.mark.parametrize("number", [SIGHUP, SIGUSR2])
def test_signal_of_a_feature_that_is_not_built_is_logged_and_harmless(
    origin: RecordingOrigin, tmp_path: Path, number: Signals
) -> None:
    with running_proxy(config_for(origin.address), tmp_path) as proxy:
        before = session_members(proxy.pid)
        proxy.signal(number)
        assert proxy.wait_log("signal_ignored")["signal"] == number.name
        assert proxy.get("/").status == 200
        assert session_members(proxy.pid) == before


def test_usr1_reopens_every_log_file(origin: RecordingOrigin, tmp_path: Path) -> None:
    access, error = tmp_path / "access.log", tmp_path / "error.log"
    proxy = Proxy(config_for(origin.address, log={"access": str(access), "error": str(error)}), tmp_path)
    proxy.stdout_path, proxy.stderr_path = access, error
    proxy.start()
    try:
        assert proxy.get("/before").status == 200
        wait_for(lambda: "/before" in access.read_text())
        for path in (access, error):
            path.rename(path.with_suffix(".1"))
        proxy.signal(SIGUSR1)
        proxy.wait_log("logs_reopened")
        wait_for(lambda: proxy.get("/after").status == 200 and "/after" in access.read_text(), "a line in the new log")
        assert "/before" not in access.read_text()
    finally:
        proxy.stop()
    assert "stopped" in {record["event"] for record in proxy.logs()}


def test_children_leave_when_the_master_is_killed(tmp_path: Path) -> None:
    proxy = Proxy(hosted(tmp_path), tmp_path)
    proxy.start()
    try:
        proxy.wait_log("spare_ready")
        children = session_members(proxy.pid).keys() - {proxy.pid}
        assert len(children) == 5
        with sleeper(proxy, 1.0) as client:
            os.kill(proxy.pid, SIGKILL)
            assert client.response().status == 200, "they drain"
        wait_for(lambda: not any(is_alive(pid) for pid in children), "the children's end")
    finally:
        proxy.kill()


def test_suspended_master_does_not_blame_its_workers(origin: RecordingOrigin, tmp_path: Path) -> None:
    with running_proxy(config_for(origin.address, server={"watchdog": "4s"}), tmp_path) as proxy:
        everyone = list(session_members(proxy.pid))
        for pid in everyone:
            os.kill(pid, SIGSTOP)
        time.sleep(5)  # longer than the watchdog allows: nothing else tells that time has passed
        for pid in [proxy.pid, *everyone]:
            os.kill(pid, SIGCONT)
        assert proxy.get("/").status == 200
        assert proxy.logs("child_killed") == []


# Command line


@pytest.fixture
def greenproxy() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "greenproxy", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    yield call


def test_check_says_ok_and_what_there_is(
    greenproxy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "server: {workers: 3}\nlisteners: [{address: '127.0.0.1:1'}]\n"
        "upstreams: {o: {servers: [{address: '127.0.0.1:9'}]}}\nroutes: [{upstream: o}]\n"
    )
    done = greenproxy("check", str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: OK (1 listener, 1 upstream, 1 route, 3 workers)\n")


def test_check_prints_problems_and_exits_2(
    greenproxy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("listeners: []\n")
    done = greenproxy("check", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{path}:")


def test_a_file_that_is_not_there_exits_2(greenproxy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = greenproxy("nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_help(greenproxy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert re.fullmatch(r"greenproxy \d+\.\d+\.\d+\n", greenproxy("--version").stdout)
    assert "exit codes:" in greenproxy("--help").stdout
