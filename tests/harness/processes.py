"""What the kernel says about processes: who is in a session, how much memory one used at most.

Read from /proc only, so that a test can look at processes that are not its children.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def session_members(session: int) -> dict[int, str]:
    """Give the living processes of a session: pid -> command name (zombies are not alive)."""
    members: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue  # ended while we looked
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        if rest[0] not in "ZX" and int(rest[3]) == session:
            members[int(entry.name)] = name
    return members


def kill_session(session: int) -> None:
    """SIGKILL every process of a session, each by its own pid."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory(pid: int, field: str = "VmHWM") -> int:
    """Give a memory figure of a process in bytes: VmHWM is the most it ever had resident, VmRSS what it has now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} for process {pid}")
