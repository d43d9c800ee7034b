"""How long a SIGKILLed worker is missed: from the kill to the first answer on a new connection.

Owns:       killing our own workers, one after the other, and the clock.
Leaves to:  contenders.py (who runs), report.py (what the times mean).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.contenders import Contender, answers

SPARE_TIMEOUT_S = 30.0


def recovery_seconds(contender: Contender, error_log: Path, kills: int) -> list[float]:
    """Kill the serving worker `kills` times and return how long each time nobody answered.

    Raises TimeoutError when no spare is ready in time, or nobody answers again.
    """
    times = []
    for number in range(1, kills + 1):
        _wait_for_events(error_log, "spare_ready", number)
        serving = _events(error_log, "worker_ready")[-1]["worker"]
        killed = time.monotonic()
        os.kill(int(str(serving)), signal.SIGKILL)
        _wait(lambda: answers(contender.port), "an answer")
        times.append(time.monotonic() - killed)
        _wait_for_events(error_log, "worker_ready", number + 1)
    return times


def _events(error_log: Path, event: str) -> list[dict[str, object]]:
    records = (json.loads(line) for line in error_log.read_text("utf-8").splitlines())
    return [record for record in records if record["event"] == event]


def _wait_for_events(error_log: Path, event: str, count: int) -> None:
    _wait(lambda: len(_events(error_log, event)) >= count, f"{event} number {count}")


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SPARE_TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {SPARE_TIMEOUT_S:.0f} s")
        time.sleep(0.001)
