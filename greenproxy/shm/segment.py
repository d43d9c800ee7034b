"""One memfd that every process maps: typed regions, each cell with one writer.

Owns:       the layout (LAYOUT.md draws it) and the mapping.
Leaves to:  health/table.py (what the rows mean), master (which process owns which column).
Invariant:  sized once, sparse, never resized. A cell is 8 aligned bytes, written by one process,
            so a reader sees the old or the new value and never a mixture.
"""

from __future__ import annotations

import mmap
import os
import time
from enum import IntEnum

MAGIC = 0x6772_6565_6E70_7278  # "greenprx"
LAYOUT_VERSION = 1

MAX_ROWS = 4096  # servers over all upstreams
MAX_COLUMNS = 256  # worker processes alive at once, of every generation; column 0 holds the retired

CELL = 8
PAGE = 4096

# Header: page 0.
H_MAGIC, H_VERSION, H_TABLE_GENERATION, H_CONFIG_GENERATION, H_MASTER_PID, H_STARTED_NS = range(6)

# Process cells: one record a column.  written by: the process that owns the column
PROCESS_CELLS = 16
(P_PID, P_SLOT, P_STATE, P_HEARTBEAT_NS, P_CONNECTIONS, P_REQUESTS, P_IN_FLIGHT, P_LOG_DROPS, P_GENERATION) = range(9)
# P_SLOT: the slot + 1; 0 = none, a spare.


class ProcessState(IntEnum):
    """P_STATE: what the process of a column does."""

    NONE = 0  # the column is free, or its process serves no traffic
    BOOTING = 1
    SPARE = 2  # booted, does not accept
    READY = 3  # accepts
    DRAINING = 4  # finishes what it has


# Server rows.  written by: checker only (the master before its first fork); read by: all
ROW_BYTES = 1024
(R_STATE, R_WEIGHT, R_CHANGED_MS, R_UNTIL_NS, R_PROBES_GOOD, R_PROBES_BAD, R_STREAK, R_EJECTIONS) = range(8)
(R_SEEN_FAILED_NS, R_SEEN_CONNECT_FAILED, R_SEEN_FAILED) = range(8, 11)  # how far the checker has read the columns
TEXT_UPSTREAM, TEXT_ADDRESS, TEXT_REASON = (128, 128), (256, 320), (576, 320)  # (offset, room)
TEXT_PREFIX = 2  # bytes of the length before each text; a DNS name and its port can be 259 bytes long

# Columns: one record for each (column, row).  written by: the worker that owns the column
COLUMN_CELLS = 8
(C_IN_FLIGHT, C_REQUESTS, C_CONNECT_FAILED, C_FAILED, C_LAST_FAILED_NS, C_TIME_US, C_RESPONSES_5XX) = range(7)

_PROCESS_OFFSET = PAGE
_ROWS_OFFSET = _PROCESS_OFFSET + MAX_COLUMNS * PROCESS_CELLS * CELL
_COLUMNS_OFFSET = _ROWS_OFFSET + MAX_ROWS * ROW_BYTES
SIZE = _COLUMNS_OFFSET + MAX_COLUMNS * MAX_ROWS * COLUMN_CELLS * CELL

PROCESS_BASE = _PROCESS_OFFSET // CELL
ROWS_BASE = _ROWS_OFFSET // CELL
COLUMNS_BASE = _COLUMNS_OFFSET // CELL


class Segment:
    """The mapping. `cells` is the whole segment as unsigned 64-bit cells, `raw` as bytes."""

    __slots__ = ("cells", "fd", "map", "raw")

    def __init__(self, fd: int) -> None:
        """Map an existing segment.

        Raises ValueError when the layout is not ours (a binary upgrade over a changed layout).
        """
        self.fd = fd
        self.map = mmap.mmap(fd, SIZE, mmap.MAP_SHARED)
        self.raw = memoryview(self.map)
        self.cells = self.raw.cast("Q")
        if (self.cells[H_MAGIC], self.cells[H_VERSION]) != (MAGIC, LAYOUT_VERSION):
            raise ValueError(f"shared memory has layout {self.cells[H_VERSION]}, this program knows {LAYOUT_VERSION}")

    @classmethod
    def create(cls) -> Segment:
        """Make the segment; done once, by the master. Sparse: about 70 MB of addresses, pages on first touch."""
        fd = os.memfd_create("greenproxy", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        os.pwrite(fd, MAGIC.to_bytes(CELL, "little") + LAYOUT_VERSION.to_bytes(CELL, "little"), 0)
        segment = cls(fd)
        segment.cells[H_MASTER_PID] = os.getpid()
        segment.cells[H_STARTED_NS] = time.time_ns()
        segment.cells[H_TABLE_GENERATION] = 1
        return segment

    def close(self) -> None:
        """Unmap and close; the memory lives on while another process has it."""
        self.cells.release()
        self.raw.release()
        self.map.close()
        os.close(self.fd)

    @staticmethod
    def process_base(column: int) -> int:
        """Index of the first process cell of a column."""
        return PROCESS_BASE + column * PROCESS_CELLS

    @staticmethod
    def row_base(row: int) -> int:
        """Index of the first cell of a server row."""
        return ROWS_BASE + row * (ROW_BYTES // CELL)

    @staticmethod
    def cell_base(column: int, row: int) -> int:
        """Index of the first cell that column `column` has for server row `row`."""
        return COLUMNS_BASE + (column * MAX_ROWS + row) * COLUMN_CELLS

    def live_columns(self) -> list[int]:
        """Columns owned by a process now, with the retired column 0 first."""
        pid = PROCESS_BASE + P_PID
        return [0, *(c for c in range(1, MAX_COLUMNS) if self.cells[pid + c * PROCESS_CELLS])]

    def fold_column(self, column: int) -> None:
        """Add a dead worker's counters to the retired column, zero its cells and free it. Master only."""
        cells = self.cells
        for row in range(MAX_ROWS):
            if not cells[self.row_base(row) + R_STATE]:
                continue
            base, retired = self.cell_base(column, row), self.cell_base(0, row)
            for counter in (C_REQUESTS, C_CONNECT_FAILED, C_FAILED, C_TIME_US, C_RESPONSES_5XX):
                cells[retired + counter] += cells[base + counter]
            cells[retired + C_LAST_FAILED_NS] = max(cells[retired + C_LAST_FAILED_NS], cells[base + C_LAST_FAILED_NS])
            for counter in range(COLUMN_CELLS):
                cells[base + counter] = 0
        base, retired = self.process_base(column), self.process_base(0)
        for counter in (P_REQUESTS, P_LOG_DROPS):
            cells[retired + counter] += cells[base + counter]
        for counter in range(PROCESS_CELLS):
            cells[base + counter] = 0

    def write_text(self, row: int, field: tuple[int, int], text: str) -> None:
        """Write a text field of a row, cut to its room.

        A reader may see a mixture, so what changes while others read is for people only.
        """
        offset, room = field
        start = _ROWS_OFFSET + row * ROW_BYTES + offset
        data = text.encode()[: room - TEXT_PREFIX]
        text_start = start + TEXT_PREFIX
        self.raw[text_start : text_start + len(data)] = data
        self.raw[start:text_start] = len(data).to_bytes(TEXT_PREFIX, "little")

    def read_text(self, row: int, field: tuple[int, int]) -> str:
        """Read a text field of a row."""
        start = _ROWS_OFFSET + row * ROW_BYTES + field[0]
        text_start = start + TEXT_PREFIX
        length = int.from_bytes(self.raw[start:text_start], "little")
        return bytes(self.raw[text_start : text_start + length]).decode(errors="replace")
