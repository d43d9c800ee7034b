"""The health table: servers, their state and weight, and what each worker counts of them.

Owns:       the meaning of rows and columns in the shared segment.
Leaves to:  health/state.py (when a state changes), balancing (who is picked).
Invariant:  rows are written by the checker only (by the master before its first fork), a column by
            its own worker only. Keyed by (upstream, server), not by address: two upstreams that
            share an address have separate health.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from greenproxy.balancing.snapshot import ServerView, Snapshot, State
from greenproxy.health.state import Failures, Record
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of one server, added up over all workers, dead ones included; time in microseconds."""

    in_flight: int
    requests: int
    connect_failed: int
    failed: int
    last_failed_ns: int
    time_us: int
    responses_5xx: int


class HealthTable:
    """Rows by (upstream, server). One instance a process, over the same segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.cells = segment.cells
        self._rows: dict[tuple[str, str], int] = {}
        for row in range(shm.MAX_ROWS):
            if not self.cells[segment.row_base(row) + shm.R_STATE]:
                break
            key = (segment.read_text(row, shm.TEXT_UPSTREAM), segment.read_text(row, shm.TEXT_ADDRESS))
            self._rows[key] = row

    @property
    def generation(self) -> int:
        """Changes whenever a state or a weight does."""
        return self.cells[shm.H_TABLE_GENERATION]

    def generation_reader(self) -> Callable[[], int]:
        """Return a function that gives the generation without a Python frame: it is called for every request."""
        return partial(self.cells.__getitem__, shm.H_TABLE_GENERATION)

    def add(self, upstream: str, address: str, weight: int, state: State = State.UP) -> int:
        """Return the row of a server, taking a new one for an unknown server.

        A known server keeps its state, so that health survives a reload.

        Raises ValueError when the table is full or a name does not fit its room.
        """
        row = self._rows.get((upstream, address))
        if row is None:
            row = self._take_row(upstream, address)
            self.set_state(row, state, "new")
        self.set_weight(row, weight)
        return row

    def _take_row(self, upstream: str, address: str) -> int:
        row = len(self._rows)
        if row >= shm.MAX_ROWS:
            raise ValueError(f"more than {shm.MAX_ROWS} servers")
        self.segment.write_text(row, shm.TEXT_UPSTREAM, upstream)
        self.segment.write_text(row, shm.TEXT_ADDRESS, address)
        key = (self.segment.read_text(row, shm.TEXT_UPSTREAM), self.segment.read_text(row, shm.TEXT_ADDRESS))
        if key != (upstream, address):
            # A cut key would make two servers share their health.
            raise ValueError(f"upstream {upstream}: the name or the address {address} is too long")
        self._rows[key] = row
        return row

    def row(self, upstream: str, address: str) -> int:
        """Row of a known server. Raises KeyError."""
        return self._rows[upstream, address]

    def set_state(self, row: int, state: State, reason: str) -> None:
        """Change a server's state. Checker only."""
        base = self.segment.row_base(row)
        self.segment.write_text(row, shm.TEXT_REASON, reason)
        self.cells[base + shm.R_CHANGED_MS] = time.time_ns() // 1_000_000
        self.cells[base + shm.R_STATE] = state
        self._changed()

    def set_weight(self, row: int, weight: int) -> None:
        """Change a server's weight. Checker only."""
        base = self.segment.row_base(row)
        if self.cells[base + shm.R_WEIGHT] != weight:
            self.cells[base + shm.R_WEIGHT] = weight
            self._changed()

    def record(self, row: int) -> Record:
        """The server's health as health/state.py thinks of it."""
        base = self.segment.row_base(row)
        return Record(
            self.state(row),
            self.reason(row),
            self.cells[base + shm.R_STREAK],
            self.cells[base + shm.R_EJECTIONS],
            self.cells[base + shm.R_UNTIL_NS],
        )

    def save(self, row: int, record: Record) -> None:
        """Keep a record, so that a checker that is started again goes on where this one was. Checker only."""
        base = self.segment.row_base(row)
        self.cells[base + shm.R_STREAK] = record.streak
        self.cells[base + shm.R_EJECTIONS] = record.ejections
        self.cells[base + shm.R_UNTIL_NS] = record.until_ns
        if record.state is not self.state(row):
            self.set_state(row, record.state, record.reason)

    def count_probe(self, row: int, good: bool) -> None:
        """Count a probe. Checker only."""
        self.cells[self.segment.row_base(row) + (shm.R_PROBES_GOOD if good else shm.R_PROBES_BAD)] += 1

    def probes(self, row: int) -> tuple[int, int]:
        """Probes so far: good, bad."""
        base = self.segment.row_base(row)
        return self.cells[base + shm.R_PROBES_GOOD], self.cells[base + shm.R_PROBES_BAD]

    def rows_due(self, now_ns: int) -> list[int]:
        """Rows whose ejection, or the memory of it, ends by now."""
        return [row for row, until_ns in enumerate(self._of_every_row(shm.R_UNTIL_NS)) if 0 < until_ns <= now_ns]

    def rows_with_new_failures(self) -> list[int]:
        """Rows whose latest live failure `take_failures` has not read yet.

        One strided read a column: this runs 20 times a second, over every server.
        """
        seen = self._of_every_row(shm.R_SEEN_FAILED_NS)
        latest = seen
        for column in self.segment.live_columns():
            latest = list(map(max, latest, self._of_column(column, shm.C_LAST_FAILED_NS)))
        return [] if latest == seen else [row for row, time_ns in enumerate(latest) if time_ns > seen[row]]

    def _of_every_row(self, cell: int) -> list[int]:
        step = shm.ROW_BYTES // shm.CELL
        first = self.segment.row_base(0)
        return self.cells[first + cell : first + len(self._rows) * step : step].tolist()

    def _of_column(self, column: int, cell: int) -> list[int]:
        first = self.segment.cell_base(column, 0)
        return self.cells[first + cell : first + len(self._rows) * shm.COLUMN_CELLS : shm.COLUMN_CELLS].tolist()

    def take_failures(self, row: int) -> Failures:
        """Return the live failures since the last call for this row. Checker only.

        The time of the last failure says that there are some, the counters only how many: while the master
        folds a dead worker's column they may count twice for a moment, a maximum of times never does.
        """
        totals, base = self.totals(row), self.segment.row_base(row)
        connect = totals.connect_failed - self.cells[base + shm.R_SEEN_CONNECT_FAILED]
        unanswered = totals.failed - self.cells[base + shm.R_SEEN_FAILED]
        self.cells[base + shm.R_SEEN_FAILED_NS] = totals.last_failed_ns
        self.cells[base + shm.R_SEEN_CONNECT_FAILED] = totals.connect_failed
        self.cells[base + shm.R_SEEN_FAILED] = totals.failed
        if connect <= 0 and unanswered <= 0:
            return Failures(unanswered=1)
        return Failures(max(connect, 0), max(unanswered, 0))

    def _changed(self) -> None:
        self.cells[shm.H_TABLE_GENERATION] += 1

    def state(self, row: int) -> State:
        """State of a server now."""
        return State(self.cells[self.segment.row_base(row) + shm.R_STATE])

    def weight(self, row: int) -> int:
        """Weight of a server now."""
        return self.cells[self.segment.row_base(row) + shm.R_WEIGHT]

    def reason(self, row: int) -> str:
        """Why the server is in its state."""
        return self.segment.read_text(row, shm.TEXT_REASON)

    def changed_ms(self, row: int) -> int:
        """When the state last changed, Unix milliseconds."""
        return self.cells[self.segment.row_base(row) + shm.R_CHANGED_MS]

    def snapshot(self, upstream: str, addresses: tuple[str, ...]) -> Snapshot:
        """The upstream's servers as a balancer sees them now.

        The generation is read first: a change during the reading shows as a newer generation.
        """
        generation = self.generation
        rows = [self._rows[upstream, address] for address in addresses]
        return Snapshot(
            upstream,
            generation,
            tuple(
                ServerView(row, address, self.weight(row), self.state(row))
                for row, address in zip(rows, addresses, strict=True)
            ),
        )

    def totals(self, row: int) -> Totals:
        """Counters of a server over all workers."""
        cells, sums = self.cells, [0] * 7
        last_failed = 0
        for column in self.segment.live_columns():
            base = self.segment.cell_base(column, row)
            last_failed = max(last_failed, cells[base + shm.C_LAST_FAILED_NS])
            for counter in range(7):
                sums[counter] += cells[base + counter]
        sums[shm.C_LAST_FAILED_NS] = last_failed
        return Totals(*sums)
