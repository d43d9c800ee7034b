"""The proxy as a real process: started as a user starts it, with its own ports, logs and session.

Owns:       the process, its configuration file, its two log files, its reserved ports.
Leaves to:  the test what the configuration says; listeners and admin are filled in where it is silent.
Invariant:  stop() leaves no process behind, and says so if the proxy did.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

import yaml

from tests.harness.client import RawClient
from tests.harness.message import Response
from tests.harness.ports import Port, reserve_port
from tests.harness.processes import kill_session, session_members
from tests.harness.wait import DEADLINE_S, wait_for

ROOT = Path(__file__).resolve().parents[2]
Record = dict[str, Any]


class Proxy:
    """A running greenproxy. `address` is its first listener's (host, port), `admin` the admin server's."""

    def __init__(self, config: Mapping[str, Any] | str, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self._ports: list[Port] = []
        self.config = self._completed(config)
        self.folder = folder
        self.config_path = folder / "greenproxy.yaml"
        self.stdout_path, self.stderr_path = folder / "stdout.log", folder / "stderr.log"
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None

    # Life

    def start(self, deadline_s: float = 30.0) -> None:
        """Start the process and wait until its log says ready."""
        self.write_config(self.config)
        with self.stdout_path.open("ab") as out, self.stderr_path.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "greenproxy", str(self.config_path)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                cwd=self.folder, env=self._environ, start_new_session=True,
            )  # fmt: skip
        wait_for(self._is_ready, lambda: f"the log record ready; the logs:\n{self.log_text()}", deadline_s)

    def signal(self, number: Signals) -> None:
        """Send a signal to the master."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: Signals = SIGTERM, deadline_s: float = DEADLINE_S) -> None:
        """Stop the proxy; it must exit 0 in time and leave no process behind."""
        if self.process is None:
            return
        process, self.process = self.process, None
        try:
            if process.poll() is None:
                process.send_signal(number)
            status = self._wait_exit(process, deadline_s)
            left = session_members(process.pid)
            assert status == 0, f"exit status {status} after {number.name}; the logs:\n{self.log_text()}"
            assert not left, f"processes left behind: {left}; the logs:\n{self.log_text()}"
        finally:
            self._end(process)

    def kill(self) -> None:
        """End everything at once, asserting nothing: for tests that killed the master themselves."""
        if self.process is not None:
            process, self.process = self.process, None
            self._end(process)

    def wait_exit(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait until the master ends by itself and give its exit status; stop() may then be left out."""
        assert self.process is not None
        return self._wait_exit(self.process, deadline_s)

    def write_config(self, config: Mapping[str, Any] | str) -> None:
        """Write the configuration file anew (for a reload)."""
        text = config if isinstance(config, str) else json.dumps(config, indent=2)
        self.config_path.write_text(text)

    # Addresses and processes

    @property
    def address(self) -> tuple[str, int]:
        return _host_port(self.config["listeners"][0]["address"])

    @property
    def admin(self) -> tuple[str, int]:
        return _host_port(self.config["admin"]["address"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def worker_pids(self) -> list[int]:
        """Give the pids of the workers that serve, as the admin API says; spares have no slot and are left out."""
        workers = self.admin_get("/api/v1/status")["workers"]
        return [worker["pid"] for worker in workers if worker["slot"] is not None]

    # Requests

    def client(self, deadline_s: float = DEADLINE_S) -> RawClient:
        """Open a raw connection to the first listener."""
        return RawClient(self.address, deadline_s)

    def get(self, target: str = "/", **headers: str) -> Response:
        """Send a GET on a connection of its own; X_Some_Name=... becomes X-Some-Name."""
        return self.request("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})

    def request(
        self, method: str, target: str = "/", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send one request with Connection: close and give its final response."""
        return one_request(self.address, method, target, headers, body)

    def admin_get(self, target: str) -> Any:
        """GET from the admin API, as parsed JSON."""
        response = one_request(self.admin, "GET", target)
        assert response.status == 200, f"{target}: {response.status} {response.body!r}"
        return json.loads(response.body)

    # Logs

    def log_text(self) -> str:
        """Give both logs in full, for messages of failures."""
        parts = [f"--- {path.name}\n{_text(path)}" for path in (self.stdout_path, self.stderr_path)]
        return "\n".join(parts)

    def logs(self, event: str | None = None) -> list[Record]:
        """Give the error and lifecycle records so far, all or those of one event."""
        return [record for record in _records(self.stderr_path) if event is None or record.get("event") == event]

    def access_records(self) -> list[Record]:
        """Give the access-log records so far; they are written in batches, so rather wait_access()."""
        return _records(self.stdout_path)

    def wait_log(self, wanted: str | Callable[[Record], object], deadline_s: float = DEADLINE_S) -> Record:
        """Wait for a log record: of an event name, or one that a predicate accepts."""
        return self._wait_record(self.logs, wanted, deadline_s)

    def wait_access(self, wanted: Callable[[Record], object], deadline_s: float = DEADLINE_S) -> Record:
        """Wait for an access record that a predicate accepts."""
        return self._wait_record(self.access_records, wanted, deadline_s)

    # Inner

    def _wait_record(
        self, read: Callable[[], list[Record]], wanted: str | Callable[[Record], object], deadline_s: float
    ) -> Record:
        def fits(record: Record) -> bool:
            return record.get("event") == wanted if isinstance(wanted, str) else bool(wanted(record))

        found = wait_for(
            lambda: [record for record in read() if fits(record)],
            lambda: f"a log record ({wanted}); the logs:\n{self.log_text()}",
            deadline_s,
        )
        return found[0]

    def _completed(self, config: Mapping[str, Any] | str) -> dict[str, Any]:
        parsed = yaml.safe_load(config) if isinstance(config, str) else config
        whole = dict(parsed)
        if "listeners" not in whole:
            whole["listeners"] = [{"address": self.free_address()}]
        if "admin" not in whole:
            whole["admin"] = {"address": self.free_address()}
        return whole

    def free_address(self) -> str:
        """Reserve a further loopback address until this proxy stops."""
        port = reserve_port()
        self._ports.append(port)
        return f"127.0.0.1:{port.number}"

    def _is_ready(self) -> bool:
        assert self.process is not None
        status = self.process.poll()
        if status is not None:
            raise AssertionError(f"the proxy ended with {status} before it was ready; the logs:\n{self.log_text()}")
        return bool(self.logs("ready"))

    def _wait_exit(self, process: subprocess.Popen[bytes], deadline_s: float) -> int:
        try:
            return process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            alive = session_members(process.pid)
            raise AssertionError(f"no exit in {deadline_s:g} s, alive: {alive}; the logs:\n{self.log_text()}") from None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of the session, reap the master, give the ports back."""
        kill_session(process.pid)
        process.wait(10)
        for port in self._ports:
            port.release()
        self._ports.clear()


@contextlib.contextmanager
def running_proxy(
    config: Mapping[str, Any] | str, folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """Run a proxy for the length of a with block; on a failure inside, its logs are printed.

    `config` is YAML text or a dict; without `listeners` or `admin` each gets a free loopback port.
    """
    proxy = Proxy(config, folder, environ)
    try:
        proxy.start()
        yield proxy
    except BaseException:
        print(proxy.log_text(), file=sys.stderr)
        proxy.kill()
        raise
    proxy.stop()


def one_request(
    address: tuple[str, int],
    method: str,
    target: str = "/",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Response:
    """Send one request on a connection of its own and give its final response."""
    fields = {"Host": "localhost", "Connection": "close", **(headers or {})}
    if body and "Transfer-Encoding" not in fields:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    with RawClient(address) as client:
        return client.request("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body, method)


def config_for(*servers: str, **keys: Any) -> dict[str, Any]:
    """Give the smallest configuration: one worker, one route `/`, one upstream `origin` with these servers.

    Keyword arguments are merged into it key by key: config_for(a, server={"limits": {...}}, upstream={"retry": ...}).
    """
    upstream = {"servers": [{"address": server} for server in servers], **keys.pop("upstream", {})}
    server = {"workers": 1, "graceful_timeout": "5s", **keys.pop("server", {})}
    return {
        "server": server,
        "upstreams": {"origin": upstream},
        "routes": [{"match": {"path": "/"}, "upstream": "origin"}],
        **keys,
    }


def quiet_for(seconds: float, check: Callable[[], None]) -> None:
    """Hold that `check` keeps passing for a while: the only honest way to show that something does not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
        time.sleep(0.02)


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _records(path: Path) -> list[Record]:
    """Parse the whole JSON lines of a log; other lines (a traceback, an application's print) are skipped."""
    lines = _text(path).split("\n")[:-1]  # the last line may still be being written
    return [json.loads(line) for line in lines if line.startswith("{")]
