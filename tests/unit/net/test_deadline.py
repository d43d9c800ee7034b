"""Deadlines under a real hub: never early, late by a tick at most, and thrown into the right greenlet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenproxy.errors import BadRequest, ClientClosed, GreenproxyError
from greenproxy.net.deadline import TICK_S, Deadline, Deadlines

SLOW = BadRequest("too slow", status=408, reason="head_timeout")
SOON_S = 0.15
BUSY_S = 0.25  # what a busy machine may add


class Waiter:
    """A greenlet that waits under a deadline until it is told to go, or thrown out."""

    def __init__(self, deadlines: Deadlines, prepare: Callable[[Deadline], Any]) -> None:
        self.go = Event()
        self.deadline: Deadline | None = None
        self.error: GreenproxyError | None = None
        self.seconds = 0.0
        self._greenlet = gevent.spawn(self._run, deadlines, prepare)
        gevent.idle()

    def _run(self, deadlines: Deadlines, prepare: Callable[[Deadline], Any]) -> None:
        self.deadline = deadline = deadlines.watch()
        started = time.monotonic()
        try:
            prepare(deadline)
            self.go.wait()
        except GreenproxyError as error:
            self.error = error
        finally:
            self.seconds = time.monotonic() - started
            deadline.forget()

    def kill(self) -> None:
        self._greenlet.kill()

    def outcome(self) -> GreenproxyError | None:
        with gevent.Timeout(10):
            self._greenlet.get()
        return self.error


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines()


@pytest.mark.parametrize("seconds", [0.0, 0.01, SOON_S])
def test_deadline_fires_late_by_a_tick_at_most_and_never_early(deadlines: Deadlines, seconds: float) -> None:
    waiter = Waiter(deadlines, lambda deadline: deadline.set(seconds, SLOW))
    error = waiter.outcome()
    assert isinstance(error, BadRequest)
    assert (error.status, error.reason, error.detail) == (408, "head_timeout", "too slow")
    assert seconds <= waiter.seconds <= seconds + TICK_S + BUSY_S


def test_each_throw_is_a_new_error(deadlines: Deadlines) -> None:
    """One that is shared would collect the tracebacks of all that were thrown out."""
    errors = [Waiter(deadlines, lambda deadline: deadline.set(0.0, SLOW)).outcome() for _ in range(2)]
    assert errors[0] is not errors[1]
    assert SLOW not in errors
    assert SLOW.__traceback__ is None


@pytest.mark.parametrize("undo", ["clear", "set", "forget"])
def test_deadline_that_was_taken_back_does_not_fire(deadlines: Deadlines, undo: str) -> None:
    waiter = Waiter(deadlines, lambda deadline: deadline.set(0.01, SLOW))
    assert waiter.deadline is not None
    getattr(waiter.deadline, undo)(*([60.0, SLOW] if undo == "set" else []))
    gevent.sleep(2 * TICK_S)
    waiter.go.set()
    assert waiter.outcome() is None


def test_deadline_fires_once(deadlines: Deadlines) -> None:
    fired = []

    def twice(deadline: Deadline) -> None:
        deadline.set(0.0, SLOW)
        try:
            gevent.sleep(60)
        except BadRequest as error:
            fired.append(error)
        gevent.sleep(2 * TICK_S)

    waiter = Waiter(deadlines, twice)
    waiter.go.set()
    assert waiter.outcome() is None
    assert len(fired) == 1


def test_only_the_greenlet_that_waited_too_long_is_thrown_out(deadlines: Deadlines) -> None:
    patient = Waiter(deadlines, lambda deadline: deadline.set(60.0, SLOW))
    unlimited = Waiter(deadlines, lambda deadline: None)
    hasty = Waiter(deadlines, lambda deadline: deadline.set(0.0, SLOW))
    assert hasty.outcome() is not None
    patient.go.set()
    unlimited.go.set()
    assert (patient.outcome(), unlimited.outcome()) == (None, None)


def test_guard_is_asked_at_each_tick_and_its_error_thrown(deadlines: Deadlines) -> None:
    answers: list[GreenproxyError | None] = [ClientClosed("gone"), None, None]

    def guarded(deadline: Deadline) -> None:
        deadline.guard = answers.pop

    error = Waiter(deadlines, guarded).outcome()
    assert isinstance(error, ClientClosed)
    assert answers == []


def test_guard_that_is_taken_off_is_not_asked(deadlines: Deadlines) -> None:
    asked = []
    waiter = Waiter(deadlines, lambda deadline: setattr(deadline, "guard", lambda: asked.append(1)))
    gevent.sleep(2 * TICK_S)
    assert asked
    assert waiter.deadline is not None
    waiter.deadline.guard = None
    before = len(asked)
    gevent.sleep(2 * TICK_S)
    waiter.go.set()
    assert waiter.outcome() is None
    assert len(asked) == before


def test_helping_greenlet_has_a_deadline_of_its_own(deadlines: Deadlines) -> None:
    outer = Waiter(deadlines, lambda deadline: None)
    assert outer.deadline is not None
    watch = outer.deadline.watch_current
    helper = Waiter(deadlines, lambda deadline: _wait_under(watch()))
    assert isinstance(helper.outcome(), BadRequest)
    outer.go.set()
    assert outer.outcome() is None


def _wait_under(deadline: Deadline) -> None:
    deadline.set(0.0, SLOW)
    try:
        gevent.sleep(60)
    finally:
        deadline.forget()


def test_greenlet_thrown_out_may_take_a_neighbours_deadline_back(deadlines: Deadlines) -> None:
    """Both are due at the same tick: what the first one does to the other's deadline counts."""
    waiters: list[Waiter] = []

    def takes_back(deadline: Deadline) -> None:
        try:
            gevent.sleep(60)
        except BadRequest:
            for waiter in waiters:
                if waiter.deadline not in (None, deadline):
                    waiter.deadline.clear()  # type: ignore[union-attr]
            raise

    waiters += [Waiter(deadlines, takes_back), Waiter(deadlines, takes_back)]
    for waiter in waiters:
        assert waiter.deadline is not None
        waiter.deadline.set(0.0, SLOW)
    gevent.sleep(3 * TICK_S)
    assert sorted(waiter.error is not None for waiter in waiters) == [False, True]
    for waiter in waiters:
        waiter.kill()
