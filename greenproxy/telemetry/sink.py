"""Where log lines go: a file, or the stdout or stderr we were given, never waiting for a slow reader.

Owns:       how each kind of target is opened and written.
Leaves to:  telemetry/logs.py and telemetry/accesslog.py what is written.
Invariant:  O_NONBLOCK is never set on a descriptor that others share; a write to a pipe of at most
            PIPE_BUF bytes is whole or refused, so lines of several processes never mix.
"""

from __future__ import annotations

import os
import socket
import stat

STANDARD = {"stdout": 1, "stderr": 2}
# POSIX PIPE_BUF on Linux: up to here a write to a pipe is whole or refused, never mixed with another's.
PIPE_BUF = 4096


class Sink:
    """A sink that is written to by os.write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_file = stat.S_ISREG(os.fstat(fd).st_mode)

    def write(self, data: bytes) -> int:
        """Write as much as goes without waiting. Raises BlockingIOError when nothing does, OSError."""
        return os.write(self._fd, data)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class _Socket(Sink):
    """A sink that is a socket, as under systemd: its flags are shared with others, so each send says it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._socket = socket.socket(fileno=fd)

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()


def open_sink(sink: str) -> Sink:
    """Open stdout, stderr or a file to append to. Raises OSError.

    O_NONBLOCK is never set on an inherited descriptor: it would change it for every process that shares it.
    A pipe or terminal is opened a second time through /proc, which gives us flags of our own.
    """
    if sink not in STANDARD:
        return Sink(os.open(sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640))
    fd = STANDARD[sink]
    kind = os.fstat(fd).st_mode
    if stat.S_ISSOCK(kind):
        return _Socket(os.dup(fd))
    if stat.S_ISFIFO(kind) or os.isatty(fd):
        try:
            return Sink(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            pass  # another user's terminal (after su): writing as we were given it is the best left
    return Sink(os.dup(fd))
