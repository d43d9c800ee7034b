"""Answers that no server should give: 502 or a visibly cut response, and never a byte of one in another's.

After every hostile answer a good request follows: it must get its own answer, over a connection that the
hostile one never touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.client import RawClient, split_responses
from tests.harness.message import Malformed, Request
from tests.harness.origin import Answer, Connection, ScriptedOrigin, Then, answer, chunked, reply, split
from tests.harness.proxy import Proxy, config_for, running_proxy

READ_TIMEOUT_S = 1.0
GET = b"GET /hostile HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
LEAK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nLEAK"
OK = b"HTTP/1.1 200 OK\r\n"


class Hostile:
    """The proxy before an origin that answers /hostile by `script` and everything else properly."""

    def __init__(self, proxy: Proxy, origin: ScriptedOrigin) -> None:
        self.proxy = proxy
        self.origin = origin
        self.script = answer(reply())
        origin.script = self._answer

    def _answer(self, request: Request, _: Connection) -> Answer:
        return self.script if request.target == b"/hostile" else answer(reply(b"good " + request.target))

    def ask(self, script: Answer, request: bytes = GET) -> tuple[bytes, bool]:
        """Send one request that gets the hostile answer: all bytes until the close, and whether it was a reset."""
        self.script = script
        with self.proxy.client() as client:
            client.send(request)
            return client.rest(), client.was_reset

    def check_next(self) -> None:
        """A good request on another client connection gets its own answer."""
        with self.proxy.client() as client:
            client.send(GOOD)
            (good,) = client.responses()
        assert (good.status, good.body) == (200, b"good /good")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    with ScriptedOrigin([answer(reply())]) as origin:
        config = config_for(
            origin.address, upstream={"timeouts": {"connect": "1s", "read": f"{READ_TIMEOUT_S}s"}},
            server={"limits": {"keepalive_timeout": "500ms"}},
        )  # fmt: skip
        with running_proxy(config, tmp_path_factory.mktemp("hostile")) as proxy:
            yield Hostile(proxy, origin)


def assert_refused(received: bytes) -> None:
    """Exactly one response came, a 502 of ours with nothing of the upstream's in it."""
    (response,) = split_responses(received)
    assert response.status == 502
    assert b"LEAK" not in received and response.get("x-hostile") is None


def assert_refused_or_cut(received: bytes, was_reset: bool) -> None:
    """A 502, or a response that no client can take for complete."""
    try:
        responses = split_responses(received)
    except Malformed:
        return
    final = [response.status for response in responses if response.status >= 200]  # a 103 may have gone before
    assert was_reset or final == [502], received[:500]


BAD_HEADS = {
    "both framings": OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nLEAK\r\n0\r\n\r\n",
    "two lengths that differ": OK + b"Content-Length: 4\r\nContent-Length: 0\r\n\r\nLEAK",
    "two lengths in a list": OK + b"Content-Length: 4, 0\r\n\r\nLEAK",
    "negative length": OK + b"Content-Length: -4\r\n\r\nLEAK",
    "signed length": OK + b"Content-Length: +4\r\n\r\nLEAK",
    "length with an underscore": OK + b"Content-Length: 0_4\r\n\r\nLEAK",
    "empty length": OK + b"Content-Length:\r\n\r\nLEAK",
    "length beyond 64 bits": OK + b"Content-Length: 18446744073709551620\r\n\r\nLEAK",
    "unknown coding": OK + b"Transfer-Encoding: cow\r\n\r\nLEAK",
    "gzip before chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "obs-fold": OK + b"X-Hostile: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "folded length": OK + b"Content-Length:\r\n 4\r\n\r\nLEAK",
    "NUL in a value": OK + b"X-Hostile: a\0b\r\nContent-Length: 0\r\n\r\n",
    "control byte in a value": OK + b"X-Hostile: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "escape in the reason": b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 0\r\n\r\n",
    "bare CR in a value": OK + b"X-Hostile: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "bare LF in a value": OK + b"X-Hostile: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "blank before the colon": OK + b"Content-Length : 4\r\nX-Hostile: a\r\n\r\nLEAK",
    "no colon": OK + b"X-Hostile\r\nContent-Length: 0\r\n\r\n",
    "empty name": OK + b": a\r\nContent-Length: 0\r\n\r\n",
    "blank before the first field": OK + b" X-Hostile: a\r\nContent-Length: 0\r\n\r\n",
    "byte beyond ASCII in a name": OK + b"X-H\xc3\xb6stile: a\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "HTTP/0.9": b"LEAK LEAK LEAK\r\n\r\n",
    "lower-case version": b"http/1.1 200 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "two-digit status": b"HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "four-digit status": b"HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "status is a word": b"HTTP/1.1 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "no blank before the status": b"HTTP/1.1200 OK\r\nContent-Length: 4\r\n\r\nLEAK",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
    "only line ends": b"\r\n\r\n\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nLEAK",
    "flood of 100": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + LEAK,
    "flood of 102": b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000 + LEAK,
    "10,000 fields": OK + b"X-Hostile: LEAK\r\n" * 10_000 + b"Content-Length: 0\r\n\r\n",
    "a field of a megabyte": OK + b"X-Hostile: " + b"a" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a head without end": OK + b"X-Hostile: " + b"a" * 1_000_000,
    "a status line without end": b"HTTP/1.1 200 " + b"a" * 1_000_000,
}


@pytest.mark.parametrize("raw", BAD_HEADS.values(), ids=BAD_HEADS.keys())
@pytest.mark.parametrize("then", ["keep", "close"])
def test_bad_head_is_refused(hostile: Hostile, raw: bytes, then: Then) -> None:
    received, _ = hostile.ask(answer(raw, then=then))
    if raw.startswith(b"HTTP/1.1 102") and received.startswith(b"HTTP/1.1 102"):
        received = received[received.rindex(b"HTTP/1.1 102") :].partition(b"\r\n\r\n")[2]  # the first few may pass
    assert_refused(received)
    hostile.check_next()


BAD_CHUNKS = {
    "no size": b"\r\nLEAK\r\n0\r\n\r\n",
    "a word for a size": b"LEAK\r\nLEAK\r\n0\r\n\r\n",
    "signed size": b"+4\r\nLEAK\r\n0\r\n\r\n",
    "negative size": b"-4\r\nLEAK\r\n0\r\n\r\n",
    "0x": b"0x4\r\nLEAK\r\n0\r\n\r\n",
    "underscore": b"0_4\r\nLEAK\r\n0\r\n\r\n",
    "size beyond 64 bits": b"f" * 40 + b"\r\nLEAK\r\n0\r\n\r\n",
    "bare LF after the size": b"4\nLEAK\r\n0\r\n\r\n",
    "no CRLF after the data": b"4\r\nLEAK0\r\n\r\n",
    "other bytes after the data": b"4\r\nLEAKXX0\r\n\r\n",
    "NUL in an extension": b"4;a=\0\r\nLEAK\r\n0\r\n\r\n",
    "an extension without end": b"4;" + b"a" * 1_000_000,
    "bad trailer": b"4\r\ngood\r\n0\r\nbad trailer\r\n\r\n",
    "folded trailer": b"4\r\ngood\r\n0\r\nX-A: a\r\n b\r\n\r\n",
    "trailers without end": b"4\r\ngood\r\n0\r\n" + b"X-A: a\r\n" * 200_000,
}


@pytest.mark.parametrize("data", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
@pytest.mark.parametrize("at_once", [True, False], ids=["with the head", "after the head"])
def test_bad_chunk_is_refused_or_cut(hostile: Hostile, data: bytes, at_once: bool) -> None:
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    script = answer(head + data) if at_once else answer(head, data)
    received, was_reset = hostile.ask(script)
    assert_refused_or_cut(received, was_reset)
    hostile.check_next()


def test_cut_chunked_answer_is_visible_to_an_http10_client(hostile: Hostile) -> None:
    """HTTP/1.0 has no chunks: only a reset tells the client that the body is not whole."""
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    received, was_reset = hostile.ask(answer(head, b"bad", then="close"), GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert was_reset or split_responses(received)[0].status == 502
    hostile.check_next()


WHOLE = {
    "length": reply(b"0123456789", (b"X-A", b"b")),
    "chunked": OK + b"X-A: b\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"01234", b"56789"),
    "interim first": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(b"0123456789"),
}


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("then", ["close", "reset"])
def test_close_at_every_byte_is_refused_or_cut(hostile: Hostile, raw: bytes, then: Then) -> None:
    for length in range(len(raw)):
        received, was_reset = hostile.ask(answer(raw[:length], then=then))
        interims = received.startswith(b"HTTP/1.1 103") and b"\r\n\r\n" in received
        assert_refused_or_cut(received.partition(b"\r\n\r\n")[2] if interims else received, was_reset)
    hostile.check_next()


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE.keys())
def test_answer_in_single_bytes_arrives_whole(hostile: Hostile, raw: bytes) -> None:
    received, _ = hostile.ask(answer(*split(raw)))
    response = split_responses(received)[-1]
    assert (response.status, response.body) == (200, b"0123456789")


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE.keys())
def test_half_an_answer_is_cut_when_the_read_times_out(hostile: Hostile, raw: bytes) -> None:
    received, was_reset = hostile.ask(answer(raw[: -len(raw) // 4], then="hang"))
    if received.startswith(b"HTTP/1.1 103"):
        received = received.partition(b"\r\n\r\n")[2]
    if split_starts_with(received, 504):
        return
    assert_refused_or_cut(received, was_reset)
    hostile.check_next()


def split_starts_with(received: bytes, status: int) -> bool:
    return received.startswith(b"HTTP/1.1 %d " % status)


def test_silence_is_504(hostile: Hostile) -> None:
    received, _ = hostile.ask(answer(then="hang"))
    assert [response.status for response in split_responses(received)] == [504]
    hostile.check_next()


def test_close_delimited_answer_is_whole_at_its_end(hostile: Hostile) -> None:
    received, _ = hostile.ask(answer(OK + b"\r\n0123456789", then="close"))
    (response,) = split_responses(received)
    assert response.body == b"0123456789"
    assert response.get("transfer-encoding") == b"chunked"  # so that our client can tell its end from a cut


def test_close_delimited_answer_that_is_reset_is_cut(hostile: Hostile) -> None:
    gate = threading.Event()
    hostile.script = answer(OK + b"\r\n01234", lambda: gate.wait(10), then="reset")
    with hostile.proxy.client() as client:
        client.send(GET)
        assert client.read_some()  # the first bytes have come through: only now the server breaks off
        gate.set()
        assert client.is_closed()
        assert not bytes(client.received).endswith(b"0\r\n\r\n")
    hostile.check_next()


def test_http10_answer_with_keep_alive_is_relayed(hostile: Hostile) -> None:
    received, _ = hostile.ask(answer(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", then="close"))
    (response,) = split_responses(received)
    assert (response.version, response.body) == (b"1.1", b"ok")


# Bytes beyond the answer

NO_BODY = {
    "HEAD with a body": (b"HEAD", OK + b"Content-Length: 4\r\n\r\nLEAK"),
    "HEAD with chunks": (b"HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nLEAK\r\n0\r\n\r\n"),
    "204 with a body": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\nLEAK"),
    "204 with a length": (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nLEAK"),
    "304 with a body": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nLEAK"),
    "304 with a whole answer behind": (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\n" + LEAK),
}


@pytest.mark.parametrize(("method", "raw"), NO_BODY.values(), ids=NO_BODY.keys())
def test_body_where_none_may_be_is_dropped(hostile: Hostile, method: bytes, raw: bytes) -> None:
    received, _ = hostile.ask(answer(raw), GET.replace(b"GET", method))
    (response,) = split_responses(received, [method.decode()])
    assert (response.status, response.body) in [(200, b""), (204, b""), (304, b""), (502, b"")]
    assert b"LEAK" not in received
    hostile.check_next()


EXTRA = {
    "length": reply(b"mine"),
    "chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"mine"),
    "empty": reply(b""),
}


@pytest.mark.parametrize("raw", EXTRA.values(), ids=EXTRA.keys())
@pytest.mark.parametrize("extra", [LEAK, b"\r\n", b"L"], ids=["answer", "line end", "byte"])
def test_extra_bytes_never_reach_a_client(hostile: Hostile, raw: bytes, extra: bytes) -> None:
    received, _ = hostile.ask(answer(raw + extra))
    (response,) = split_responses(received)
    assert response.body in (b"mine", b"")
    connections = len(hostile.origin.connections)
    hostile.check_next()
    assert len(hostile.origin.connections) == connections + 1, "the dirty connection was used again"


def test_unsolicited_answer_on_a_pooled_connection_is_never_used(hostile: Hostile) -> None:
    hostile.check_next()
    answered, poisoned = threading.Event(), threading.Event()
    hostile.script = answer(reply(b"mine"), lambda: answered.wait(10), LEAK, poisoned.set)
    with hostile.proxy.client() as client:
        assert client.request(GET).body == b"mine"
        answered.set()
        assert poisoned.wait(10)
    for _ in range(3):
        hostile.check_next()


def test_server_that_speaks_first_never_gets_a_step_ahead(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its greeting may be taken for its first answer; the answer to that request must not go to the next one."""
    folder = tmp_path_factory.mktemp("greeting")
    with (
        ScriptedOrigin(lambda request, _: answer(reply(request.target)), greeting=LEAK) as origin,
        running_proxy(config_for(origin.address), folder) as proxy,
    ):
        for number in range(5):
            response = proxy.get(f"/{number}")
            assert response.status == 502 or response.body in (b"LEAK", b"/%d" % number)


def test_nothing_leaks_between_clients_under_load(hostile: Hostile) -> None:
    """Good and hostile exchanges mixed over one pool: every good client gets its own answer."""
    ugly = [
        answer(reply(b"mine") + LEAK),
        answer(OK + b"Content-Length: 99\r\n\r\nLEAK", then="close"),
        answer(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nLEAK\r\nbad"),
        answer(b"HTTP/1.1 304 Not Modified\r\n\r\nLEAK"),
        answer(LEAK[:20], then="reset"),
        answer(reply(b"mine"), then="reset"),
    ]

    def client(number: int) -> None:
        for turn in range(25):
            target = b"/%d-%d" % (number, turn)
            with RawClient(hostile.proxy.address) as good:
                good.send(GOOD.replace(b"/good", target))
                (response,) = good.responses()
            assert (response.status, response.body) == (200, b"good " + target)
            with RawClient(hostile.proxy.address) as bad:
                bad.try_send(b"GET /ugly-%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % (turn % len(ugly)))
                bad.rest()

    def script(request: Request, _: Connection) -> Answer:
        if request.target.startswith(b"/ugly-"):
            return ugly[int(request.target[6:])]
        return answer(reply(b"good " + request.target))

    hostile.origin.script = script
    try:
        with ThreadPoolExecutor(6) as clients:
            list(clients.map(client, range(6)))
    finally:
        hostile.origin.script = hostile._answer
