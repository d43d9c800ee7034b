"""The access log: one JSON object a line whatever is in it, and no reader ever holds up the traffic."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.http.exchange import Exchange
from greenproxy.http.target import Target
from greenproxy.telemetry import accesslog
from greenproxy.telemetry.accesslog import FLUSH_S, AccessLog
from greenproxy.telemetry.fields import MAX_TEXT
from greenproxy.telemetry.sink import PIPE_BUF, Sink
from tests.unit.http.fakes import exchange_for, request
from tests.unit.telemetry.test_sink import standard_output

LIMIT = 50  # lines buffered, where a test lowers it


def finished(number: int = 0, filling: str = "") -> Exchange:
    """An exchange that is over."""
    exchange = exchange_for(request(first=f"GET /{number}{filling} HTTP/1.1"))
    exchange.status = 200
    exchange.request_id = b"id-%d" % number
    return exchange


def records(data: bytes) -> list[dict[str, Any]]:
    """All lines as JSON; each must be whole."""
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def paths(data: bytes) -> list[str]:
    return [record["path"] for record in records(data)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def log(path: Path) -> Iterator[AccessLog]:
    log = AccessLog(str(path))
    yield log
    log.close()


@pytest.fixture
def reader() -> Iterator[int]:
    """Our stdout becomes a pipe; this is its other end."""
    reader, writer = os.pipe()
    with standard_output(writer):
        os.close(writer)
        yield reader
    os.close(reader)


@pytest.fixture
def piped(reader: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[AccessLog]:
    """A log that writes to the pipe and holds few lines."""
    monkeypatch.setattr(accesslog, "MAX_BUFFERED_LINES", LIMIT)
    log = AccessLog("stdout")
    yield log
    log.close()


def read_all(reader: int) -> bytes:
    """All bytes that are in the pipe."""
    os.set_blocking(reader, False)
    data = b""
    try:
        while piece := os.read(reader, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data


# What is written


def test_record_is_one_line_of_json(log: AccessLog, path: Path) -> None:
    log.record(finished(7))
    log.flush()
    [record] = records(path.read_bytes())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    assert (record["path"], record["request_id"], record["status"]) == ("/7", "id-7", 200)
    assert list(record)[:6] == ["time", "request_id", "client", "method", "host", "path"]


def test_records_keep_their_order(log: AccessLog, path: Path) -> None:
    for number in range(2000):
        log.record(finished(number))
    log.flush()
    assert paths(path.read_bytes()) == [f"/{number}" for number in range(2000)]


def test_records_are_written_soon_by_themselves(log: AccessLog, path: Path) -> None:
    log.record(finished())
    assert path.read_bytes() == b"", "written one by one"
    with gevent.Timeout(10):
        while not path.read_bytes():
            gevent.sleep(FLUSH_S / 4)
    assert len(records(path.read_bytes())) == 1


def test_closing_writes_what_is_left(path: Path) -> None:
    log = AccessLog(str(path))
    log.record(finished())
    log.close()
    log.record(finished())
    log.flush()
    assert len(records(path.read_bytes())) == 1


def test_log_that_is_off_takes_records_and_writes_nothing(tmp_path: Path) -> None:
    log = AccessLog(None)
    log.record(finished())
    log.flush()
    log.reopen()
    log.close()
    assert log.dropped == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AccessLog, Path]]:
    path = tmp_path_factory.mktemp("log") / "access.log"
    log = AccessLog(str(path))
    yield log, path
    log.close()


hostile = st.binary(max_size=60) | st.sampled_from(
    [b'"}\n{"status":200}', b"\r\n", b"\x00\x1b[2J\x7f", b"\\", b'\\"', b"\x85\xa0\xad\xff", b"\xe2\x80\xa8"]
)


@given(hostile, hostile, hostile, hostile, hostile)
def test_no_bytes_make_a_second_line_or_another_field(
    shared: tuple[AccessLog, Path], path: bytes, host: bytes, method: bytes, request_id: bytes, client: bytes
) -> None:
    """Far worse than what the strict parser lets through: the log must not depend on it."""
    log, file = shared
    before = file.stat().st_size
    exchange = finished()
    exchange.target = Target(path, b"", "")
    exchange.host, exchange.method = host.decode("latin-1"), method.decode("latin-1")
    exchange.request_id, exchange.client_ip = request_id, client.decode("latin-1")
    log.record(exchange)
    log.flush()
    data = file.read_bytes()[before:]
    assert data.count(b"\n") == 1
    assert not set(data[:-1]) & {*range(32)}
    [record] = records(data)
    texts = [record[name].encode("latin-1") for name in ("path", "host", "method", "request_id", "client")]
    assert texts == [path, host, method, request_id, client]
    assert list(record) == list(records(file.read_bytes())[0])


def test_long_fields_are_cut(log: AccessLog, path: Path) -> None:
    log.record(finished(1, "a" * 7000))
    log.flush()
    [record] = records(path.read_bytes())
    assert record["path"] == "/1" + "a" * (MAX_TEXT - 2) + "..."
    assert record["status"] == 200


# Pipes and slow readers


def test_pipe_gets_whole_lines_in_atomic_writes(piped: AccessLog, reader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def noting(sink: Sink, data: bytes) -> int:
        written.append(data)
        return real(sink, data)

    real = Sink.write
    monkeypatch.setattr(Sink, "write", noting)
    for number in range(40):
        piped.record(finished(number, "a" * (number * 97 % 1500)))
    piped.flush()
    assert len(written) < 40, "lines go out in batches"
    assert max(map(len, written)) <= PIPE_BUF
    assert all(data.endswith(b"\n") for data in written)
    assert [record["request_id"] for record in records(read_all(reader))] == [f"id-{number}" for number in range(40)]


def test_blocked_reader_holds_nobody_up_and_what_is_lost_is_counted(piped: AccessLog, reader: int) -> None:
    total = 1000
    for number in range(total):
        piped.record(finished(number))  # nobody reads: this would block for ever
    piped.flush()
    assert 0 < piped.dropped < total
    got = read_all(reader)
    piped.flush()
    got += read_all(reader)
    numbers = [int(text[1:]) for text in paths(got)]
    assert len(numbers) + piped.dropped == total
    assert numbers[-LIMIT:] == list(range(total - LIMIT, total)), "the oldest are dropped, not the latest"
    assert numbers == sorted(numbers)


def test_reader_that_comes_back_gets_the_next_records(piped: AccessLog, reader: int) -> None:
    for number in range(1000):
        piped.record(finished(number))
    piped.flush()
    read_all(reader)
    piped.flush()
    read_all(reader)
    piped.record(finished(1000))
    piped.flush()
    assert paths(read_all(reader)) == ["/1000"]


def test_reader_that_went_away_is_counted_and_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    with standard_output(writer):
        log = AccessLog("stdout")
    os.close(reader)
    os.close(writer)
    for number in range(3):
        log.record(finished(number))
    with caplog.at_level(logging.ERROR, "greenproxy"):
        log.flush()
    log.close()
    assert log.dropped == 3
    assert [getattr(record, "event", "") for record in caplog.records] == ["access_log_failed"]


def test_full_disk_is_counted(log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sink, "write", lambda sink, data: len(data) - 1)
    for number in range(3):
        log.record(finished(number))
    log.flush()
    assert log.dropped == 3


# Rotation


def test_log_goes_on_in_a_new_file_after_reopen(log: AccessLog, path: Path) -> None:
    moved = path.with_suffix(".1")
    log.record(finished(1))
    path.rename(moved)
    log.record(finished(2))
    log.flush()
    assert not path.exists()
    log.record(finished(3))
    log.reopen()
    log.record(finished(4))
    log.flush()
    assert paths(moved.read_bytes()) == ["/1", "/2", "/3"]
    assert paths(path.read_bytes()) == ["/4"]


def test_log_stays_with_its_file_when_no_new_one_can_be_opened(path: Path) -> None:
    folder, moved = path.parent / "logs", path.parent / "moved"
    folder.mkdir()
    log = AccessLog(str(folder / "access.log"))
    folder.rename(moved)
    with pytest.raises(FileNotFoundError):
        log.reopen()
    log.record(finished(1))
    log.close()
    assert paths((moved / "access.log").read_bytes()) == ["/1"]


def test_reopening_stdout_loses_nothing() -> None:
    reader, writer = os.pipe()
    with standard_output(writer):
        log = AccessLog("stdout")
        log.record(finished(1))
        log.reopen()
    log.record(finished(2))
    log.close()
    assert paths(read_all(reader)) == ["/1", "/2"]
    os.close(reader)
    os.close(writer)


def test_record_fits_one_write_to_a_pipe(log: AccessLog, path: Path) -> None:
    log.record(exchange_for(request(first="A" * 1100 + " /" + '"' * 1100 + " HTTP/1.1", host="a" * 1100)))
    log.flush()
    assert len(path.read_bytes()) <= PIPE_BUF


def test_sink_that_stays_broken_is_reported_once(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Sink, data: bytes) -> int:
        raise OSError(32, "Broken pipe")

    monkeypatch.setattr(Sink, "write", broken)
    for _ in range(3):
        log.record(exchange_for(request()))
        log.flush()
    assert [record.getMessage() for record in caplog.records if "Broken pipe" in record.getMessage()] == [
        f"access log {log.target}: Broken pipe"
    ]
    assert log.dropped == 3
