"""Hold a body between two sides of different speed: in memory first, then in an unnamed file.

A slow client must not hold one of an application's few threads: its request is collected before a
server is taken, and the answer is taken off the server's hands at the server's pace.

Owns:       buffered bytes, in memory up to `memory` bytes and beyond that on disk.
Leaves to:  proxy/app.py (when to buffer).
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from gevent.event import Event

from greenproxy.errors import GreenproxyError, SpoolFailed
from greenproxy.http.exchange import RequestBody

MAX_ON_DISK = 1024 * 1024 * 1024  # of one answer; then the server waits for the client after all (nginx: the same)
BLOCK = 64 * 1024


@contextmanager
def _on_disk() -> Iterator[None]:
    """Tell trouble with the disk from trouble with a connection: both are OSErrors."""
    try:
        yield
    except OSError as exc:
        raise SpoolFailed(f"a body cannot be kept in {tempfile.gettempdir()}: {exc.strerror}") from exc


class SpooledBody:
    """A request body that was read to its end; can be sent any number of times."""

    __slots__ = ("_file", "_memory", "length")

    def __init__(self, body: RequestBody, memory: int) -> None:
        """Read the whole body. Raises what reading it raises."""
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self.length = 0
        try:
            while piece := body.read_some():
                self._add(piece, memory)
        except BaseException:
            self.close()
            raise

    def _add(self, piece: bytes, memory: int) -> None:
        self.length += len(piece)
        if self._file is None and self.length <= memory:
            self._memory += piece
            return
        with _on_disk():
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
                self._file.write(self._memory)
                self._memory = bytearray()
            self._file.write(piece)

    def whole(self) -> bytes | None:
        """Return the body if it is in memory, else None."""
        return bytes(self._memory) if self._file is None else None

    def pieces(self) -> Iterator[bytes]:
        """Read from the beginning."""
        if self._file is None:
            yield bytes(self._memory)
            return
        with _on_disk():
            self._file.seek(0)
        while block := self._file.read(BLOCK):
            yield block

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()


class Buffer:
    """A queue of bytes from one greenlet to another that never makes the writer wait before it is full."""

    __slots__ = ("_changed", "_disk_read", "_disk_written", "_ended", "_error", "_file", "_limit", "_pieces", "_queued")

    def __init__(self, memory: int) -> None:
        self._limit = memory
        self._pieces: deque[bytes] = deque()
        self._queued = 0  # bytes in _pieces
        self._file: IO[bytes] | None = None
        self._disk_read = 0
        self._disk_written = 0
        self._ended = False
        self._error: GreenproxyError | None = None
        self._changed = Event()

    def write(self, piece: bytes) -> None:
        """Add bytes; waits only when memory and disk are full."""
        while self._disk_written >= MAX_ON_DISK:
            self._changed.clear()
            self._changed.wait()
        # what is on disk is younger than what is in memory, so once on disk everything goes there
        if self._disk_written == 0 and self._queued < self._limit:
            self._pieces.append(piece)
            self._queued += len(piece)
        else:
            self._spill(piece)
        self._changed.set()

    def _spill(self, piece: bytes) -> None:
        with _on_disk():
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
            self._file.seek(self._disk_written)
            self._file.write(piece)
            self._file.flush()  # a full disk must show here, where somebody can be told
        self._disk_written += len(piece)

    def end(self, error: GreenproxyError | None = None) -> None:
        """Say that nothing more comes, because of `error` if one is given."""
        self._ended = True
        self._error = error
        self._changed.set()

    def read(self) -> bytes:
        """Wait for bytes and return them, b"" at the end. Raises the writer's error after its last bytes."""
        while True:
            if self._pieces:
                piece = self._pieces.popleft()
                self._queued -= len(piece)
                return piece
            if self._file is not None and self._disk_read < self._disk_written:
                return self._read_disk(self._file)
            if self._ended:
                if self._error is not None:
                    raise self._error
                return b""
            self._changed.clear()
            self._changed.wait()

    def _read_disk(self, file: IO[bytes]) -> bytes:
        with _on_disk():
            file.seek(self._disk_read)
            piece = file.read(BLOCK)
        self._disk_read += len(piece)
        if self._disk_read == self._disk_written:
            file.truncate(0)
            self._disk_read = self._disk_written = 0
            self._changed.set()
        return piece

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()
