"""Share the attempts out over the servers of one upstream.

Pure: a policy is a fixed order of servers, and ticket number t gets place t of it. All workers draw
their tickets from one counter (shm/ticket.py), so the shares are exact over all of them together,
which a running weight in each worker could not give.

Owns:       the two orders, round robin and smooth weighted round robin.
Leaves to:  balancing/balancer.py (which servers take part at all), proxy/retry.py (whether to try again).
Called by:  balancing/balancer.py.
Invariant:  over each period, one ticket after another, a server gets exactly its (reduced) weight in
            picks. Never picks a server whose row is in `tried`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from math import gcd
from types import MappingProxyType

from greenproxy.balancing.snapshot import ServerView

# Bounds memory and the time of a first rebuild: 3 servers cost 14 µs, weights 1 to 199 60 ms.
MAX_PERIOD = 4096


@lru_cache(maxsize=256)  # a server that goes down and comes back asks for the same two orders again
def schedule(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Return one period of indexes into `weights`, interleaved as nginx's smooth method gives them.

    A weight of 0 has no place in it. Weights are first divided by what they have in common, then
    scaled down to about MAX_PERIOD places if there are more; only then are shares rounded, each to at least 1.

    Raises ValueError for a negative weight.
    """
    shares = _reduce(weights)
    total = sum(shares)
    current = [0] * len(shares)
    period = []
    for _ in range(total):
        current = [have + gains for have, gains in zip(current, shares, strict=True)]
        first_best = current.index(max(current))
        current[first_best] -= total
        period.append(first_best)
    return tuple(period)


def _reduce(weights: Sequence[int]) -> list[int]:
    """Weights with the same shares and the shortest period."""
    if any(weight < 0 for weight in weights):
        raise ValueError(f"negative weight in {weights}")
    total = sum(weights)
    if total // (gcd(*weights) or 1) > MAX_PERIOD:
        weights = [max(1, weight * MAX_PERIOD // total) if weight else 0 for weight in weights]
    divisor = gcd(*weights) or 1
    return [weight // divisor for weight in weights]


class Rotation:
    """Servers in a fixed, repeating order. `order` is one period of it; empty if no server has a share."""

    __slots__ = ("order",)

    def __init__(self, servers: Sequence[ServerView], weights: Sequence[int]) -> None:
        self.order = tuple(servers[index] for index in schedule(tuple(weights)))

    def pick(self, ticket: int, tried: Collection[int] = ()) -> ServerView | None:
        """Return the server whose turn it is at `ticket`, or the next one whose row is not in `tried`."""
        order = self.order
        if not order:
            return None
        place = ticket % len(order)
        if order[place].row not in tried:
            return order[place]
        following = order[place + 1 :] + order[:place]
        return next((server for server in following if server.row not in tried), None)


def round_robin(servers: Sequence[ServerView]) -> Rotation:
    """One server after another, whatever their weights."""
    return Rotation(servers, [1] * len(servers))


def weighted_round_robin(servers: Sequence[ServerView]) -> Rotation:
    """By weight, interleaved: weights 5, 1, 1 give a a b a c a a, not a a a a a b c."""
    return Rotation(servers, [server.weight for server in servers])


Policy = Callable[[Sequence[ServerView]], Rotation]

# By the name that `balance` has in the configuration.
POLICIES: Mapping[str, Policy] = MappingProxyType(
    {"round_robin": round_robin, "weighted_round_robin": weighted_round_robin}
)
