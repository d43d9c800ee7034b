"""Bodies held in memory and on disk: every byte, in order, and no more waiting than the limits ask for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.errors import BadRequest, UpstreamError
from greenproxy.proxy import spool
from greenproxy.proxy.spool import Buffer, SpooledBody
from tests.unit.http.fakes import FakeBody

MEMORY = 100
PATIENCE_S = 10


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every temporary file that is made."""
    made: list[Any] = []

    def temporary_file() -> Any:
        made.append(real())
        return made[-1]

    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    return made


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    with gevent.Timeout(PATIENCE_S):
        yield


def drained(buffer: Buffer) -> bytes:
    pieces = []
    while piece := buffer.read():
        pieces.append(piece)
    return b"".join(pieces)


# Request bodies


def test_small_body_stays_in_memory(files: list[Any]) -> None:
    body = SpooledBody(FakeBody(b"a" * 60, b"b" * 40), MEMORY)
    assert (body.whole(), body.length) == (b"a" * 60 + b"b" * 40, 100)
    assert b"".join(body.pieces()) == body.whole()
    assert files == []


def test_empty_body_is_whole() -> None:
    body = SpooledBody(FakeBody(), MEMORY)
    assert (body.whole(), body.length) == (b"", 0)


def test_larger_body_goes_to_disk_and_can_be_read_again(files: list[Any]) -> None:
    content = bytes(range(256)) * 1000
    body = SpooledBody(FakeBody(*(content[at : at + 999] for at in range(0, len(content), 999))), MEMORY)
    assert (body.whole(), body.length) == (None, len(content))
    assert b"".join(body.pieces()) == content
    half_read = body.pieces()
    next(half_read)
    assert b"".join(body.pieces()) == content
    assert all(body.pieces()), "an empty piece would end a chunked body"
    [file] = files
    body.close()
    assert file.closed


def test_body_that_breaks_off_raises_and_gives_the_disk_back(files: list[Any]) -> None:
    with pytest.raises(BadRequest, match="too slow"):
        SpooledBody(FakeBody(b"a" * 200, BadRequest("too slow")), MEMORY)
    assert [file.closed for file in files] == [True]


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=20), st.integers(0, 200))
def test_spooled_body_is_what_came(pieces: list[bytes], memory: int) -> None:
    body = SpooledBody(FakeBody(*pieces), memory)
    content = b"".join(pieces)
    assert body.length == len(content)
    assert body.whole() == (content if len(content) <= memory else None)
    assert b"".join(body.pieces()) == content
    body.close()


# Answers


def test_buffer_gives_what_was_written(files: list[Any]) -> None:
    buffer = Buffer(MEMORY)
    buffer.write(b"one")
    buffer.write(b"two")
    buffer.end()
    assert [buffer.read(), buffer.read(), buffer.read(), buffer.read()] == [b"one", b"two", b"", b""]
    assert files == []


def test_memory_that_was_read_is_free_again(files: list[Any]) -> None:
    buffer = Buffer(MEMORY)
    for _ in range(10):
        buffer.write(b"x" * MEMORY)
        assert buffer.read() == b"x" * MEMORY
    assert files == []


def test_buffer_spills_to_disk_in_order_and_comes_back_to_memory(files: list[Any]) -> None:
    buffer = Buffer(MEMORY)
    pieces = [b"%03d" % number * 20 for number in range(10)]
    for piece in pieces:
        buffer.write(piece)
    [file] = files
    assert b"".join(buffer.read() for _ in range(3)) == b"".join(pieces)
    assert file.seek(0, 2) == 0, "what was read is still on disk"
    buffer.write(b"again in memory")
    assert buffer.read() == b"again in memory"
    assert file.seek(0, 2) == 0
    buffer.end()
    assert buffer.read() == b""
    buffer.close()
    assert file.closed


def test_what_follows_the_disk_is_not_overtaken_by_memory() -> None:
    buffer = Buffer(MEMORY)
    buffer.write(b"a" * MEMORY)
    buffer.write(b"b")
    assert buffer.read() == b"a" * MEMORY  # memory has room again, the disk still holds b
    buffer.write(b"c")
    buffer.end()
    assert drained(buffer) == b"bc"
    buffer.close()


def test_error_comes_after_the_last_bytes() -> None:
    buffer = Buffer(MEMORY)
    buffer.write(b"a" * MEMORY)
    buffer.write(b"b")
    buffer.end(UpstreamError("cut"))
    assert [buffer.read(), buffer.read()] == [b"a" * MEMORY, b"b"]
    for _ in range(2):
        with pytest.raises(UpstreamError, match="cut"):
            buffer.read()
    buffer.close()


@pytest.mark.parametrize("error", [None, UpstreamError("cut")])
def test_waiting_reader_is_woken(error: UpstreamError | None) -> None:
    buffer = Buffer(MEMORY)
    reader = gevent.spawn(drained, buffer)
    gevent.idle()
    assert not reader.dead
    buffer.write(b"late")
    buffer.end(error)
    reader.join()
    assert (reader.value, reader.exception) == ((b"late", None) if error is None else (None, error))


def test_writer_waits_only_when_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_ON_DISK", 250)
    buffer = Buffer(MEMORY)
    for _ in range(4):
        buffer.write(b"x" * 100)  # one in memory, three on disk
    writer = gevent.spawn(buffer.write, b"last")
    gevent.idle()
    assert not writer.dead, "written beyond the limit"
    assert buffer.read() == b"x" * 100
    gevent.idle()
    assert not writer.dead, "memory has room, but the disk comes first"
    assert buffer.read() == b"x" * 300
    writer.join()
    buffer.end()
    assert drained(buffer) == b"last"
    buffer.close()


steps = st.lists(st.one_of(st.binary(min_size=1, max_size=60), st.just("read")), max_size=40)


@given(steps, st.integers(1, 150))
def test_buffer_keeps_every_byte_in_order(steps: list[bytes | str], memory: int) -> None:
    buffer, written, got = Buffer(memory), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.write(step)
            written += step
        elif len(got) < len(written):
            got += buffer.read()
    buffer.end()
    assert got + drained(buffer) == written
    buffer.close()
