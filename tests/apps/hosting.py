"""Run one application under worker/apphost.py, as the master does, without the master.

Owns:       the process, its pipes, and what it printed.
Leaves to:  harness/client.py the connections.
Invariant:  leaving the with block leaves no process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.harness.client import RawClient
from tests.harness.message import Response
from tests.harness.wait import DEADLINE_S, wait_for

APPS = Path(__file__).parent
APPHOST = APPS.parents[1] / "greenproxy" / "worker" / "apphost.py"


class HostedApp:
    """A process of apphost.py that serves `app` on the Unix socket `path`."""

    def __init__(
        self, app: str, folder: Path, threads: int = 2, python: str = sys.executable, chdir: Path = APPS
    ) -> None:
        self.path = str(folder / "app-0.sock")
        self._output = folder / "output.log"
        ready_reader, ready_writer = os.pipe()
        parent_reader, self._parent_writer = os.pipe()
        self._ready = os.fdopen(ready_reader, "rb")
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    python, "-u", str(APPHOST), f"--app={app}", f"--chdir={chdir}", f"--socket={self.path}",
                    f"--threads={threads}", f"--ready-fd={ready_writer}", f"--parent-fd={parent_reader}",
                    "--name=app/0",
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(ready_writer, parent_reader),
            )  # fmt: skip
        os.close(ready_writer)
        os.close(parent_reader)

    def __enter__(self) -> HostedApp:
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def wait_ready(self) -> None:
        """Wait for the byte that says ready."""
        said = self._ready.read(1)
        assert said == b"R", f"said {said!r} in place of R, and printed:\n{self.output()}"

    def end(self) -> None:
        """Kill the process if it still runs, and close our ends of its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        self._ready.close()
        self.abandon()

    def abandon(self) -> None:
        """Close the pipe that stands for the parent's life."""
        if self._parent_writer >= 0:
            os.close(self._parent_writer)
            self._parent_writer = -1

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and give the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def client(self) -> RawClient:
        return RawClient(self.path)

    def get(self, target: str = "/", **headers: str) -> Response:
        """Send a GET on a connection of its own; X_Some_Name=... becomes X-Some-Name."""
        lines = [f"GET {target} HTTP/1.1"]
        fields = {"Host": "shop.example.com", **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines += [f"{name}: {value}" for name, value in fields.items()]
        with self.client() as client:
            return client.request("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    def output(self) -> str:
        """Give what the process printed so far."""
        return self._output.read_text(errors="replace")

    def wait_output(self, text: str) -> str:
        """Wait until the process printed `text`, and give all it printed."""
        wait_for(lambda: text in self.output(), lambda: f"{text!r} in:\n{self.output()}")
        return self.output()

    def descriptors(self) -> int:
        """Count the open descriptors of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def find_python(version: str) -> str | None:
    """Find an interpreter of a version such as "3.8": on PATH, or beside ours in a folder of versions (pyenv)."""
    candidates = [shutil.which(f"python{version}")]
    versions = Path(sys.base_prefix).parent
    candidates += [str(path) for path in sorted(versions.glob(f"{version}.*/bin/python{version}"))]
    for candidate in filter(None, candidates):
        printed = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if printed.stdout.strip() == version:  # a pyenv shim is on PATH also where it leads nowhere
            return candidate
    return None
