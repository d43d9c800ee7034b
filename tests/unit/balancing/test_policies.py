"""Shares are exact and interleaved, and nobody is picked twice for one request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.balancing.policies import MAX_PERIOD, POLICIES, round_robin, schedule, weighted_round_robin
from greenproxy.balancing.snapshot import ServerView

some_weights = st.lists(st.integers(1, 20), min_size=1, max_size=8).map(tuple)


def servers_of(weights: Sequence[int]) -> list[ServerView]:
    return [ServerView(row=10 + index, address=f"10.0.0.{index}:80", weight=w) for index, w in enumerate(weights)]


def smooth_reference(weights: Sequence[int], picks: int) -> list[int]:
    """nginx's method, as its source tells it: every peer gains its weight, the best one pays the total."""
    current = [0] * len(weights)
    order = []
    for _ in range(picks):
        best = -1
        for peer, weight in enumerate(weights):
            current[peer] += weight
            if best < 0 or current[peer] > current[best]:
                best = peer
        current[best] -= sum(weights)
        order.append(best)
    return order


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ((1,), "a"),
        ((7,), "a"),
        ((1, 1), "ab"),
        ((2, 2, 2), "abc"),
        ((3, 1), "aaba"),
        ((5, 1, 1), "aabacaa"),
        ((4, 2), "aba"),
        ((3, 2, 1), "abacba"),
        ((0, 1, 1), "bc"),
        ((0, 0), ""),
        ((), ""),
    ],
)
def test_schedule_interleaves_as_nginx_does(weights: tuple[int, ...], names: str) -> None:
    assert "".join("abc"[index] for index in schedule(weights)) == names


@given(some_weights)
def test_schedule_repeated_is_the_reference_run_on(weights: tuple[int, ...]) -> None:
    period = schedule(weights)
    assert list(period * 3) == smooth_reference(weights, 3 * len(period))


@given(some_weights)
def test_schedule_is_exact_over_one_period(weights: tuple[int, ...]) -> None:
    period = schedule(weights)
    counts = Counter(period)
    assert [counts[index] * sum(weights) for index in range(len(weights))] == [w * len(period) for w in weights]


@given(some_weights)
def test_no_server_is_ever_a_whole_pick_ahead_of_its_share(weights: tuple[int, ...]) -> None:
    counts: Counter[int] = Counter()
    for picks, index in enumerate(schedule(weights), start=1):
        counts[index] += 1
        assert counts[index] < picks * weights[index] / sum(weights) + 1


@given(st.integers(1, 30), st.integers(1, 30))
def test_of_two_servers_the_lighter_never_gets_two_in_a_row(heavy: int, light: int) -> None:
    heavy = max(heavy, light + 1)
    period = schedule((heavy, light))
    assert (1, 1) not in set(zip(period, period[1:] + period[:1], strict=True))


@pytest.mark.parametrize(
    "weights",
    [(100_000, 99_999), (1, 1_000_000), tuple(range(1, 200)), (2**40, 1, 0)],
    ids=lambda w: f"{len(w)} weights",
)
def test_period_is_bounded_and_every_weight_keeps_a_place(weights: tuple[int, ...]) -> None:
    period = schedule(weights)
    assert len(period) <= MAX_PERIOD + len(weights)
    assert set(period) == {index for index, weight in enumerate(weights) if weight}


def test_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="negative weight"):
        schedule((1, -1))


@given(some_weights, st.integers(0, 10**6))
def test_weighted_picks_are_exact_from_any_ticket_on(weights: tuple[int, ...], first: int) -> None:
    rotation = weighted_round_robin(servers_of(weights))
    period = len(rotation.order)
    picks = Counter(rotation.pick(ticket) for ticket in range(first, first + period))
    assert [picks[server] * sum(weights) for server in servers_of(weights)] == [w * period for w in weights]


def test_round_robin_ignores_weights() -> None:
    rotation = round_robin(servers_of((5, 1, 3)))
    assert [rotation.pick(ticket).row for ticket in range(6)] == [10, 11, 12, 10, 11, 12]


@given(some_weights, st.integers(0, 10**6), st.data())
def test_pick_skips_tried_servers_and_finds_any_other(
    weights: tuple[int, ...], ticket: int, data: st.DataObject
) -> None:
    servers = servers_of(weights)
    tried = data.draw(st.sets(st.sampled_from([server.row for server in servers])))
    picked = weighted_round_robin(servers).pick(ticket, tried)
    assert (picked is None) == (len(tried) == len(servers))
    assert picked is None or picked.row not in tried


def test_pick_with_a_tried_server_takes_the_next_in_line() -> None:
    rotation = weighted_round_robin(servers_of((2, 1, 1)))  # a b c a
    assert [rotation.pick(ticket, {10}).row for ticket in range(4)] == [11, 11, 12, 11]


def test_pick_without_servers_is_none() -> None:
    assert round_robin([]).pick(1) is None


def test_policies_have_the_names_of_the_configuration() -> None:
    assert set(POLICIES) == {"round_robin", "weighted_round_robin"}
