"""Wait for a condition with a deadline: the one place in the tests that polls.

Owns:       the pace of polling and the default deadline, wide enough for a busy two-core machine.
Leaves to:  the caller what to wait for and what to say when it does not come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 20.0
_PACE_S = 0.01


def wait_for(
    condition: Callable[[], T], what: str | Callable[[], str] = "the condition", deadline_s: float = DEADLINE_S
) -> T:
    """Call `condition` until it gives something true, and give that back.

    Raises AssertionError with `what` (a text, or a callable asked only then) when the deadline passes.
    """
    end = time.monotonic() + deadline_s
    while True:
        outcome = condition()
        if outcome:
            return outcome
        if time.monotonic() >= end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {deadline_s:g} s in vain for {text}")
        time.sleep(_PACE_S)
