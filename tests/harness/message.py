"""Take HTTP/1.1 messages off a buffer, strictly: the tests' own reading of RFC 9112.

Pure. Shared by the origins and the raw client, and on purpose not the proxy's parser: two
independent readings must agree, or a test fails.

Owns:       Request, Response, Malformed and the functions that take one message from bytes.
Invariant:  a function gives None while bytes are missing, a message and its end when it is whole,
            and raises Malformed as soon as the bytes cannot become a valid message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Headers = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/1\.([01])\Z" % _TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\Z")
_FIELD_LINE = re.compile(
    rb"(%s):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*\Z" % _TOKEN
)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\Z")
_NUMBER = re.compile(rb"[0-9]{1,18}\Z")
_MAX_LINE = 70_000
_MAX_HEAD = 2_000_000


class Malformed(Exception):
    """The bytes are not HTTP/1.x; the text says which rule they break."""


@dataclass
class Message:
    """What requests and responses share; `raw` is the whole message as it stood on the wire."""

    version: bytes
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    raw: bytes = b""

    def all(self, name: str) -> list[bytes]:
        """Give every value of a field, in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.headers if key.lower() == wanted]

    def get(self, name: str) -> bytes | None:
        """Give the only value of a field, or None; two of them is an AssertionError."""
        values = self.all(name)
        assert len(values) <= 1, f"{len(values)} fields {name}: {values}"
        return values[0] if values else None

    def names(self) -> list[str]:
        """Give the field names in the order and case of the wire."""
        return [key.decode() for key, _ in self.headers]


@dataclass
class Request(Message):
    method: bytes = b""
    target: bytes = b""


@dataclass
class Response(Message):
    status: int = 0
    reason: bytes = b""


def take_request(data: bytes) -> tuple[Request, int] | None:
    """Take one whole request off the front of `data`."""
    head = take_request_head(data)
    if head is None:
        return None
    request, at = head
    return _with_body(request, data, at, request_framing(request))


def take_request_head(data: bytes) -> tuple[Request, int] | None:
    """Take a request's head; body, trailers and raw stay empty."""
    head = _take_head(data)
    if head is None:
        return None
    line, headers, at = head
    match = _REQUEST_LINE.match(line)
    if match is None:
        raise Malformed(f"request line {line[:100]!r}")
    request = Request(b"1." + match[3], headers, method=match[1], target=match[2])
    hosts = request.all("host")
    if len(hosts) > 1 or (not hosts and request.version == b"1.1"):
        raise Malformed(f"{len(hosts)} Host fields")
    return request, at


def take_response(data: bytes, method: str = "GET", eof: bool = False) -> tuple[Response, int] | None:
    """Take one whole response (an interim one too) to a request of `method`; `eof`: no more bytes will come."""
    head = _take_head(data)
    if head is None:
        return None
    line, headers, at = head
    match = _STATUS_LINE.match(line)
    if match is None:
        raise Malformed(f"status line {line[:100]!r}")
    response = Response(b"1." + match[1], headers, status=int(match[2]), reason=match[3] or b"")
    framing = _framing(response)
    if method == "HEAD" or response.status in (204, 304) or response.status < 200:
        framing = 0
    if framing is None:  # close-delimited
        if not eof:
            return None
        response.body, response.raw = data[at:], data
        return response, len(data)
    return _with_body(response, data, at, framing)


def request_framing(request: Request) -> int | str:
    """Say how the body is framed: its length, or "chunked"."""
    framing = _framing(request)
    return 0 if framing is None else framing


def _framing(message: Message) -> int | str | None:
    codings, lengths = message.all("transfer-encoding"), message.all("content-length")
    if codings and lengths:
        raise Malformed("both Content-Length and Transfer-Encoding")
    if codings:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise Malformed(f"Transfer-Encoding {codings}")
        return "chunked"
    if len(lengths) > 1 or (lengths and not _NUMBER.match(lengths[0])):
        raise Malformed(f"Content-Length {lengths}")
    return int(lengths[0]) if lengths else None


def _take_head(data: bytes) -> tuple[bytes, Headers, int] | None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > _MAX_HEAD:
            raise Malformed("endless head")
        return None
    first, *lines = data[:end].split(b"\r\n")
    return first, [_field(line) for line in lines], end + 4


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD_LINE.match(line)
    if match is None:
        raise Malformed(f"field line {line[:100]!r}")
    return match[1], match[2]


def _with_body(message, data: bytes, at: int, framing):  # type: ignore[no-untyped-def]
    if framing == "chunked":
        taken = take_chunked(data, at)
        if taken is None:
            return None
        message.body, message.trailers, end = taken
    else:
        end = at + framing
        if len(data) < end:
            return None
        message.body = data[at:end]
    message.raw = data[:end]
    return message, end


def take_chunked(data: bytes, at: int) -> tuple[bytes, Headers, int] | None:
    """Take a chunked body that starts at `at`: (content, trailers, end)."""
    content: list[bytes] = []
    while True:
        line, at = _take_line(data, at)
        if line is None:
            return None
        match = _CHUNK_LINE.match(line)
        if match is None:
            raise Malformed(f"chunk line {line[:100]!r}")
        size = int(match[1], 16)
        if size == 0:
            break
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise Malformed("no CRLF after a chunk")
        content.append(data[at : at + size])
        at += size + 2
    trailers: Headers = []
    while True:
        line, at = _take_line(data, at)
        if line is None:
            return None
        if not line:
            return b"".join(content), trailers, at
        trailers.append(_field(line))


def _take_line(data: bytes, at: int) -> tuple[bytes | None, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        if len(data) - at > _MAX_LINE:
            raise Malformed("endless line")
        return None, at
    return data[at:end], end + 2
