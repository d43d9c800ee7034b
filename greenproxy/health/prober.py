"""Ask one server whether it is fit: one connection, one GET, one verdict.

Without a path the probe only connects. With one, the whole answer is read, strictly and within
bounds: a server that sends half a page, or a page that never ends, is not fit whatever its status
line says.

Owns:       the probe's bytes on the wire and the reading of the answer.
Leaves to:  health/state.py (what a verdict means), worker/checker.py (when to probe).
Called by:  worker/checker.py, from one greenlet a server. Sockets are gevent's own, so nothing
            here needs monkey patching.
Invariant:  whatever a server does, `probe` returns a Verdict within `check.timeout`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import gevent
from gevent import socket

from greenproxy.config.address import Address
from greenproxy.config.upstreams import HealthCheck

MAX_HEAD_BYTES = 32 * 1024
MAX_LINE_BYTES = 8 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
MAX_INTERIM = 8

TARGET_SAFE = "/%:@!$&'()*+,;=-._~"

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe saw, as a phrase for a person."""

    good: bool
    reason: str


class ProbeFailed(Exception):
    """The server is not fit; the message says why."""


class _Progress:
    """How far the probe has come, for the reason of a timeout."""

    stage = "connect"


def probe(address: Address, check: HealthCheck) -> Verdict:
    """Probe one server once. Never raises for anything that a server or the network can do."""
    progress = _Progress()
    try:
        with gevent.Timeout(check.timeout, ProbeFailed()):
            return Verdict(True, _probe(address, check, progress))
    except ProbeFailed as failed:
        return Verdict(False, str(failed) or f"{progress.stage} timed out after {check.timeout:g} s")
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
        return Verdict(False, f"{progress.stage}: {getattr(error, 'strerror', None) or error}")


def _probe(address: Address, check: HealthCheck, progress: _Progress) -> str:
    with _connected(address) as connection:
        if check.path is None:
            return "connected"
        progress.stage = "answer"
        connection.sendall(_request(address, check))
        status = read_answer(connection)
    if not any(low <= status <= high for low, high in check.expect):
        raise ProbeFailed(f"status {status}")
    return f"status {status}"


@contextmanager
def _connected(address: Address) -> Iterator[socket.socket]:
    if address.kind == "tcp":
        connection = socket.create_connection((address.host, address.port))
    else:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with closing(connection):
        if address.kind == "unix":
            connection.connect(address.path)
        yield connection


def _request(address: Address, check: HealthCheck) -> bytes:
    host = check.host or (str(address) if address.kind == "tcp" else "localhost")
    lines = (
        f"GET {quote(check.path or '/', safe=TARGET_SAFE)} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: greenproxy-health",
        "Accept: */*",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


class Readable(Protocol):
    """The part of a socket that reading an answer takes."""

    def recv(self, size: int, /) -> bytes:
        """The next bytes; none when the server has closed."""


def read_answer(connection: Readable) -> int:
    """Read one whole answer to a GET and return its status.

    Raises ProbeFailed where it is not HTTP (RFC 9112), is cut short, or does not end.
    """
    reader = _Reader(connection)
    status, fields = _read_head(reader)
    _read_body(reader, status, fields)
    return status


class _Reader:
    """Lines and bytes of one answer; raises ProbeFailed where the answer ends too early or a line is too long."""

    def __init__(self, connection: Readable) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._left = MAX_ANSWER_BYTES

    def _fill(self) -> bool:
        data = self._connection.recv(65536)
        self._left -= len(data)
        if self._left < 0:
            raise ProbeFailed("endless answer")
        self._buffer += data
        return bool(data)

    def line(self) -> bytes:
        """The next line without its CRLF."""
        while (end := self._buffer.find(b"\r\n")) < 0 and len(self._buffer) <= MAX_LINE_BYTES:
            if not self._fill():
                raise ProbeFailed("no answer" if self._left == MAX_ANSWER_BYTES else "answer cut short")
        if not 0 <= end <= MAX_LINE_BYTES:
            raise ProbeFailed("garbage answer: a line too long")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def skip(self, count: int) -> None:
        """Read `count` bytes and forget them."""
        while len(self._buffer) < count:
            count -= len(self._buffer)
            self._buffer.clear()
            if not self._fill():
                raise ProbeFailed("answer cut short")
        del self._buffer[:count]

    def skip_to_end(self) -> None:
        """Read until the server closes."""
        while self._fill():
            self._buffer.clear()


def _read_head(reader: _Reader) -> tuple[int, dict[bytes, list[bytes]]]:
    for _ in range(MAX_INTERIM):
        status_line = reader.line()
        match = _STATUS_LINE.fullmatch(status_line)
        if match is None:
            raise ProbeFailed(f"garbage answer: {status_line[:40].decode('latin-1')!a}")
        fields = _read_fields(reader)
        # RFC 9110 15.2: interim answers come before the final one; 101 would be the final one, and was not asked for.
        if (status := int(match[1])) >= 200 or status == 101:
            return status, fields
    raise ProbeFailed("endless interim answers")


def _read_fields(reader: _Reader) -> dict[bytes, list[bytes]]:
    """Header or trailer fields up to the empty line, by lower-case name."""
    fields: dict[bytes, list[bytes]] = {}
    room = MAX_HEAD_BYTES
    while line := reader.line():
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ProbeFailed(f"garbage answer: header line {line[:40].decode('latin-1')!a}")
        fields.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))
        room -= len(line)
        if room < 0:
            raise ProbeFailed("endless header")
    return fields


def _read_body(reader: _Reader, status: int, fields: dict[bytes, list[bytes]]) -> None:
    """Read the body by its framing, RFC 9112 6.3."""
    codings, lengths = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if status in (101, 204, 304):
        return
    if codings and lengths:
        raise ProbeFailed("garbage answer: Content-Length and Transfer-Encoding")
    if codings:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise ProbeFailed("garbage answer: unknown Transfer-Encoding")
        _read_chunks(reader)
    elif lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise ProbeFailed("garbage answer: bad Content-Length")
        reader.skip(int(lengths[0]))
    else:
        reader.skip_to_end()


def _read_chunks(reader: _Reader) -> None:
    while True:
        match = _CHUNK_SIZE.fullmatch(reader.line())
        if match is None:
            raise ProbeFailed("garbage answer: bad chunk size")
        size = int(match[1], 16)
        if not size:
            _read_fields(reader)
            return
        reader.skip(size)
        if reader.line():
            raise ProbeFailed("garbage answer: bad chunk end")
