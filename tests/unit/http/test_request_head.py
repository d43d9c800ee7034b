"""Request heads: what is taken, refused and passed on, and that the pace of arrival changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.errors import BadRequest
from greenproxy.http.head import HeadLimits, RequestHead, RequestParser, explain_request, parse_request
from tests.unit.http.fakes import LIMITS, parsed, request

INCOMPLETE = "incomplete"


def facts(head: RequestHead) -> tuple[object, ...]:
    """All that anybody may read from a head."""
    framing = (head.content_length, head.length_in_lines, head.chunked, head.has_body, head.keep_alive)
    return head.method, head.target, head.minor, head.size, head.host, head.lines, head.values, framing


def verdict(*pieces: bytes, limits: HeadLimits = LIMITS) -> object:
    """What becomes of a head that arrives in pieces: its facts, the status it is refused with, or INCOMPLETE."""
    data, checked = b"", 0
    for piece in pieces:
        data += piece
        try:
            head = parse_request(data, limits)
            if head is not None:
                return facts(head)
            checked = explain_request(data, checked, limits)
        except BadRequest as error:
            return error.status
    return INCOMPLETE


def reason(data: bytes, limits: HeadLimits = LIMITS) -> str:
    """Why a head is refused."""
    with pytest.raises(BadRequest) as caught:
        if parse_request(data, limits) is None:
            explain_request(data, 0, limits)
    return caught.value.reason


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# The grammar


@pytest.mark.parametrize(
    ("first", "method", "target", "minor"),
    [
        ("GET / HTTP/1.1", "GET", b"/", 1),
        ("GET / HTTP/1.0", "GET", b"/", 0),
        ("DELETE /a?b=c HTTP/1.1", "DELETE", b"/a?b=c", 1),
        ("OPTIONS * HTTP/1.1", "OPTIONS", b"*", 1),
        ("GET http://a.example/x HTTP/1.1", "GET", b"http://a.example/x", 1),
        ("PROPFIND / HTTP/1.1", "PROPFIND", b"/", 1),
        ("M-SEARCH!#$%&'*+.^_`|~9 / HTTP/1.1", "M-SEARCH!#$%&'*+.^_`|~9", b"/", 1),
    ],
)
def test_request_line_is_read(first: str, method: str, target: bytes, minor: int) -> None:
    head = parsed(request(first=first))
    assert (head.method, head.target, head.minor) == (method, target, minor)


@pytest.mark.parametrize(
    ("data", "status", "why"),
    [
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare_lf"),
        (b"GET /\rHTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET /\r\n", 400, "request_line_invalid"),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET / HTTP/11\r\nHost: a\r\n\r\n", 400, "request_line_invalid"),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "version_unknown"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_unknown"),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, "version_unknown"),
        (request("X-A : b"), 400, "header_invalid"),
        (request(": b"), 400, "header_invalid"),
        (request("X-A"), 400, "header_invalid"),
        (request("X\xe9: b"), 400, "header_invalid"),
        (request("X-A: b\x00c"), 400, "header_invalid"),
        (request("X-A: b\x0bc"), 400, "header_invalid"),
        (request("X-A: b\x7fc"), 400, "header_invalid"),
        (request("X-A: b\rc"), 400, "header_invalid"),
        (request("X-A: b", " folded"), 400, "obs_fold"),
        (request("X-A: b", "\tfolded"), 400, "obs_fold"),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "obs_fold"),
        (request(host=None), 400, "host_missing"),
        (request("Host: shop.example.com"), 400, "host_invalid"),
        (request("hOST: other.example.com"), 400, "host_invalid"),
        (request(host=""), 400, "host_invalid"),
        (request(host="a b"), 400, "host_invalid"),
        (request(host="a/b"), 400, "host_invalid"),
        (request(host="user@a"), 400, "host_invalid"),
        (request(host="a,b"), 400, "host_invalid"),
        (request(host="a:b"), 400, "host_invalid"),
        (request(host="a:65536"), 400, "host_invalid"),
        (request(host="[::1"), 400, "host_invalid"),
        (request(host="b\xfccher.example"), 400, "host_invalid"),
        (request(first="CONNECT a:443 HTTP/1.1"), 501, "method_refused"),
        (request(first="TRACE / HTTP/1.1"), 501, "method_refused"),
        (request(first="get / HTTP/1.1"), 501, "method_refused"),
    ],
)
def test_malformed_head_is_refused(data: bytes, status: int, why: str) -> None:
    assert verdict(data) == status
    assert reason(data) == why


@pytest.mark.parametrize(
    "host",
    ["a", "a:80", "a:", "a:0", "a:65535", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a_b-c.example.", "%41"],
)
def test_valid_host_is_taken(host: str) -> None:
    assert parsed(request(host=host)).host == host.encode()


def test_http10_may_have_no_host() -> None:
    assert parsed(request(host=None, first="GET / HTTP/1.0")).host == b""


# Framing (RFC 9112 6)


@pytest.mark.parametrize(
    ("lines", "length", "chunked"),
    [
        ([], None, False),
        (["Content-Length: 0"], 0, False),
        (["Content-Length: 5"], 5, False),
        (["content-length:5"], 5, False),
        (["Content-Length: \t5 "], 5, False),
        (["Content-Length: 0005"], 5, False),
        (["Content-Length: 999999999999999999"], 999_999_999_999_999_999, False),
        (["Transfer-Encoding: chunked"], None, True),
        (["transfer-encoding:CHUNKED \t"], None, True),
    ],
)
def test_framing_is_read(lines: list[str], length: int | None, chunked: bool) -> None:
    head = parsed(request(*lines, first="POST / HTTP/1.1"))
    assert (head.content_length, head.chunked) == (length, chunked)
    assert head.has_body is (chunked or bool(length))


@pytest.mark.parametrize(
    ("lines", "status", "why"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 400, "length_and_coding"),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], 400, "length_and_coding"),
        (["Transfer-Encoding: x", "Content-Length: 0"], 400, "length_and_coding"),
        (["Content-Length: 5", "Content-Length: 5"], 400, "length_invalid"),
        (["Content-Length: 5", "content-length: 6"], 400, "length_invalid"),
        (["Content-Length: 5, 5"], 400, "length_invalid"),
        (["Content-Length:"], 400, "length_invalid"),
        (["Content-Length: +5"], 400, "length_invalid"),
        (["Content-Length: -5"], 400, "length_invalid"),
        (["Content-Length: 5 5"], 400, "length_invalid"),
        (["Content-Length: 0x5"], 400, "length_invalid"),
        (["Content-Length: 1_0"], 400, "length_invalid"),
        (["Content-Length: 5.0"], 400, "length_invalid"),
        (["Content-Length: \xb2"], 400, "length_invalid"),
        (["Content-Length: " + "9" * 19], 400, "length_invalid"),
        (["Transfer-Encoding: gzip, chunked"], 501, "coding_unknown"),
        (["Transfer-Encoding: chunked, chunked"], 501, "coding_unknown"),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 501, "coding_unknown"),
        (["Transfer-Encoding: identity"], 501, "coding_unknown"),
        (["Transfer-Encoding: chunked;a=b"], 501, "coding_unknown"),
        (["Transfer-Encoding: \x0cchunked"], 400, "header_invalid"),
        (["Transfer-Encoding: xchunked"], 501, "coding_unknown"),
        (["Transfer-Encoding:"], 501, "coding_unknown"),
    ],
)
def test_doubtful_framing_is_refused(lines: list[str], status: int, why: str) -> None:
    data = request(*lines, first="POST / HTTP/1.1")
    assert verdict(data) == status
    assert reason(data) == why


def test_transfer_coding_in_http10_is_refused() -> None:
    assert reason(request("Transfer-Encoding: chunked", first="POST / HTTP/1.0")) == "coding_in_http10"


@pytest.mark.parametrize("connection", ["content-length", "transfer-encoding", "host", "close, Host, Content-Length"])
def test_connection_cannot_take_framing_away(connection: str) -> None:
    with_length = parsed(request(f"Connection: {connection}", "Content-Length: 5", first="POST / HTTP/1.1"))
    assert (with_length.content_length, with_length.host) == (5, b"shop.example.com")
    assert b"Content-Length: 5\r\n" in with_length.lines
    assert b"Host: shop.example.com\r\n" in with_length.lines
    with_coding = parsed(request(f"Connection: {connection}", "Transfer-Encoding: chunked", first="POST / HTTP/1.1"))
    assert with_coding.chunked


# Persistence (RFC 9112 9.3)


@pytest.mark.parametrize(
    ("minor", "connection", "keeps"),
    [
        (1, None, True),
        (1, "close", False),
        (1, "Close", False),
        (1, "keep-alive, close", False),
        (1, "upgrade", True),
        (0, None, False),
        (0, "keep-alive", True),
        (0, "Keep-Alive", True),
        (0, "x, keep-alive", True),
        (0, "close, keep-alive", False),
        (0, "upgrade", False),
    ],
)
def test_persistence_follows_version_and_connection(minor: int, connection: str | None, keeps: bool) -> None:
    lines = [] if connection is None else [f"Connection: {connection}"]
    assert parsed(request(*lines, first=f"GET / HTTP/1.{minor}")).keep_alive is keeps


def test_second_connection_line_counts() -> None:
    assert parsed(request("Connection: keep-alive", "Connection: close")).keep_alive is False


# What may be passed on


def test_lines_keep_order_case_and_spacing() -> None:
    lines = ["X-Z:1", "ACCEPT:  */* ", "x-a: caf\xe9", "X-Z: 2", "X-Empty:"]
    assert parsed(request(*lines)).lines == request(*lines, first="")[2:-2]


@pytest.mark.parametrize(
    "line",
    [
        "Connection: close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "TE: trailers",
        "Trailer: X-Sum",
        "Transfer-Encoding: chunked",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "Forwarded: for=1.2.3.4",
        "Proxy: http://evil",
        "X-Real-IP: 1.2.3.4",
        "X-Request-ID: 1",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Anything: 1",
    ],
)
def test_field_that_ends_here_is_not_passed_on_but_readable(line: str) -> None:
    name, _, value = line.partition(": ")
    head = parsed(request("X-A: 1", line, "X-B: 2", first="POST / HTTP/1.1"))
    assert head.lines == b"Host: shop.example.com\r\nX-A: 1\r\nX-B: 2\r\n"
    assert head.header(name.lower().encode()) == value.encode()


@pytest.mark.parametrize(("text", "kept"), [("5", True), ("0", True), ("05", False)])
def test_canonical_length_keeps_its_place(text: str, kept: bool) -> None:
    head = parsed(request("X-A: 1", f"Content-Length: {text}", "X-B: 2", first="POST / HTTP/1.1"))
    assert head.length_in_lines is kept
    middle = f"Content-Length: {text}\r\n".encode() if kept else b""
    assert head.lines == b"Host: shop.example.com\r\nX-A: 1\r\n" + middle + b"X-B: 2\r\n"


@pytest.mark.parametrize(
    "connection", ["X-Gone", "x-gone", "close, X-GONE", ",, x-gone ,", "\tx-gone\t, upgrade", "x-other", "x.gone"]
)
def test_field_named_by_connection_is_dropped(connection: str) -> None:
    head = parsed(request("X-Keep: 1", f"Connection: {connection}", "X-Gone: 2", "x-gone: 3", "X-Gone-Not: 4"))
    gone = "x-gone" in connection.lower()
    rest = b"" if gone else b"X-Gone: 2\r\nx-gone: 3\r\n"
    assert head.lines == b"Host: shop.example.com\r\nX-Keep: 1\r\n" + rest + b"X-Gone-Not: 4\r\n"


def test_connection_on_two_lines_drops_what_either_names() -> None:
    head = parsed(request("Connection: x-a", "X-A: 1", "X-B: 2", "Connection: x-b"))
    assert head.lines == b"Host: shop.example.com\r\n"


@pytest.mark.parametrize("name", ["X_A", "_", "Content_Length", "Transfer_Encoding", "X-Forwarded_For"])
def test_name_with_underscore_is_dropped_by_default(name: str) -> None:
    data = request("X-A: a_b", f"{name}: 5", "X-B: 2")
    assert parsed(data).lines == b"Host: shop.example.com\r\nX-A: a_b\r\nX-B: 2\r\n"
    allowing = HeadLimits(32_768, 100, 8_192, allow_underscores=True)
    assert f"{name}: 5\r\n".encode() in parsed(data, allowing).lines


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"accept", b"*/*"),
        (b"x-two", b"1, 2"),
        (b"x-empty", b""),
        (b"x-missing", None),
        (b"x-tw", None),
        (b"host", b"shop.example.com"),
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2"),
    ],
)
def test_header_gives_the_joined_value(name: bytes, value: bytes | None) -> None:
    lines = [
        "Accept: \t*/* ",
        "X-Two: 1",
        "x-TWO:2",
        "X-Empty:",
        "X-Forwarded-For: 1.1.1.1",
        "x-forwarded-for: 2.2.2.2",
    ]
    assert parsed(request(*lines)).header(name) == value


_FIELDS = b"Host: a\r\nX-A: 1\r\nAccept: */*\r\n"
REPEATED = [
    b"GET / HTTP/1.1\r\n" + _FIELDS + b"\r\n",
    b"GET /other HTTP/1.1\r\n" + _FIELDS + b"\r\nGET /pipelined",
    b"HEAD / HTTP/1.0\r\n" + _FIELDS + b"\r\n",
    b"GET / HTTP/1.1\r\n" + _FIELDS + b"X-B: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + _FIELDS + b"Connection: x-a\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + _FIELDS + b"Content-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\n" + _FIELDS,
    b"GET / HTTP/1.1\r\n" + _FIELDS[:-1] + b"\r\n",
    b"GET  / HTTP/1.1\r\n" + _FIELDS + b"\r\n",
    b"POST / HTTP/1.1\r\n" + _FIELDS + b"Transfer-Encoding: chunked\r\n\r\n",
]


# Limits


def test_fields_up_to_the_limit_are_taken_and_one_more_is_not() -> None:
    most = [f"X-{number}: 1" for number in range(LIMITS.max_headers - 1)]
    parsed(request(*most))
    assert verdict(request(*most, "X-More: 1")) == 431


def test_dropped_fields_count_against_the_limit() -> None:
    assert verdict(request(*["X_Y: 1"] * LIMITS.max_headers)) == 431


def test_head_up_to_the_limit_is_taken_and_one_more_byte_is_not() -> None:
    frame = len(request("X: "))
    full = request("X: " + "a" * (LIMITS.max_header_bytes - frame))
    assert len(full) == LIMITS.max_header_bytes
    assert parsed(full).size == LIMITS.max_header_bytes
    assert verdict(full[:-2], full[-2:] + b"body") == facts(parsed(full))
    over = request("X: " + "a" * (LIMITS.max_header_bytes - frame + 1))
    assert verdict(over) == 431
    assert verdict(over[:-4], over[-4:]) == 431


def test_endless_head_is_refused_at_the_limit() -> None:
    data, checked = b"GET / HTTP/1.1\r\nX: ", 0
    with pytest.raises(BadRequest) as caught:
        while len(data) < LIMITS.max_header_bytes + 2:
            data += b"a"
            checked = explain_request(data, checked, LIMITS)
    assert (caught.value.status, len(data)) == (431, LIMITS.max_header_bytes + 1)


def test_request_line_up_to_the_limit_is_taken_and_one_more_byte_is_not() -> None:
    frame = len("GET / HTTP/1.1")
    parsed(request(first=f"GET /{'a' * (LIMITS.max_request_line - frame)} HTTP/1.1"))
    assert verdict(request(first=f"GET /{'a' * (LIMITS.max_request_line - frame + 1)} HTTP/1.1")) == 414


def test_endless_request_line_is_refused_near_the_limit() -> None:
    assert verdict(b"GET /" + b"a" * (LIMITS.max_request_line + 3)) == 414


# One connection, many heads


@given(st.lists(st.sampled_from(REPEATED), max_size=8))
def test_heads_of_one_connection_do_not_color_each_other(heads: list[bytes]) -> None:
    """A parser that remembers the last header must come to what one without a memory comes to."""
    parser = RequestParser(LIMITS)
    for data in heads:
        head, alone = parser.parse(data), parse_request(data, LIMITS)
        assert (head and facts(head)) == (alone and facts(alone))
        for name in (b"x-a", b"accept", b"connection"):
            assert (head and head.header(name)) == (alone and alone.header(name))


# The pace of arrival

_GOOD_LINES = [b"Host: a\r\n", b"X-A: 1\r\n", b"x-b:\r\n", b"Connection: close, x-a\r\n", b"Content-Length: 5\r\n"]
_BAD_LINES = [
    b"Host: b\r\n", b"Transfer-Encoding: chunked\r\n", b" fold\r\n", b"X : 1\r\n", b"X: 1\n", b"X: \r\r\n",
    b"X: \0\r\n", b"no colon\r\n", b"\n", b"\r\n", b"\r", b"X",
]  # fmt: skip
_FIRST_LINES = [
    b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.0\r\n", b"GET / HTTP/1.1\n", b"GET / HTTP/3.0\r\n", b"GET\r\n",
    b"TRACE / HTTP/1.1\r\n", b"\r\n", b"GET / HT",
]  # fmt: skip

heads = st.builds(
    lambda first, lines, end: first + b"".join(lines) + end,
    st.sampled_from(_FIRST_LINES),
    st.lists(st.sampled_from(_GOOD_LINES * 3 + _BAD_LINES), max_size=6),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b""]),
)


@given(heads)
def test_bytes_one_by_one_have_the_same_verdict_as_all_at_once(data: bytes) -> None:
    assert verdict(*bytewise(data)) == verdict(data)


@given(heads, st.lists(st.integers(0, 150), max_size=8))
def test_no_split_changes_the_verdict(data: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(data)]
    assert verdict(*(data[start:end] for start, end in pairwise(at))) == verdict(data)


@given(st.binary(max_size=60))
def test_no_bytes_at_all_raise_anything_but_a_refusal(data: bytes) -> None:
    assert verdict(data) == INCOMPLETE or isinstance(verdict(data), (int, tuple))


@given(st.binary(max_size=40), st.sampled_from([b"X-A: %b\r\n", b"Host: %b\r\n", b"Connection: %b\r\n", b"%b: 1\r\n"]))
def test_what_is_passed_on_is_whole_clean_lines(junk: bytes, line: bytes) -> None:
    head = verdict(b"GET / HTTP/1.0\r\n" + line % junk + b"\r\n")
    if isinstance(head, tuple):
        lines = head[5]
        assert isinstance(lines, bytes)
        assert not lines or lines.endswith(b"\r\n")
        assert all(b":" in part and not set(part) & {0, 10, 13} for part in lines.split(b"\r\n")[:-1])


_LINES = [b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"X-A: 1\r\n"]


@pytest.mark.parametrize("rest", [b"", b"X-B: 2\r\n", b"X-B: 2", b"bad line\r\n", b" fold\r\n", b"X\0", b"X: 1\n"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_checked_lines_are_never_looked_at_again(number: int, rest: bytes) -> None:
    """Lines that were found good are made bad behind its back: only somebody who reads them again would notice."""
    before = b"".join(_LINES[:number])
    checked = explain_request(before, 0, LIMITS)
    assert checked == len(before)

    def second_look(start: bytes) -> object:
        try:
            return explain_request(start + rest, checked, LIMITS)
        except BadRequest as error:
            return error.reason

    assert second_look(b"\0\n" * (checked // 2) + b"\n" * (checked % 2)) == second_look(before)


@given(heads)
def test_checked_is_the_start_of_the_unfinished_line(data: bytes) -> None:
    checked = 0
    for end in range(1, len(data) + 1):
        try:
            if parse_request(data[:end], LIMITS) is not None:
                return
            checked = explain_request(data[:end], checked, LIMITS)
        except BadRequest:
            return
        assert checked == data[:end].rfind(b"\n") + 1


def test_request_line_at_the_limit_passes_byte_by_byte() -> None:
    data = request(first=f"GET /{'a' * (LIMITS.max_request_line - 14)} HTTP/1.1")
    assert verdict(*bytewise(data)) == facts(parsed(data))


def test_remembered_header_does_not_lift_the_limit() -> None:
    parser = RequestParser(HeadLimits(600, 100, 500))
    parser.parse(request("X: " + "a" * 300))
    with pytest.raises(BadRequest):
        parser.parse(request("X: " + "a" * 300, first=f"GET /{'a' * 450} HTTP/1.1"))
