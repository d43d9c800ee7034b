"""Pick a server of one upstream for one attempt.

Pure: the caller passes `now`, and callables for what changes (the snapshot, its generation, the next
ticket). One instance an upstream and process; a change of the table costs one rebuild, and seeing
that there is none costs one integer.

Owns:       which servers take part, and which of them this process avoids for a moment.
Leaves to:  policies.py (whose turn it is), health/state.py (who is up), proxy/retry.py (whether to try again).
Called by:  proxy/app.py, once an attempt.

Invariant:  1. Never returns a server whose row is in `tried`.
            2. Never returns a server that the operator drains, by state or by weight 0: that is a wish,
               where DOWN and EJECTED are guesses about health.
            3. Returns any other server before it returns None. It takes the best group that has an untried
               one: up; up, but seen failing by this process just now; ejected; down. So the last usable
               server is always tried, and if all are down they are tried anyway (panic mode): a wrong
               probe costs an upstream nothing that a dead server would not.
            4. Within a group the policy's shares are exact. A server that leaves the first group leaves its
               share to all others by weight, not to the one that happens to follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf

from greenproxy.balancing.policies import POLICIES, Rotation
from greenproxy.balancing.snapshot import ServerView, Snapshot, State

# As long as the checker may take to see a failure and mark the server for everybody, several times over.
AVOID_S = 1.0

_BEST_FIRST = (State.UP, State.EJECTED, State.DOWN)


class Balancer:
    """The balancer of one upstream in one process."""

    __slots__ = (
        "_expires",
        "_generation",
        "_groups",
        "_order",
        "_policy",
        "_seen",
        "_snapshot",
        "_ticket",
        "avoiding",
        "upstream",
    )

    def __init__(
        self,
        upstream: str,
        balance: str,
        snapshot: Callable[[], Snapshot],
        generation: Callable[[], int],
        ticket: Callable[[], int],
    ) -> None:
        """Take the upstream's name, its policy by the name the configuration has for it, and the sources.

        Raises KeyError for an unknown policy.
        """
        self.upstream = upstream
        self._policy = POLICIES[balance]
        self._snapshot = snapshot
        self._generation = generation
        self._ticket = ticket
        self.avoiding: dict[int, float] = {}  # until when, by row, on the clock of `now`
        self._rebuild(-inf)

    def pick(self, tried: Collection[int], now: float) -> ServerView | None:
        """Return the server for the next attempt, None if none is left; `tried` holds rows, `now` is in seconds.

        Each attempt draws a ticket of its own, so a failed server's turn goes to the next in line and
        the one after it still comes next.
        """
        if self._generation() != self._seen or now >= self._expires:
            self._rebuild(now)
        order = self._order
        if order and not tried:
            # one server needs no ticket: saves a system call
            return order[self._ticket() % len(order)] if len(order) > 1 else order[0]
        return self._pick_untried(tried)

    def note_failure(self, row: int, now: float) -> None:
        """Avoid a server that this process just saw failing, until the checker has had time to judge it."""
        known = row in self.avoiding
        self.avoiding[row] = now + AVOID_S
        if not known:
            self._rebuild(now)

    def note_success(self, row: int) -> None:
        """Stop avoiding a server that answered. Need not be called unless `avoiding`."""
        if self.avoiding.pop(row, None) is not None:
            self._rebuild(-inf)

    def _pick_untried(self, tried: Collection[int]) -> ServerView | None:
        ticket = self._ticket()
        picks = (group.pick(ticket, tried) for group in self._groups)
        return next((server for server in picks if server is not None), None)

    def _rebuild(self, now: float) -> None:
        """Group the servers anew, best group first; forget what is no longer avoided."""
        snapshot = self._snapshot()
        self.avoiding = {row: until for row, until in self.avoiding.items() if until > now}
        self._expires = min(self.avoiding.values(), default=inf)
        self._groups = self._grouped(snapshot.servers)
        self._order = self._groups[0].order if self._groups else ()
        self._seen = snapshot.generation

    def _grouped(self, servers: Sequence[ServerView]) -> tuple[Rotation, ...]:
        ranks: dict[tuple[int, bool], list[ServerView]] = {}
        for server in servers:
            if server.weight and server.state in _BEST_FIRST:
                rank = _BEST_FIRST.index(server.state), server.row in self.avoiding
                ranks.setdefault(rank, []).append(server)
        return tuple(self._policy(ranks[rank]) for rank in sorted(ranks))
