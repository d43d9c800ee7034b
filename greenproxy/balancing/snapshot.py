"""What a balancer may know of an upstream: its servers as they were at one generation.

Pure values. A change in the health table builds a new Snapshot; nobody changes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """State of one server. FREE marks a table row that no server uses."""

    FREE = 0
    UP = 1
    DOWN = 2  # by probes
    EJECTED = 3  # by live failures, for a time
    DRAINING = 4  # by the operator: finishes what it has, gets nothing new


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server. `row` is its row in the health table; `address` as in the configuration."""

    row: int
    address: str
    weight: int = 1
    state: State = State.UP

    @property
    def usable(self) -> bool:
        """May it be picked while others are healthy?"""
        return self.state is State.UP


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The servers of one upstream in configuration order, true for table generation `generation`."""

    upstream: str
    generation: int
    servers: tuple[ServerView, ...]
