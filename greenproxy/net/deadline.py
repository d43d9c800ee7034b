"""Deadlines for greenlets, kept by one timer for all of them.

A gevent Timeout costs 3-5 µs each time it is started and stopped, and an exchange would need half a
dozen. Here setting a deadline is two attribute writes; one timer of the worker looks through all of
them every TICK_S and throws the error into the greenlets that have waited too long.

Invariant:  a deadline is late by at most TICK_S and never early.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import gevent
from greenlet import getcurrent, greenlet

from greenproxy.errors import GreenproxyError

TICK_S = 0.1
NEVER = math.inf


class Deadline:
    """The deadline of one greenlet. Made by Deadlines.watch, ended by `forget`."""

    __slots__ = ("_registry", "at", "error", "greenlet", "guard")

    def __init__(self, owner: greenlet, registry: Deadlines) -> None:
        self.greenlet = owner
        self._registry = registry
        self.at = NEVER  # monotonic seconds
        self.error: GreenproxyError | None = None
        # asked at each tick while set: an error it returns is thrown, whatever the time
        self.guard: Callable[[], GreenproxyError | None] | None = None

    def set(self, seconds: float, error: GreenproxyError) -> None:
        """Raise `error` in the greenlet unless it is set anew or cleared within `seconds`."""
        self.error = error
        self.at = time.monotonic() + seconds

    def clear(self) -> None:
        """Wait as long as it takes."""
        self.at = NEVER

    def watch_current(self) -> Deadline:
        """Return a deadline for the current greenlet, which helps this one's."""
        return self._registry.watch()

    def forget(self) -> None:
        """End it; its greenlet is not thrown into any more."""
        self._registry.discard(self)

    def expire(self, error: GreenproxyError | None) -> None:
        """Throw the error into the greenlet, which must be waiting. From the hub only."""
        self.at = NEVER
        self.guard = None
        if error is not None and not self.greenlet.dead:
            # a fresh copy: the same instance may serve many waits, and a traceback would grow on it
            self.greenlet.throw(type(error)(error.detail, reason=error.reason, status=error.status))


class Deadlines:
    """All deadlines of one worker."""

    def __init__(self) -> None:
        self._all: set[Deadline] = set()
        self._timer = gevent.get_hub().loop.timer(TICK_S, TICK_S, ref=False)
        self._timer.start(self._sweep)

    def watch(self) -> Deadline:
        """Return the deadline of the current greenlet, not set yet."""
        deadline = Deadline(getcurrent(), self)
        self._all.add(deadline)
        return deadline

    def discard(self, deadline: Deadline) -> None:
        """Forget a deadline."""
        self._all.discard(deadline)

    def _sweep(self) -> None:
        # In the hub no other greenlet runs: each is waiting, and may be thrown into.
        now = time.monotonic()
        for deadline in [deadline for deadline in self._all if deadline.at <= now or deadline.guard is not None]:
            if deadline.at <= now:  # looked at again: an earlier throw may have moved or ended this one
                deadline.expire(deadline.error)
            elif deadline.guard is not None:
                error = deadline.guard()
                if error is not None:
                    deadline.expire(error)
