"""Signals are queued, never handled where they arrive."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from greenproxy.master.signals import HEARD, SignalQueue, blocked


@pytest.fixture
def queue() -> Iterator[SignalQueue]:
    before = {number: signal.getsignal(number) for number in HEARD}
    made = SignalQueue()
    made.install()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
    made.close()


def test_signals_come_in_the_order_of_arrival(queue: SignalQueue) -> None:
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    assert queue.take() == [signal.SIGHUP, signal.SIGTERM, signal.SIGHUP]
    assert queue.take() == []


def test_a_signal_ends_a_select(queue: SignalQueue) -> None:
    assert select.select([queue], [], [], 0) == ([], [], [])
    os.kill(os.getpid(), signal.SIGUSR1)
    assert select.select([queue], [], [], 5)[0] == [queue]
    queue.take()
    assert select.select([queue], [], [], 0) == ([], [], [])


def test_more_signals_than_the_pipe_holds_lose_none(queue: SignalQueue) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(70_000):
        os.kill(os.getpid(), signal.SIGHUP)
    taken = queue.take()
    assert len(taken) == 70_001
    assert taken[0] is signal.SIGTERM


def test_blocked_signals_arrive_afterwards(queue: SignalQueue) -> None:
    with blocked():
        os.kill(os.getpid(), signal.SIGTERM)
        assert queue.take() == []
    assert queue.take() == [signal.SIGTERM]
