"""The bench's reading of its tools and its verdicts: a target that was not measured cleanly is never met."""

from __future__ import annotations

import pytest

from tests.bench.load import Sample, parse_loadtest, parse_wrk
from tests.bench.report import NGINX, NODE, OURS, Numbers, judge, markdown

WRK = """Running 1s test @ http://127.0.0.1:18999/x
  1 threads and 50 connections
  24909 requests in 1.00s, 3.49MB read
Requests/sec:  24851.77
Transfer/sec:      3.48MB
"""
WRK_WITH_ERRORS = WRK.replace(
    "Requests/sec",
    "  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 10\nRequests/sec",
)
LOADTEST = """
Completed requests:  {completed}
Total errors:        {errors}
Total time:          0.361 s
Mean latency:        66.9 ms
"""


def numbers_that_meet_every_target() -> dict[str, Numbers]:
    """Return samples that are just enough."""
    return {
        NGINX: Numbers([Sample(40_000, 0)], [Sample(20_000, 0)], [Sample(50, 0)], 1000, 0.1),
        NODE: Numbers([Sample(6_000, 0)], [Sample(3_000, 0)], [Sample(120, 0)], 9000, 0.1),
        OURS: Numbers([Sample(10_000, 0)], [Sample(3_000, 0)], [Sample(120, 0)], 20 * 1024, 0.4, recovery_s=[0.3]),
    }


def test_wrk_summary_without_errors_gives_rate() -> None:
    assert parse_wrk(WRK) == Sample(24851.77, 0)


def test_wrk_summary_counts_socket_errors_and_statuses() -> None:
    assert parse_wrk(WRK_WITH_ERRORS) == Sample(24851.77, 16)


def test_wrk_summary_without_rate_is_an_error() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(("completed", "errors", "expected"), [(1000, 0, 0), (1000, 7, 7), (990, 0, 10)])
def test_loadtest_summary_counts_errors_and_unfinished(completed: int, errors: int, expected: int) -> None:
    assert parse_loadtest(LOADTEST.format(completed=completed, errors=errors)) == Sample(66.9, expected)


def test_targets_at_their_limits_are_met() -> None:
    assert [each.met for each in judge(numbers_that_meet_every_target())] == [True] * 7


@pytest.mark.parametrize(
    ("index", "field", "value"),
    [
        (0, "keep_alive", [Sample(9_999, 0)]),
        (0, "keep_alive", [Sample(12_000, 1)]),
        (1, "keep_alive", [Sample(9_599, 0)]),
        (2, "close", [Sample(2_999, 0)]),
        (3, "loadtest", [Sample(100, 0), Sample(100, 1)]),
        (4, "loadtest", [Sample(121, 0)]),
        (5, "idle_bytes", 20 * 1024 + 1),
        (6, "recovery_s", [0.2, 0.301]),
    ],
)
def test_target_just_missed_is_not_met(index: int, field: str, value: object) -> None:
    numbers = numbers_that_meet_every_target()
    setattr(numbers[OURS], field, value)
    assert not judge(numbers)[index].met


@pytest.mark.parametrize("absent", [NGINX, NODE, OURS])
def test_target_of_absent_contender_is_not_measured(absent: str) -> None:
    numbers = numbers_that_meet_every_target()
    del numbers[absent]
    verdicts = judge(numbers)
    assert any(each.found == "not measured" and not each.met for each in verdicts)
    assert f"| {absent} |" not in markdown(numbers, [], "setting")


def test_page_shows_median_spread_and_ratio() -> None:
    numbers = numbers_that_meet_every_target()
    numbers[OURS].keep_alive = [Sample(9_000, 0), Sample(12_000, 0), Sample(10_000, 0)]
    page = markdown(numbers, judge(numbers), "setting")
    assert "10,000 (9,000-12,000)" in page
    assert "| × nginx | 1.00 | 0.15 | 0.25 |" in page
    assert "missed" not in page
