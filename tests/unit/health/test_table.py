"""Rows and columns of the health table, over a real segment and without a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from greenproxy.balancing.snapshot import State
from greenproxy.health.state import Failures, Record
from greenproxy.health.table import HealthTable
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment

WORKER_PID = 4711


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment.create()
    yield segment
    segment.close()


@pytest.fixture
def table(segment: Segment) -> HealthTable:
    return HealthTable(segment)


def fail(segment: Segment, column: int, row: int, at_ns: int, connect: int = 0, unanswered: int = 0) -> None:
    """What a worker does when live requests fail."""
    segment.cells[segment.process_base(column) + shm.P_PID] = WORKER_PID
    base = segment.cell_base(column, row)
    segment.cells[base + shm.C_CONNECT_FAILED] += connect
    segment.cells[base + shm.C_FAILED] += unanswered
    segment.cells[base + shm.C_LAST_FAILED_NS] = at_ns


def test_same_address_in_two_upstreams_has_two_healths(table: HealthTable) -> None:
    one, two = table.add("one", "127.0.0.1:80", 1), table.add("two", "127.0.0.1:80", 1)
    table.set_state(one, State.DOWN, "probes")
    assert (table.state(one), table.state(two)) == (State.DOWN, State.UP)


def test_second_instance_finds_the_rows_of_the_first(segment: Segment, table: HealthTable) -> None:
    rows = [table.add("shop", f"unix:/run/{index}.sock", index) for index in range(1, 4)]
    other = HealthTable(segment)
    assert [other.row("shop", f"unix:/run/{index}.sock") for index in range(1, 4)] == rows
    assert [other.weight(row) for row in rows] == [1, 2, 3]


def test_longest_dns_name_fits_into_a_row(segment: Segment, table: HealthTable) -> None:
    address = "a." * 126 + "a:65535"
    row = table.add("u" * 126, address, 1)
    assert HealthTable(segment).row("u" * 126, address) == row


@pytest.mark.parametrize(("upstream", "address"), [("u" * 127, "a:1"), ("u", "a" * 319)])
def test_key_that_would_be_cut_is_refused(table: HealthTable, upstream: str, address: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        table.add(upstream, address, 1)


def test_known_server_keeps_its_state_when_added_again(table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    table.set_state(row, State.DOWN, "probes")
    assert table.add("shop", "a:1", 5) == row
    assert (table.state(row), table.weight(row)) == (State.DOWN, 5)


def test_record_survives_a_new_instance(segment: Segment, table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    record = Record(State.EJECTED, "live requests: 1 got no answer", streak=2, ejections=3, until_ns=2**62)
    table.save(row, record)
    assert HealthTable(segment).record(row) == record


def test_generation_moves_with_states_and_not_with_streaks(table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    before = table.generation
    table.save(row, Record(State.UP, "new", streak=1))
    assert table.generation == before
    table.save(row, Record(State.DOWN, "probes"))
    assert table.generation > before


def test_failures_are_taken_once(segment: Segment, table: HealthTable) -> None:
    rows = [table.add("shop", f"a:{port}", 1) for port in range(3)]
    assert table.rows_with_new_failures() == []
    fail(segment, 3, rows[1], at_ns=10, connect=2)
    fail(segment, 4, rows[1], at_ns=11, unanswered=1)
    assert table.rows_with_new_failures() == [rows[1]]
    assert table.take_failures(rows[1]) == Failures(connect=2, unanswered=1)
    assert table.rows_with_new_failures() == []


def test_failures_taken_stay_taken_for_the_next_checker(segment: Segment, table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    fail(segment, 3, row, at_ns=10, connect=2)
    table.take_failures(row)
    fail(segment, 3, row, at_ns=20, connect=1)
    restarted = HealthTable(segment)
    assert restarted.rows_with_new_failures() == [row]
    assert restarted.take_failures(row) == Failures(connect=1)


def test_folding_a_dead_workers_column_makes_no_failures(segment: Segment, table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    fail(segment, 3, row, at_ns=10, connect=2, unanswered=1)
    table.take_failures(row)
    totals = table.totals(row)
    segment.fold_column(3)
    assert table.totals(row) == totals
    assert table.rows_with_new_failures() == []


def test_failure_whose_counter_is_not_written_yet_counts_as_one(segment: Segment, table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    fail(segment, 3, row, at_ns=10)
    assert table.take_failures(row) == Failures(unanswered=1)


def test_rows_due_are_those_whose_time_has_come(table: HealthTable) -> None:
    never, early, late = (table.add("shop", f"a:{port}", 1) for port in range(3))
    for row, until_ns in ((never, 0), (early, 5), (late, 9)):
        table.save(row, Record(State.EJECTED, until_ns=until_ns))
    assert table.rows_due(4) == []
    assert table.rows_due(5) == [early]
    assert table.rows_due(9) == [early, late]


def test_probes_are_counted(table: HealthTable) -> None:
    row = table.add("shop", "a:1", 1)
    for good in (True, False, True):
        table.count_probe(row, good)
    assert table.probes(row) == (2, 1)
