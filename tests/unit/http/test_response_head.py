"""Answers of servers: strict heads, framing that cannot be read in two ways, and only what a client may see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.errors import UpstreamProtocolError
from greenproxy.http.head import MAX_RESPONSE_FIELDS, ResponseHead, ResponseParser, explain_response, parse_response

MAX = 16_384


def response(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, *lines, "", "")).encode("latin-1")


def parsed(data: bytes) -> ResponseHead:
    taken = parse_response(data, MAX)
    assert taken is not None, f"not a well-formed head: {data!r}"
    return taken[0]


def verdict(*pieces: bytes) -> object:
    """What becomes of a head that arrives in pieces: its facts, "refused" or "incomplete"."""
    data, checked = b"", 0
    for piece in pieces:
        data += piece
        try:
            taken = parse_response(data, MAX)
            if taken is not None:
                head, size = taken
                return size, *(getattr(head, name) for name in ResponseHead.__slots__)
            checked = explain_response(data, checked, MAX)
        except UpstreamProtocolError:
            return "refused"
    return "incomplete"


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        ("HTTP/1.1 200 OK", 200, b"OK"),
        ("HTTP/1.0 404 Not Found", 404, b"Not Found"),
        ("HTTP/1.1 200 ", 200, b""),
        ("HTTP/1.1 200", 200, b""),
        ("HTTP/1.1 599 \xe9t\xe9", 599, b"\xe9t\xe9"),
        ("HTTP/1.1 103 Early Hints", 103, b"Early Hints"),
    ],
)
def test_status_line_is_read(line: str, status: int, reason: bytes) -> None:
    head = parsed(response(status=line))
    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 000 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"<html>",
        b"\0",
        b"ICY",
        response("X-A: 1\n"),
        response("X-A : 1"),
        response("X-A: 1", " folded"),
        response(" X-A: 1"),
        response("X-A: \x00"),
        response("X-A: \x1b[2J"),
        response("X-A: a\rb"),
        response("X-A"),
        response(": 1"),
    ],
)
def test_malformed_head_is_refused(data: bytes) -> None:
    assert verdict(data) == "refused"


@pytest.mark.parametrize(
    ("lines", "length", "chunked"),
    [
        ([], None, False),
        (["Content-Length: 5"], 5, False),
        (["CONTENT-LENGTH:0"], 0, False),
        (["Transfer-Encoding: Chunked"], None, True),
    ],
)
def test_framing_is_read(lines: list[str], length: int | None, chunked: bool) -> None:
    head = parsed(response(*lines))
    assert (head.content_length, head.chunked, head.length_in_lines) == (length, chunked, length is not None)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Content-Length: 1_0"],
        ["Content-Length:"],
        ["Content-Length: " + "9" * 19],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding:"],
    ],
)
def test_doubtful_framing_is_refused(lines: list[str]) -> None:
    assert verdict(response(*lines)) == "refused"


def test_chunked_in_http10_is_refused() -> None:
    assert verdict(response("Transfer-Encoding: chunked", status="HTTP/1.0 200 OK")) == "refused"


@pytest.mark.parametrize(
    ("minor", "connection", "reusable"),
    [
        (1, None, True),
        (1, "close", False),
        (1, "Keep-Alive, Close", False),
        (1, "keep-alive", True),
        (0, None, False),
        (0, "keep-alive", True),
        (0, "close, keep-alive", False),
    ],
)
def test_reuse_follows_version_and_connection(minor: int, connection: str | None, reusable: bool) -> None:
    lines = [] if connection is None else [f"Connection: {connection}"]
    assert parsed(response(*lines, status=f"HTTP/1.{minor} 200 OK")).reusable is reusable


@pytest.mark.parametrize(
    "line",
    [
        "Connection: close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: close",
        "TE: trailers",
        "Trailer: X-Sum",
        "Transfer-Encoding: chunked",
        "Upgrade: h2c",
    ],
)
def test_hop_by_hop_field_is_not_passed_on(line: str) -> None:
    assert parsed(response("X-A: 1", line, "x-b:2")).lines == b"X-A: 1\r\nx-b:2\r\n"


def test_field_named_by_connection_is_dropped() -> None:
    head = parsed(
        response("X-Gone: 1", "Connection: close, x-gone, set-cookie", "x-GONE: 2", "Set-Cookie: a", "X-B: 3")
    )
    assert head.lines == b"X-B: 3\r\n"


def test_connection_cannot_take_the_length_away() -> None:
    head = parsed(response("Content-Length: 5", "Connection: content-length"))
    assert (head.content_length, head.lines) == (5, b"Content-Length: 5\r\n")


@pytest.mark.parametrize(("lines", "has"), [([], False), (["DATE: x"], True), (["X-Date: x"], False)])
def test_date_is_noticed_and_stays(lines: list[str], has: bool) -> None:
    head = parsed(response(*lines, "Connection: close"))
    assert head.has_date is has
    assert head.lines == "".join(f"{line}\r\n" for line in lines).encode()


def test_several_cookies_stay_apart() -> None:
    assert parsed(response("Set-Cookie: a=1", "Set-Cookie: b=2")).lines == b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"


def test_size_leaves_the_body() -> None:
    data = response("Content-Length: 5")
    taken = parse_response(data + b"hello", MAX)
    assert taken is not None
    assert taken[1] == len(data)


def test_fields_up_to_the_limit_are_taken_and_one_more_is_not() -> None:
    assert isinstance(verdict(response(*["X: 1"] * MAX_RESPONSE_FIELDS)), tuple)
    assert verdict(response(*["X: 1"] * (MAX_RESPONSE_FIELDS + 1))) == "refused"


def test_head_up_to_the_limit_is_taken_and_one_more_byte_is_not() -> None:
    filling = MAX - len(response("X: "))
    assert isinstance(verdict(response("X: " + "a" * filling)), tuple)
    assert verdict(response("X: " + "a" * (filling + 1))) == "refused"
    assert verdict(b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX) == "refused"


_LINES = [
    b"X-A: 1\r\n", b"x-b:\r\n", b"Content-Length: 5\r\n", b"Connection: close\r\n", b"Date: x\r\n",
    b"X: 1\n", b" x\r\n", b"\n", b"X", b"X: \r", b"Transfer-Encoding: chunked\r\n",
]  # fmt: skip
heads = st.builds(
    lambda first, lines, end: first + b"".join(lines) + end,
    st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 302\r\n", b"HTTP/1.1 200 OK\n", b"HTTP/1", b"HTTQ", b"\r\n"]),
    st.lists(st.sampled_from(_LINES), max_size=5),
    st.sampled_from([b"\r\n", b"\n", b""]),
)


@given(heads)
def test_bytes_one_by_one_have_the_same_verdict_as_all_at_once(data: bytes) -> None:
    assert verdict(*(data[at : at + 1] for at in range(len(data)))) == verdict(data)


@pytest.mark.parametrize("rest", [b"", b"X-B: 2\r\n", b"bad line\r\n", b" fold\r\n", b"X: 1\n"])
def test_checked_lines_are_never_looked_at_again(rest: bytes) -> None:
    before = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n"
    checked = explain_response(before, 0, MAX)
    assert checked == len(before)

    def second_look(start: bytes) -> object:
        try:
            return explain_response(start + rest, checked, MAX)
        except UpstreamProtocolError as error:
            return error.detail

    assert second_look(b"\n" * checked) == second_look(before)


def head_of(length: int, *lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, f"Content-Length: {length}", "\r\n"]).encode()


def test_parser_that_remembers_gives_what_one_that_does_not_gives() -> None:
    parser = ResponseParser()
    heads = [head_of(5, "X: a"), head_of(5, "X: a"), head_of(5, "X: b"), head_of(5, "X: a"), head_of(50, "X: a")] * 2
    for data in [*heads, *(head_of(7, "Connection: X", "X: hop") for _ in range(3))]:
        plain, remembered = parse_response(data + b"body", 65536), parser.parse(data + b"body", 65536)
        assert plain is not None
        assert remembered is not None
        assert remembered[1] == plain[1]
        for name in ResponseHead.__slots__:
            assert getattr(remembered[0], name) == getattr(plain[0], name)


def test_change_of_a_head_does_not_reach_the_next() -> None:
    parser = ResponseParser()
    for _ in range(4):
        parsed = parser.parse(head_of(5, "X: a"), 65536)
        assert parsed is not None
        head = parsed[0]
        assert head.lines == b"X: a\r\nContent-Length: 5\r\n"
        assert head.reusable
        head.lines += b"Set-Cookie: a=b\r\n"
        head.reusable = False


def test_part_of_a_remembered_head_is_incomplete() -> None:
    parser = ResponseParser()
    for _ in range(3):
        parser.parse(head_of(5, "X: a"), 65536)
    assert parser.parse(head_of(5, "X: a")[:-2], 65536) is None
