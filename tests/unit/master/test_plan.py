"""master/plan.py as tables: a situation in, actions out; no process is forked."""

from __future__ import annotations

import pytest

from greenproxy.master import plan
from greenproxy.master.plan import (
    Ask,
    ChildView,
    Failures,
    Finish,
    GiveSlot,
    Goal,
    Kind,
    Rules,
    SayReady,
    Seat,
    Situation,
    Spawn,
    Stop,
    Verb,
    after_death,
    decide,
    patience,
)

RULES = Rules(graceful_timeout=30.0, watchdog=10.0)
NOW = 1000.0

W0, W1, SPARE = Seat(Kind.WORKER, 0), Seat(Kind.WORKER, 1), Seat(Kind.SPARE)
APP, CHECKER, ADMIN = Seat(Kind.APP, 0, "shop"), Seat(Kind.CHECKER), Seat(Kind.ADMIN)
SEATS = (APP, CHECKER, ADMIN, W0, W1, SPARE)
PIDS = {seat: 10 + index for index, seat in enumerate(SEATS)}


def child(
    seat: Seat, *, ready: bool = True, started: float | None = None, silent: float = 0.5, **asked: float
) -> ChildView:
    beats = seat.group == "worker"
    if started is None:
        started = NOW - (100 if ready else 1)
    verbs = {Verb(name): when for name, when in asked.items()}
    return ChildView(PIDS[seat], seat, started, 60.0, ready, NOW - silent if beats else None, verbs)


def all_but(*missing: Seat) -> list[ChildView]:
    return [child(seat) for seat in SEATS if seat not in missing]


def situation(
    children: list[ChildView],
    *,
    goal: Goal = Goal.RUN,
    started: bool = True,
    failures: dict[str, Failures] | None = None,
    awake_since: float = 0.0,
) -> Situation:
    return Situation(goal, started, SEATS, tuple(children), failures or {}, awake_since)


def actions(children: list[ChildView], **keys: object) -> list[plan.Action]:
    return decide(situation(children, **keys), RULES, NOW)  # type: ignore[arg-type]


# Start


def test_start_spawns_apps_and_helpers_before_workers() -> None:
    assert actions([], started=False) == [Spawn(APP), Spawn(CHECKER), Spawn(ADMIN)]


def test_workers_wait_until_every_hosted_app_is_ready() -> None:
    booting = [child(APP, ready=False), child(CHECKER), child(ADMIN)]
    assert actions(booting, started=False) == []


def test_workers_and_spare_start_when_the_first_stage_is_ready() -> None:
    assert actions([child(APP), child(CHECKER), child(ADMIN)], started=False) == [Spawn(W0), Spawn(W1), Spawn(SPARE)]


def test_ready_is_said_without_waiting_for_the_spare() -> None:
    children = [*all_but(SPARE), child(SPARE, ready=False)]
    assert actions(children, started=False) == [SayReady()]


def test_ready_is_not_said_while_a_worker_boots() -> None:
    assert actions([*all_but(W1), child(W1, ready=False)], started=False) == []


def test_a_failed_child_at_start_stops_the_master() -> None:
    failures = {str(APP): Failures(1, NOW, "app shop/0 exited with 3\nImportError: no shop")}
    assert actions([], started=False, failures=failures) == [Stop("app shop/0 exited with 3\nImportError: no shop")]


def test_a_child_that_boots_too_long_at_start_stops_the_master() -> None:
    slow = [child(APP, ready=False, started=NOW - 61)]
    assert actions(slow, started=False) == [Stop("app shop/0 was not ready within 60 s")]


# Running


def test_all_well_means_nothing_to_do() -> None:
    assert actions(all_but()) == []


def test_dead_worker_is_replaced_by_the_spare() -> None:
    assert actions(all_but(W1)) == [GiveSlot(PIDS[SPARE], W1)]


def test_two_dead_workers_get_one_spare_and_one_new_child() -> None:
    assert actions(all_but(W0, W1)) == [GiveSlot(PIDS[SPARE], W0), Spawn(W1)]


def test_empty_slot_waits_for_a_spare_that_boots() -> None:
    assert actions([*all_but(W0, SPARE), child(SPARE, ready=False)]) == []


def test_empty_slot_is_not_given_to_a_spare_that_is_being_killed() -> None:
    hung = child(SPARE, silent=11, abort=NOW - 0.5)
    assert Spawn(W0) in actions([*all_but(W0, SPARE), hung])


def test_used_up_spare_is_replaced() -> None:
    assert actions(all_but(SPARE)) == [Spawn(SPARE)]


@pytest.mark.parametrize("seat", [APP, CHECKER, ADMIN])
def test_dead_helper_is_started_again(seat: Seat) -> None:
    assert actions(all_but(seat)) == [Spawn(seat)]


def test_restart_waits_for_its_backoff() -> None:
    assert actions(all_but(APP), failures={str(APP): Failures(3, NOW + 0.1, "why")}) == []
    assert actions(all_but(APP), failures={str(APP): Failures(3, NOW, "why")}) == [Spawn(APP)]


def test_backoff_of_one_app_does_not_hold_another_seat() -> None:
    assert actions(all_but(CHECKER), failures={str(APP): Failures(3, NOW + 5, "why")}) == [Spawn(CHECKER)]


def test_booted_spare_is_given_although_workers_fail_to_boot() -> None:
    failures = {"worker": Failures(2, NOW + 5, "why")}
    assert actions(all_but(W0), failures=failures) == [GiveSlot(PIDS[SPARE], W0)]


def test_failing_boots_do_not_stop_the_master_while_somebody_serves() -> None:
    failures = {"worker": Failures(plan.MAX_BOOT_FAILURES + 5, NOW + 5, "why")}
    assert actions(all_but(W0, SPARE), failures=failures) == []


def test_failing_boots_stop_the_master_when_nobody_serves() -> None:
    failures = {"worker": Failures(plan.MAX_BOOT_FAILURES, NOW + 5, "worker 0 exited with 3")}
    [stop] = actions(all_but(W0, W1, SPARE), failures=failures)
    assert isinstance(stop, Stop)
    assert "worker 0 exited with 3" in stop.why


def test_one_failure_less_does_not_stop_the_master() -> None:
    failures = {"worker": Failures(plan.MAX_BOOT_FAILURES - 1, NOW + 5, "why")}
    assert actions(all_but(W0, W1, SPARE), failures=failures) == []


# Watchdog


@pytest.mark.parametrize(
    ("hung", "verb"),
    [
        (child(W0, silent=9.9), None),
        (child(W0, silent=10.1), Verb.ABORT),
        (child(W0, silent=10.9, abort=NOW - 0.9), None),
        (child(W0, silent=11.1, abort=NOW - 1.1), Verb.KILL),
        (child(W0, silent=15, abort=NOW - 5, kill=NOW - 4), None),
        (child(SPARE, silent=10.1), Verb.ABORT),
        (child(W0, ready=False, started=NOW - 59, silent=59), None),
        (child(W0, ready=False, started=NOW - 61, silent=61), Verb.KILL),
        (child(W0, ready=False, started=NOW - 61, silent=61, kill=NOW - 1), None),
    ],
)
def test_watchdog_asks_a_hung_worker_once_for_each_step(hung: ChildView, verb: Verb | None) -> None:
    asked = [action.verb for action in actions([*all_but(hung.seat), hung]) if isinstance(action, Ask)]
    assert asked == ([verb] if verb else [])


def test_watchdog_does_not_blame_workers_for_time_the_master_was_suspended() -> None:
    stale = [*all_but(W0), child(W0, silent=3600)]
    assert actions(stale, awake_since=NOW - 1) == []
    assert actions(stale, awake_since=NOW - 11) != []


def test_slot_of_a_hung_worker_is_not_given_away_before_it_is_reaped() -> None:
    hung = child(W0, silent=20, abort=NOW - 5, kill=NOW - 4)
    assert actions([*all_but(W0), hung]) == []


# Stop


def test_graceful_stop_asks_workers_and_spare_first() -> None:
    expected = [Ask(PIDS[seat], Verb.TERMINATE) for seat in (W0, W1, SPARE)]
    assert actions(all_but(), goal=Goal.GRACEFUL) == expected


def test_graceful_stop_asks_nobody_twice() -> None:
    draining = [child(W0, terminate=NOW - 5), child(APP), child(CHECKER)]
    assert actions(draining, goal=Goal.GRACEFUL) == []


def test_hosted_apps_stop_after_the_last_worker_and_before_checker_and_admin() -> None:
    assert actions(all_but(W0, W1, SPARE), goal=Goal.GRACEFUL) == [Ask(PIDS[APP], Verb.TERMINATE)]
    expected = [Ask(PIDS[CHECKER], Verb.TERMINATE), Ask(PIDS[ADMIN], Verb.TERMINATE)]
    assert actions([child(CHECKER), child(ADMIN)], goal=Goal.GRACEFUL) == expected


@pytest.mark.parametrize(
    ("waited", "killed"), [(30.5, False), (31.0, True)]  # graceful_timeout and the margin
)  # fmt: skip
def test_worker_that_does_not_leave_in_time_is_killed(waited: float, killed: bool) -> None:
    done = actions([child(W0, terminate=NOW - waited)], goal=Goal.GRACEFUL)
    assert [action.verb for action in done if isinstance(action, Ask)] == ([Verb.KILL] if killed else [])


def test_quick_stop_asks_all_at_once_also_those_that_drain() -> None:
    children = [child(W0, terminate=NOW - 5), child(APP), child(ADMIN)]
    assert actions(children, goal=Goal.QUICK) == [Ask(PIDS[seat], Verb.QUIT) for seat in (W0, APP, ADMIN)]


def test_quick_stop_kills_who_is_still_there() -> None:
    [ask] = actions([child(W0, quit=NOW - 1.1)], goal=Goal.QUICK)
    assert isinstance(ask, Ask)
    assert ask.verb is Verb.KILL


@pytest.mark.parametrize("goal", [Goal.GRACEFUL, Goal.QUICK])
def test_stop_ends_when_no_child_is_left_and_starts_nobody(goal: Goal) -> None:
    assert actions([], goal=goal) == [Finish()]


# Failures


@pytest.mark.parametrize(
    ("seat", "ready", "lived", "counted"),
    [
        (W0, True, 0.1, False),  # killed right after its start: the slot must not wait
        (W0, False, 0.1, True),
        (W0, False, 59.0, True),
        (SPARE, False, 0.1, True),
        (APP, True, 1.0, True),  # says ready and dies: a crash loop
        (APP, True, 6.0, False),
        (APP, False, 20.0, True),
        (CHECKER, True, 1.0, True),
        (ADMIN, True, 100.0, False),
    ],
)
def test_which_death_is_a_failed_start(seat: Seat, ready: bool, lived: float, counted: bool) -> None:
    dead = child(seat, ready=ready, started=NOW - lived)
    assert (after_death(dead, None, "why", NOW) is not None) is counted


def test_backoff_doubles_up_to_its_limit() -> None:
    failures: Failures | None = None
    waits = []
    for _ in range(9):
        failures = after_death(child(APP, ready=False), failures, "why", NOW)
        assert failures is not None
        waits.append(round(failures.not_before - NOW, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_workers_and_spare_count_their_failures_together() -> None:
    first = after_death(child(SPARE, ready=False), None, "why", NOW)
    second = after_death(child(W1, ready=False), first, "why", NOW)
    assert second is not None
    assert second.count == 2
    assert W1.group == SPARE.group


# Pace


def test_master_sleeps_long_only_when_nothing_is_under_way() -> None:
    assert patience(situation(all_but())) == plan.QUIET_TICK_S
    for busy in (
        situation(all_but(W0)),
        situation([*all_but(W0), child(W0, ready=False)]),
        situation(all_but(), started=False),
        situation(all_but(), goal=Goal.GRACEFUL),
    ):
        assert patience(busy) == plan.BUSY_TICK_S
