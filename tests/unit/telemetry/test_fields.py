"""What an access record says of an exchange."""

from __future__ import annotations

import pytest

from greenproxy.telemetry.fields import MAX_TEXT, access_record, shortened
from tests.unit.http.fakes import FakeBody, exchange_for, request

TIME = "2026-01-31T12:00:00.123Z"


def test_proxied_exchange_is_recorded_in_full() -> None:
    body = FakeBody(b"hello", length=5)
    body.read_some()
    exchange = exchange_for(request("Content-Length: 5", first="POST /a%20b?secret=1 HTTP/1.1"), body=body)
    exchange.request_id, exchange.host = b"id-1", "shop.example.com"
    exchange.status, exchange.bytes_out = 201, 77
    exchange.upstream_seconds = 0.0105
    exchange.route, exchange.upstream, exchange.server, exchange.attempts = "/a", "shop", "127.0.0.1:81", 2
    record = access_record(exchange, TIME, now=exchange.started + 0.25)
    assert record == {
        "time": TIME,
        "request_id": "id-1",
        "client": "192.0.2.1",
        "method": "POST",
        "host": "shop.example.com",
        "path": "/a%20b",
        "status": 201,
        "bytes_in": 5,
        "bytes_out": 77,
        "duration_ms": 250.0,
        "upstream_ms": 10.5,
        "route": "/a",
        "upstream": "shop",
        "server": "127.0.0.1:81",
        "attempts": 2,
    }


def test_answer_of_our_own_has_a_reason_and_no_server() -> None:
    exchange = exchange_for(request())
    exchange.status, exchange.reason = 404, "no_route"
    record = access_record(exchange, TIME, now=0.0)
    assert (record["status"], record["reason"]) == (404, "no_route")
    assert (record["upstream"], record["server"], record["attempts"], record["bytes_in"]) == ("", "", 0, 0)


def test_query_is_never_recorded() -> None:
    assert "secret" not in str(access_record(exchange_for(request(first="GET /?secret HTTP/1.1")), TIME, now=0.0))


@pytest.mark.parametrize(
    ("value", "short"),
    [
        ("a" * MAX_TEXT, "a" * MAX_TEXT),
        ("a" * (MAX_TEXT + 1), "a" * MAX_TEXT + "..."),
        ("", ""),
        (10**2000, 10**2000),
        (None, None),
    ],
    ids=["at the limit", "over it", "empty", "a number", "none"],
)
def test_only_long_texts_are_cut(value: object, short: object) -> None:
    assert shortened({"a": value, "b": "stays"}) == {"a": short, "b": "stays"}
