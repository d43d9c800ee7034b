"""Request heads and the environ they become."""

from __future__ import annotations

import pytest

from greenproxy.worker.apphost import BadRequest, environ_key, environ_of, parse_head


def environ(*fields: str, line: str = "GET / HTTP/1.1", host: str = "shop.example.com") -> dict[str, object]:
    return environ_of(parse_head("\r\n".join([line, f"Host: {host}", *fields]).encode("latin-1")), {})


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        ("GET / HTTP/1.1", "/", ""),
        ("GET /a?b=c?d HTTP/1.1", "/a", "b=c?d"),
        ("GET /a%20b%2Fc HTTP/1.1", "/a b/c", ""),
        ("GET /%C3%84 HTTP/1.1", "/\xc3\x84", ""),
        ("GET /\xc3\x84 HTTP/1.1", "/\xc3\x84", ""),
        ("GET /100%?a=%20 HTTP/1.1", "/100%", "a=%20"),
        ("GET //double HTTP/1.1", "//double", ""),
        ("OPTIONS * HTTP/1.1", "*", ""),
        ("GET http://other/a?b HTTP/1.1", "/a", "b"),
        ("GET HTTP://other HTTP/1.1", "/", ""),
        ("GET http://other?b HTTP/1.1", "/", "b"),
    ],
)
def test_target_becomes_path_and_query(line: str, path: str, query: str) -> None:
    made = environ(line=line)
    assert (made["PATH_INFO"], made["QUERY_STRING"]) == (path, query)
    assert made["RAW_URI"] == made["REQUEST_URI"] == line.split()[1]


@pytest.mark.parametrize("target", ["a", "*", "/a#b", "ftp://host/", "shop.example.com:80", "://", "http:/a"])
def test_malformed_target_is_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        environ(line=f"GET {target} HTTP/1.1")


@pytest.mark.parametrize(
    ("host", "scheme", "name", "port"),
    [
        ("shop.example.com", "http", "shop.example.com", "80"),
        ("shop.example.com", "https", "shop.example.com", "443"),
        ("shop.example.com:8443", "https", "shop.example.com", "8443"),
        ("shop.example.com:", "http", "shop.example.com", "80"),
        ("[::1]:8000", "http", "[::1]", "8000"),
        ("", "http", "localhost", "80"),
    ],
)
def test_host_and_scheme_become_the_server(host: str, scheme: str, name: str, port: str) -> None:
    made = environ(f"X-Forwarded-Proto: {scheme}", host=host)
    assert (made["SERVER_NAME"], made["SERVER_PORT"], made["wsgi.url_scheme"]) == (name, port, scheme)


@pytest.mark.parametrize("host", ["a b", "a/b", "a:b", "a@b", "[::1", "a:1:2", "a, b"])
def test_malformed_host_is_refused(host: str) -> None:
    with pytest.raises(BadRequest):
        environ(host=host)


def test_absolute_target_replaces_the_host() -> None:
    made = environ(line="GET http://other:81/ HTTP/1.1")
    assert (made["HTTP_HOST"], made["SERVER_NAME"], made["SERVER_PORT"]) == ("other:81", "other", "81")


def test_client_is_whom_the_proxy_says_it_is() -> None:
    assert (
        environ("X-Forwarded-For: 198.51.100.1, 192.0.2.1", "X-Real-IP: 198.51.100.1")["REMOTE_ADDR"] == "198.51.100.1"
    )
    assert environ()["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("prefix", "name"), [("/shop", "/shop"), ("/shop/", "/shop"), ("/a/b", "/a/b"), ("/%C3%84", "/\xc3\x84"), ("/", "")]
)
def test_prefix_becomes_script_name(prefix: str, name: str) -> None:
    assert environ(f"X-Forwarded-Prefix: {prefix}")["SCRIPT_NAME"] == name


@pytest.mark.parametrize("prefix", ["shop", "//evil.example.com", "/a?b", "/a#b"])
def test_malformed_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(BadRequest):
        environ(f"X-Forwarded-Prefix: {prefix}")


def test_fields_have_their_environ_names() -> None:
    made = environ("Content-Type: text/plain", "Content-Length: 3", "X-A-b: \t c d \t", "X-Empty:", "X-High: \xe4")
    assert {
        key: made[key] for key in ("CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_X_A_B", "HTTP_X_EMPTY", "HTTP_X_HIGH")
    } == {
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "HTTP_X_A_B": "c d",
        "HTTP_X_EMPTY": "",
        "HTTP_X_HIGH": "\xe4",
    }


def test_repeated_fields_are_joined() -> None:
    made = environ("X-A: 1", "Cookie: a=1", "x-a: 2", "Cookie: b=2")
    assert (made["HTTP_X_A"], made["HTTP_COOKIE"]) == ("1, 2", "a=1; b=2")


@pytest.mark.parametrize("field", ["Host: other", "Content-Length: 3", "Content-Type: text/plain"])
def test_field_that_has_one_value_is_refused_twice(field: str) -> None:
    with pytest.raises(BadRequest):
        environ("Content-Length: 3", "Content-Type: text/plain", field)


def test_name_with_underscore_cannot_forge_another() -> None:
    made = environ("X_Forwarded_Proto: https", "Content_Length: 5")
    assert (made["wsgi.url_scheme"], "HTTP_X_FORWARDED_PROTO" in made, "CONTENT_LENGTH" in made) == (
        "http",
        False,
        False,
    )


@pytest.mark.parametrize("name", ["", " X", "X ", "X\t", "a b", "a(b", "a/b", "\xe4"])
def test_malformed_name_is_refused_each_time(name: str) -> None:
    for _ in range(2):  # the names are remembered, the refusals must not be
        with pytest.raises(BadRequest):
            environ_key(name)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.2\r\nHost: a",
        b"GET / http/1.1\r\nHost: a",
        b" GET / HTTP/1.1\r\nHost: a",
        b"G\xc4T / HTTP/1.1\r\nHost: a",
        b"GET /\x7f HTTP/1.1\r\nHost: a",
        b"\r\nGET / HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\n\tfolded: b",
        b"GET / HTTP/1.1\r\nHost: a\nX: b",
        b"GET / HTTP/1.1\r\nHost: a\r\rX: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31m",
    ],
)
def test_malformed_head_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_head(head)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", 0),
        (b"\r\nContent-Length: 0", 0),
        (b"\r\nContent-Length: 007", 7),
        (b"\r\nTransfer-Encoding: chunked", None),
        (b"\r\nTransfer-Encoding: Chunked", None),
    ],
)
def test_body_length(fields: bytes, length: int | None) -> None:
    assert parse_head(b"POST / HTTP/1.1\r\nHost: a" + fields).content_length == length


@pytest.mark.parametrize(
    "fields",
    [
        *(
            b"Content-Length: " + value
            for value in (b"", b"-1", b"+1", b"1_0", b"0x1", b"1, 1", b"1 1", b"\xb2", b"9" * 19)
        ),
        *(
            b"Transfer-Encoding: " + value
            for value in (b"", b"gzip", b"gzip, chunked", b"chunked, chunked", b"xchunked")
        ),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 1",
    ],
)
def test_doubtful_framing_is_refused(fields: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_head(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields)


def test_chunked_is_unknown_to_http_1_0() -> None:
    with pytest.raises(BadRequest):
        parse_head(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("version", "options", "keep"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "TE, Close", False),
        ("1.1", "x-closed-beta", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_keep_alive(version: str, options: str | None, keep: bool) -> None:
    field = f"\r\nConnection: {options}" if options else ""
    assert parse_head(f"GET / HTTP/{version}\r\nHost: a{field}".encode()).keep_alive is keep
