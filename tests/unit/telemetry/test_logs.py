"""Records are one line each, whatever is in them, and writing them never waits."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from greenproxy.config.schema import Log
from greenproxy.telemetry import logs
from greenproxy.telemetry.logs import Formatter, LineHandler, StderrToLog, iso_time, log_event

LOGGER = logging.getLogger(logs.ROOT)


@pytest.fixture(autouse=True)
def _unchanged_logger() -> Iterator[None]:
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    yield
    for handler in LOGGER.handlers:
        if handler not in before[0]:
            handler.close()
    LOGGER.handlers[:], LOGGER.level, LOGGER.propagate = before[0], before[1], before[2]


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "error.log"
    logs.configure(Log(error=str(path)), "master")
    return path


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_a_record_has_its_fields_and_those_given(log_file: Path) -> None:
    log_event(logging.INFO, "worker_died", "worker 1 exited with 0", worker=4711, slot=1)
    [record] = records(log_file)
    assert list(record)[:6] == ["time", "level", "role", "pid", "event", "message"]
    assert str(record.pop("time")).endswith("Z")
    assert record == {
        "level": "info",
        "role": "master",
        "pid": os.getpid(),
        "event": "worker_died",
        "message": "worker 1 exited with 0",
        "worker": 4711,
        "slot": 1,
    }


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\r\n{}", "\x00\x1b[2J\x7f", "\u2028\u2029\x85", "\udcff lone", '"}\n{"event": "ready"', "grüße"],
)
def test_no_text_makes_a_second_line(log_file: Path, text: str) -> None:
    LOGGER.error("%s", text, extra={"event": "hostile", "path": text})
    data = log_file.read_bytes()
    assert data.count(b"\n") == 1
    assert len(data.decode("ascii").splitlines()) == 1
    [record] = records(log_file)
    assert (record["message"], record["path"], record["event"]) == (text, text, "hostile")


def test_a_child_names_its_role(log_file: Path) -> None:
    logs.become("worker")
    LOGGER.info("hello")
    assert records(log_file)[0]["role"] == "worker"


def test_a_field_may_name_the_process_it_is_about(log_file: Path) -> None:
    LOGGER.info("line", extra={"role": "app", "pid": 4711})
    assert (records(log_file)[0]["role"], records(log_file)[0]["pid"]) == ("app", 4711)


def test_records_below_the_level_are_not_written(tmp_path: Path) -> None:
    logs.configure(Log(error=str(tmp_path / "e.log"), level="warning"), "master")
    LOGGER.info("no")
    LOGGER.warning("yes")
    assert [record["message"] for record in records(tmp_path / "e.log")] == ["yes"]


def test_configuring_twice_writes_once(log_file: Path) -> None:
    logs.configure(Log(error=str(log_file)), "master")
    LOGGER.error("once")
    assert len(records(log_file)) == 1


def test_reopen_writes_to_a_new_file_of_the_name(log_file: Path) -> None:
    LOGGER.error("before")
    log_file.rename(log_file.with_suffix(".1"))
    LOGGER.error("still there")
    logs.reopen()
    LOGGER.error("after")
    assert [record["message"] for record in records(log_file.with_suffix(".1"))] == ["before", "still there"]
    assert [record["message"] for record in records(log_file)] == ["after"]


def test_failed_reopen_keeps_the_old_file(log_file: Path) -> None:
    moved = log_file.parent.with_name("moved")
    log_file.parent.rename(moved)
    with pytest.raises(OSError, match=r"error\.log"):
        logs.reopen()
    LOGGER.error("kept")
    assert [record["message"] for record in records(moved / log_file.name)] == ["kept"]


def test_long_texts_are_cut_so_that_a_pipe_takes_the_line_whole(log_file: Path) -> None:
    LOGGER.error("x" * 10_000, extra={"event": "long", "path": "é" * 10_000})
    [line] = log_file.read_bytes().splitlines(keepends=True)
    assert len(line) <= logs.MAX_LINE_BYTES
    record = json.loads(line)
    assert record["event"] == "long"
    assert record["message"].startswith("xxx")
    assert record["message"].endswith("[...]")


def test_of_a_long_traceback_the_end_is_kept(log_file: Path) -> None:
    try:
        raise ValueError("y" * 5000 + " the reason")
    except ValueError:
        LOGGER.exception("failed")
    [record] = records(log_file)
    assert str(record["traceback"]).endswith("the reason")
    assert record["message"] == "failed"


@contextmanager
def pipe_as_stdout() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    saved = os.dup(1)
    os.dup2(writer, 1)
    try:
        yield reader, writer
    finally:
        os.dup2(saved, 1)
        for fd in (saved, reader, writer):
            os.close(fd)


def fill(writer: int) -> None:
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)


def test_a_reader_that_stopped_costs_records_and_no_time() -> None:
    with pipe_as_stdout() as (reader, writer):
        fill(writer)
        handler = LineHandler("stdout", "master")
        for _ in range(3):
            handler.handle(logging.makeLogRecord({"msg": "lost"}))  # would block for ever
        assert handler.drops == 3
        assert os.get_blocking(1), "the inherited descriptor must keep its flags"
        os.read(reader, 1 << 20)
        handler.handle(logging.makeLogRecord({"msg": "back"}))
        handler.close()
        record = json.loads(os.read(reader, 1 << 20))
    assert (record["message"], record["log_drops"]) == ("back", 3)
    assert handler.drops == 0


def test_a_reader_that_has_gone_ends_nothing() -> None:
    with pipe_as_stdout() as (reader, _):
        handler = LineHandler("stdout", "master")
        os.dup2(1, reader)  # closes the only read end
        handler.handle(logging.makeLogRecord({"msg": "lost"}))
        handler.close()
    assert handler.drops == 1


def test_a_field_that_has_no_json_form_is_written_as_text() -> None:
    line = Formatter("master").format(logging.makeLogRecord({"msg": "m", "what": {1, 2}.__class__}))
    assert json.loads(line)["what"] == "<class 'set'>"


def test_lines_on_stderr_become_records(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", StderrToLog())
    print("first", file=sys.stderr)
    sys.stderr.write("sec")
    sys.stderr.write("ond\n\nrest")
    assert [record["message"] for record in records(log_file)] == ["first", "second"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1767225599.9996, "2025-12-31T23:59:59.999Z"),
        (1.5, "1970-01-01T00:00:01.500Z"),
    ],
)
def test_iso_time_is_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert iso_time(seconds) == text
