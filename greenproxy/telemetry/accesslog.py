"""Write access records: orjson lines, in batches, never waiting for a slow reader.

A record through `logging` and python-json-logger costs 13-17 µs, orjson 0.3 µs (DESIGN, section 6), so
the access log does without `logging`.

Owns:       the buffer, the batches, the count of dropped records.
Leaves to:  telemetry/fields.py (what a record says).
Invariant:  only whole lines are written, a pipe gets at most PIPE_BUF bytes a write and only when it
            has room, so lines of several workers never mix and the hub never blocks.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from datetime import datetime, timezone

import gevent
import orjson

from greenproxy.http.exchange import Exchange
from greenproxy.telemetry.fields import MAX_TEXT, access_record, shortened

FLUSH_S = 0.1
BATCH_LINES = 512
MAX_BUFFERED_LINES = 20_000  # about 8 MB; more are dropped and counted
PIPE_WRITE = 4096  # PIPE_BUF: a write up to this size is whole or not at all

_STANDARD = {"stdout": 1, "stderr": 2}
_log = logging.getLogger("greenproxy.error")


class AccessLog:
    """The access log of one worker. `target` is stdout, stderr or a file; None writes nothing."""

    def __init__(self, target: str | None) -> None:
        self.target = target or "off"
        self.dropped = 0
        self._lines: list[bytes] = []
        self._fd = -1
        self._is_file = False
        self._second = (0, "")
        self._timer = gevent.get_hub().loop.timer(FLUSH_S, FLUSH_S, ref=False)
        if target is not None:
            self._open()
            self._timer.start(self.flush)

    def _open(self) -> None:
        self._fd = _STANDARD.get(self.target, -1)
        if self._fd < 0:
            self._fd = os.open(self.target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def record(self, exchange: Exchange) -> None:
        """Take the record of a finished exchange."""
        if self._fd < 0:
            return
        record = access_record(exchange, self._time(), time.monotonic())
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) > MAX_TEXT:
            line = orjson.dumps(shortened(record), option=orjson.OPT_APPEND_NEWLINE)
        lines = self._lines
        lines.append(line)
        if len(lines) >= BATCH_LINES:
            self.flush()

    def _time(self) -> str:
        """Return now as text; the part to the second is made once a second."""
        now = time.time()
        second = int(now)
        if second != self._second[0]:
            text = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (second, text)
        return f"{self._second[1]}.{int((now - second) * 1000):03d}Z"

    def flush(self) -> None:
        """Write what there is, as far as the reader takes it without waiting."""
        lines = self._lines
        if not lines:
            return
        try:
            written = self._write_file(lines) if self._is_file else self._write_pipe(lines)
        except OSError as exc:
            _log.error(f"access log {self.target}: {exc}", extra={"event": "access_log_failed"})
            self.dropped += len(lines)
            written = len(lines)
        del lines[:written]
        surplus = len(lines) - MAX_BUFFERED_LINES
        if surplus > 0:
            self.dropped += surplus
            del lines[:surplus]

    def _write_file(self, lines: list[bytes]) -> int:
        data = b"".join(lines)
        while data:  # a full disk shows as a short write, then as an error
            data = data[os.write(self._fd, data) :]
        return len(lines)

    def _write_pipe(self, lines: list[bytes]) -> int:
        """Write whole lines up to PIPE_WRITE bytes at a time while there is room; return how many lines went."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        written = 0
        while written < len(lines) and poll.poll(0):
            end, size = written, 0
            while end < len(lines) and (size == 0 or size + len(lines[end]) <= PIPE_WRITE):
                size += len(lines[end])
                end += 1
            os.write(self._fd, b"".join(lines[written:end]))
            written = end
        return written

    def reopen(self) -> None:
        """Open the file anew, after it was moved away (USR1)."""
        self.flush()
        if self._is_file and self.target not in _STANDARD:
            old = self._fd
            self._open()
            os.close(old)

    def close(self) -> None:
        """Write what is left and stop."""
        self.flush()
        self._timer.stop()
        self._timer.close()
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1
