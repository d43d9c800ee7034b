"""Decide what the master does next: whom to start, to ask to leave, to kill, and when to give up.

Pure: the caller gives the children as they are and `now` (monotonic seconds), and gets actions.

Owns:       start and stop order, the watchdog's verdict, back-off, the limits on failed boots.
Leaves to:  master.py (doing it), children.py (what a child is), worker/worker.py (how one drains).
Called by:  master.py, once per round of its loop.
Invariant:  the same action is never asked for twice of the same child; a slot is given away only
            when its former holder has been reaped.

    start   checker, admin and hosted apps -> workers and the spare -> "ready" when all but the spare are
    stop    workers and the spare -> hosted apps -> checker and admin   (quick: all at once)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

# Death before ready, counted over a group in a row. Six with this back-off take about three seconds
# plus the boots: long enough for a file that is just being replaced, short enough to be told.
MAX_BOOT_FAILURES = 6
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
# A hosted app, checker or admin that dies sooner than this after its start is failing, ready or not.
STEADY_AFTER_S = 5.0
# SIGABRT asks for a traceback; a process that is stopped or spins in C does not give one.
ABORT_GRACE_S = 1.0
QUICK_GRACE_S = 1.0
# A worker leaves by itself at graceful_timeout; the master kills only one that does not.
TERMINATE_MARGIN_S = 1.0
HELPER_GRACE_S = 3.0  # checker and admin hold no traffic

QUIET_TICK_S, BUSY_TICK_S = 1.0, 0.05


class Kind(Enum):
    """What a child does."""

    WORKER = "worker"
    SPARE = "spare"  # a booted worker that waits for a slot
    APP = "app"  # a process of a hosted application
    CHECKER = "checker"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Seat:
    """A place for one child: worker 0, spare, app shop/1, checker, admin."""

    kind: Kind
    index: int = 0
    upstream: str = ""

    @property
    def group(self) -> str:
        """Seats whose failures count together: all workers boot the same code."""
        return "worker" if self.kind in (Kind.WORKER, Kind.SPARE) else str(self)

    def __str__(self) -> str:
        match self.kind:
            case Kind.WORKER:
                return f"worker {self.index}"
            case Kind.APP:
                return f"app {self.upstream}/{self.index}"
            case _:
                return str(self.kind.value)


class Verb(Enum):
    """What a child can be asked; each at most once."""

    TERMINATE = "terminate"  # drain and leave
    QUIT = "quit"  # leave at once
    ABORT = "abort"  # leave a traceback and die
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child as the master sees it; times are monotonic seconds."""

    pid: int
    seat: Seat
    started: float
    boot_limit: float = 60.0  # seconds until it must be ready
    ready: bool = False
    heartbeat: float | None = None  # None: this kind has none
    asked: Mapping[Verb, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed starts of a group in a row, and when the next may be tried."""

    count: int
    not_before: float
    why: str


class Goal(Enum):
    """Where the master is heading."""

    RUN = "run"
    GRACEFUL = "graceful stop"
    QUICK = "quick stop"


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a decision rests on."""

    goal: Goal
    started: bool  # "ready" was said
    seats: tuple[Seat, ...]
    children: tuple[ChildView, ...]
    failures: Mapping[str, Failures] = field(default_factory=dict)
    awake_since: float = 0.0  # a master that was itself suspended must not blame its workers for that time


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits from the configuration, in seconds."""

    graceful_timeout: float
    watchdog: float


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a child for an empty seat."""

    seat: Seat


@dataclass(frozen=True, slots=True)
class GiveSlot:
    """Let the spare `pid` serve the slot of a dead worker."""

    pid: int
    seat: Seat


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a child to leave; `why` goes into the log when it is not the ordinary way."""

    pid: int
    verb: Verb
    why: str = ""


@dataclass(frozen=True, slots=True)
class SayReady:
    """Everything serves."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A child cannot start: stop quickly and exit with WorkerBootError.EXIT_CODE."""

    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """No child is left."""


Action = Spawn | GiveSlot | Ask | SayReady | Stop | Finish

_FIRST_STAGE = (Kind.APP, Kind.CHECKER, Kind.ADMIN)
_STOP_ORDER = ((Kind.WORKER, Kind.SPARE), (Kind.APP,), (Kind.CHECKER, Kind.ADMIN))


def decide(situation: Situation, rules: Rules, now: float) -> list[Action]:
    """Return what to do now; nothing, when all is as it should be."""
    if situation.goal is not Goal.RUN:
        if not situation.children:
            return [Finish()]
        return list(
            _stop_quickly(situation, now) if situation.goal is Goal.QUICK else _stop_gracefully(situation, rules, now)
        )
    why = _reason_to_stop(situation, now)
    if why:
        return [Stop(why)]
    actions: list[Action] = [*_watch(situation, rules, now), *_fill(situation, now)]
    if not situation.started and _all_ready(situation):
        actions.append(SayReady())
    return actions


def after_death(child: ChildView, previous: Failures | None, why: str, now: float) -> Failures | None:
    """Return the failures of the child's group once it has died; None is a clean slate.

    A worker that had said ready may die as often as it likes: whatever killed it may be one request,
    and a slot without a worker keeps clients waiting. Its boot time limits the rate.
    """
    if child.ready and (child.seat.group == "worker" or now - child.started >= STEADY_AFTER_S):
        return None
    count = previous.count + 1 if previous else 1
    return Failures(count, now + min(FIRST_BACKOFF_S * 2 ** (count - 1), MAX_BACKOFF_S), why)


def patience(situation: Situation) -> float:
    """Seconds the master may sleep when no event wakes it: short while something is under way."""
    quiet = situation.goal is Goal.RUN and situation.started and all(child.ready for child in situation.children)
    return QUIET_TICK_S if quiet and len(situation.children) == len(situation.seats) else BUSY_TICK_S


def _reason_to_stop(situation: Situation, now: float) -> str:
    """At start one failed child is enough; later the master gives up only when nobody serves any more."""
    if not situation.started:
        for failures in situation.failures.values():
            return failures.why
        for child in situation.children:
            if _boots_too_long(child, now):
                return f"{child.seat} was not ready within {child.boot_limit:g} s"
        return ""
    failed = situation.failures.get("worker")
    if failed is None or failed.count < MAX_BOOT_FAILURES or _serving(situation):
        return ""
    return f"no worker serves any more and {failed.count} in a row could not start; the last: {failed.why}"


def _watch(situation: Situation, rules: Rules, now: float) -> Iterator[Action]:
    """Find children that hang: while they boot, or by a heartbeat that stopped."""
    for child in situation.children:
        if _boots_too_long(child, now):
            if Verb.KILL not in child.asked:
                yield Ask(child.pid, Verb.KILL, f"not ready within {child.boot_limit:g} s")
        elif child.ready and child.heartbeat is not None:
            silent = now - max(child.heartbeat, situation.awake_since)
            aborted = child.asked.get(Verb.ABORT)
            if aborted is not None:
                if now - aborted >= ABORT_GRACE_S and Verb.KILL not in child.asked:
                    yield Ask(child.pid, Verb.KILL, "hung and did not die of SIGABRT")
            elif silent > rules.watchdog:
                yield Ask(child.pid, Verb.ABORT, f"no heartbeat for {silent:.1f} s")


def _fill(situation: Situation, now: float) -> Iterator[Action]:
    """Fill empty seats: a worker's slot by the spare, the others by new children.

    A spare that still boots is as good as promised to the first empty slot: a second boot beside it
    would only make both slower.
    """
    spares = [child for child in situation.children if child.seat.kind is Kind.SPARE and not child.asked]
    booted = [spare for spare in spares if spare.ready]
    promised = len(spares) - len(booted)
    for seat in _open_seats(situation):
        if seat.kind is Kind.WORKER and booted:
            yield GiveSlot(booted.pop().pid, seat)
        elif seat.kind is Kind.WORKER and promised and situation.started:
            promised -= 1
        elif _may_start(situation, seat, now):
            yield Spawn(seat)


def _open_seats(situation: Situation) -> list[Seat]:
    """Seats nobody holds; before the first ready, workers wait for the hosted apps they send to."""
    taken = {child.seat for child in situation.children}
    empty = [seat for seat in situation.seats if seat not in taken]
    if situation.started or _first_stage_ready(situation):
        return empty
    return [seat for seat in empty if seat.kind in _FIRST_STAGE]


def _may_start(situation: Situation, seat: Seat, now: float) -> bool:
    failures = situation.failures.get(seat.group)
    return failures is None or now >= failures.not_before


def _first_stage_ready(situation: Situation) -> bool:
    ready = {child.seat for child in situation.children if child.ready}
    return all(seat in ready for seat in situation.seats if seat.kind in _FIRST_STAGE)


def _all_ready(situation: Situation) -> bool:
    ready = {child.seat for child in situation.children if child.ready}
    return all(seat in ready for seat in situation.seats if seat.kind is not Kind.SPARE)


def _serving(situation: Situation) -> bool:
    return any(child.ready and child.seat.kind is Kind.WORKER for child in situation.children)


def _boots_too_long(child: ChildView, now: float) -> bool:
    return not child.ready and now - child.started > child.boot_limit


def _stop_gracefully(situation: Situation, rules: Rules, now: float) -> Iterator[Action]:
    """Take down one stage after the other: a stage begins when the one before it has gone."""
    for kinds in _STOP_ORDER:
        stage = [child for child in situation.children if child.seat.kind in kinds]
        if stage:
            helpers = Kind.CHECKER in kinds
            grace = HELPER_GRACE_S if helpers else rules.graceful_timeout + TERMINATE_MARGIN_S
            yield from _ask_then_kill(stage, Verb.TERMINATE, grace, now)
            return


def _stop_quickly(situation: Situation, now: float) -> Iterator[Action]:
    yield from _ask_then_kill(situation.children, Verb.QUIT, QUICK_GRACE_S, now)


def _ask_then_kill(
    children: list[ChildView] | tuple[ChildView, ...], verb: Verb, grace: float, now: float
) -> Iterator[Action]:
    for child in children:
        asked = child.asked.get(verb)
        if asked is None:
            yield Ask(child.pid, verb)
        elif now - asked >= grace and Verb.KILL not in child.asked:
            yield Ask(child.pid, Verb.KILL, f"still there {grace:g} s after it was asked to leave")
