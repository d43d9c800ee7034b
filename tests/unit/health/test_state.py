"""Rise, fall and ejection, told as stories of observations."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from greenproxy.balancing.snapshot import State
from greenproxy.health.state import (
    FORGIVEN_AFTER_NS,
    MAX_EJECTION_NS,
    SECOND_NS,
    Failures,
    Record,
    Settings,
    observe_failures,
    observe_probe,
    tick,
)

PROBED = Settings(probed=True, rise=2, fall=3)
UNPROBED = Settings()


@dataclass
class FakeClock:
    now_ns: int = 1_000 * SECOND_NS

    def forward(self, seconds: float) -> int:
        self.now_ns += int(seconds * SECOND_NS)
        return self.now_ns


def after(story: str, settings: Settings = PROBED, record: Record | None = None) -> Record:
    """The record after a story: + good probe, - bad probe, c failed live connect, r live request without answer."""
    record = record or Record()
    for step in story:
        if step in "+-":
            record = observe_probe(record, step == "+", "because", settings)
        else:
            record = observe_failures(record, Failures(connect=step == "c", unanswered=step == "r"), 0, settings)
    return record


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ("", State.UP),
        ("--", State.UP),
        ("---", State.DOWN),
        ("--+--", State.UP),
        ("--+---", State.DOWN),
        ("---+", State.DOWN),
        ("---++", State.UP),
        ("---+-+", State.DOWN),
        ("---+-++", State.UP),
        ("---++--", State.UP),
        ("c", State.DOWN),
        ("c++", State.UP),
        ("c+c+", State.DOWN),
        ("rr", State.UP),
        ("rrr", State.DOWN),
        ("-r-", State.DOWN),
        ("rr+rr", State.UP),
        ("---+r+", State.DOWN),
    ],
)
def test_probed_server_follows_rise_and_fall(story: str, state: State) -> None:
    assert after(story).state is state


@pytest.mark.parametrize(("rise", "fall", "story"), [(1, 1, "-+"), (3, 1, "-+++"), (1, 4, "----+")])
def test_rise_and_fall_flip_at_exactly_their_number(rise: int, fall: int, story: str) -> None:
    settings = Settings(True, rise, fall)
    states = [after(story[: length + 1], settings).state for length in range(len(story))]
    assert states == [State.UP] * (fall - 1) + [State.DOWN] * rise + [State.UP]


def test_failures_of_one_look_count_one_by_one() -> None:
    assert observe_failures(Record(), Failures(unanswered=2), 0, PROBED).state is State.UP
    assert observe_failures(Record(), Failures(unanswered=3), 0, PROBED).state is State.DOWN


def test_reason_tells_what_was_seen() -> None:
    assert after("---").reason == "probes fail: because"
    assert after("---++").reason == "2 good probes"
    assert (
        observe_failures(Record(), Failures(2, 1), 0, PROBED).reason
        == "live requests: 2 failed to connect, 1 got no answer"
    )


@pytest.mark.parametrize("settings", [PROBED, UNPROBED])
@pytest.mark.parametrize("story", ["---", "+++", "c", "rrr"])
def test_draining_server_stays_draining(story: str, settings: Settings) -> None:
    draining = Record(State.DRAINING, "operator")
    assert tick(after(story, settings, draining), MAX_EJECTION_NS, settings) == draining


@pytest.mark.parametrize("failures", [Failures(connect=1), Failures(unanswered=1)])
def test_unprobed_server_is_ejected_for_one_second(failures: Failures) -> None:
    clock = FakeClock()
    record = observe_failures(Record(), failures, clock.now_ns, UNPROBED)
    assert record.state is State.EJECTED
    assert tick(record, clock.forward(0.999), UNPROBED) is record
    assert tick(record, clock.forward(0.001), UNPROBED).state is State.UP


def test_ejection_doubles_up_to_thirty_seconds_while_failures_go_on() -> None:
    clock, record, lengths = FakeClock(), Record(), []
    for _ in range(40):
        record = observe_failures(record, Failures(connect=1), clock.now_ns, UNPROBED)
        lengths.append((record.until_ns - clock.now_ns) / SECOND_NS)
        record = tick(record, clock.forward(lengths[-1]), UNPROBED)
        assert record.state is State.UP
        clock.forward(1)
    assert lengths == [1, 2, 4, 8, 16] + [30] * 35


def test_ejections_are_forgotten_after_a_quiet_time() -> None:
    clock = FakeClock()
    record = observe_failures(Record(), Failures(connect=1), clock.now_ns, UNPROBED)
    record = tick(record, clock.forward(1), UNPROBED)
    assert tick(record, clock.now_ns + FORGIVEN_AFTER_NS - 1, UNPROBED) is record
    record = tick(record, clock.now_ns + FORGIVEN_AFTER_NS, UNPROBED)
    assert record.ejections == 0
    again = observe_failures(record, Failures(connect=1), clock.now_ns, UNPROBED)
    assert again.until_ns - clock.now_ns == SECOND_NS


def test_failures_during_an_ejection_do_not_lengthen_it() -> None:
    clock = FakeClock()
    record = observe_failures(Record(), Failures(connect=1), clock.now_ns, UNPROBED)
    assert observe_failures(record, Failures(unanswered=5), clock.forward(0.5), UNPROBED) is record


def test_down_server_comes_up_when_its_health_check_is_taken_away() -> None:
    assert tick(Record(State.DOWN), 1, UNPROBED).state is State.UP
    assert tick(Record(State.DOWN), 1, PROBED).state is State.DOWN


def test_ejected_server_that_gets_a_health_check_ends_its_ejection_first() -> None:
    ejected = Record(State.EJECTED, "r", 0, 1, 5)
    assert after("---c+++", PROBED, ejected) is ejected
    assert tick(ejected, 5, PROBED).state is State.UP
