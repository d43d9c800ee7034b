"""Decode and encode the chunked transfer coding (RFC 9112 7.1), strictly.

Pure: bytes in, bytes out. Size lines end in CRLF, sizes are plain hexadecimal, extensions are
checked and dropped, trailers are checked and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto

from greenproxy.http.grammar import FIELD_LINE, TOKEN

MAX_SIZE_LINE = 1024  # of one chunk, extensions included; nobody needs more
MAX_EXTENSIONS = 16 * 1024  # over a whole body: extensions cost us work and bring nothing
MAX_TRAILERS = 8 * 1024

_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"+(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"+|" + _QUOTED + rb"))?"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:" + _EXTENSION + rb")*)\r\n")
_LEADING_ZEROS = re.compile(rb"0*(?=[0-9A-Fa-f])")
_FIELD_LINE = re.compile(FIELD_LINE)

# RFC 9110 6.5.1; a server that merged them into the head would be fooled
_NEVER_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host"})

LAST_CHUNK = b"0\r\n\r\n"


class _Expect(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkedDecoder:
    """Decode one chunked body, fed as the bytes come.

    `error` makes the exception for malformed input, so that the same decoder serves requests (the
    client is to blame) and responses (the server is).
    """

    __slots__ = ("_buffer", "_error", "_expect", "_extensions", "_left", "_trailers")

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self._error = error
        self._expect = _Expect.SIZE
        self._buffer = b""
        self._left = 0
        self._extensions = 0
        self._trailers = 0

    @property
    def done(self) -> bool:
        """Has the whole body, trailers included, been seen?"""
        return self._expect is _Expect.DONE

    @property
    def rest(self) -> bytes:
        """Bytes after the body; meaningful once `done`."""
        return self._buffer

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return the decoded data in them (b"" when there is none yet)."""
        buffer = self._buffer + data if self._buffer else data
        out: list[bytes] = []
        position = 0
        while self._expect is not _Expect.DONE:
            step = self._data(buffer, position, out) if self._expect is _Expect.DATA else self._line(buffer, position)
            if step < 0:
                break
            position = step
        self._buffer = buffer[position:]
        return out[0] if len(out) == 1 else b"".join(out)

    def _data(self, buffer: bytes, position: int, out: list[bytes]) -> int:
        """Take chunk data; return the new position or -1 for "more bytes are needed"."""
        piece = buffer[position : position + self._left]
        if not piece:
            return -1
        out.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._expect = _Expect.DATA_END
        return position + len(piece)

    def _line(self, buffer: bytes, position: int) -> int:
        """Take one line of framing; return the position after it or -1."""
        end = buffer.find(b"\n", position)
        if end < 0:
            self._check_unfinished(buffer, position)
            return -1
        line = buffer[position : end + 1]
        if self._expect is _Expect.DATA_END:
            if line != b"\r\n":
                raise self._error("chunk data is not followed by CRLF")
            self._expect = _Expect.SIZE
        elif self._expect is _Expect.SIZE:
            self._size(line)
        else:
            self._trailer(line)
        return end + 1

    def _check_unfinished(self, buffer: bytes, position: int) -> None:
        """Refuse at once what no further byte can mend, and what grows without an end."""
        length = len(buffer) - position
        if self._expect is _Expect.DATA_END and not b"\r\n".startswith(buffer[position:]):
            raise self._error("chunk data is not followed by CRLF")
        if length > (MAX_TRAILERS if self._expect is _Expect.TRAILER else MAX_SIZE_LINE):
            raise self._error("chunk size or trailer line too long")
        if b"\r" in buffer[position:-1]:
            raise self._error("bare CR in chunk framing")

    def _size(self, line: bytes) -> None:
        if len(line) > MAX_SIZE_LINE:
            raise self._error("chunk size line too long")
        zeros = _LEADING_ZEROS.match(line)
        match = _SIZE_LINE.fullmatch(line, zeros.end() if zeros else 0)
        if match is None:
            raise self._error("malformed chunk size")
        self._extensions += len(match.group(2))
        if self._extensions > MAX_EXTENSIONS:
            raise self._error("too many chunk extensions")
        self._left = int(match.group(1), 16)
        self._expect = _Expect.DATA if self._left else _Expect.TRAILER

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self._expect = _Expect.DONE
            return
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS:
            raise self._error("trailers too large")
        if _FIELD_LINE.fullmatch(line) is None:
            raise self._error("malformed trailer")
        if line.partition(b":")[0].lower() in _NEVER_TRAILERS:
            raise self._error("a framing or routing field among the trailers")


def encode_chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; `data` must not be empty (that would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
