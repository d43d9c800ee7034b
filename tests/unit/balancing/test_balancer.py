"""The balancer: follows the table, avoids what just failed, and tries the last server anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.balancing.balancer import AVOID_S, Balancer
from greenproxy.balancing.snapshot import ServerView, Snapshot, State

A, B, C = 0, 1, 2


class FakeTable:
    """A table in one process: states and weights by row, a generation, a ticket counter."""

    def __init__(self, *weights: int) -> None:
        self.servers = [ServerView(row, f"10.0.0.{row}:80", weight) for row, weight in enumerate(weights)]
        self.generation = 1
        self.snapshots = 0
        self.ticket = -1

    def set(self, row: int, state: State) -> None:
        self.servers[row] = replace(self.servers[row], state=state)
        self.generation += 1

    def set_weight(self, row: int, weight: int) -> None:
        self.servers[row] = replace(self.servers[row], weight=weight)
        self.generation += 1

    def snapshot(self) -> Snapshot:
        self.snapshots += 1
        return Snapshot("shop", self.generation, tuple(self.servers))

    def next_ticket(self) -> int:
        self.ticket += 1
        return self.ticket

    def balancer(self, balance: str = "weighted_round_robin") -> Balancer:
        return Balancer("shop", balance, self.snapshot, lambda: self.generation, self.next_ticket)


def rows(balancer: Balancer, picks: int, now: float = 0.0, tried: Iterable[int] = ()) -> list[int | None]:
    picked = (balancer.pick(set(tried), now) for _ in range(picks))
    return [server and server.row for server in picked]


def test_pick_follows_the_policy() -> None:
    assert rows(FakeTable(3, 2, 1).balancer("weighted_round_robin"), 6) == [A, B, A, C, B, A]
    assert rows(FakeTable(3, 2, 1).balancer("round_robin"), 6) == [A, B, C, A, B, C]


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(KeyError):
        FakeTable(1).balancer("by_magic")


def test_snapshot_is_read_again_only_when_the_generation_changes() -> None:
    table = FakeTable(1, 1)
    balancer = table.balancer()
    rows(balancer, 100)
    assert table.snapshots == 1
    table.set(A, State.DOWN)
    rows(balancer, 100)
    assert table.snapshots == 2


def test_change_during_the_reading_is_seen_at_the_next_pick() -> None:
    table = FakeTable(1, 1)
    balancer = Balancer("shop", "round_robin", table.snapshot, lambda: table.generation + 1, table.next_ticket)
    rows(balancer, 3)
    assert table.snapshots == 4


@pytest.mark.parametrize("state", [State.DOWN, State.EJECTED, State.DRAINING])
def test_pick_skips_a_server_that_is_not_up_and_takes_it_back(state: State) -> None:
    table = FakeTable(1, 1, 1)
    balancer = table.balancer()
    table.set(B, state)
    assert B not in rows(balancer, 30)
    table.set(B, State.UP)
    assert Counter(rows(balancer, 30)) == {A: 10, B: 10, C: 10}


def test_share_of_a_server_that_is_out_goes_to_all_others_by_weight() -> None:
    table = FakeTable(2, 3, 2)
    balancer = table.balancer()
    table.set(B, State.DOWN)
    assert Counter(rows(balancer, 60)) == {A: 30, C: 30}


def test_changed_weight_holds_from_the_next_pick() -> None:
    table = FakeTable(1, 1)
    balancer = table.balancer()
    table.set_weight(A, 3)
    assert Counter(rows(balancer, 40)) == {A: 30, B: 10}


def test_all_down_are_tried_anyway() -> None:
    table = FakeTable(1, 1)
    table.set(A, State.DOWN)
    table.set(B, State.DOWN)
    assert Counter(rows(table.balancer(), 10)) == {A: 5, B: 5}


def test_ejected_is_tried_before_down() -> None:
    table = FakeTable(1, 1)
    table.set(A, State.DOWN)
    table.set(B, State.EJECTED)
    assert rows(table.balancer(), 3) == [B, B, B]


def test_retry_takes_the_best_of_the_rest_when_the_usable_ones_are_tried() -> None:
    table = FakeTable(1, 1, 1)
    table.set(B, State.DOWN)
    table.set(C, State.EJECTED)
    balancer = table.balancer()
    assert rows(balancer, 2, tried={A}) == [C, C]
    assert rows(balancer, 2, tried={A, C}) == [B, B]
    assert rows(balancer, 2, tried={A, B, C}) == [None, None]


def test_drained_server_is_never_picked_even_as_the_last() -> None:
    table = FakeTable(1, 1)
    table.set(A, State.DRAINING)
    balancer = table.balancer()
    assert rows(balancer, 2, tried={B}) == [None, None]
    table.set(B, State.DRAINING)
    assert rows(balancer, 2) == [None, None]


@pytest.mark.parametrize("balance", ["round_robin", "weighted_round_robin"])
def test_weight_zero_is_never_picked_even_as_the_last(balance: str) -> None:
    table = FakeTable(1, 0)
    balancer = table.balancer(balance)
    assert rows(balancer, 3) == [A, A, A]
    assert rows(balancer, 1, tried={A}) == [None]


def test_upstream_without_servers_has_no_pick() -> None:
    assert FakeTable().balancer().pick((), 0.0) is None


def test_failed_server_is_avoided_for_a_moment_only() -> None:
    balancer = FakeTable(1, 1).balancer()
    balancer.note_failure(A, now=100.0)
    assert rows(balancer, 10, now=100.0) == [B] * 10
    assert rows(balancer, 10, now=100.0 + AVOID_S - 0.01) == [B] * 10
    assert Counter(rows(balancer, 10, now=100.0 + AVOID_S)) == {A: 5, B: 5}


def test_failure_again_makes_the_moment_longer() -> None:
    balancer = FakeTable(1, 1).balancer()
    balancer.note_failure(A, now=100.0)
    balancer.note_failure(A, now=100.5)
    assert rows(balancer, 4, now=100.0 + AVOID_S) == [B] * 4
    assert A in rows(balancer, 4, now=100.5 + AVOID_S)


def test_avoidance_outlives_a_change_of_the_table() -> None:
    table = FakeTable(1, 1)
    balancer = table.balancer()
    balancer.note_failure(A, now=100.0)
    table.set_weight(B, 2)
    assert rows(balancer, 4, now=100.1) == [B] * 4


def test_success_ends_the_avoidance() -> None:
    balancer = FakeTable(1, 1).balancer()
    balancer.note_failure(A, now=100.0)
    balancer.note_success(A)
    assert Counter(rows(balancer, 4, now=100.0)) == {A: 2, B: 2}


def test_success_of_a_server_that_is_not_avoided_costs_no_rebuild() -> None:
    table = FakeTable(1, 1)
    balancer = table.balancer()
    balancer.note_success(A)
    balancer.note_failure(B, now=100.0)
    before = table.snapshots
    balancer.note_success(A)
    assert table.snapshots == before


def test_last_up_server_is_tried_although_it_just_failed() -> None:
    table = FakeTable(1, 1)
    table.set(B, State.DOWN)
    balancer = table.balancer()
    balancer.note_failure(A, now=100.0)
    assert rows(balancer, 3, now=100.0) == [A, A, A]


def test_panic_avoids_what_just_failed() -> None:
    table = FakeTable(1, 1)
    table.set(A, State.DOWN)
    table.set(B, State.DOWN)
    balancer = table.balancer()
    balancer.note_failure(A, now=100.0)
    assert rows(balancer, 3, now=100.0) == [B, B, B]


states = st.sampled_from([State.UP, State.DOWN, State.EJECTED, State.DRAINING])


@given(st.lists(st.tuples(st.integers(0, 5), states, st.booleans()), max_size=6), st.data())
def test_pick_finds_every_server_that_is_not_drained_once(
    servers: list[tuple[int, State, bool]], data: st.DataObject
) -> None:
    """Retry until None: each candidate comes once, never a drained one, and never a worse group before a better."""
    table = FakeTable(*(weight for weight, _, _ in servers))
    for row, (_, state, _) in enumerate(servers):
        table.set(row, state)
    table.ticket = data.draw(st.integers(0, 1000))
    balancer = table.balancer(data.draw(st.sampled_from(["round_robin", "weighted_round_robin"])))
    for row, (_, _, failed) in enumerate(servers):
        if failed:
            balancer.note_failure(row, now=1.0)
    tried: list[int] = []
    while (server := balancer.pick(tried, 1.0)) is not None:
        tried.append(server.row)
    assert sorted(tried) == [r for r, (weight, state, _) in enumerate(servers) if weight and state != State.DRAINING]
    order = [State.UP, State.EJECTED, State.DOWN]
    ranks = [(order.index(servers[row][1]), servers[row][2]) for row in tried]
    assert ranks == sorted(ranks)
