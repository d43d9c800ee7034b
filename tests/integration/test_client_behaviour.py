"""Clients as they are: slow, impatient, gone, pipelining, sending much and reading little.

Owns:       deadlines, lingering close, 499, early answers, stale connections, streaming, forwarding fields.
Leaves to:  tests/wire the grammar of single requests; test_hostile_upstream.py bad servers.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import split_responses
from tests.harness.message import Request
from tests.harness.origin import (
    Answer,
    Connection,
    Origin,
    RecordingOrigin,
    ScriptedOrigin,
    Then,
    answer,
    chunked,
    reply,
    split,
)
from tests.harness.processes import memory
from tests.harness.proxy import Proxy, config_for, running_proxy
from tests.harness.wait import wait_for

SHORT_S = 0.5
QUICK = {"header_timeout": "500ms", "body_timeout": "500ms", "keepalive_timeout": "500ms", "max_body": "64KB"}
ROOMY = {"body_timeout": "60s", "max_body": "2GB"}
GET = b"GET /m HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

Start = Callable[..., AbstractContextManager[Proxy]]


def limits(values: dict[str, Any]) -> dict[str, Any]:
    return {"server": {"limits": values}}


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a proxy before an origin: start(origin, **keys of config_for)."""

    def started(origin: Origin, **keys: Any) -> AbstractContextManager[Proxy]:
        return running_proxy(config_for(origin.address, **keys), tmp_path)

    return started


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[RecordingOrigin]:
    with RecordingOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def quick(shared_origin: RecordingOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy with short deadlines for all tests that only need that."""
    config = config_for(shared_origin.address, **limits(QUICK))
    config["routes"] = [{"match": {"path": "/m"}, "upstream": "origin"}]
    with running_proxy(config, tmp_path_factory.mktemp("quick")) as proxy:
        yield proxy


# Deadlines


def test_head_of_a_byte_at_a_time_hits_the_absolute_deadline(quick: Proxy) -> None:
    started = time.monotonic()
    with quick.client() as client:
        sent = client.try_send(*split(b"GET /slow-head HTTP/1.1\r\nX-A: " + b"a" * 200), pause_s=0.05)
        assert client.response().status == 408
        assert client.is_closed()
    assert time.monotonic() - started >= SHORT_S
    assert sent is False, "the proxy waited for the whole drip"
    assert quick.wait_access(lambda record: record["status"] == 408)["reason"]


def test_body_that_stops_is_408_and_never_complete_upstream(quick: Proxy, shared_origin: RecordingOrigin) -> None:
    shared_origin.clear()
    with quick.client() as client:
        client.send(b"POST /m/slow-body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        assert client.response().status == 408
        assert client.is_closed()
    wait_for(lambda: not _half_open(shared_origin), "the upstream connection of the cut request to be closed")
    assert [request.target for request in shared_origin.requests] == []
    quick.wait_access(lambda record: record["path"] == "/m/slow-body" and record["status"] == 408)


def test_idle_connection_is_closed_without_a_word(quick: Proxy) -> None:
    with quick.client() as client:
        assert client.rest() == b""


def test_kept_connection_is_closed_without_a_word(quick: Proxy) -> None:
    with quick.client() as client:
        assert client.request(GET).status == 200
        started = time.monotonic()
        assert client.rest() == b""
        assert time.monotonic() - started >= SHORT_S * 0.8


def _half_open(origin: Origin) -> list[Connection]:
    return [connection for connection in list(origin.connections) if connection.pending and not connection.closed]


# Refusals that the client must get to see


def _upload_all_then_read(proxy: Proxy, path: bytes) -> int:
    """Send all of a big body before reading; give the status of the answer, which must not be reset away."""
    size = 8_000_000
    with proxy.client() as client:
        client.send(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, size))
        client.send(*split(b"x" * size, 100_000))  # a proxy that closes at once breaks the pipe here
        (response,) = client.responses(["POST"])
        assert not client.was_reset
    assert (response.get("connection") or b"").lower() == b"close"
    return response.status


def test_upload_that_is_too_large_still_reads_its_413(quick: Proxy) -> None:
    assert _upload_all_then_read(quick, b"/m") == 413


def test_upload_without_a_route_still_reads_its_404(start: Start, origin: RecordingOrigin) -> None:
    routes = [{"match": {"path": "/m"}, "upstream": "origin"}]
    with start(origin, routes=routes, **limits(ROOMY)) as proxy:
        assert _upload_all_then_read(proxy, b"/nowhere") == 404


def test_refused_request_is_logged_with_its_reason(quick: Proxy) -> None:
    with quick.client() as client:
        client.send(b"GET /logged-refusal HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert client.response().status == 400
        client.is_closed()
    assert quick.wait_access(lambda record: record["status"] == 400)["reason"]


def test_log_lines_cannot_be_injected(quick: Proxy) -> None:
    target = '/m/%0a{"forged":1}'
    quick.request("GET", target, {"User-Agent": 'a"} {"forged": 1}', "Referer": "\xff\x85"})
    quick.wait_access(lambda record: record["path"] == target)
    assert not [record for record in quick.access_records() if "forged" in record]
    lines = quick.stdout_path.read_bytes().split(b"\n")
    assert all(line.startswith(b"{") and line.endswith(b"}") for line in lines[:-1])


# Clients that leave


@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_client_gone_while_waiting_is_499_and_closes_the_upstream(start: Start, goodbye: str) -> None:
    with ScriptedOrigin([answer(then="hang")]) as origin, start(origin) as proxy:
        client = proxy.client()
        client.send(GET)
        wait_for(lambda: origin.heads, "the request upstream")
        getattr(client, goodbye)()
        wait_for(lambda: origin.open_connections == 0, "the upstream connection to be closed")
        proxy.wait_access(lambda record: record["status"] == 499)


@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_client_gone_within_the_answer_is_499_and_closes_the_upstream(start: Start, goodbye: str) -> None:
    endless = answer(OK + b"Content-Length: 1000000000\r\n\r\n", *(b"x" * 100_000 for _ in range(10_000)))
    with ScriptedOrigin([endless]) as origin, start(origin) as proxy:
        client = proxy.client()
        client.send(GET)
        client.read_some()
        getattr(client, goodbye)()
        wait_for(lambda: origin.open_connections == 0, "the upstream connection to be closed")
        record = proxy.wait_access(lambda record: record["path"] == "/m")
        assert record["reason"]
        assert record["bytes_out"] < 1_000_000_000


@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_client_gone_within_its_upload_is_499_and_never_complete(start: Start, goodbye: str) -> None:
    with RecordingOrigin() as origin, start(origin) as proxy:
        client = proxy.client()
        client.send(b"POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
        wait_for(lambda: len(origin.received) > 100_000, "half of the body upstream")
        getattr(client, goodbye)()
        wait_for(lambda: origin.open_connections == 0, "the upstream connection to be closed")
        assert origin.requests == []
        proxy.wait_access(lambda record: record["status"] == 499)


# Order, expectations, early answers


def test_pipelined_answers_keep_their_order(start: Start) -> None:
    gate = threading.Event()

    def script(request: Request, _: Connection) -> Answer:
        slowly = request.target == b"/0"
        return answer(lambda: slowly and gate.wait(10), reply(request.target))

    with ScriptedOrigin(script) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(b"".join(GET.replace(b"/m", b"/%d" % number) for number in range(10)))
        wait_for(lambda: origin.heads, "the first request upstream")
        gate.set()
        assert [client.response().body for _ in range(10)] == [b"/%d" % number for number in range(10)]
        assert [request.target for request in origin.requests] == [b"/%d" % number for number in range(10)]


def test_expecting_client_is_told_to_continue(start: Start) -> None:
    with RecordingOrigin() as origin, start(origin) as proxy, proxy.client() as client:
        client.send(b"POST /m HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.response().status == 100
        client.send(b"hello")
        assert client.response().status == 200
        assert origin.requests[0].body == b"hello"


def test_expecting_client_is_answered_finally_when_the_server_refuses_early(start: Start) -> None:
    refusal = answer(reply(b"no", status=b"403 Forbidden"), then="hang", early=True)
    with ScriptedOrigin([refusal]) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(b"POST /m HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.final_response().status == 403
        assert origin.heads


@pytest.mark.parametrize("then", ["hang", "close"])
def test_early_answer_to_an_unfinished_upload_arrives(start: Start, then: Then) -> None:
    refusal = answer(reply(b"enough", status=b"403 Forbidden"), then=then, early=True)
    with ScriptedOrigin([refusal]) as origin, start(origin, **limits(ROOMY)) as proxy, proxy.client() as client:
        client.send(b"POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)
        response = client.final_response("POST")
        assert (response.status, response.body) == (403, b"enough")
        assert (response.get("connection") or b"").lower() == b"close"
        assert len(origin.connections) == 1


# Stale pooled connections


def _closes_reused(request: Request, connection: Connection) -> Answer:
    """Be a server that closes a kept connection at the very moment a second request arrives on it."""
    return answer(then="close") if connection.requests else answer(reply(request.target))


@pytest.fixture
def stale(start: Start) -> Iterator[tuple[Proxy, ScriptedOrigin]]:
    # attempts: a resend after a stale pooled connection is none, so it must work with one
    with ScriptedOrigin(_closes_reused) as origin, start(origin, upstream={"retry": {"attempts": 1}}) as proxy:
        assert proxy.get("/first").body == b"/first"
        yield proxy, origin


def test_stale_connection_is_invisible_to_a_get(stale: tuple[Proxy, ScriptedOrigin]) -> None:
    proxy, origin = stale
    assert proxy.get("/second").body == b"/second"
    assert len(origin.connections) == 2


def test_post_on_a_stale_connection_is_never_sent_twice(stale: tuple[Proxy, ScriptedOrigin]) -> None:
    proxy, origin = stale
    response = proxy.request("POST", "/second", body=b"pay 5 euro")
    assert response.status == 502
    assert [head.target for head in origin.heads] == [b"/first", b"/second"]


def test_connection_closed_while_idle_is_not_used_for_a_post(start: Start) -> None:
    with ScriptedOrigin([answer(reply(), then="close")]) as origin, start(origin) as proxy:
        for number in range(10):
            wait_for(lambda: origin.open_connections == 0, "the server to have closed its idle connection")
            assert proxy.request("POST", f"/{number}", body=b"pay").status == 200
        assert [head.target for head in origin.heads] == [b"/%d" % number for number in range(10)]


def test_no_post_ever_arrives_twice(start: Start) -> None:
    """A server that breaks off in every way, many clients: each POST is seen once at most, each good one answered."""
    whims: list[Answer] = [
        answer(reply(b"ok")),
        answer(then="close"),
        answer(reply(b"ok"), then="close"),
        answer(then="reset"),
        answer(b"HTTP/1.1 200", then="reset"),
    ]
    with ScriptedOrigin(lambda request, _: whims[zlib.crc32(request.target) % len(whims)]) as origin:
        with start(origin, upstream={"retry": {"attempts": 3}}) as proxy:
            threads = [threading.Thread(target=_post_many, args=(proxy, number)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        targets = [head.target for head in origin.heads]
    assert len(targets) == len(set(targets)), "a POST arrived twice"
    assert len(targets) >= 100


def _post_many(proxy: Proxy, client: int) -> None:
    for number in range(40):
        proxy.request("POST", f"/{client}/{number}", body=b"pay 5 euro")


# Streaming

GIGABYTE = 1 << 30
BLOCK = bytes(range(256)) * 4096
RSS_LIMIT = 100 * 1024 * 1024


class CountingOrigin(Origin):
    """Reads bodies of any size without keeping them; /download answers with a gigabyte."""

    def __init__(self) -> None:
        super().__init__()
        self.body_bytes = 0
        self.sent_bytes = 0
        self.checksum = 0

    def serve(self, connection: Connection) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.socket.recv(65_536)
        if head.startswith(b"GET"):
            self._download(connection)
            return
        head, _, body = head.partition(b"\r\n\r\n")
        self._count(body)
        while self.body_bytes < GIGABYTE:
            data = connection.socket.recv(1 << 20)
            if not data:
                return
            self._count(data)
        connection.socket.sendall(reply(b"%d" % self.body_bytes))

    def _download(self, connection: Connection) -> None:
        connection.socket.sendall(OK + b"Content-Length: %d\r\n\r\n" % GIGABYTE)
        for _ in range(GIGABYTE // len(BLOCK)):
            connection.socket.sendall(BLOCK)
            self.sent_bytes += len(BLOCK)

    def _count(self, data: bytes) -> None:
        self.body_bytes += len(data)
        self.checksum = zlib.crc32(data, self.checksum)


def _checksum(size: int) -> int:
    checksum = 0
    for _ in range(size // len(BLOCK)):
        checksum = zlib.crc32(BLOCK, checksum)
    return checksum


def _assert_slim(proxy: Proxy) -> None:
    for pid in proxy.worker_pids():
        assert memory(pid) < RSS_LIMIT, f"worker {pid} used {memory(pid) >> 20} MB"


@pytest.mark.slow
def test_upload_of_a_gigabyte_is_not_held(start: Start) -> None:
    with CountingOrigin() as origin, start(origin, **limits(ROOMY)) as proxy:
        with proxy.client(deadline_s=90) as client:
            client.send(b"PUT /m HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
            for _ in range(GIGABYTE // len(BLOCK)):
                client.send(BLOCK)
            assert client.final_response("PUT").body == b"%d" % GIGABYTE
        assert origin.checksum == _checksum(GIGABYTE)
        _assert_slim(proxy)


@pytest.mark.slow
def test_download_of_a_gigabyte_waits_for_its_reader(start: Start) -> None:
    """Back-pressure: while the client does not read, the server cannot send; nothing is held in between."""
    with CountingOrigin() as origin, start(origin, **limits(ROOMY)) as proxy, proxy.client(deadline_s=90) as client:
        client.send(GET)
        _wait_standstill(lambda: origin.sent_bytes)
        assert origin.sent_bytes < 100 * 1024 * 1024
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.read_some()
        body = head.partition(b"\r\n\r\n")[2]
        size, checksum = len(body), zlib.crc32(body)
        while size < GIGABYTE:
            client.received.clear()  # it would hold all
            body = client.read_some()
            assert body, f"cut after {size} bytes"
            size += len(body)
            checksum = zlib.crc32(body, checksum)
        assert (size, checksum) == (GIGABYTE, _checksum(GIGABYTE))
        _assert_slim(proxy)


def _wait_standstill(value: Callable[[], int]) -> None:
    """Wait until a growing value has not grown for half a second."""
    last, since = 0, time.monotonic()

    def stands() -> bool:
        nonlocal last, since
        if value() != last:
            last, since = value(), time.monotonic()
        return last > 0 and time.monotonic() - since > 0.5

    wait_for(stands, "the server's sending to stand still")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("kind", ["length", "chunked", "until close"])
def test_answer_framing_suits_the_client(start: Start, kind: str, version: bytes) -> None:
    body = b"0123456789" * 50_000
    answers = {
        "length": answer(reply(body)),
        "chunked": answer(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*split(body, 7_001))),
        "until close": answer(OK + b"\r\n" + body, then="close"),
    }
    with ScriptedOrigin([answers[kind]]) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(GET.replace(b"HTTP/1.1", b"HTTP/" + version).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        (response,) = client.responses()
    assert response.body == body
    assert response.all("transfer-encoding") == ([b"chunked"] if kind != "length" and version == b"1.1" else [])
    assert (response.get("content-length") is None) == (kind != "length")


def test_chunked_upload_arrives_whole(start: Start) -> None:
    body = BLOCK * 4
    with RecordingOrigin() as origin, start(origin) as proxy, proxy.client() as client:
        client.send(b"POST /m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(*split(chunked(*split(body, 10_007)), 50_021))
        assert client.final_response("POST").status == 200
        assert zlib.crc32(origin.requests[0].body) == zlib.crc32(body)


# Interim answers, response fields


def test_early_hints_are_passed_on(start: Start) -> None:
    gate = threading.Event()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    script = [answer(hints, lambda: gate.wait(10), reply(b"page"))]
    with ScriptedOrigin(script) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(GET)
        interim = client.response()
        assert (interim.status, interim.get("link")) == (103, b"</style.css>; rel=preload")
        gate.set()
        assert client.response().body == b"page"


def test_http10_client_gets_no_interim_answer(start: Start) -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
    script = [answer(hints + reply(b"page"))]
    with ScriptedOrigin(script) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert [(response.status, response.body) for response in client.responses()] == [(200, b"page")]


def test_response_fields_keep_order_and_case_without_hop_by_hop(start: Start) -> None:
    raw = (
        OK + b"x-LOWER: 1\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nSet-Cookie: a=1\r\nX-Upper: 2\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nSet-Cookie: b=2\r\nUpgrade: h2c\r\n"
        b"X-Obs: \xe9\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    with ScriptedOrigin([answer(raw)]) as origin, start(origin) as proxy:
        response = proxy.get("/m")
    kept = ["x-LOWER", "Set-Cookie", "X-Upper", "Set-Cookie", "X-Obs"]
    assert [name for name in response.names() if name in kept] == kept
    assert response.get("x-obs") == b"\xe9"
    gone = ("x-hop", "keep-alive", "proxy-connection", "upgrade")
    assert [name for name in gone if response.all(name)] == []
    assert (response.body, response.trailers) == (b"ok", [])


def test_head_keeps_the_length_and_the_connection(start: Start) -> None:
    script = [answer(OK + b"Content-Length: 1000000\r\n\r\n"), answer(reply(b"next"))]
    with ScriptedOrigin(script) as origin, start(origin) as proxy, proxy.client() as client:
        response = client.request(GET.replace(b"GET", b"HEAD"))
        assert response.get("content-length") == b"1000000"
        assert client.request(GET).body == b"next"


# What the server is told about the client


def test_untrusted_client_cannot_say_who_it_is(quick: Proxy, shared_origin: RecordingOrigin) -> None:
    shared_origin.clear()
    lies = {"X-Forwarded-For": "10.9.8.7", "Forwarded": "for=10.9.8.7", "X-Request-ID": "forged"}
    quick.request("GET", "/m/untrusted", lies)
    (request,) = shared_origin.requests
    assert b"10.9.8.7" not in request.raw
    record = quick.wait_access(lambda record: record["path"] == "/m/untrusted")
    assert record["client"] == "127.0.0.1"
    assert (request.get("x-request-id") or b"").decode() == record["request_id"] != "forged"


@pytest.fixture(scope="module")
def trusting(shared_origin: RecordingOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that trusts its peers on 127.0.0.0/8."""
    config = config_for(shared_origin.address, server={"trusted_proxies": ["127.0.0.0/8"]})
    with running_proxy(config, tmp_path_factory.mktemp("trusting")) as proxy:
        yield proxy


def test_trusted_proxy_is_believed(trusting: Proxy, shared_origin: RecordingOrigin) -> None:
    shared_origin.clear()
    told = {
        "X-Forwarded-For": "10.1.1.1, 203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example",
        "Forwarded": "for=203.0.113.7;proto=https",
        "X-Request-ID": "abc-123",
        "Via": "1.1 front",
    }
    trusting.request("GET", "/trusted", told)
    (request,) = shared_origin.requests
    assert request.get("x-forwarded-for") == b"10.1.1.1, 203.0.113.7, 127.0.0.1"
    assert request.get("x-forwarded-proto") == b"https"
    assert request.get("x-forwarded-host") == b"shop.example"
    assert (request.get("forwarded") or b"").startswith(b"for=203.0.113.7;proto=https, for=127.0.0.1")
    assert request.get("x-request-id") == b"abc-123"
    assert b", ".join(request.all("via")).startswith(b"1.1 front, 1.1 ")
    record = trusting.wait_access(lambda record: record["path"] == "/trusted")
    # the rightmost address that no trusted proxy vouches for: what stands left of it may be a lie
    assert (record["client"], record["request_id"]) == ("203.0.113.7", "abc-123")


@pytest.mark.parametrize("bad", ['x" y', "a" * 300, "a,b\tc", "\xe9"])
def test_request_id_that_is_not_sane_is_replaced(trusting: Proxy, shared_origin: RecordingOrigin, bad: str) -> None:
    shared_origin.clear()
    trusting.request("GET", "/insane", {"X-Request-ID": bad})
    made = shared_origin.requests[0].get("x-request-id")
    assert made and made != bad.encode("latin-1")


def test_every_connection_framing_survives_pipelining_after_an_upload(quick: Proxy) -> None:
    """A request right behind a chunked body, in the same segment, is the next request and nothing else."""
    upload = b"POST /m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 5000)
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with quick.client() as client:
        client.send(upload + upload + last)
        responses = split_responses(client.rest())
    assert [response.get("x-origin-request") for response in responses] == [b"POST /m", b"POST /m", b"GET /m"]


@pytest.mark.parametrize("raw", [b"GET /m HTTP/1.0\r\n\r\n", b"GET http://abs.example/m HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_host_that_the_route_sets_is_the_only_one(start: Start, raw: bytes) -> None:
    routes = [{"upstream": "origin", "headers": {"request": {"set": {"Host": "inner.example"}}}}]
    with RecordingOrigin() as origin, start(origin, routes=routes) as proxy, proxy.client() as client:
        client.send(raw)
        client.response()
        (request,) = origin.requests
        assert request.all("host") == [b"inner.example"]


HEAD_ALONE = OK + b"Content-Length: 5\r\n\r\n"


def test_get_whose_server_dies_between_head_and_body_is_retried(start: Start) -> None:
    with ScriptedOrigin([answer(HEAD_ALONE, then="reset"), answer(reply(b"whole"))]) as origin, start(origin) as proxy:
        response = proxy.get("/m")
        assert (response.status, response.body) == (200, b"whole")
        assert proxy.wait_access(lambda record: record["path"] == "/m")["attempts"] == 2


def test_post_whose_server_dies_between_head_and_body_is_not_retried(start: Start) -> None:
    post = b"POST /m HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi"
    with ScriptedOrigin([answer(HEAD_ALONE, then="reset"), answer(reply(b"whole"))]) as origin, start(origin) as proxy:
        with proxy.client() as client:
            assert client.request(post).status == 502
        assert len(origin.requests) == 1


def test_head_of_a_slow_stream_does_not_wait_for_its_first_event(start: Start) -> None:
    may_send = threading.Event()
    stream = answer(OK + b"Transfer-Encoding: chunked\r\n\r\n", lambda: may_send.wait(20), chunked(b"event"))
    with ScriptedOrigin([stream]) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(GET)
        received = client.read_some()  # a head goes out whole
        assert received.startswith(OK)
        assert received.endswith(b"\r\n\r\n")
        may_send.set()
        while b"event" not in received:
            more = client.read_some()
            assert more, "no event came"
            received += more


def test_client_that_has_ended_its_sending_gets_its_answer(start: Start) -> None:
    # 0.4 s: several looks for clients that are gone fall into it
    slow = answer(lambda: time.sleep(0.4), reply(b"late"))
    with ScriptedOrigin([slow]) as origin, start(origin) as proxy, proxy.client() as client:
        client.send(GET)
        client.finish_sending()
        (response,) = client.responses()
        assert (response.status, response.body) == (200, b"late")
