"""Sinks never wait, and never change what other processes have of the same descriptor."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenproxy.telemetry.sink import PIPE_BUF, Sink, open_sink


@contextmanager
def standard_output(fd: int) -> Iterator[None]:
    """Give this process another stdout for a moment."""
    kept = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def fill(sink: Sink) -> int:
    """Write blocks until no more goes; give the number of bytes."""
    written = 0
    while True:
        try:
            written += sink.write(b"x" * PIPE_BUF)
        except BlockingIOError:
            return written


def test_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"old\n")
    sink, other = open_sink(str(path)), open_sink(str(path))
    assert (sink.write(b"one\n"), other.write(b"two\n"), sink.write(b"three\n")) == (4, 4, 6)
    assert path.read_bytes() == b"old\none\ntwo\nthree\n"
    assert sink.is_file
    sink.close()
    other.close()


def test_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    open_sink(str(path)).close()
    assert path.stat().st_mode & 0o007 == 0


def test_file_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_sink(str(tmp_path / "missing" / "access.log"))
    with pytest.raises(IsADirectoryError):
        open_sink(str(tmp_path))


def test_full_pipe_refuses_whole_and_nobody_elses_descriptor_changes(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with standard_output(writer):
        sink = open_sink("stdout")
    assert not sink.is_file
    written = fill(sink)
    assert fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK == 0
    os.read(reader, 100)
    with pytest.raises(BlockingIOError):  # there is room for some of it, but a part would tear a line
        sink.write(b"y" * PIPE_BUF)
    rest = written - 100
    while rest:
        rest -= len(os.read(reader, rest))
    assert sink.write(b"z") == 1
    assert os.read(reader, 10) == b"z"
    sink.close()


def test_socket_never_waits_and_stays_blocking_for_others() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with standard_output(ours.fileno()):
            sink = open_sink("stdout")
        assert fill(sink) > 0
        assert os.get_blocking(ours.fileno())
        assert not sink.is_file
        sink.close()
        assert theirs.recv(5) == b"xxxxx"
        os.fstat(ours.fileno())  # closing the sink has not closed ours


def test_stdout_that_is_a_file_is_one(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, standard_output(file.fileno()):
        sink = open_sink("stdout")
    sink.write(b"line\n")
    sink.close()
    assert sink.is_file
    assert (tmp_path / "out").read_bytes() == b"line\n"


def test_reader_that_went_away_is_an_error() -> None:
    reader, writer = os.pipe()
    with standard_output(writer):
        sink = open_sink("stdout")
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        sink.write(b"x")
    sink.close()
    os.close(writer)
