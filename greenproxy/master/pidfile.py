"""The file that tells others the master's pid.

Owns:       writing, refusing and removing it.
Invariant:  whole or absent, never half written; held by one living instance at a time.
"""

from __future__ import annotations

import os

from greenproxy.errors import StartError

_ATTEMPTS = 3


class PidFile:
    """A pid file that is held from `take` to `release`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def take(self) -> None:
        """Write our pid. Raises StartError when another instance lives, or the file cannot be written."""
        try:
            self._take()
        except OSError as exc:
            raise StartError(f"cannot write the pid file {self.path}: {exc.strerror}") from exc

    def _take(self) -> None:
        draft = f"{self.path}.{os.getpid()}"
        with open(draft, "w") as file:
            file.write(f"{os.getpid()}\n")
        try:
            for _ in range(_ATTEMPTS):
                try:
                    os.link(draft, self.path)  # unlike a rename it fails when the file is there
                    return
                except FileExistsError:
                    self._remove_stale()
            raise StartError(f"the pid file {self.path} is being fought over by another instance")
        finally:
            os.unlink(draft)

    def _remove_stale(self) -> None:
        holder = self._read()
        if holder is not None and holder != os.getpid() and _is_instance(holder):
            raise StartError(f"another instance is running with pid {holder} (it holds the pid file {self.path})")
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # its holder has just left

    def release(self) -> None:
        """Remove the file if it still tells our pid."""
        if self._read() == os.getpid():
            os.unlink(self.path)

    def _read(self) -> int | None:
        try:
            with open(self.path) as file:
                return int(file.read(32))
        except (OSError, ValueError):
            return None


def _is_instance(pid: int) -> bool:
    """Is this living process one of ours? A pid that was given to another program since does not count."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"greenproxy" in file.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # alive, and hidden from us
