"""Write access records: orjson lines, in batches, never waiting for a slow reader.

A record through `logging` and python-json-logger costs 13-17 µs, orjson 0.3 µs (DESIGN, section 6), so
the access log does without `logging`.

Owns:       the buffer, the batches, the count of dropped records.
Leaves to:  telemetry/fields.py (what a record says), telemetry/sink.py (how it is written).
Invariant:  only whole lines are written, to a pipe at most PIPE_BUF bytes at a time, so that lines of
            several workers never mix; nothing here waits.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone

import gevent
import orjson

from greenproxy.http.exchange import Exchange
from greenproxy.telemetry.fields import LONG_RECORD, access_record, shortened
from greenproxy.telemetry.sink import PIPE_BUF, Sink, open_sink

FLUSH_S = 0.1
BATCH_LINES = 256  # about 0.6 ms of work at a time
MAX_BUFFERED_LINES = 20_000  # about 8 MB; more are dropped and counted
FILE_WRITE = 256 * 1024
_log = logging.getLogger("greenproxy.error")


class AccessLog:
    """The access log of one worker. `target` is stdout, stderr or a file; None writes nothing."""

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.dropped = 0
        self._failing = False
        self._finished: list[tuple[Exchange, float, float]] = []  # with wall clock and monotonic time
        self._lines: list[bytes] = []
        self._sink: Sink | None = None
        self._second = (0, "")
        self._timer = gevent.get_hub().loop.timer(FLUSH_S, FLUSH_S, ref=False)
        if target is not None:
            self._sink = open_sink(target)
            self._timer.start(self.flush)

    def record(self, exchange: Exchange) -> None:
        """Take a finished exchange. It is written out later, many at a time: the same work costs half in a loop."""
        if self._sink is not None:
            finished = self._finished
            finished.append((exchange, time.time(), time.monotonic()))
            if len(finished) >= BATCH_LINES:
                self.flush()

    def _write_out(self) -> None:
        """Turn finished exchanges into lines."""
        for exchange, wall, now in self._finished:
            record = access_record(exchange, self._text_of(wall), now)
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            if len(line) > LONG_RECORD:
                line = orjson.dumps(shortened(record), option=orjson.OPT_APPEND_NEWLINE)
            self._lines.append(line)
        self._finished.clear()

    def _text_of(self, wall: float) -> str:
        """Return a time as text; the part to the second is made once a second."""
        second = int(wall)
        if second != self._second[0]:
            text = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (second, text)
        return f"{self._second[1]}.{int((wall - second) * 1000):03d}Z"

    def flush(self) -> None:
        """Write what there is, as far as the reader takes it without waiting."""
        lines, sink = self._lines, self._sink
        if sink is None:
            return
        self._write_out()
        if not lines:
            return
        limit = FILE_WRITE if sink.is_file else PIPE_BUF
        written = 0
        try:
            while written < len(lines):
                end = _batch_end(lines, written, limit)
                data = b"".join(lines[written:end])
                if sink.write(data) < len(data):
                    self.dropped += end - written  # a full disk; which of them went is not worth a search
                written = end
        except BlockingIOError:
            # the reader is slow: it gets the rest later
            self._failing = False
        except OSError as exc:
            if not self._failing:  # said once, not ten times a second
                _log.error(f"access log {self.target}: {exc.strerror}", extra={"event": "access_log_failed"})
            self._failing = True
            self.dropped += len(lines) - written
            written = len(lines)
        del lines[:written]
        surplus = len(lines) - MAX_BUFFERED_LINES
        if surplus > 0:
            self.dropped += surplus
            del lines[:surplus]

    def reopen(self) -> None:
        """Open the file anew, after it was moved away (USR1). Raises OSError; the old one goes on then."""
        self.flush()
        if self._sink is not None and self.target is not None:
            opened = open_sink(self.target)
            self._sink.close()
            self._sink = opened

    def close(self) -> None:
        """Write what is left and stop."""
        self.flush()
        self._timer.stop()
        self._timer.close()
        if self._sink is not None:
            self._sink.close()
            self._sink = None


def _batch_end(lines: list[bytes], start: int, limit: int) -> int:
    """Return the end of the lines from `start` that fit into one write, at least one."""
    end, size = start + 1, len(lines[start])
    while end < len(lines) and size + len(lines[end]) <= limit:
        size += len(lines[end])
        end += 1
    return end
