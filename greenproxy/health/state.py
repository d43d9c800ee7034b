"""When a server changes its state: a record, what was observed, and the record that follows.

Pure: time comes in as `now_ns`, and a flip shows as another `state` in the record that comes back.

    with a health_check     UP --fall bad observations, or one failed live connect--> DOWN
                            DOWN --rise good probes--> UP
    without one             UP --a live failure--> EJECTED --time--> UP
                            each ejection lasts twice as long as the last, until none came for a while

Owns:       rise and fall, ejection and its doubling.
Leaves to:  worker/checker.py (probing, logging a flip), health/table.py (where records are kept),
            balancing (that the last usable server is tried whatever its state says).
Invariant:  a DRAINING server stays so: that is the operator's word, not ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from greenproxy.balancing.snapshot import State

SECOND_NS = 1_000_000_000
FIRST_EJECTION_NS = 1 * SECOND_NS
MAX_EJECTION_NS = 30 * SECOND_NS
# As long as the longest ejection: a server that fails again within it had not recovered.
FORGIVEN_AFTER_NS = MAX_EJECTION_NS


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of a server's health: `probed` = its upstream has a health_check."""

    probed: bool = False
    rise: int = 1
    fall: int = 1


@dataclass(frozen=True, slots=True)
class Failures:
    """Live requests that failed at a server since the last look."""

    connect: int = 0  # no connection
    unanswered: int = 0  # reset, or silent for too long, before the first response byte

    def __str__(self) -> str:
        counts = ((self.connect, "failed to connect"), (self.unanswered, "got no answer"))
        return ", ".join(f"{count} {what}" for count, what in counts if count)


@dataclass(frozen=True, slots=True)
class Record:
    """The health of one server. Times are monotonic nanoseconds, 0 = none."""

    state: State = State.UP
    reason: str = "new"
    streak: int = 0  # observations in a row that speak against the state
    ejections: int = 0  # in a row: the next one lasts twice as long
    until_ns: int = 0  # EJECTED: when it ends; UP: when `ejections` is forgotten


def observe_probe(record: Record, good: bool, reason: str, settings: Settings) -> Record:
    """Take one probe into account; `reason` says what it saw."""
    if record.state is State.UP:
        if good:
            return replace(record, streak=0)
        return _against_up(record, 1, f"probes fail: {reason}", settings)
    if record.state is State.DOWN:
        streak = record.streak + 1 if good else 0
        if streak >= settings.rise:
            return Record(State.UP, f"{streak} good probe{'s' * (streak > 1)}")
        return replace(record, streak=streak)
    return record


def observe_failures(record: Record, failures: Failures, now_ns: int, settings: Settings) -> Record:
    """Take failures of live requests into account.

    What comes in while a server is EJECTED belongs to requests that were sent before, or to a last
    server that is tried all the same: it does not lengthen the ejection, the next failure does.
    """
    if record.state is State.UP:
        if not settings.probed:
            return _ejected(record, f"live requests: {failures}", now_ns)
        # Nothing listens there: waiting for `fall` of them would only cost more clients a retry.
        against = settings.fall if failures.connect else failures.unanswered
        return _against_up(record, against, f"live requests: {failures}", settings)
    if record.state is State.DOWN:
        return replace(record, streak=0)
    return record


def tick(record: Record, now_ns: int, settings: Settings) -> Record:
    """Let time pass: ejections end, and are forgotten."""
    if record.state is State.DOWN and not settings.probed:
        # A reload took the health_check away: no probe will ever bring the server back.
        return Record(State.UP, "no health_check any more")
    if not record.until_ns or now_ns < record.until_ns:
        return record
    if record.state is State.EJECTED:
        return Record(State.UP, "ejection over", 0, record.ejections, now_ns + FORGIVEN_AFTER_NS)
    return replace(record, ejections=0, until_ns=0)


def _against_up(record: Record, observations: int, reason: str, settings: Settings) -> Record:
    streak = record.streak + observations
    if streak >= settings.fall:
        return Record(State.DOWN, reason)
    return replace(record, streak=streak)


def _ejected(record: Record, reason: str, now_ns: int) -> Record:
    # The shift is bounded: after a year of failures it would be a number of a million bits.
    length_ns = min(FIRST_EJECTION_NS << min(record.ejections, 16), MAX_EJECTION_NS)
    return Record(State.EJECTED, reason, 0, record.ejections + 1, now_ns + length_ns)
