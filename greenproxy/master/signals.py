"""Signals of the master: handlers only queue, the loop does the work.

Owns:       which signals the master hears, the wakeup pipe, and what a forked child resets.
Leaves to:  master.py (what a signal means).
Invariant:  a handler never logs, allocates a lock or calls back into the master.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType

HEARD = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)
# Their default would kill a child that has not yet installed its own handlers. A child that boots is
# told of USR1 again when it is ready; TERM, INT and QUIT may end it, it serves nobody yet.
_HARMLESS_IN_A_CHILD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


class SignalQueue:
    """Signals since the last `take`, in order of arrival; its descriptor is readable when there are any."""

    def __init__(self) -> None:
        self._arrived: deque[int] = deque()
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install(self) -> None:
        """Begin to hear. Main thread only."""
        # The wakeup pipe ends a select; the order and the numbers come from the deque, which a full
        # pipe cannot lose.
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, self._queue)

    def _queue(self, number: int, _frame: FrameType | None) -> None:
        self._arrived.append(number)

    def fileno(self) -> int:
        """Descriptor to select on."""
        return self._read_fd

    def take(self) -> list[Signals]:
        """Return what has arrived, and forget it."""
        try:
            while os.read(self._read_fd, 4096):
                pass
        except BlockingIOError:
            pass
        taken = []
        while self._arrived:
            taken.append(Signals(self._arrived.popleft()))
        return taken

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._read_fd)
        os.close(self._write_fd)


@contextmanager
def blocked() -> Iterator[set[int]]:
    """Hold back every signal the master hears; yields the mask that was in force."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield {int(number) for number in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def forget_in_child(*, before_exec: bool = False) -> None:
    """Undo `install` in a forked child, whose signals are still blocked.

    A program that is to be exec'ed gets the defaults, as from a shell: ignored signals would outlive exec.
    """
    signal.set_wakeup_fd(-1)
    for number in HEARD:
        ignored = number in _HARMLESS_IN_A_CHILD and not before_exec
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    if before_exec:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
