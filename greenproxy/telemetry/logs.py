"""Logs of events: lifecycle, errors, and what children print; one JSON object a line.

Every record has time (ISO 8601, UTC, milliseconds), level, role, pid, event (snake_case), message, and the
fields given by `extra=`. Requests are not logged here but by telemetry/accesslog.py, which is 20 x cheaper.

Owns:       the handler of the logger "greenproxy", its sink, the form of a record.
Leaves to:  the callers the events and their fields.
Invariant:  a record is one line, whatever is in it; writing never blocks and never raises: what the sink
            does not take at once is dropped, and the next record that gets through says how many were lost.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from greenproxy.config.schema import Log
from greenproxy.telemetry.sink import PIPE_BUF, STANDARD, open_sink

ROOT = "greenproxy"
MAX_LINE_BYTES = PIPE_BUF
_CUT = " [...]"
_WORTH_CUTTING = 64


class Formatter(JsonFormatter):
    """A record as one JSON object.

    The standard library's encoder, not orjson: it escapes all that is not ASCII, so a lone surrogate of an
    undecodable path does not raise, and U+2028 or U+0085 does not look like a new line to any reader.
    """

    def __init__(self, role: str) -> None:
        super().__init__(json_ensure_ascii=True, json_default=str)
        self.role = role

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Put the fields in the order a person reads them."""
        log_data["time"] = iso_time(record.created)
        log_data["level"] = record.levelname.lower()
        log_data["role"] = self.role
        log_data["pid"] = os.getpid()
        log_data["event"] = "message"
        super().add_fields(log_data, record, message_dict)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Name the traceback as a person would."""
        if "exc_info" in log_data:
            log_data["traceback"] = log_data.pop("exc_info")
        return log_data

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the line, cut at its longest texts until a pipe takes it whole."""
        line = super().jsonify_log_record(log_data)
        while len(line) >= MAX_LINE_BYTES:
            texts = {name: len(value) for name, value in log_data.items() if isinstance(value, str)}
            name = max(texts, key=lambda name: texts[name])
            if texts[name] <= _WORTH_CUTTING:
                break
            log_data[name] = _cut(name, log_data[name])
            line = super().jsonify_log_record(log_data)
        return line


def _cut(name: str, text: str) -> str:
    """Halve a text; of a traceback the end is kept, which says what happened."""
    half = len(text) // 2
    return _CUT + text[-half:] if name == "traceback" else text[:half] + _CUT


class LineHandler(logging.Handler):
    """Writes each record with one write that cannot block."""

    def __init__(self, sink: str, role: str) -> None:
        super().__init__()
        self.sink = sink
        self.drops = 0
        self._torn = False
        self._open = open_sink(sink)
        self.setFormatter(Formatter(role))

    def become(self, role: str) -> None:
        """Say in each record from now on that a process of `role` wrote it."""
        self.setFormatter(Formatter(role))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or count it as lost."""
        try:
            if self.drops:
                record.log_drops = self.drops
            data = self.format(record).encode() + b"\n"
            if self._torn:
                data = b"\n" + data
            written = self._open.write(data)
        except Exception:  # logging must never end the process that logs; the count tells
            self.drops += 1
            return
        self._torn = written < len(data)
        self.drops = 1 if self._torn else 0

    def reopen(self) -> None:
        """Open a log file by its name again; keep the old one when that fails."""
        opened = open_sink(self.sink)
        self._open.close()
        self._open = opened

    def close(self) -> None:
        """Close the sink."""
        self._open.close()
        super().close()


def configure(log: Log, role: str) -> None:
    """Send the logger "greenproxy" and its children to the error log. Raises OSError when it cannot be opened."""
    logger = logging.getLogger(ROOT)
    handler = LineHandler(log.error, role)
    for old in _handlers():
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(log.level.upper())
    logger.propagate = False


def become(role: str) -> None:
    """Name the role of a forked child in its records."""
    for handler in _handlers():
        handler.become(role)


def reopen() -> None:
    """Open log files by their names again (USR1). Raises OSError when one cannot be; the old one goes on."""
    for handler in _handlers():
        handler.reopen()


def files_of(log: Log) -> list[str]:
    """Return the log files of a configuration, without stdout and stderr."""
    return [sink for sink in (log.access, log.error) if sink and sink not in STANDARD]


def log_event(level: int, event: str, message: str, **fields: object) -> None:
    """Log one lifecycle event."""
    logging.getLogger(f"{ROOT}.lifecycle").log(level, message, extra={"event": event, **fields})


def capture_stderr() -> None:
    """Make what Python prints to sys.stderr (tracebacks of the hub, warnings) records of the error log."""
    sys.stderr = StderrToLog()


class StderrToLog(io.TextIOBase):
    """A text stream whose lines become log records."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(f"{ROOT}.stderr")
        self._rest = ""

    def writable(self) -> bool:
        """Tell that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Log every whole line of `text`."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.error(line, extra={"event": "stderr"})
        return len(text)


def iso_time(seconds: float) -> str:
    """Return Unix seconds as 2026-01-31T12:00:00.123Z."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def _handlers() -> list[LineHandler]:
    return [handler for handler in logging.getLogger(ROOT).handlers if isinstance(handler, LineHandler)]
