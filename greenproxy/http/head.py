"""Parse request and response heads strictly, on the raw bytes.

Pure: bytes in, a head or an error out. One regular expression proves a whole head well-formed;
only when it fails does slower code find out why.

Owns:       the grammar of heads, framing (RFC 9112 6), which fields are hop-by-hop.
Leaves to:  http/target.py (the request target), http/forwarding.py (what we add), listener (limits in time).
Invariant:  a head that comes out of here has one meaning for every parser: no obs-fold, no bare CR or LF,
            no control bytes, at most one Content-Length, never Content-Length with Transfer-Encoding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from greenproxy.errors import BadRequest, UpstreamProtocolError
from greenproxy.http import fields
from greenproxy.http.grammar import FIELD_LINE, FIELD_LINES, HOST, METHOD_NAMES, TOKEN

_REQUEST = re.compile(rb"(" + TOKEN + rb"+) ([\x21-\x7e]+) HTTP/1\.([01])\r\n" + FIELD_LINES + rb"\r\n")
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])( [\t\x20-\x7e\x80-\xff]*)?\r\n" + FIELD_LINES + rb"\r\n")
_PLAIN_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"+) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD_LINE = re.compile(FIELD_LINE)
_MAX_DIGITS = 18  # of a length: below 2**63
_UNDERSCORE_NAME = re.compile(rb"\n[^:\n]*_[^:\n]*:")

# Hop-by-hop (RFC 9110 7.6.1) and framing: never passed on as they came.
_HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
)
# What we write ourselves, and what steers this exchange.
_REQUEST_FIELDS = (
    *_HOP_BY_HOP,
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"proxy",  # would become HTTP_PROXY in a CGI environment (CVE-2016-5385)
    b"x-real-ip",
    b"x-request-id",
)
_FIND_REQUEST_FIELDS = fields.finder(_REQUEST_FIELDS, b"x-forwarded-")
_FIND_RESPONSE_FIELDS = fields.finder((*_HOP_BY_HOP, b"content-length"))
# Fields that are read and keep their place among the lines.
_REQUEST_KEEPS = frozenset({b"host", b"content-length"})
_RESPONSE_KEEPS = frozenset({b"content-length"})
_LISTED_ANYWAY = frozenset({b"close", b"keep-alive", b"", *_REQUEST_FIELDS})


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds of one request head, in bytes and lines."""

    max_header_bytes: int
    max_headers: int
    max_request_line: int
    allow_underscores: bool = False


class RequestHead:
    """A request head: its line, what steers the exchange, and the lines that may be passed on.

    `lines` are the field lines without those in _REQUEST_FIELDS, except that a Host or a canonical
    Content-Length stays in its place. `values` has the fields of _REQUEST_FIELDS that were there.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "has_body",
        "host",
        "keep_alive",
        "length_in_lines",
        "lines",
        "lowered",
        "method",
        "minor",
        "size",
        "target",
        "values",
    )

    lines: bytes
    values: dict[bytes, bytes]
    host: bytes
    content_length: int | None
    length_in_lines: bool
    chunked: bool
    has_body: bool  # RFC 9112 6.3; a Content-Length of 0 is none
    keep_alive: bool

    def __init__(self, method: str, target: bytes, minor: int, size: int, like: RequestHead | None = None) -> None:
        """`like`: a head whose field lines are the same to the byte, so that all they say is taken over."""
        self.method = method
        self.target = target
        self.minor = minor
        self.size = size
        self.lowered: bytes | None = None
        if like is not None:
            self.lines = like.lines
            self.values = like.values
            self.host = like.host
            self.content_length = like.content_length
            self.length_in_lines = like.length_in_lines
            self.chunked = like.chunked
            self.has_body = like.has_body
            self.keep_alive = like.keep_alive
            return
        self.lines = b""
        self.values = {}
        self.host = b""
        self.content_length = None
        self.length_in_lines = False
        self.chunked = False
        self.has_body = False
        self.keep_alive = minor == 1

    def header(self, name: bytes) -> bytes | None:
        """Return a field's value by its lower-case name, several lines joined by ", ", or None."""
        if name in self.values:
            return self.values[name]
        found = self.values_of(name)
        return b", ".join(found) if found else None

    def values_of(self, name: bytes) -> list[bytes]:
        """Return the values of all lines of a field that is passed on, by its lower-case name."""
        if self.lowered is None:
            self.lowered = fields.searchable(self.lines)
        return fields.values_of(self.lines, self.lowered, name)


class RequestParser:
    """Parse the request heads of one connection, one after the other.

    Clients that keep a connection open tend to repeat their header lines to the byte (HPACK exists for
    the same reason). A repetition costs one comparison instead of a parse: 1.5 instead of 7 µs.
    """

    __slots__ = ("_block", "_last", "_limits")

    MAX_REMEMBERED = 2048  # bytes: an idle connection must stay cheap

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._block = b""  # header lines of the last head, with the empty line that ended it
        self._last: RequestHead | None = None

    def parse(self, data: bytes) -> RequestHead | None:
        """As parse_request."""
        last = self._last
        if last is not None:
            match = _PLAIN_REQUEST_LINE.match(data)
            if match is not None and data.startswith(self._block, match.end()):
                method, target, minor = match.groups()
                size = match.end() + len(self._block)
                limits = self._limits
                fits = match.end() - 2 <= limits.max_request_line and size <= limits.max_header_bytes
                if (minor == b"1") == last.minor and fits:
                    name = METHOD_NAMES.get(method) or _rare_method(method)
                    return RequestHead(name, target, last.minor, size, last)
        head = parse_request(data, self._limits)
        if head is not None:
            start = data.find(b"\n") + 1
            if head.size - start <= self.MAX_REMEMBERED:
                self._block = data[start : head.size]
                self._last = head
        return head


def parse_request(data: bytes, limits: HeadLimits) -> RequestHead | None:
    """Parse the request head at the start of `data`; None when it is incomplete or malformed (ask explain_request).

    Raises BadRequest (400, 414, 431, 501) for a well-formed head that cannot be served safely.
    """
    match = _REQUEST.match(data)
    if match is None:
        return None
    method, target, minor, block = match.groups()
    size = match.end()
    if size > limits.max_header_bytes:
        raise _too_large(limits)
    if len(target) + len(method) + 10 > limits.max_request_line:
        raise _line_too_long(limits)
    if block.count(b"\n") > limits.max_headers:
        raise BadRequest(f"more than {limits.max_headers} header fields", status=431, reason="too_many_headers")
    head = RequestHead(METHOD_NAMES.get(method) or _rare_method(method), target, 1 if minor == b"1" else 0, size)
    lowered = (b"\n" + block).lower()
    if not limits.allow_underscores and b"_" in block and _UNDERSCORE_NAME.search(lowered):
        block = _without_underscores(block)
        lowered = fields.searchable(block)
    values, spans = fields.scan(block, lowered, _FIND_REQUEST_FIELDS, _REQUEST_KEEPS)
    head.values = values
    _read_host(head, values.get(b"host"))
    if b"content-length" in values or b"transfer-encoding" in values:
        _read_framing(head, values)
    connection = values.get(b"connection")
    if connection is not None:
        block, lowered, spans = _apply_connection(head, connection.lower(), block, lowered, spans)
    head.lines = fields.cut(block, spans) if spans else block
    if head.content_length is not None and not head.length_in_lines:
        head.lines = fields.without(head.lines, (b"content-length",))  # will be written as it should be
    return head


def _rare_method(method: bytes) -> str:
    """Return a method that is not one of the common ones; refuse those that are dangerous behind a proxy."""
    name = method.decode("ascii")
    if name == "CONNECT":
        raise BadRequest("CONNECT is not offered", status=501, reason="method_refused")
    if name == "TRACE":  # RFC 9110 9.3.8: it would echo cookies and what proxies add
        raise BadRequest("TRACE is not offered", status=501, reason="method_refused")
    if name != name.upper():
        # RFC 9110 9.1: methods have case; a framework that raises it sees another method than our routes did
        raise BadRequest("a method in lower case", status=501, reason="method_refused")
    return name


def _read_host(head: RequestHead, host: bytes | None) -> None:
    """RFC 9112 3.2: exactly one valid Host in HTTP/1.1; HTTP/1.0 may have none."""
    if host is None:
        if head.minor == 1:
            raise BadRequest("HTTP/1.1 request without Host", reason="host_missing")
        return
    if HOST.fullmatch(host) is None:
        raise BadRequest("Host is not one valid host name with an optional port", reason="host_invalid")
    head.host = host


def _read_framing(head: RequestHead, values: dict[bytes, bytes]) -> None:
    """RFC 9112 6: where the body ends. Both Content-Length and Transfer-Encoding: refuse, do not guess."""
    length, coding = values.get(b"content-length"), values.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise BadRequest("both Content-Length and Transfer-Encoding", reason="length_and_coding")
        if head.minor == 0:
            raise BadRequest("Transfer-Encoding in HTTP/1.0", reason="coding_in_http10")
        if coding.lower() != b"chunked":
            raise BadRequest("only the transfer coding chunked is known", status=501, reason="coding_unknown")
        head.chunked = head.has_body = True
        return
    if length is None or not length.isdigit() or len(length) > _MAX_DIGITS:
        raise BadRequest("Content-Length is not one decimal number", reason="length_invalid")
    head.content_length = int(length)
    head.has_body = head.content_length > 0
    head.length_in_lines = str(head.content_length).encode() == length


def _apply_connection(
    head: RequestHead, connection: bytes, block: bytes, lowered: bytes, spans: list[tuple[int, int]]
) -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """Read persistence, and drop the fields that Connection names (RFC 9110 7.6.1)."""
    if connection == b"keep-alive":
        head.keep_alive = True
        return block, lowered, spans
    if connection == b"close":
        head.keep_alive = False
        return block, lowered, spans
    options = {option.strip(b" \t") for option in connection.split(b",")}
    head.keep_alive = b"close" not in options and (head.minor == 1 or b"keep-alive" in options)
    named = options - _LISTED_ANYWAY
    if not named:
        return block, lowered, spans
    block = fields.without(block, named)
    lowered = fields.searchable(block)
    return block, lowered, fields.scan(block, lowered, _FIND_REQUEST_FIELDS, _REQUEST_KEEPS)[1]


def _without_underscores(block: bytes) -> bytes:
    """Drop fields whose name has an underscore: CGI names make X_Y and X-Y the same."""
    lines = block.split(b"\r\n")[:-1]
    return b"".join(line + b"\r\n" for line in lines if b"_" not in line.partition(b":")[0])


def _too_large(limits: HeadLimits) -> BadRequest:
    return BadRequest(f"head of more than {limits.max_header_bytes} bytes", status=431, reason="head_too_large")


def _line_too_long(limits: HeadLimits) -> BadRequest:
    return BadRequest(
        f"request line of more than {limits.max_request_line} bytes", status=414, reason="request_line_too_long"
    )


def explain_request(data: bytes, checked: int, limits: HeadLimits) -> int:
    """Say what is wrong with a head that parse_request did not take, or how far it is well-formed.

    `checked` is what the last call returned (0 at first), so that no line is looked at twice however
    slowly the bytes come.

    Raises BadRequest (400, 414, 431, 505) as soon as no further byte could mend it.
    """
    while (line_end := data.find(b"\n", checked)) >= 0:
        line = data[checked : line_end + 1]
        if checked == 0:
            _explain_request_line(line, limits)
        elif line == b"\r\n":
            raise BadRequest("malformed request head", reason="head_invalid")
        else:
            _explain_field_line(line)
        checked = line_end + 1
    if checked == 0 and len(data) > limits.max_request_line + 1:  # its CR may be here already
        raise _line_too_long(limits)
    if len(data) > limits.max_header_bytes:
        raise _too_large(limits)
    if b"\r" in data[checked:-1] or b"\0" in data[checked:]:
        raise BadRequest("bare CR or NUL", reason="control_byte")
    return checked


def _explain_request_line(line: bytes, limits: HeadLimits) -> None:
    if len(line) - 2 > limits.max_request_line:
        raise _line_too_long(limits)
    if not line.endswith(b"\r\n"):
        raise BadRequest("a line ends with a bare LF", reason="bare_lf")
    match = _REQUEST_LINE.fullmatch(line, 0, len(line) - 2)
    if match is None:
        raise BadRequest("malformed request line", reason="request_line_invalid")
    if match.group(3) != b"1" or match.group(4) not in (b"0", b"1"):
        raise BadRequest("only HTTP/1.0 and HTTP/1.1 are spoken here", status=505, reason="version_unknown")


def _explain_field_line(line: bytes) -> None:
    if not line.endswith(b"\r\n"):
        raise BadRequest("a line ends with a bare LF", reason="bare_lf")
    if _FIELD_LINE.fullmatch(line) is None:
        if line[:1] in (b" ", b"\t"):
            raise BadRequest("folded header line", reason="obs_fold")
        raise BadRequest("malformed header line", reason="header_invalid")


class ResponseHead:
    """A response head: status, framing, and the lines that may be passed on.

    `lines` are the field lines without hop-by-hop fields; Content-Length stays in them (`length_in_lines`).
    `reusable` says whether the server keeps its connection open after the body.
    """

    __slots__ = ("chunked", "content_length", "has_date", "length_in_lines", "lines", "reason", "reusable", "status")

    content_length: int | None
    length_in_lines: bool
    chunked: bool
    has_date: bool
    reusable: bool

    def __init__(self, status: int, reason: bytes, lines: bytes, like: ResponseHead | None = None) -> None:
        """`like`: a head that is the same to the byte, so that its framing is taken over."""
        self.status = status
        self.reason = reason
        self.lines = lines
        if like is not None:
            self.content_length = like.content_length
            self.length_in_lines = like.length_in_lines
            self.chunked = like.chunked
            self.has_date = like.has_date
            self.reusable = like.reusable
            return
        self.content_length = None
        self.length_in_lines = False
        self.chunked = False
        self.has_date = False
        self.reusable = True

    def header(self, name: bytes) -> bytes | None:
        """Return a field's value by its lower-case name, or None."""
        return fields.value_of(self.lines, fields.searchable(self.lines), name)


def refused_head(data: bytes) -> RequestHead:
    """Return what can be told of a refused head, for the log: method and target, "-" where not even they are clear."""
    match = _PLAIN_REQUEST_LINE.match(data)
    if match is None:
        return RequestHead("-", b"", 1, 0)
    return RequestHead(match.group(1).decode("ascii"), match.group(2), 1 if match.group(3) == b"1" else 0, 0)


class ResponseParser:
    """Parse the response heads of one server.

    Under load a server's heads repeat to the byte within the second that their Date names, for all
    answers of one length. A repetition costs one comparison; a head is remembered only when it is as
    long as the one before, so that a server whose heads differ costs nothing.
    """

    __slots__ = ("_data", "_last", "_size")

    MAX_REMEMBERED = 4096

    def __init__(self) -> None:
        self._data = b""
        self._last: ResponseHead | None = None
        self._size = 0

    def parse(self, data: bytes, max_bytes: int) -> tuple[ResponseHead, int] | None:
        """As parse_response."""
        last = self._last
        if last is not None and data.startswith(self._data):
            return ResponseHead(last.status, last.reason, last.lines, last), self._size
        parsed = parse_response(data, max_bytes)
        if parsed is None:
            return None
        head, size = parsed
        if size != self._size:
            self._size = size
            self._last = None
        elif size <= self.MAX_REMEMBERED:
            self._data = data[:size]
            # a copy: layers change the head that they pass on
            self._last = ResponseHead(head.status, head.reason, head.lines, head)
        return parsed


MAX_RESPONSE_FIELDS = 1000  # nobody needs more, and each would be work for every cache and client behind us


def parse_response(data: bytes, max_bytes: int) -> tuple[ResponseHead, int] | None:
    """Parse the response head at the start of `data`: (head, its size).

    None when it is incomplete or malformed (ask explain_response).
    Raises UpstreamProtocolError for a well-formed head whose framing two parsers could read differently.
    """
    match = _RESPONSE.match(data)
    if match is None:
        return None
    minor, status, reason, block = match.groups()
    size = match.end()
    if size > max_bytes:
        raise UpstreamProtocolError(f"response head of more than {max_bytes} bytes", reason="upstream_head_too_large")
    if block.count(b"\n") > MAX_RESPONSE_FIELDS:
        raise UpstreamProtocolError(f"response with more than {MAX_RESPONSE_FIELDS} header fields")
    head = ResponseHead(int(status), reason[1:] if reason else b"", block)
    lowered = (b"\n" + block).lower()
    values, spans = fields.scan(block, lowered, _FIND_RESPONSE_FIELDS, _RESPONSE_KEEPS)
    head.has_date = b"\ndate:" in lowered
    head.reusable = minor == b"1"
    if b"transfer-encoding" in values:
        _read_response_coding(head, values, minor)
    elif b"content-length" in values:
        length = values[b"content-length"]
        if not length.isdigit() or len(length) > _MAX_DIGITS:
            raise UpstreamProtocolError("response whose Content-Length is not one decimal number")
        head.content_length = int(length)
        head.length_in_lines = True
    connection = values.get(b"connection")
    if connection is not None:
        if connection == b"keep-alive":
            head.reusable = True
        else:
            block, spans = _apply_response_connection(head, connection.lower(), block, spans)
    if len(spans) == 1:  # as good as always: Connection
        start, end = spans[0]
        head.lines = block[:start] + block[end:]
    elif spans:
        head.lines = fields.cut(block, spans)
    return head, size


def _apply_response_connection(
    head: ResponseHead, connection: bytes, block: bytes, spans: list[tuple[int, int]]
) -> tuple[bytes, list[tuple[int, int]]]:
    """Read persistence, and drop the fields that Connection names."""
    options = {option.strip(b" \t") for option in connection.split(b",")}
    head.reusable = b"close" not in options and (head.reusable or b"keep-alive" in options)
    named = options - _LISTED_ANYWAY
    if named:
        block = fields.without(block, named)
        lowered = fields.searchable(block)
        spans = fields.scan(block, lowered, _FIND_RESPONSE_FIELDS, _RESPONSE_KEEPS)[1]
        head.has_date = b"\ndate:" in lowered
    return block, spans


def _read_response_coding(head: ResponseHead, values: dict[bytes, bytes], minor: bytes) -> None:
    """RFC 9112 6.1: chunked alone, in HTTP/1.1, and never with a Content-Length."""
    if b"content-length" in values:
        raise UpstreamProtocolError("response with Content-Length and Transfer-Encoding")
    if values[b"transfer-encoding"].lower() != b"chunked" or minor == b"0":
        raise UpstreamProtocolError("response with an unknown transfer coding")
    head.chunked = True


def explain_response(data: bytes, checked: int, max_bytes: int) -> int:
    """Say what is wrong with a head that parse_response did not take; as explain_request.

    Raises UpstreamProtocolError as soon as no further byte could mend it.
    """
    while (line_end := data.find(b"\n", checked)) >= 0:
        line = data[checked : line_end + 1]
        if checked == 0:
            if _RESPONSE.fullmatch(line + b"\r\n") is None:
                raise UpstreamProtocolError("malformed status line")
        elif _FIELD_LINE.fullmatch(line) is None:  # an empty line too: parse_response would have taken a whole head
            raise UpstreamProtocolError("malformed header line in a response")
        checked = line_end + 1
    if checked == 0 and not data.startswith(b"HTTP/1."[: len(data)]):
        raise UpstreamProtocolError("the answer does not begin with HTTP/1.")
    if len(data) > max_bytes:
        raise UpstreamProtocolError(f"response head of more than {max_bytes} bytes", reason="upstream_head_too_large")
    return checked
