"""Hosted applications: how a process of one is started, and what it prints.

Owns:       the command and environment of a process, its output turned into our log.
Leaves to:  worker/apphost.py (serving, in the application's own interpreter), plan.py (restarts), fork.py.
Invariant:  output is read as it comes and line by line, whole lines only, each of bounded length:
            an application that prints without end can neither fill our memory nor block on us.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from greenproxy.config.schema import HostedApp
from greenproxy.master.plan import Seat

APPHOST = str(Path(__file__).parents[1] / "worker" / "apphost.py")
MAX_LINE_BYTES = 2048
KEPT_LINES = 20  # said again when the process cannot start
_READ_BYTES = 65536
_DRAIN_READS = 16  # a pipe holds 64 KB unless somebody enlarged it

log = logging.getLogger("greenproxy.app")


def socket_path(run_dir: str, seat: Seat) -> str:
    """Return where the process listens; config/hosted.py gives its server the same path."""
    return f"{run_dir}/{seat.upstream}-{seat.index}.sock"


def command(app: HostedApp, seat: Seat, run_dir: str, ready_fd: int, parent_fd: int) -> list[str]:
    """Return the arguments that start one process."""
    return [
        app.python,
        "-u",
        APPHOST,
        f"--app={app.app}",
        f"--chdir={app.chdir}",
        f"--socket={socket_path(run_dir, seat)}",
        f"--threads={app.threads}",
        f"--ready-fd={ready_fd}",
        f"--parent-fd={parent_fd}",
        f"--name={seat.upstream}/{seat.index}",
    ]


# They name our interpreter's modules; another interpreter must not see them.
_OURS = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def environment(app: HostedApp, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process: the one we were started with, and what is configured."""
    foreign = app.python != sys.executable
    return {**{name: value for name, value in environ.items() if not (foreign and name in _OURS)}, **app.env}


class Output:
    """One output stream of a process, read without blocking."""

    def __init__(self, fd: int, seat: Seat, stream: str, kept: deque[str]) -> None:
        self.fd = fd
        self.pid = 0
        self._lines = Lines()
        self._level = logging.WARNING if stream == "stderr" else logging.INFO
        self._fields = {"event": "app_output", "role": "app", "upstream": seat.upstream, "index": seat.index}
        self._fields["stream"] = stream
        self._kept = kept

    def read(self) -> int:
        """Log what has arrived; return its size, 0 at the end of the stream, -1 when nothing is there now."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return -1
        for line in self._lines.feed(data) if data else self._lines.end():
            self._kept.append(line)
            log.log(self._level, "%s", line, extra={**self._fields, "pid": self.pid})
        return len(data)

    def drain(self) -> None:
        """Log what a dead process left in the pipe, and no more: a grandchild may still write to it."""
        for _ in range(_DRAIN_READS):
            if self.read() <= 0:
                return


class Lines:
    """Cuts a stream of bytes into lines of text; pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are whole now; one longer than MAX_LINE_BYTES comes in pieces."""
        *whole, rest = (self._rest + data).split(b"\n")
        pieces = [line[at : at + MAX_LINE_BYTES] for line in whole for at in range(0, len(line), MAX_LINE_BYTES)]
        while len(rest) > MAX_LINE_BYTES:
            pieces.append(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._rest = rest
        return [_text(piece) for piece in pieces if piece.strip()]

    def end(self) -> list[str]:
        """Return the last line, which had no line end."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest.strip() else []


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").rstrip()
