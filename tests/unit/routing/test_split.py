"""Shares are kept, clients too."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.routing.split import Split

some_shares = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1)


def test_new_client_gets_an_upstream_by_share_and_a_cookie() -> None:
    split = Split({"blue": 90, "green": 10})
    assert split.choose(None, 0.0) == ("blue", "gp_split=blue; Path=/; HttpOnly; SameSite=Lax")
    assert split.choose(None, 0.8999)[0] == "blue"
    assert split.choose(None, 0.9) == ("green", "gp_split=green; Path=/; HttpOnly; SameSite=Lax")
    assert split.choose(None, 0.9999)[0] == "green"


def test_known_client_stays_whatever_the_number() -> None:
    split = Split({"blue": 90, "green": 10})
    assert split.choose("green", 0.0) == ("green", None)
    assert split.choose("blue", 0.99) == ("blue", None)


@pytest.mark.parametrize("value", ["", "red", "Green", "green ", "green; Path=/", "\N{SNOWMAN}"])
def test_unknown_cookie_is_chosen_anew(value: str) -> None:
    upstream, cookie = Split({"blue": 90, "green": 10}).choose(value, 0.95)
    assert upstream == "green"
    assert cookie is not None and cookie.startswith("gp_split=green;")


def test_upstream_without_a_share_keeps_no_client() -> None:
    split = Split({"blue": 1, "green": 0})
    assert split.choose("green", 0.99)[0] == "blue"


def test_cookie_has_the_configured_name() -> None:
    split = Split({"blue": 1}, cookie="side")
    assert split.cookie == "side"
    assert split.choose(None, 0.5)[1] == "side=blue; Path=/; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize("shares", [{}, {"blue": 0}])
def test_no_share_at_all_is_refused(shares: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="has a share"):
        Split(shares)


@given(some_shares)
def test_evenly_spread_numbers_give_exact_shares(shares: dict[str, int]) -> None:
    split, total = Split(shares), sum(shares.values())
    assert Counter(split.choose(None, (i + 0.5) / total)[0] for i in range(total)) == shares


@given(some_shares, st.floats(0, 1, exclude_max=True))
def test_every_number_chooses_and_the_cookie_it_sets_is_believed(shares: dict[str, int], number: float) -> None:
    split = Split(shares)
    upstream, cookie = split.choose(None, number)
    assert cookie is not None
    assert split.choose(cookie.partition("=")[2].partition(";")[0], 0.0) == (upstream, None)
