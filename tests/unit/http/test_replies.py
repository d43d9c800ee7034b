"""Our own answers: no header of theirs can break the message, no text of theirs becomes markup."""

from __future__ import annotations

import pytest

from greenproxy.http.replies import error_reply, head_from_wsgi, make_head, page_reply, phrase_of


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "b\r\nX-Evil: 1"),
        ("X-A", "b\nX-Evil: 1"),
        ("X-A", "b\r"),
        ("X-A", "b\x00"),
        ("X-A", "b\x1b"),
        ("X-A", "b\x7f"),
        ("X-A\r\nX-Evil", "1"),
        ("X A", "b"),
        ("", "b"),
        ("X-\xe9", "b"),
        ("X-A", "\u20ac"),
    ],
)
def test_header_that_would_break_the_message_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError):
        make_head(200, [("X-Good", "1"), (name, value)])
    with pytest.raises(ValueError):
        head_from_wsgi("200 OK", [(name, value)])


def test_head_is_made_in_order() -> None:
    head = make_head(201, [("X-B", "1"), ("x-a", ""), ("X-B", "caf\xe9")])
    assert (head.status, head.reason) == (201, b"Created")
    assert head.lines == b"X-B: 1\r\nx-a: \r\nX-B: caf\xe9\r\n"


@pytest.mark.parametrize("name", ["Connection", "keep-alive", "Proxy-Connection", "TE", "Trailer", "UPGRADE"])
def test_hop_by_hop_header_is_dropped(name: str) -> None:
    assert make_head(200, [("X-A", "1"), (name, "x"), ("X-B", "2")]).lines == b"X-A: 1\r\nX-B: 2\r\n"


def test_length_and_date_are_noticed() -> None:
    head = make_head(200, [("content-length", "5"), ("date", "now")])
    assert (head.content_length, head.length_in_lines, head.has_date) == (5, True, True)
    head = make_head(200, [])
    assert (head.content_length, head.length_in_lines, head.has_date) == (None, False, False)


@pytest.mark.parametrize("length", ["", "x", "5, 5", "5.0"])
def test_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(ValueError):
        make_head(200, [("Content-Length", length)])


@pytest.mark.parametrize(
    ("status", "code", "reason"), [("200 OK", 200, b"OK"), ("404 Not here", 404, b"Not here"), ("299", 299, b"")]
)
def test_wsgi_status_is_read(status: str, code: int, reason: bytes) -> None:
    head = head_from_wsgi(status, [])
    assert (head.status, head.reason) == (code, reason)


@pytest.mark.parametrize("status", ["", "OK", "20 OK", "2000 OK", "abc OK", " 200 OK", "-20 OK", "200\u20ac"])
def test_wsgi_status_without_three_digits_is_refused(status: str) -> None:
    with pytest.raises(ValueError):
        head_from_wsgi(status, [])


@pytest.mark.parametrize(
    ("status", "phrase"), [(200, "OK"), (404, "Not Found"), (418, "I'm a Teapot"), (599, "Unknown")]
)
def test_phrase_is_the_registered_one(status: int, phrase: str) -> None:
    assert phrase_of(status) == phrase


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (b"text/html,application/xhtml+xml", True),
        (b"*/*", False),
        (b"application/json", False),
        (None, False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("status", [400, 404, 413, 418, 431, 502, 503, 504])
def test_error_says_status_and_request_id(status: int, accept: bytes | None, is_html: bool) -> None:
    head, body = error_reply(status, "id-1", accept)
    assert head.status == status
    assert (head.header(b"content-type") or b"").startswith(b"text/html" if is_html else b"text/plain")
    assert head.header(b"cache-control") == b"no-store"
    assert head.header(b"x-request-id") == b"id-1"
    assert head.content_length == len(body)
    assert str(status).encode() in body
    assert b"id-1" in body
    assert body.startswith(b"<!doctype html>") is is_html


def test_request_id_is_escaped_in_a_page() -> None:
    _, body = error_reply(502, '<script>"&', b"text/html")
    assert b"<script>" not in body
    assert b"&lt;script&gt;&quot;&amp;" in body


def test_answer_without_a_request_id_names_none() -> None:
    head, body = error_reply(400, "", None)
    assert head.header(b"x-request-id") is None
    assert body == b"400 Bad Request\n"


def test_further_headers_are_added() -> None:
    head, _ = error_reply(405, "id-1", None, [("Allow", "GET")])
    assert head.header(b"allow") == b"GET"


def test_page_is_sent_to_the_byte() -> None:
    head, body = page_reply(503, b"{}\xff\n", "application/json", "id-1")
    assert (head.status, body) == (503, b"{}\xff\n")
    assert head.header(b"content-type") == b"application/json"
    assert (head.content_length, head.header(b"cache-control")) == (4, b"no-store")


@pytest.mark.parametrize("length", ["+5", "1_0", "-5", ""])
def test_length_that_is_no_plain_number_is_refused(length: str) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        make_head(200, [("Content-Length", length)])


def test_reason_cannot_split_the_answer() -> None:
    with pytest.raises(ValueError, match="reason"):
        head_from_wsgi("200 OK\r\nX-Evil: 1", [])


def test_framing_of_an_application_is_dropped() -> None:
    assert make_head(200, [("Transfer-Encoding", "chunked"), ("Connection", "close")]).lines == b""


def test_name_with_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match="X-A:"):
        make_head(200, [("X-A:", "b")])
