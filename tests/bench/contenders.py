"""The origin and the proxies under test, each a real process with its own configuration in a temporary folder.

Owns:       how each contender is configured and pinned to a core.
Leaves to:  tools.py (where the programs are), load.py (what is sent to them).
Called by:  __main__.py, once for a whole run: all contenders stay up, and are loaded one at a time.
Invariant:  a contender that is returned has answered a request; every process is gone after `stop`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.tools import HERE, Tools

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
BODY_BYTES = 1024

ORIGIN_CONF = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000; tcp_nodelay on; default_type text/html; client_body_temp_path {folder};
    proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ add_header Cache-Control "private, max-age=0"; return 200 "{body}"; }}
    }}
}}
"""

# The log is as ours: JSON, the same fields, a write for each request (no buffer=) being nginx's default.
PROXY_CONF = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    log_format json escape=json '{{"time":"$time_iso8601","id":"$request_id","client":"$remote_addr",'
        '"method":"$request_method","host":"$host","path":"$uri","status":$status,"bytes":$bytes_sent,'
        '"duration":$request_time,"upstream_duration":"$upstream_response_time","server":"$upstream_addr"}}';
    access_log {folder}/access.log json; keepalive_requests 1000000; tcp_nodelay on; client_body_temp_path {folder};
    proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://origin; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-ID $request_id;
        }}
    }}
}}
"""

GREENPROXY_CONF = """
server: {{workers: 1}}
listeners: [{{address: "127.0.0.1:{port}"}}]
upstreams: {{origin: {{servers: [{{address: "127.0.0.1:{origin}"}}]}}}}
routes: [{{match: {{path: /}}, upstream: origin}}]
log: {{access: {folder}/access.log, error: {folder}/error.log}}
admin: off
"""


class StartError(Exception):
    """A contender that did not answer in time, with the last lines it wrote."""


@dataclass(frozen=True)
class Contender:
    """A running process that answers on 127.0.0.1:port; startup_s is the time from spawn to its first answer."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    startup_s: float

    @property
    def url(self) -> str:
        """The one page that is asked for."""
        return f"http://127.0.0.1:{self.port}/catalogue/item?id=42"

    def stop(self) -> None:
        """End the process and what it spawned; kill what does not end by itself."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def rss_bytes(self) -> int:
        """Return the resident memory of the process and all that descend from it."""
        return sum(_rss_bytes(pid) for pid in _family(self.process.pid))


@dataclass(frozen=True)
class Stage:
    """Where a run takes place: the tools, a folder for files, and the two cores."""

    tools: Tools
    folder: Path
    proxy_core: int
    load_core: int

    def origin(self) -> Contender:
        """Start nginx as the origin, on the core of the load."""
        return self._nginx("origin", ORIGIN_CONF, self.load_core, {"body": "x" * BODY_BYTES})

    def nginx(self, origin: Contender) -> Contender:
        """Start nginx as a proxy."""
        return self._nginx("nginx", PROXY_CONF, self.proxy_core, {"origin": origin.port})

    def node(self, origin: Contender) -> Contender:
        """Start Node http-proxy."""
        port = free_port()
        environ = {**os.environ, "NODE_PATH": str(self.tools.node_modules), "NODE_ENV": "production"}
        command = [str(self.tools.node), str(HERE / "node_proxy.js"), str(port), str(origin.port)]
        return self._start("Node http-proxy", port, command, self.proxy_core, environ)

    def greenproxy(self, origin: Contender) -> Contender:
        """Start greenproxy with one worker."""
        port, folder = free_port(), self.room("greenproxy")
        config = folder / "bench.yaml"
        config.write_text(GREENPROXY_CONF.format(port=port, origin=origin.port, folder=folder), encoding="utf-8")
        return self._start("greenproxy", port, [sys.executable, "-m", "greenproxy", str(config)], self.proxy_core)

    def _nginx(self, name: str, conf: str, core: int, values: Mapping[str, object]) -> Contender:
        port, folder = free_port(), self.room(name)
        path = folder / "nginx.conf"
        path.write_text(conf.format(port=port, folder=folder, **values), encoding="utf-8")
        command = [str(self.tools.nginx), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path)]
        return self._start(name, port, command, core)

    def room(self, name: str) -> Path:
        """Return the folder of a contender's files, making it if need be."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)  # nginx started by root writes as another user
        return folder

    def _start(
        self, name: str, port: int, command: Sequence[str], core: int, environ: Mapping[str, str] | None = None
    ) -> Contender:
        output = self.folder / f"{name}.output"
        begin = time.monotonic()
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        contender = Contender(name, port, process, 0.0)
        while time.monotonic() - begin < START_TIMEOUT_S and process.poll() is None:
            if answers(port):
                return Contender(name, port, process, time.monotonic() - begin)
            time.sleep(0.005)
        contender.stop()
        raise StartError(f"{name} did not answer\n" + output.read_text(errors="replace")[-2000:])


def answers(port: int) -> bool:
    """Say whether one request to the port is answered with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            return sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def _family(pid: int) -> set[int]:
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _parent(process: Path) -> int:
    try:
        # The name, in parentheses, may hold spaces; the parent is the second field after it.
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
