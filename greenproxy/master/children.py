"""The children that live: their seats, pipes and columns.

Owns:       the register of children, which segment columns are taken, the last words of the dying.
Leaves to:  plan.py (what to do with a child), fork.py and apps.py (how one begins).
Called by:  master.py; in a forked child only `forget`.
Invariant:  one child a seat; a column is folded when its worker has been reaped, and only then free again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from greenproxy.master.apps import Output
from greenproxy.master.plan import ChildView, Kind, Seat, Verb
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment

_WORDS_BYTES = 65536
_WORKERS = (Kind.WORKER, Kind.SPARE)

_SIGNALS = {
    Verb.TERMINATE: signal.SIGTERM,
    Verb.QUIT: signal.SIGQUIT,
    Verb.ABORT: signal.SIGABRT,
    Verb.KILL: signal.SIGKILL,
}


@dataclass(slots=True)
class Child:
    """One child. Written by: the master only."""

    pid: int
    seat: Seat
    started: float
    boot_limit: float
    ready_fd: int
    column: int = 0
    control_fd: int | None = None  # of a spare: it reads its slot from the other end
    words_fd: int | None = None  # what it says at its end; an app has its two output streams instead
    outputs: tuple[Output, ...] = ()
    kept_lines: Iterable[str] = ()
    ready: bool = False
    slot_given: float | None = None  # when a spare was told its slot
    asked: dict[Verb, float] = field(default_factory=dict)

    @property
    def waited_since(self) -> float:
        """When the wait began that ends as the child says ready: its start, or the order to serve a slot."""
        return self.started if self.slot_given is None else self.slot_given

    def view(self, segment: Segment) -> ChildView:
        """Return the child as plan.py wants to see it."""
        heartbeat = None
        if self.column:
            heartbeat = segment.cells[segment.process_base(self.column) + shm.P_HEARTBEAT_NS] / 1e9
        return ChildView(self.pid, self.seat, self.started, self.boot_limit, self.ready, heartbeat, dict(self.asked))

    def ask(self, verb: Verb, now: float) -> None:
        """Send the signal that says `verb`; an app as a whole, with all it has started."""
        self.asked[verb] = now
        try:
            if self.seat.kind is Kind.APP:
                os.killpg(self.pid, _app_signal(verb))
            elif self.seat.kind in _WORKERS or verb is not Verb.QUIT:
                os.kill(self.pid, _SIGNALS[verb])
            else:
                os.kill(self.pid, signal.SIGTERM)  # checker and admin hold no traffic: their TERM is quick
        except ProcessLookupError:
            pass  # it has just died; SIGCHLD is on its way

    def tell(self, number: signal.Signals) -> None:
        """Pass a signal on."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        """Close our ends of its pipes."""
        for fd in (self.ready_fd, self.control_fd, self.words_fd, *(output.fd for output in self.outputs)):
            if fd is not None:
                os.close(fd)

    def take_slot(self, seat: Seat) -> None:
        """Tell a spare which slot it serves from now on."""
        assert self.control_fd is not None  # plan.py gives slots to spares only
        self.seat = seat
        with suppress(BrokenPipeError):  # it has just died; the slot is filled again when it is reaped
            os.write(self.control_fd, b"%d\n" % seat.index)
            self.slot_given = time.monotonic()
        os.close(self.control_fd)
        self.control_fd = None

    def last_words(self) -> str:
        """What a dead child left in its pipe; of an app its last lines, the rest of which is logged now."""
        if self.words_fd is None:
            for output in self.outputs:
                output.drain()
            return "\n".join(self.kept_lines)
        try:
            return os.read(self.words_fd, _WORDS_BYTES).decode(errors="backslashreplace").strip()
        except BlockingIOError:
            return ""


def _app_signal(verb: Verb) -> signal.Signals:
    """TERM is all an application host knows; a quick stop gives it plan.QUICK_GRACE_S before the kill."""
    return signal.SIGKILL if verb is Verb.KILL else signal.SIGTERM


class Children:
    """The register."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._by_pid: dict[int, Child] = {}
        self._columns: set[int] = set()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._by_pid.values()))

    def __getitem__(self, pid: int) -> Child:
        return self._by_pid[pid]

    def get(self, pid: int) -> Child | None:
        """Return a child by its pid; None for an orphan that was given to us as PID 1."""
        return self._by_pid.get(pid)

    def add(self, child: Child) -> None:
        """Register a child."""
        self._by_pid[child.pid] = child

    def remove(self, child: Child) -> None:
        """Forget a reaped child: close its pipes, fold its column."""
        del self._by_pid[child.pid]
        child.close()
        if child.column:
            self._segment.fold_column(child.column)
            self._columns.discard(child.column)

    def take_column(self) -> int:
        """Return a free column for a worker."""
        column = next(number for number in range(1, shm.MAX_COLUMNS) if number not in self._columns)
        self._columns.add(column)
        return column

    def give_back_column(self, column: int) -> None:
        """Return the column of a worker that could not be forked."""
        self._columns.discard(column)

    def forget(self) -> None:
        """In a forked child: close the pipes of its siblings."""
        for child in self._by_pid.values():
            child.close()
        self._by_pid.clear()
