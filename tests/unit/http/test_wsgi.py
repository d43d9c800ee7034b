"""From Exchange to WSGI: the variables of PEP 3333, made only when somebody asks."""

from __future__ import annotations

import io
from typing import Any

from greenproxy.http.exchange import KEY, Exchange
from greenproxy.http.wsgi import add_http_variables, exchange_of, request_of
from tests.unit.http.fakes import exchange_for, request


def environ_of(data: bytes, body: bytes = b"") -> dict[str, Any]:
    """What the listener gives to the chain."""
    exchange = exchange_for(data)
    return {
        "REQUEST_METHOD": exchange.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": exchange.target.path,
        "QUERY_STRING": exchange.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        KEY: exchange,
    }


def variables(*lines: str, first: str = "GET / HTTP/1.1") -> dict[str, Any]:
    """What add_http_variables adds."""
    environ = environ_of(request(*lines, first=first))
    before = dict(environ)
    add_http_variables(environ)
    assert {key: environ[key] for key in before} == before
    return {key: value for key, value in environ.items() if key not in before}


def test_exchange_is_found() -> None:
    environ = environ_of(request())
    assert isinstance(exchange_of(environ), Exchange)
    assert exchange_of(environ) is environ[KEY]


def test_fields_become_variables() -> None:
    assert variables("X-A: 1", "accept:*/*", "X-E: caf\xe9", "X-Empty:") == {
        "HTTP_HOST": "shop.example.com",
        "HTTP_X_A": "1",
        "HTTP_ACCEPT": "*/*",
        "HTTP_X_E": "caf\xe9",
        "HTTP_X_EMPTY": "",
    }


def test_repeated_field_is_joined() -> None:
    assert variables("X-A: 1", "x-a: 2", "X-B: 3")["HTTP_X_A"] == "1, 2"


def test_content_fields_have_no_prefix() -> None:
    added = variables("Content-Type: text/plain", "Content-Length: 0005", first="POST / HTTP/1.1")
    assert (added["CONTENT_TYPE"], added["CONTENT_LENGTH"]) == ("text/plain", "5")
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & added.keys()


def test_chunked_body_ends_by_itself() -> None:
    added = variables("Transfer-Encoding: chunked", first="POST / HTTP/1.1")
    assert added["wsgi.input_terminated"] is True
    assert "CONTENT_LENGTH" not in added
    assert "HTTP_TRANSFER_ENCODING" not in added


def test_host_is_that_of_an_absolute_target() -> None:
    assert variables(first="GET http://Other.example:81/ HTTP/1.1")["HTTP_HOST"] == "Other.example:81"


def test_dangerous_fields_make_no_variable() -> None:
    added = variables(
        "Proxy: http://evil", "X_Forwarded_For: 1.1.1.1", "X-Forwarded-For: 1.1.1.1", "Connection: x-a", "X-A: 1"
    )
    assert added == {"HTTP_HOST": "shop.example.com"}


def test_request_is_made_once_and_reads_as_werkzeug() -> None:
    data = request("Content-Length: 5", "Cookie: a=b", "X-A: 1", first="POST /p/q?r=s&r=t HTTP/1.1")
    environ = environ_of(data, b"hello")
    asked = request_of(environ)
    assert request_of(environ) is asked
    assert (asked.method, asked.path, asked.args.getlist("r")) == ("POST", "/p/q", ["s", "t"])
    assert (asked.host, asked.cookies["a"], asked.headers["X-A"]) == ("shop.example.com", "b", "1")
    assert asked.get_data() == b"hello"
