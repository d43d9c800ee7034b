"""The chain of a configuration: the order of its layers, nothing that is off, and WSGI to the letter."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from werkzeug.middleware.lint import LintMiddleware

from greenproxy.chain.build import build_application
from greenproxy.chain.entry import Entry, NotFound
from greenproxy.config.load import parse_config
from greenproxy.health.table import HealthTable
from greenproxy.http import fields
from greenproxy.http.exchange import KEY, Exchange
from greenproxy.http.forwarding import Peer
from greenproxy.http.head import ResponseHead
from greenproxy.http.replies import head_from_wsgi
from greenproxy.proxy import transport
from greenproxy.shm.segment import Segment
from greenproxy.shm.ticket import new_ticket_counter
from tests.harness.message import Request
from tests.harness.origin import RecordingOrigin
from tests.unit.http.fakes import FakeBody, exchange_for, request

COLUMN = 1
PEER = Peer("192.0.2.1", 4711, "http", trusted=False)
PROXY = Peer("10.0.0.1", 4711, "http", trusted=True)

CONFIG = """
server: {{workers: 1, trusted_proxies: [10.0.0.0/8]}}
listeners: [{{address: "127.0.0.1:8080"}}]
upstreams:
  shop: {{servers: [{{address: "{server}"}}]}}
routes:
  - {{match: {{path: /local}}, respond: {{body: hello}}}}
  - {{match: {{path: /set}}, respond: {{status: 204}}, headers: {{response: {{set: {{X-Only: "1"}}}}}}}}
  - {{match: {{path: /remove}}, upstream: shop, headers: {{request: {{remove: [X-Gone]}}}}}}
  - {{match: {{path: /moved}}, respond: {{status: 301, location: "https://new.example/"}}}}
  - {{match: {{path: /nothing}}, respond: {{status: 204}}}}
  - {{match: {{path: /files}}, files: {{root: "{root}"}}, strip_prefix: true}}
  - match: {{path: /all}}
    upstream: shop
    strip_prefix: true
    headers:
      request: {{set: {{X-Set: "1", Via: ours}}, remove: [X-Gone]}}
      response: {{set: {{X-Answer: "2"}}, remove: [X-Origin-Request]}}
    error_pages: {{"502": "{page}", 4xx: "{page}"}}
  - {{match: {{path: /split}}, split: {{shop: 1}}}}
  - {{match: {{path: /plain}}, upstream: shop}}
"""


@dataclass
class Answer:
    """What went out to the client."""

    heads: list[ResponseHead] = field(default_factory=list)
    body: bytes = b""

    @property
    def head(self) -> ResponseHead:
        [head] = self.heads
        return head


@dataclass
class House:
    """A built application, its origin, and a way in."""

    entry: Entry
    origin: RecordingOrigin

    def ask(self, data: bytes, body: FakeBody | None = None, peer: Peer = PEER) -> tuple[Answer, Exchange]:
        answer = Answer()
        exchange = exchange_for(data, peer, body, answer.heads.append)

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            exchange.relay(head_from_wsgi(status, headers))

        answer.body = consumed(self.entry(environ_of(exchange), start_response))
        return answer, exchange

    def seen(self) -> Request:
        """The last request as the origin got it."""
        return self.origin.wait_requests(1)[-1]


def consumed(result: Iterable[bytes]) -> bytes:
    """Read a result as a WSGI server does."""
    try:
        return b"".join(result)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()


def environ_of(exchange: Exchange) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": exchange.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": exchange.target.path,
        "QUERY_STRING": exchange.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        KEY: exchange,
    }


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    # a worker has its sockets from gevent by patching the whole process, which a test must not
    monkeypatch.setattr(transport, "socket", gevent.socket)
    (tmp_path / "page.html").write_text("our page")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_text("a file")
    segment = Segment.create()
    ticket = new_ticket_counter()
    with RecordingOrigin(tmp_path / "origin.sock") as origin:
        text = CONFIG.format(server=origin.address, root=tmp_path / "root", page=tmp_path / "page.html")
        table = HealthTable(segment)
        table.add("shop", origin.address, 1)
        config = parse_config(text, str(tmp_path / "greenproxy.yaml"), {})
        yield House(build_application(config, table, COLUMN, {"shop": ticket}), origin)
    os.close(ticket)
    segment.close()


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    with gevent.Timeout(20):
        yield


def test_route_without_features_passes_everything_on(house: House) -> None:
    answer, exchange = house.ask(request("X-A: 1", "X-Gone: 2", first="GET /plain/x?y HTTP/1.1"))
    assert answer.head.status == 200
    assert answer.head.header(b"x-origin-request") == b"GET /plain/x?y"
    seen = house.seen()
    assert (seen.target, seen.get("x-gone"), seen.get("via")) == (b"/plain/x?y", b"2", b"1.1 greenproxy")
    assert seen.get("x-forwarded-prefix") is None
    assert exchange.error_page is None
    assert (exchange.route, exchange.upstream, exchange.server) == ("/plain", "shop", house.origin.address)
    assert exchange.attempts == 1


def test_route_with_features_applies_all_of_them(house: House) -> None:
    answer, exchange = house.ask(request("X-Gone: 2", "X-Keep: 3", first="GET /all/x?y HTTP/1.1"))
    assert answer.head.header(b"x-answer") == b"2"
    assert answer.head.header(b"x-origin-request") is None
    seen = house.seen()
    assert (seen.target, seen.get("x-forwarded-prefix")) == (b"/x?y", b"/all")
    assert (seen.get("x-gone"), seen.get("x-keep"), seen.get("x-set"), seen.get("via")) == (None, b"3", b"1", b"ours")
    assert exchange.error_page is not None
    assert exchange.error_page(502) == (b"our page", "text/html; charset=utf-8")
    assert exchange.error_page(404) == (b"our page", "text/html; charset=utf-8")
    assert exchange.error_page(503) is None


def test_half_an_edit_is_an_edit(house: House) -> None:
    assert house.ask(request(first="GET /set HTTP/1.1"))[0].head.lines == b"X-Only: 1\r\n"
    house.ask(request("X-Gone: 1", first="GET /remove HTTP/1.1"))
    assert house.seen().get("x-gone") is None


def test_first_route_wins_and_none_is_not_found(house: House) -> None:
    assert house.ask(request(first="GET /local/plain HTTP/1.1"))[0].body == b"hello"
    with pytest.raises(NotFound) as caught:
        house.ask(request(first="GET /localx HTTP/1.1"))
    assert (caught.value.status, caught.value.reason) == (404, "no_route")
    assert house.origin.requests == []


def test_files_are_served_below_their_prefix(house: House) -> None:
    answer, _ = house.ask(request(first="GET /files/a.txt HTTP/1.1"))
    assert (answer.head.status, answer.body) == (200, b"a file")


def test_every_request_has_an_id_of_its_own(house: House) -> None:
    ids = {house.ask(request(first="GET /local HTTP/1.1"))[1].request_id for _ in range(100)}
    assert len(ids) == 100
    house.ask(request("X-Request-ID: mine", first="GET /plain HTTP/1.1"))
    assert house.seen().get("x-request-id") not in (None, b"mine")


def test_trusted_proxy_speaks_for_its_client(house: House) -> None:
    lines = ["X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Request-ID: mine"]
    lines.append("X-Forwarded-Prefix: /outer")
    _, exchange = house.ask(request(*lines, first="GET /all/x HTTP/1.1"), peer=PROXY)
    assert (exchange.client_ip, exchange.scheme, exchange.request_id) == ("192.0.2.9", "https", b"mine")
    seen = house.seen()
    assert seen.get("x-request-id") == b"mine"
    assert seen.get("x-forwarded-for") == b"192.0.2.9, 10.0.0.1"
    assert seen.get("x-forwarded-prefix") == b"/outer/all"


def test_body_is_carried(house: House) -> None:
    body = FakeBody(b"hel", b"lo", length=5)
    answer, _ = house.ask(request("Content-Length: 5", first="POST /plain HTTP/1.1"), body)
    assert answer.head.status == 200
    assert (house.seen().method, house.seen().body) == (b"POST", b"hello")


# PEP 3333, as Werkzeug sees it


class AsWsgi:
    """The application as a plain WSGI one: what it relays goes to start_response."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]

        def relay(head: ResponseHead) -> None:
            start(f"{head.status} {head.reason.decode('latin-1')}", fields.pairs(head.lines))

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if exchange.method == "HEAD":  # the linter does not know that HEAD has a length and no body
                headers = [pair for pair in headers if pair[0].lower() != "content-length"]
            return start_response(status, headers, *exc_info)

        exchange.relay = relay
        return self._entry(environ, start)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", ["/plain", "/all/x", "/split", "/local", "/moved", "/files/a.txt"])
def test_linter_has_nothing_to_say(house: House, method: str, path: str) -> None:
    posts = method == "POST"
    lines = ["Content-Length: 5"] if posts else []
    body = FakeBody(b"hello", length=5) if posts else None
    exchange = exchange_for(request(*lines, first=f"{method} {path} HTTP/1.1"), PEER, body)
    started: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        consumed(
            LintMiddleware(AsWsgi(house.entry))(  # type: ignore[arg-type]
                environ_of(exchange), lambda status, headers, exc_info=None: started.append(status) or print
            )
        )
    [status] = started
    assert status.split(" ", 1)[1]
