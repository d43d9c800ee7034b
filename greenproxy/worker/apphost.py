"""Run one WSGI application as HTTP/1.1 on a Unix socket, for greenproxy in front of it.

    python apphost.py --app shop.wsgi:application --chdir /srv/shop --socket /run/shop-0.sock --threads 8

One file, standard library only, Python 3.8 and newer: it runs in the interpreter of the application,
where nothing of ours is installed. It is a program, never imported by the rest of greenproxy.

Threads:    the main thread starts, sweeps and stops; N worker threads serve. The workers wait together
            in one epoll, where every socket is armed for one event (EPOLLONESHOT), so the kernel
            hands each request to exactly one free thread: an idle connection holds no thread, a
            connection is accepted only when a thread is free, and no request waits for a hand-over.
Owns:       the socket file, the connections, PEP 3333.
Leaves to:  the proxy (limits, slow clients, TLS, access log), the master (restarts, the time a stop may take).
Trust:      only our user can connect (0600), so X-Real-IP, X-Forwarded-Proto and -Prefix are believed.
            Framing is not taken on trust: what is not exactly RFC 9112 gets 400 and the connection closes.
Invariant:  a connection belongs to whoever popped it from `Host._idle`; nobody else touches it.

Exit codes: 0 stopped by TERM, INT or the end of the parent; 2 bad arguments or socket; 3 the application
cannot be loaded.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
from email.utils import formatdate
from functools import lru_cache
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    NoReturn,
    Optional,
    Tuple,
    Type,
    cast,
)
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from typing import Callable, Union

    Environ = Dict[str, Any]
    ExcInfo = Union[Tuple[Type[BaseException], BaseException, TracebackType], Tuple[None, None, None]]
    Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

EXIT_BAD_SOCKET = 2
EXIT_APP_NOT_LOADED = 3

IDLE_TIMEOUT_S = 90.0  # longer than the proxy's pool idle_timeout (55 s), so the proxy retires a connection first
HEAD_TIMEOUT_S = 10.0  # from the first byte of a head to its last
IO_TIMEOUT_S = 120  # one send or receive within a request without any progress
DRAIN_TIMEOUT_S = 1  # for the unread rest of a request body, which must not hold a thread for long
SWEEP_INTERVAL_S = 1.0
MAX_HEAD_BYTES = 256 * 1024  # the proxy has the real limit; this one only bounds memory
MAX_CHUNK_LINE_BYTES = 4096
MAX_TRAILER_BYTES = 16 * 1024
MAX_DRAIN_BYTES = 256 * 1024  # of a request body the application left unread; beyond it, closing is cheaper
RECEIVE_BYTES = 32 * 1024
SEND_TOGETHER_BYTES = 64 * 1024  # head and body up to this size leave in one send; copying more costs more than a send
BACKLOG = 1024


class BadRequest(Exception):
    """A request that is not valid HTTP; `status` is the answer, and the connection closes."""

    def __init__(self, why: str, status: str = "400 Bad Request") -> None:
        super().__init__(why)
        self.status = status


class Disconnected(ConnectionError):
    """The proxy closed the connection, or stood still for IO_TIMEOUT_S."""


class ApplicationError(Exception):
    """The application broke PEP 3333."""


# --- Request head: bytes -> Request, pure -------------------------------------------------------------------

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!\"$-~\x80-\xff]+) HTTP/1\.([01])")  # no "#" in a target
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DIGITS = re.compile(r"[0-9]{1,18}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::([0-9]{0,5}))?")
_PREFIX = re.compile(r"(?:/(?!/)[^?#]*)?")  # "//host" would lead links of the application elsewhere
_ONLY_ONCE = frozenset(["HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"])


class Request:
    """The parsed head of one request; `fields` are its headers under their environ names."""

    __slots__ = ("content_length", "fields", "http_1_0", "keep_alive", "method", "target", "wants_continue")

    def __init__(self, method: str, target: str, http_1_0: bool, fields: Dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.http_1_0 = http_1_0
        self.fields = fields
        self.content_length = body_length(fields, http_1_0)
        options = connection_options(fields.get("HTTP_CONNECTION", ""))
        self.keep_alive = "keep-alive" in options if http_1_0 else "close" not in options
        self.wants_continue = not http_1_0 and fields.get("HTTP_EXPECT", "").lower() == "100-continue"


def parse_head(head: bytes) -> Request:
    """Parse a head without its final empty line, or raise BadRequest."""
    text = head.decode("latin-1")
    if _CONTROL.search(text):
        raise BadRequest("control character, or CR or LF alone, in the head")
    line, *rest = text.split("\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("malformed request line")
    fields: Dict[str, str] = {}
    for field in rest:
        name, colon, value = field.partition(":")
        if not colon:
            raise BadRequest("header line without a colon")
        key = environ_key(name)
        value = value.strip(" \t")
        fields[key] = value if key not in fields else joined(key, fields[key], value)
    fields.pop("", None)
    http_1_0 = match[3] == "0"
    if "HTTP_HOST" not in fields and not http_1_0:
        raise BadRequest("no Host")
    return Request(match[1], match[2], http_1_0, fields)


@lru_cache(maxsize=1024)
def environ_key(name: str) -> str:
    """Return the environ key of a header name; "" for a name with an underscore, which is dropped.

    X_Forwarded_For and X-Forwarded-For have the same key, so the first could forge the second.
    """
    if not _TOKEN.fullmatch(name):
        raise BadRequest("malformed header name")  # a space before the colon and obs-fold end here
    if "_" in name:
        return ""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + key


def joined(key: str, first: str, second: str) -> str:
    """Return the one value that stands for two headers of the same name."""
    if key in _ONLY_ONCE:
        raise BadRequest(f"{key} given twice")
    return f"{first}; {second}" if key == "HTTP_COOKIE" else f"{first}, {second}"


@lru_cache(maxsize=64)
def connection_options(value: str) -> FrozenSet[str]:
    """Return the members of a Connection header in lower case."""
    return frozenset(option.strip() for option in value.lower().split(","))


def body_length(fields: Dict[str, str], http_1_0: bool) -> Optional[int]:
    """Return the length of the body, None for chunked (RFC 9112 6.3)."""
    coding = fields.get("HTTP_TRANSFER_ENCODING")
    length = fields.get("CONTENT_LENGTH")
    if coding is None:
        if length is None:
            return 0
        if not _DIGITS.fullmatch(length):
            raise BadRequest("malformed Content-Length")
        return int(length)
    if length is not None:
        raise BadRequest("both Content-Length and Transfer-Encoding")
    if coding.lower() != "chunked" or http_1_0:
        raise BadRequest("a transfer coding other than chunked", "501 Not Implemented")
    return None


def environ_of(request: Request, base: Environ) -> Environ:
    """Return the environ of `request` without wsgi.input; `base` is what all requests share."""
    fields = request.fields
    path, _, query = split_target(request).partition("?")
    scheme = "https" if fields.get("HTTP_X_FORWARDED_PROTO") == "https" else "http"
    name, port = split_host(fields.get("HTTP_HOST", ""))
    return {
        **base,
        **fields,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": script_name(fields.get("HTTP_X_FORWARDED_PREFIX", "")),
        "PATH_INFO": decoded(path),
        "QUERY_STRING": query,
        "RAW_URI": request.target,
        "REQUEST_URI": request.target,
        "SERVER_NAME": name or "localhost",
        "SERVER_PORT": port or ("443" if scheme == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.0" if request.http_1_0 else "HTTP/1.1",
        # What our proxy knows of the client. Without it this is the checker, on this machine.
        "REMOTE_ADDR": fields.get("HTTP_X_REAL_IP", "127.0.0.1"),
        "wsgi.url_scheme": scheme,
    }


def split_target(request: Request) -> str:
    """Return the target in origin-form; an absolute-form target replaces Host (RFC 9112 3.2.2)."""
    target = request.target
    if target[0] == "/" or (target == "*" and request.method == "OPTIONS"):
        return target
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise BadRequest("malformed request target")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    request.fields["HTTP_HOST"] = authority
    path = rest[len(authority) :]
    return path if path.startswith("/") else "/" + path


@lru_cache(maxsize=256)
def split_host(host: str) -> Tuple[str, Optional[str]]:
    """Split a Host value into name and port (None or "" if it has none)."""
    match = _HOST.fullmatch(host)
    if match is None:
        raise BadRequest("malformed Host")
    return match[1], match[2]


@lru_cache(maxsize=256)
def script_name(prefix: str) -> str:
    """Return SCRIPT_NAME for what the proxy took off the path."""
    if not _PREFIX.fullmatch(prefix):
        raise BadRequest("malformed X-Forwarded-Prefix")
    return decoded(prefix).rstrip("/")


def decoded(path: str) -> str:
    """Percent-decode a path into a "native string": its bytes as latin-1 (PEP 3333)."""
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path


# --- Connection and request body ----------------------------------------------------------------------------


class Connection:
    """One connection from the proxy: its socket and the bytes that were received but not yet used."""

    __slots__ = ("awaited", "broken", "buffer", "fd", "since", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.buffer = b""
        self.since = time.monotonic()  # when it became idle or, with bytes in the buffer, when its head began
        self.awaited = False  # the client waits for "100 Continue" before it sends the body
        self.broken = False  # the framing is lost: never use it for another request
        # The kernel keeps the time: Python's own timeouts cost a poll() for every send and receive.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", IO_TIMEOUT_S, 0))
        self.limit_receive(IO_TIMEOUT_S)

    def limit_receive(self, seconds: int) -> None:
        """Let each further receive wait at most that long."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))

    def send(self, data: bytes) -> None:
        """Send all of `data`, or raise Disconnected."""
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise self._lost("the proxy does not take the response") from exc

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send up to `count` bytes of a file; return how many, 0 at its end."""
        try:
            return os.sendfile(self.fd, descriptor, offset, count)
        except OSError as exc:
            raise self._lost("the proxy does not take the file") from exc

    def receive_into(self, target: memoryview) -> int:
        """Receive at least one byte of the body into `target`, the buffered ones first."""
        if self.buffer:
            taken = self.buffer[: len(target)]
            target[: len(taken)] = taken
            self.buffer = self.buffer[len(taken) :]
            return len(taken)
        if self.awaited:
            self.awaited = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            count = self.sock.recv_into(target)
        except OSError as exc:
            raise self._lost("the rest of the request body did not come") from exc
        if count == 0:
            raise self._lost("the connection ended within the request body")
        return count

    def read_line(self, limit: int) -> bytes:
        """Read up to the next CRLF and return what is before it."""
        block = memoryview(bytearray(1024))
        while True:
            line, end, rest = self.buffer.partition(b"\r\n")
            if end:
                self.buffer = rest
                return line
            if len(line) > limit:
                raise self.lose_framing("a line of the chunked body is too long")
            self.buffer = b""
            count = self.receive_into(block)
            self.buffer = line + bytes(block[:count])

    def lose_framing(self, why: str) -> BadRequest:
        """Mark the connection as unusable and return the error to raise."""
        self.broken = True
        return BadRequest(why)

    def _lost(self, why: str) -> Disconnected:
        self.broken = True
        return Disconnected(why)

    def close(self) -> None:
        """Close for the peer too, although a child process that the application forked may hold a copy."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was first
        self.sock.close()


class Body(io.RawIOBase):
    """A request body that is not in memory; io.BufferedReader makes it into wsgi.input."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = 0  # bytes of the body, or of the current chunk, not yet read
        self.complete = False

    def readable(self) -> bool:
        return True

    def drain(self) -> bool:
        """Discard what the application left; False if that is too much or too slow, so that closing is better."""
        if self.complete:
            return True
        block, left, end = bytearray(RECEIVE_BYTES), MAX_DRAIN_BYTES, time.monotonic() + DRAIN_TIMEOUT_S
        self._connection.limit_receive(DRAIN_TIMEOUT_S)
        while not self.complete and left > 0 and time.monotonic() < end:
            left -= self.readinto(block)
        self._connection.limit_receive(IO_TIMEOUT_S)
        return self.complete

    def readinto(self, target: Any) -> int:
        raise NotImplementedError

    def _receive(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        count = self._connection.receive_into(view[: min(len(view), self._left)])
        self._left -= count
        return count


class SizedBody(Body):
    """A body of Content-Length bytes."""

    def __init__(self, connection: Connection, length: int) -> None:
        super().__init__(connection)
        self._left = length

    def readinto(self, target: Any) -> int:
        if not self._left or not len(target):
            return 0
        count = self._receive(target)
        self.complete = not self._left
        return count


class ChunkedBody(Body):
    """A body in chunks (RFC 9112 7.1); trailers are read and dropped."""

    _SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")

    def readinto(self, target: Any) -> int:
        if self.complete or not len(target):
            return 0
        if not self._left:
            self._next_chunk()
            if self.complete:
                return 0
        count = self._receive(target)
        if not self._left and self._connection.read_line(2):
            raise self._connection.lose_framing("a chunk is longer than its size")
        return count

    def _next_chunk(self) -> None:
        match = self._SIZE.fullmatch(self._connection.read_line(MAX_CHUNK_LINE_BYTES))
        if match is None or self._connection.broken:
            raise self._connection.lose_framing("malformed chunk size")
        self._left = int(match[1], 16)
        if not self._left:
            self._skip_trailers()
            self.complete = True

    def _skip_trailers(self) -> None:
        room = MAX_TRAILER_BYTES
        while True:
            line = self._connection.read_line(room)
            if not line:
                return
            room -= len(line)
            if room < 0:
                raise self._connection.lose_framing("too many trailers")


def open_body(connection: Connection, request: Request) -> Tuple[BinaryIO, Optional[Body]]:
    """Return wsgi.input and, if bytes of it are still to come, the body under it."""
    length = request.content_length
    if length is not None and length <= len(connection.buffer):
        body = connection.buffer[:length]
        connection.buffer = connection.buffer[length:]
        return io.BytesIO(body), None
    connection.awaited = request.wants_continue and not connection.buffer
    raw = ChunkedBody(connection) if length is None else SizedBody(connection, length)
    return io.BufferedReader(raw, RECEIVE_BYTES), raw


# --- Response -----------------------------------------------------------------------------------------------

_STATUS = re.compile(r"[2-5][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# PEP 3333 leaves these to the server; an application that sets them means its own server, or passes on another's.
_HOP_BY_HOP = frozenset(
    [
        "connection", "keep-alive", "proxy-authenticate", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    ]
)  # fmt: skip


@lru_cache(maxsize=1024)
def response_field(name: str) -> str:
    """Return the name in lower case, or raise ApplicationError."""
    if not _TOKEN.fullmatch(name):
        raise ApplicationError(f"malformed response header name {name!r}")
    return name.lower()


@lru_cache(maxsize=2)
def http_date(second: int) -> str:
    """Return the Date header line for a time in seconds since 1970."""
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


class FileWrapper:
    """wsgi.file_wrapper: a file that the host may send without reading it."""

    def __init__(self, filelike: Any, block_size: int = SEND_TOGETHER_BYTES) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: cast(bytes, self.filelike.read(self.block_size)), b"")

    def close(self) -> None:
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

    def on_disk(self) -> Optional[Tuple[int, int, int]]:
        """Return (descriptor, offset, bytes to the end) of a plain file, None for anything else.

        Only io's own classes: a GzipFile has a fileno() too, but of other bytes.
        """
        filelike = self.filelike
        if type(getattr(filelike, "raw", filelike)) is not io.FileIO:
            return None
        descriptor, offset = filelike.fileno(), filelike.tell()
        status = os.fstat(descriptor)
        return (descriptor, offset, max(0, status.st_size - offset)) if stat.S_ISREG(status.st_mode) else None


class Response:
    """The response to one request: start_response, write, and the framing of the body."""

    __slots__ = (
        "_bodiless", "_body", "_chunked", "_connection", "_draining", "_has_date", "_length", "_lines", "_request",
        "_sent", "head_sent", "keep_alive",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, request: Request, body: Optional[Body], draining: threading.Event
    ) -> None:
        self._connection = connection
        self._request = request
        self._body = body
        self._draining = draining  # set when the host stops: maybe while the application still thinks
        self._lines: List[str] = []  # the head so far; empty until start_response was called
        self._length: Optional[int] = None  # of the body, as the application or we announce it
        self._has_date = False
        self._bodiless = False
        self._chunked = False
        self._sent = 0  # bytes of the body, before chunking
        self.head_sent = False
        self.keep_alive = request.keep_alive

    def start_response(
        self, status: str, headers: List[Tuple[str, str]], exc_info: Optional[ExcInfo] = None
    ) -> Callable[[bytes], None]:
        """Take status and headers (PEP 3333); raise ApplicationError for what would break the head."""
        if exc_info and exc_info[1] is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no cycle through the traceback
        elif self._lines:
            raise ApplicationError("start_response was called twice without exc_info")
        if not _STATUS.fullmatch(status):
            raise ApplicationError(f"malformed status {status!r}")
        self._bodiless = self._request.method == "HEAD" or status[:3] in ("204", "304")
        self._lines = [f"HTTP/1.1 {status if len(status) > 3 else status + ' '}\r\n"]
        self._length, self._has_date = None, False
        for name, value in headers:
            self._add_field(name, value)
        return self.write

    def _add_field(self, name: str, value: str) -> None:
        field = response_field(name)
        # isprintable() is a quick yes for nearly every value; the search is for tabs and latin-1.
        if not value.isprintable() and _BAD_VALUE.search(value):
            raise ApplicationError(f"control character in the response header {name!r}")
        if field == "content-length":
            self._announce(value)
        elif field in _HOP_BY_HOP:
            if field == "connection" and "close" in connection_options(value):
                self.keep_alive = False
        else:
            self._has_date = self._has_date or field == "date"
            self._lines.append(f"{name}: {value}\r\n")

    def _announce(self, value: str) -> None:
        if not _DIGITS.fullmatch(value) or self._length not in (None, int(value)):
            raise ApplicationError(f"malformed or contradicting Content-Length {value!r}")
        self._length = int(value)

    def write(self, data: bytes) -> None:
        """Send a block of the body, with the head before the first."""
        if not isinstance(data, bytes):
            raise ApplicationError(f"the body must be bytes, not {type(data).__name__}")
        if not data:
            return
        head = b"" if self.head_sent else self._take_head()
        if self._bodiless:
            if head:
                self._connection.send(head)
            return
        self._sent += len(data)
        if self._length is not None and self._sent > self._length:
            self._connection.send(head + data[: self._length - self._sent])
            raise ApplicationError(f"the body is longer than its Content-Length of {self._length}")
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if head and len(data) > SEND_TOGETHER_BYTES:
            self._connection.send(head)
            head = b""
        self._connection.send(head + data if head else data)

    def send(self, result: Iterable[bytes]) -> None:
        """Send what the application returned, to the end."""
        if isinstance(result, (list, tuple)) and self._lines and not self.head_sent:
            self._send_whole(result[0] if len(result) == 1 else b"".join(result))
        elif not (isinstance(result, FileWrapper) and self._send_file(result)):
            self._send_blocks(result)
        if not self.head_sent:
            self._connection.send(self._take_head())
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")
        elif self._length is not None and self._sent < self._length and not self._bodiless:
            raise ApplicationError(f"the body ended after {self._sent} of {self._length} bytes")

    def _send_blocks(self, result: Iterable[bytes]) -> None:
        for block in result:
            self.write(block)
            if self.head_sent and self._bodiless:
                return  # the rest would be made for nobody
        if not self.head_sent and not self._bodiless and self._length is None:
            self._length = 0  # it gave no byte at all

    def _send_whole(self, body: bytes) -> None:
        """Send a body that is all there: its length is known, so it needs no chunks."""
        if self._length is None and not self._bodiless:
            self._length = len(body)
        self.write(body)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a plain file by sendfile(2); False if it must be read instead."""
        place = wrapper.on_disk() if self._lines and not self.head_sent and not self._bodiless else None
        if place is None:
            return False
        descriptor, offset, size = place
        if self._length is None:
            self._length = size
        self._connection.send(self._take_head())
        left = min(size, self._length)
        while left:
            count = self._connection.send_file(descriptor, offset, left)
            if count == 0:
                break  # the file was cut meanwhile; send() notices the missing bytes
            offset, left, self._sent = offset + count, left - count, self._sent + count
        return True

    def _take_head(self) -> bytes:
        """Decide the framing and return the finished head; from here on it counts as sent."""
        lines = self._lines
        if not lines:
            raise ApplicationError("the application did not call start_response")
        if self._length is not None:
            if lines[0][9:12] != "204":
                lines.append(f"Content-Length: {self._length}\r\n")
        elif not self._bodiless:
            self._chunked = not self._request.http_1_0
            self.keep_alive = self.keep_alive and self._chunked
            if self._chunked:
                lines.append("Transfer-Encoding: chunked\r\n")
        if not self._has_date:
            lines.append(http_date(int(time.time())))
        self._add_connection(lines)
        lines.append("\r\n")
        head = "".join(lines).encode("latin-1")
        self.head_sent = True
        return head

    def _add_connection(self, lines: List[str]) -> None:
        if self._draining.is_set():
            self.keep_alive = False
        if self._connection.awaited:
            # Nobody read the body, and after a final status the client may or may not send it.
            self._connection.awaited = self.keep_alive = False
        if not self.keep_alive:
            lines.append("Connection: close\r\n")
        elif self._request.http_1_0:
            lines.append("Connection: keep-alive\r\n")

    def fail(self, status: str) -> None:
        """Answer in place of the application; the head must not be sent yet."""
        self._lines = []
        self.start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        self.send([status[4:].encode() + b"\n"])

    def may_continue(self) -> bool:
        """Whether the connection can take another request, after what is left of this one's body is discarded."""
        if not self.keep_alive or self._connection.broken:
            return False
        return self._body is None or self._body.drain()


# --- Host: socket, threads, connections ---------------------------------------------------------------------


class SocketFile:
    """The listening Unix socket and its file, mode 0600.

    The file is bound under another name and renamed when it listens: a stale file of a process that was
    killed is replaced, and a connect finds either a socket that listens or the one before it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        temporary = os.path.join(os.path.dirname(path), f".{os.getpid()}")  # no longer: a socket's path has 107 bytes
        if os.path.lexists(temporary):
            os.unlink(temporary)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(temporary)
        os.chmod(temporary, 0o600)  # before listen(): until then every connect is refused
        self.sock.listen(BACKLOG)
        self.sock.setblocking(False)
        self._inode = os.stat(temporary).st_ino
        os.rename(temporary, path)

    def remove(self) -> None:
        """Remove the file, unless it is already that of the process after us."""
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass  # the master cleaned up first


class StopRequest:
    """How to stop, as signals and the parent ask for it; `poll` waits for them in the main thread."""

    def __init__(self, parent_fd: Optional[int]) -> None:
        self.graceful = False
        self.quick = False
        self._parent_fd = parent_fd
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self._reader, select.POLLIN)
        if parent_fd is not None:
            self._poller.register(parent_fd, select.POLLIN)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_quick)
        signal.signal(signal.SIGQUIT, self._on_quick)

    def _on_term(self, signum: int, frame: Any) -> None:
        self.graceful = True

    def _on_quick(self, signum: int, frame: Any) -> None:
        self.quick = True

    def wake(self) -> None:
        """Let `poll` return; called by any thread."""
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            pass  # it is full of such wake-ups already

    def poll(self, timeout_s: float) -> None:
        """Wait for a signal, the end of the parent, wake() or the timeout."""
        for fd, _ in self._poller.poll(timeout_s * 1000):
            if fd == self._reader.fileno():
                self._reader.recv(4096)
            elif not os.read(fd, 1):
                self.graceful = True  # nobody is left who would send TERM
                self._poller.unregister(fd)


class Host:
    """Serve `application` on `socket_file` with N threads until asked to stop."""

    def __init__(self, application: Application, socket_file: SocketFile, threads: int, name: str) -> None:
        self._application = application
        self._socket_file = socket_file
        self._listener = socket_file.sock
        self._name = name
        self._base: Environ = {
            "SERVER_SOFTWARE": "greenproxy",
            "greenproxy.process": name,
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": threads > 1,
            "wsgi.multiprocess": True,  # how many there are is the master's business, and changes
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }
        self._draining = threading.Event()
        self._connections: Dict[int, Connection] = {}  # all that are open; written by whoever owns the connection
        self._idle: Dict[int, Connection] = {}  # those that wait for bytes; dict.pop is atomic and makes the owner
        self._epoll = select.epoll()
        self._wake_reader, self._wake_writer = os.pipe()  # readable = all workers return
        self._epoll.register(self._wake_reader, select.EPOLLIN)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)]

    def run(self, stop: StopRequest, ready_fd: Optional[int]) -> None:
        """Serve, and return when asked to stop and all requests are done (or at once, if quick)."""
        self._stop = stop
        for thread in self._threads:
            thread.start()
        if ready_fd is not None:
            say_ready(ready_fd)
        while not (stop.graceful or stop.quick):
            stop.poll(SWEEP_INTERVAL_S)
            self._sweep()
        self._draining.set()
        self._stop_accepting()
        for connection in list(self._idle.values()):
            self._retire(connection)
        while self._connections and not stop.quick:
            stop.poll(SWEEP_INTERVAL_S)
            self._sweep()
        if not stop.quick:
            os.write(self._wake_writer, b"\0")
            for thread in self._threads:
                thread.join()

    # The workers

    def _work(self) -> None:
        while True:
            for fd, _ in self._epoll.poll(-1, 1):  # one event: a second one belongs to another free thread
                if fd == self._wake_reader:
                    return
                try:
                    self._on_event(fd)
                except Exception:
                    # A bug of this file or no descriptors left: it must not cost a thread.
                    self._log_exception("unexpected")

    def _on_event(self, fd: int) -> None:
        connection = self._idle.pop(fd, None)
        if connection is not None:
            self._serve_and_release(connection)
        elif fd == self._listener.fileno():
            try:
                self._accept()
            finally:
                if not self._draining.is_set():
                    self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def _serve_and_release(self, connection: Connection) -> None:
        keep = False
        try:
            keep = self._serve(connection)
        finally:
            if keep:
                self._release(connection)
            else:
                self._close(connection)

    def _serve(self, connection: Connection) -> bool:
        """Answer the requests that have come; True if the connection can wait for more."""
        try:
            data = connection.sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True  # the event was of a closed connection whose descriptor this one took over
        except OSError:
            return False
        if not data:
            return False
        if not connection.buffer:
            connection.since = time.monotonic()
        connection.buffer += data
        while connection.buffer:
            head, end, rest = connection.buffer.partition(b"\r\n\r\n")
            if len(head) > MAX_HEAD_BYTES:
                return self._refuse(connection, "431 Request Header Fields Too Large")
            if not end:
                return True
            connection.buffer = rest
            if not self._answer(connection, head):
                return False
        return True

    def _answer(self, connection: Connection, head: bytes) -> bool:
        """Run the application for one request; True if the connection can take another."""
        try:
            request = parse_head(head)
            environ = environ_of(request, self._base)
        except BadRequest as bad:
            return self._refuse(connection, bad.status)
        environ["wsgi.input"], body = open_body(connection, request)
        response = Response(connection, request, body, self._draining)
        try:
            try:
                self._run(environ, response)
            except (Disconnected, BadRequest):
                raise
            except BaseException:  # also SystemExit: an application cannot stop its host
                self._log_exception(f"{request.method} {request.target}")
                if response.head_sent:
                    return False  # the body stays short of its framing, so the proxy sees that it is cut
                response.fail("500 Internal Server Error")
            return response.may_continue()
        except BadRequest as bad:
            return not response.head_sent and self._refuse(connection, bad.status)
        except Disconnected:
            return False

    def _run(self, environ: Environ, response: Response) -> None:
        result = self._application(environ, response.start_response)
        try:
            response.send(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _refuse(self, connection: Connection, status: str) -> bool:
        try:
            connection.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        except Disconnected:
            pass
        return False

    def _log_exception(self, what: str) -> None:
        try:
            sys.stderr.write(f"{self._name}: exception in {what}\n{traceback.format_exc()}")
        except OSError:
            pass  # the master is gone and its pipe with it; the parent's end is on its way to us

    # The connections

    def _accept(self) -> bool:
        """Accept one connection; False if none waits."""
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError:
            if self._draining.is_set():
                return False  # shut down, and nobody is left in the backlog
            time.sleep(0.1)  # EMFILE: the event comes again at once, so give other threads time to close something
            raise
        connection = Connection(sock)
        self._connections[connection.fd] = connection
        self._idle[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN | select.EPOLLONESHOT)
        return True

    def _stop_accepting(self) -> None:
        """Refuse further connects, and take those who connected before."""
        self._socket_file.remove()
        self._listener.shutdown(socket.SHUT_RDWR)  # connects fail from here on; the backlog can still be accepted
        while self._accept():
            pass

    def _release(self, connection: Connection) -> None:
        """Let the connection wait for bytes."""
        if not connection.buffer:
            connection.since = time.monotonic()
        self._arm(connection)
        if self._draining.is_set():
            self._retire(connection)

    def _arm(self, connection: Connection) -> None:
        self._idle[connection.fd] = connection
        self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLONESHOT)

    def _sweep(self) -> None:
        """Close connections that waited too long."""
        now = time.monotonic()
        for connection in list(self._idle.values()):
            waited = now - connection.since
            if not connection.buffer:
                if waited > IDLE_TIMEOUT_S:
                    self._retire(connection)
            elif waited > HEAD_TIMEOUT_S and self._idle.pop(connection.fd, None) is connection:
                self._refuse(connection, "408 Request Timeout")
                self._close(connection)

    def _retire(self, connection: Connection) -> None:
        """Close an idle connection without losing a request that is on its way.

        shutdown(SHUT_RD) of a Unix socket takes effect at the other end at once: the proxy's next send fails
        with no byte sent, so it may use another connection for any method. What came before is served.
        """
        if self._idle.pop(connection.fd, None) is not connection:
            return
        if not connection.buffer and not has_bytes(connection.sock):
            connection.sock.shutdown(socket.SHUT_RD)
            if not has_bytes(connection.sock):
                self._close(connection)
                return
        self._arm(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.fd]  # before close(): then the number may come back for a new one
        connection.close()
        if self._draining.is_set():
            self._stop.wake()


def has_bytes(sock: socket.socket) -> bool:
    """Whether received bytes wait in the socket."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


def say_ready(fd: int) -> None:
    """Tell the master that connects are answered."""
    try:
        os.write(fd, b"R")
    except BrokenPipeError:
        pass  # the master is gone; the parent's descriptor says so too
    os.close(fd)


# --- Start --------------------------------------------------------------------------------------------------


def load_application(spec: str) -> Application:
    """Import `module:name`, or call `module:factory(...)` with literal arguments; the name defaults to application.

    Raises whatever the import raises, and TypeError or ValueError for a spec that names no application.
    """
    module_name, _, expression = spec.partition(":")
    target = ast.parse(expression or "application", mode="eval").body
    call = target if isinstance(target, ast.Call) else None
    name = call.func if call else target
    if not isinstance(name, ast.Name):
        raise ValueError(f"{spec!r} is not module:name or module:factory()")
    application = getattr(importlib.import_module(module_name), name.id)
    if call:
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        application = application(*map(ast.literal_eval, call.args), **named)
    if not callable(application):
        raise TypeError(f"{spec} is not callable, so it is no WSGI application")
    return cast("Application", application)


def parse_arguments(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve one WSGI application on a Unix socket, for greenproxy.")
    parser.add_argument("--app", required=True, metavar="MODULE:NAME", help="also MODULE:FACTORY()")
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--chdir", metavar="DIR", help="work there, and import from there first")
    parser.add_argument("--threads", type=int, default=8, metavar="N")
    parser.add_argument("--ready-fd", type=int, metavar="FD", help="gets one byte R when requests are answered")
    parser.add_argument("--parent-fd", type=int, metavar="FD", help="its end of file means stop")
    parser.add_argument("--name", help="shown in messages; default: the socket's name")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    arguments.socket = os.path.abspath(arguments.socket)  # before chdir
    arguments.name = arguments.name or os.path.splitext(os.path.basename(arguments.socket))[0]
    return arguments


def prepare_process(arguments: argparse.Namespace) -> None:
    """Make the process what the application expects: signals, standard streams, directory, import path."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the master blocks signals across its fork
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until we serve: no traceback of an import that was interrupted
    for fd in (arguments.ready_fd, arguments.parent_fd):
        if fd is not None:
            os.set_inheritable(fd, False)  # not for children of the application
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    if arguments.chdir:
        os.chdir(arguments.chdir)
    here = os.path.dirname(os.path.realpath(__file__))  # put there by the interpreter, and not the application's
    sys.path[:] = [os.getcwd()] + [entry for entry in sys.path if os.path.realpath(entry or ".") != here]


def main() -> int:
    """Load the application, serve it, and return the exit code."""
    arguments = parse_arguments()
    name = arguments.name
    try:
        prepare_process(arguments)
    except OSError as exc:
        print(f"{name}: cannot start: {exc}", file=sys.stderr)
        return EXIT_BAD_SOCKET
    try:
        application = load_application(arguments.app)
    except BaseException:  # also SystemExit: the master must learn that this is no normal end
        print(f"{name}: cannot load {arguments.app}\n{traceback.format_exc()}", end="", file=sys.stderr)
        return EXIT_APP_NOT_LOADED
    try:
        socket_file = SocketFile(arguments.socket)
    except OSError as exc:
        print(f"{name}: cannot listen on {arguments.socket}: {exc}", file=sys.stderr)
        return EXIT_BAD_SOCKET
    stop = StopRequest(arguments.parent_fd)
    Host(application, socket_file, arguments.threads, name).run(stop, arguments.ready_fd)
    if stop.quick:
        leave_at_once()
    return 0


def leave_at_once() -> NoReturn:
    """End the process without waiting for its threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
