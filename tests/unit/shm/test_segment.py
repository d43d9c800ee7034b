"""The shared segment: one memory for all processes, cells that do not overlap, columns that fold."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create()
    yield made
    made.close()


def use_row(segment: Segment, row: int) -> None:
    segment.cells[segment.row_base(row) + shm.R_STATE] = 1


def test_header_tells_the_layout_and_the_master(segment: Segment) -> None:
    assert segment.cells[shm.H_MAGIC] == shm.MAGIC
    assert segment.cells[shm.H_VERSION] == shm.LAYOUT_VERSION
    assert segment.cells[shm.H_MASTER_PID] == os.getpid()


def test_memory_of_another_layout_is_refused(segment: Segment) -> None:
    segment.cells[shm.H_VERSION] = shm.LAYOUT_VERSION + 1
    with pytest.raises(ValueError, match=f"layout {shm.LAYOUT_VERSION + 1}"):
        Segment(segment.fd)


def test_regions_follow_each_other_and_end_with_the_segment(segment: Segment) -> None:
    assert max(shm.H_MAGIC, shm.H_STARTED_NS) < shm.PAGE // shm.CELL == segment.process_base(0)
    assert segment.process_base(shm.MAX_COLUMNS) == segment.row_base(0)
    assert segment.row_base(shm.MAX_ROWS) == segment.cell_base(0, 0)
    assert segment.cell_base(0, shm.MAX_ROWS) == segment.cell_base(1, 0)
    assert segment.cell_base(shm.MAX_COLUMNS, 0) == len(segment.cells)


def test_text_fields_of_a_row_lie_behind_its_cells_and_do_not_overlap() -> None:
    fields = sorted((shm.TEXT_UPSTREAM, shm.TEXT_ADDRESS, shm.TEXT_REASON))
    ends = [shm.CELL * (shm.R_SEEN_FAILED + 1), *(offset + room for offset, room in fields)]
    starts = [*(offset for offset, _ in fields), shm.ROW_BYTES]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))


def test_a_forked_process_writes_the_same_memory(segment: Segment) -> None:
    cell = segment.cell_base(3, 7) + shm.C_REQUESTS
    pid = os.fork()
    if pid == 0:
        segment.cells[cell] = 4711
        os._exit(0)
    os.waitpid(pid, 0)
    assert segment.cells[cell] == 4711


def test_live_columns_are_the_retired_one_and_those_with_a_process(segment: Segment) -> None:
    for column in (2, 255):
        segment.cells[segment.process_base(column) + shm.P_PID] = 4711
    assert segment.live_columns() == [0, 2, 255]


def test_folding_keeps_what_a_dead_worker_counted_and_forgets_what_it_held(segment: Segment) -> None:
    use_row(segment, 0)
    use_row(segment, 5)
    for column in (1, 2):
        base = segment.cell_base(column, 5)
        segment.cells[base + shm.C_REQUESTS] = 10
        segment.cells[base + shm.C_TIME_US] = 7
        segment.cells[base + shm.C_IN_FLIGHT] = 3
        segment.cells[base + shm.C_LAST_FAILED_NS] = 100 * column
        segment.cells[segment.process_base(column) + shm.P_PID] = 4711
        segment.cells[segment.process_base(column) + shm.P_REQUESTS] = 10
    segment.fold_column(2)
    segment.fold_column(1)
    retired = segment.cell_base(0, 5)
    assert segment.cells[retired + shm.C_REQUESTS] == 20
    assert segment.cells[retired + shm.C_TIME_US] == 14
    assert segment.cells[retired + shm.C_IN_FLIGHT] == 0
    assert segment.cells[retired + shm.C_LAST_FAILED_NS] == 200
    assert segment.cells[segment.process_base(0) + shm.P_REQUESTS] == 20
    assert not any(segment.cells[segment.cell_base(1, 5) + cell] for cell in range(shm.COLUMN_CELLS))
    assert segment.live_columns() == [0]


def test_folding_twice_counts_once(segment: Segment) -> None:
    use_row(segment, 0)
    segment.cells[segment.cell_base(1, 0) + shm.C_REQUESTS] = 10
    segment.fold_column(1)
    segment.fold_column(1)
    assert segment.cells[segment.cell_base(0, 0) + shm.C_REQUESTS] == 10


@pytest.mark.parametrize("text", ["", "shop", "größer", "x" * 500])
def test_text_is_read_as_written_or_cut_to_its_room(segment: Segment, text: str) -> None:
    segment.write_text(4095, shm.TEXT_REASON, text)
    assert segment.read_text(4095, shm.TEXT_REASON) == text[: shm.TEXT_REASON[1] - shm.TEXT_PREFIX]


def test_untouched_memory_costs_nothing(segment: Segment) -> None:
    use_row(segment, 0)
    assert os.fstat(segment.fd).st_blocks * 512 < 64 * 1024 < os.fstat(segment.fd).st_size
