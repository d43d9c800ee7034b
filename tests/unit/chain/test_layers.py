"""The small layers: each does its one thing to the Exchange or to the answer's head, and passes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from greenproxy.chain.layers import RequestHeaders, Responder, ResponseHeaders, Splitter, StripPrefix
from greenproxy.config.schema import HeaderEdit, Respond
from greenproxy.http.exchange import KEY, Exchange
from greenproxy.http.head import ResponseHead
from greenproxy.http.replies import make_head
from greenproxy.routing.split import Split
from tests.unit.http.fakes import exchange_for, request


class FakeEnd:
    """The end of a chain: notes the exchange, answers with the given header."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self.headers = headers
        self.exchanges: list[Exchange] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]
        self.exchanges.append(exchange)
        exchange.relay(make_head(200, self.headers))
        return [b"body"]


def must_not_start(*_: object) -> None:
    raise AssertionError("a layer of ours answers through the Exchange")


def served(layer: Any, data: bytes, forwarding_lines: bytes = b"", prefix: bytes = b"") -> tuple[ResponseHead, bytes]:
    """Run one request through a layer; return the head that went out, and the body."""
    relayed: list[ResponseHead] = []
    exchange = exchange_for(data, relay=relayed.append)
    exchange.forwarding_lines = forwarding_lines
    exchange.prefix = prefix
    body = b"".join(layer({KEY: exchange}, must_not_start))
    [head] = relayed
    return head, body


# Header edits

LINES = ["X-A: 1", "X-B: 2", "x-a: 3", "X-Ab: 4"]


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        ({"remove": ["x-A"]}, b"Host: shop.example.com\r\nX-B: 2\r\nX-Ab: 4\r\n"),
        ({"remove": ["X-None"]}, b"Host: shop.example.com\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\nX-Ab: 4\r\n"),
        ({"set": {"X-A": "new"}}, b"Host: shop.example.com\r\nX-B: 2\r\nX-Ab: 4\r\nX-A: new\r\n"),
        ({"set": {"Host": "inner"}, "remove": ["X-A", "X-B", "X-Ab"]}, b"Host: inner\r\n"),
        ({"set": {"X-E": "caf\xe9"}, "remove": ["Host", "X-A", "X-B", "X-Ab"]}, b"X-E: caf\xe9\r\n"),
        ({"set": {"X-N": ""}, "remove": ["Host", "X-A", "X-B"]}, b"X-Ab: 4\r\nX-N: \r\n"),
    ],
)
def test_request_header_is_edited(edit: dict[str, Any], lines: bytes) -> None:
    end = FakeEnd()
    served(RequestHeaders(end, HeaderEdit.model_validate(edit)), request(*LINES))
    assert end.exchanges[0].lines == lines


@pytest.mark.parametrize(
    ("edit", "lines", "ours"),
    [
        ({"remove": ["X-Forwarded-For"]}, b"Host: shop.example.com\r\n", b"Via: v\r\n"),
        ({"set": {"Via": "w"}}, b"Host: shop.example.com\r\nVia: w\r\n", b"X-Forwarded-For: 1\r\n"),
    ],
)
def test_request_edit_reaches_what_we_add(edit: dict[str, Any], lines: bytes, ours: bytes) -> None:
    end = FakeEnd()
    layer = RequestHeaders(end, HeaderEdit.model_validate(edit))
    served(layer, request(), forwarding_lines=b"X-Forwarded-For: 1\r\nVia: v\r\n")
    assert (end.exchanges[0].lines, end.exchanges[0].forwarding_lines) == (lines, ours)


def test_response_header_is_edited() -> None:
    end = FakeEnd(("Server", "secret"), ("X-A", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b"))
    edit = HeaderEdit.model_validate({"set": {"X-A": "2", "X-New": "3"}, "remove": ["server"]})
    head, body = served(ResponseHeaders(end, edit), request())
    assert head.lines == b"Set-Cookie: a\r\nSet-Cookie: b\r\nX-A: 2\r\nX-New: 3\r\n"
    assert body == b"body"


def test_one_layer_serves_many_requests() -> None:
    layer = ResponseHeaders(FakeEnd(("X-A", "1")), HeaderEdit.model_validate({"set": {"X-B": "2"}}))
    assert [served(layer, request())[0].lines for _ in range(2)] == [b"X-A: 1\r\nX-B: 2\r\n"] * 2


# strip_prefix


@pytest.mark.parametrize(
    ("prefix", "target", "sent", "before", "line"),
    [
        ("/shop", "/shop/a?b", b"/a", b"", b"X-Forwarded-Prefix: /shop\r\n"),
        ("/shop/", "/shop/a", b"/a", b"", b"X-Forwarded-Prefix: /shop\r\n"),
        ("/shop", "/shop", b"/", b"", b"X-Forwarded-Prefix: /shop\r\n"),
        ("/shop", "/%73hop/a%20b", b"/a%20b", b"", b"X-Forwarded-Prefix: /shop\r\n"),
        ("/shop", "/shop/a", b"/a", b"/outer", b"X-Forwarded-Prefix: /outer/shop\r\n"),
    ],
)
def test_prefix_is_stripped_and_told(prefix: str, target: str, sent: bytes, before: bytes, line: bytes) -> None:
    end = FakeEnd()
    data = request(first=f"GET {target} HTTP/1.1")
    served(StripPrefix(end, prefix), data, forwarding_lines=b"Via: v\r\n", prefix=before)
    [exchange] = end.exchanges
    assert exchange.sent_path == sent
    assert exchange.forwarding_lines == b"Via: v\r\n" + line
    assert exchange.target.raw_path == target.partition("?")[0].encode(), "logs and routes see the client's path"


# split


def test_split_gives_a_cookie_once_and_keeps_to_it() -> None:
    ends = {"a": FakeEnd(("X-A", "1")), "b": FakeEnd(("X-A", "1"))}
    layer = Splitter(Split({"a": 1, "b": 1}, "side"), ends)
    head, _ = served(layer, request())
    [chosen] = [name for name, end in ends.items() if end.exchanges]
    cookie = (head.header(b"set-cookie") or b"").decode()
    assert cookie.startswith(f"side={chosen};")
    assert head.lines.startswith(b"X-A: 1\r\n")
    for _ in range(20):
        head, _ = served(layer, request(f"Cookie: x=y; side={chosen}"))
        assert head.lines == b"X-A: 1\r\n"
    assert len(ends[chosen].exchanges) == 21


@pytest.mark.parametrize("name", ["a", "b"])
def test_split_follows_the_cookie(name: str) -> None:
    ends = {"a": FakeEnd(), "b": FakeEnd()}
    served(Splitter(Split({"a": 1, "b": 1000}, "side"), ends), request(f"Cookie: side={name}"))
    assert [len(ends["a"].exchanges), len(ends["b"].exchanges)] == [name == "a", name == "b"]


def test_made_up_cookie_is_answered_with_a_new_one() -> None:
    layer = Splitter(Split({"a": 1}, "side"), {"a": FakeEnd()})
    head, _ = served(layer, request("Cookie: side=evil%0d%0aX: 1"))
    assert (head.header(b"set-cookie") or b"").startswith(b"side=a;")
    assert b"evil" not in head.lines


# respond


@pytest.mark.parametrize(
    ("respond", "status", "lines", "body"),
    [
        ({"status": 204}, 204, b"", b""),
        ({"body": "gr\xfc\xdfe"}, 200, b"Content-Type: text/plain; charset=utf-8\r\n", "gr\xfc\xdfe".encode()),
        ({"body": "{}", "content_type": "application/json"}, 200, b"Content-Type: application/json\r\n", b"{}"),
        ({"status": 301, "location": "https://a/"}, 301, b"Location: https://a/\r\n", b""),
        ({"status": 503, "headers": {"Retry-After": "9"}}, 503, b"Retry-After: 9\r\n", b""),
    ],
)
def test_responder_says_what_is_configured(respond: dict[str, Any], status: int, lines: bytes, body: bytes) -> None:
    responder = Responder(Respond.model_validate(respond))
    for _ in range(2):
        head, given = served(responder, request())
        assert (head.status, head.lines, given) == (status, lines, body)
