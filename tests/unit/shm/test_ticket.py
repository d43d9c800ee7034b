"""The ticket counter: every number once, over real processes, and nothing lost with a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from greenproxy.balancing.policies import schedule
from greenproxy.shm.ticket import new_ticket_counter, take_ticket

PROCESSES = 4
LAST = 300_000  # a tenth of a second for four of them: they do draw at the same time

# Waits for EOF on the pipe that all share, draws until the numbers are used up, then writes what it drew.
DRAW = """
import sys
from array import array
from greenproxy.shm.ticket import take_ticket
fd, last = map(int, sys.argv[1:])
drawn = array("q", [0])
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.read()
while drawn[-1] < last:
    drawn.append(take_ticket(fd))
drawn[1:].tofile(sys.stdout.buffer)
"""

DRAW_FOR_EVER = """
import sys
from greenproxy.shm.ticket import take_ticket
fd = int(sys.argv[1])
take_ticket(fd)
sys.stdout.write("drawing\\n"); sys.stdout.flush()
while True:
    take_ticket(fd)
"""


@pytest.fixture
def counter() -> Iterator[int]:
    fd = new_ticket_counter()
    yield fd
    os.close(fd)


def start(code: str, fd: int, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, str(fd), *arguments]
    return subprocess.Popen(command, pass_fds=[fd], stdin=stdin, stdout=subprocess.PIPE)


def drawn_by_processes(fd: int) -> list[int]:
    """All numbers that four processes drew, sorted; they start when the last one is ready."""
    gate, opener = os.pipe()
    children = [start(DRAW, fd, str(LAST), stdin=gate) for _ in range(PROCESSES)]
    os.close(gate)
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    os.close(opener)
    drawn = [memoryview(child.communicate(timeout=60)[0]).cast("q") for child in children]
    assert [child.returncode for child in children] == [0] * PROCESSES
    return sorted(number for numbers in drawn for number in numbers)


def test_numbers_start_at_one_and_follow_each_other(counter: int) -> None:
    assert [take_ticket(counter) for _ in range(3)] == [1, 2, 3]


def test_two_counters_are_independent(counter: int) -> None:
    other = new_ticket_counter()
    try:
        take_ticket(counter)
        assert take_ticket(other) == 1
    finally:
        os.close(other)


def test_four_processes_draw_every_number_once_so_shares_are_exact(counter: int) -> None:
    drawn = drawn_by_processes(counter)
    assert drawn == list(range(1, len(drawn) + 1))
    order = schedule((3, 2, 1))
    picks = Counter(order[number % 6] for number in drawn[:LAST])
    assert picks == {0: LAST // 2, 1: LAST // 3, 2: LAST // 6}


def test_killed_process_leaves_the_counter_free_and_counting(counter: int) -> None:
    child = start(DRAW_FOR_EVER, counter)
    assert child.stdout is not None and child.stdout.readline() == b"drawing\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=10)
    last = take_ticket(counter)
    assert last > 1 and take_ticket(counter) == last + 1
