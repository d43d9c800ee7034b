"""`buffer`: a client that is slow, in sending or in reading, must not hold one of an application's few connections.

Owns:       what a server sees of slow clients, and that held bodies arrive to the byte.
Leaves to:  tests/unit/proxy/test_spool.py memory and disk; test_client_behaviour.py bodies that stream.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import RawClient
from tests.harness.message import Request
from tests.harness.origin import (
    Answer,
    Connection,
    Origin,
    RecordingOrigin,
    ScriptedOrigin,
    answer,
    chunked,
    reply,
    split,
)
from tests.harness.processes import memory
from tests.harness.proxy import Proxy, config_for, running_proxy
from tests.harness.wait import wait_for

pytestmark = pytest.mark.integration

MEMORY = 100_000
HUGE = random.Random(1).randbytes(1_000_003) * 30  # more than all socket buffers on the way hold
BIG = HUGE[:8_000_000]  # far more than MEMORY
SMALL = BIG[:1_000]
ROOMY = {"limits": {"max_body": "100MB", "body_timeout": "60s"}}
REQUEST = {"request": "100KB"}
RESPONSE = {"response": "100KB"}

Start = Callable[..., AbstractContextManager[Proxy]]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a proxy before origins: start(origin, ..., buffer={...}, **more keys of the upstream)."""

    def started(*origins: Origin, **upstream: Any) -> AbstractContextManager[Proxy]:
        config = config_for(*(origin.address for origin in origins), server=ROOMY, upstream=upstream)
        return running_proxy(config, tmp_path)

    return started


def post(length: int, *fields: str, target: str = "/m", method: str = "POST") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", f"Content-Length: {length}", *fields, "", ""]
    return "\r\n".join(lines).encode()


CHUNKED_POST = b"POST /m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


# Requests


@pytest.mark.parametrize("size", [len(SMALL), len(BIG)], ids=["in memory", "on disk"])
def test_server_gets_nothing_before_the_body_is_complete(start: Start, size: int) -> None:
    body = BIG[:size]
    with RecordingOrigin() as origin, start(origin, buffer=REQUEST) as proxy, proxy.client() as slow:
        slow.send(post(size) + body[:-1])
        _wait_read(proxy, slow)
        for number in range(5):  # the proxy has the body but for a byte, and serves others
            assert proxy.get(f"/other/{number}").status == 200
        assert [request.target for request in origin.requests] == [b"/other/%d" % number for number in range(5)]
        assert b"/m" not in origin.received
        assert origin.open_connections <= 1
        slow.send(body[-1:])
        assert slow.final_response("POST").status == 200
        assert digest(origin.requests[-1].body) == digest(body)


def _wait_read(proxy: Proxy, client: RawClient) -> None:
    """Wait until the proxy has taken all that a client has sent: nothing is left in its receive queue."""
    ours, theirs = (f"{0x0100007F:08X}:{port:04X}" for port in (client.port, proxy.address[1]))

    def taken() -> bool:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = line.split()
            if {local, remote} == {ours, theirs} and queues != "00000000:00000000":
                return False
        return True

    wait_for(taken, "the proxy to have read what was sent")


@pytest.mark.parametrize("body", [b"", SMALL, BIG], ids=["empty", "in memory", "on disk"])
@pytest.mark.parametrize("coded", [False, True], ids=["length", "chunked"])
def test_body_arrives_intact_with_its_length(start: Start, body: bytes, coded: bool) -> None:
    with RecordingOrigin() as origin, start(origin, buffer=REQUEST) as proxy, proxy.client() as client:
        if coded:
            client.send(CHUNKED_POST + chunked(*split(body, 70_001)))
        else:
            client.send(post(len(body)) + body)
        assert client.final_response("POST").status == 200
        [request] = origin.requests
        assert digest(request.body) == digest(body)
        assert request.get("content-length") == b"%d" % len(body), "a body that was held has a known length"
        assert request.get("transfer-encoding") is None
        assert client.request(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").status == 200


def test_client_that_leaves_its_body_unfinished_costs_no_server(start: Start) -> None:
    with RecordingOrigin() as origin, start(origin, buffer=REQUEST) as proxy:
        client = proxy.client()
        client.send(post(1_000) + b"x" * 999)
        client.close()
        record = proxy.wait_access(lambda record: record["path"] == "/m")
        assert (record["status"], record["attempts"]) == (499, 0)
        assert origin.accepted == 0


def test_body_over_the_limit_costs_no_server(start: Start, tmp_path: Path) -> None:
    with RecordingOrigin() as origin:
        config = config_for(origin.address, server={"limits": {"max_body": "200KB"}}, upstream={"buffer": REQUEST})
        with running_proxy(config, tmp_path) as proxy, proxy.client() as client:
            client.try_send(CHUNKED_POST + chunked(*split(BIG[:300_000], 10_000)))
            assert client.final_response("POST").status == 413
        assert origin.accepted == 0


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["in memory", "on disk"])
def test_retry_sends_a_held_body_again(start: Start, body: bytes) -> None:
    with ScriptedOrigin([answer(then="close")]) as bad, RecordingOrigin() as good:
        with start(bad, good, buffer=REQUEST) as proxy:

            def met_the_bad_one() -> bool:
                with proxy.client() as client:
                    client.send(post(len(body), method="PUT") + body)
                    assert client.final_response("PUT").status == 200
                return bool(bad.requests)

            wait_for(met_the_bad_one, "a request whose first attempt failed")
        assert {digest(request.body) for request in (*bad.requests, *good.requests)} == {digest(body)}
        assert good.requests


def test_held_post_is_never_sent_twice(start: Start) -> None:
    with ScriptedOrigin([answer(then="close")]) as bad:
        with start(bad, buffer=REQUEST, retry={"attempts": 3}) as proxy:
            assert proxy.request("POST", "/pay", body=SMALL).status == 502
        assert len(bad.heads) == 1


# Answers


class OneAtATime(Origin):
    """An application with one thread: while it sends an answer, nobody else is served."""

    def __init__(self, response: bytes) -> None:
        super().__init__()
        self.response = response
        self.thread = threading.Lock()
        self.answered: list[bytes] = []

    def serve(self, connection: Connection) -> None:
        while True:
            while b"\r\n\r\n" not in connection.pending:
                if not self.read(connection):
                    return
            head, _, connection.pending = connection.pending.partition(b"\r\n\r\n")
            target = head.split(b" ")[1]
            with self.thread:
                connection.socket.sendall(self.response if target == b"/big" else reply(target))
                self.answered.append(target)


FRAMES = {
    "length": reply(HUGE),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*split(HUGE, 70_001)),
}


@pytest.mark.parametrize("framing", FRAMES)
def test_server_is_free_while_a_slow_client_still_reads(start: Start, framing: str) -> None:
    with OneAtATime(FRAMES[framing]) as app, start(app, buffer=RESPONSE) as proxy, proxy.client() as slow:
        slow.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: app.answered == [b"/big"], "the server to be rid of its answer")
        for number in range(5):
            assert proxy.get(f"/{number}").body == b"/%d" % number
        assert len(slow.received) == 0, "the client had not begun to read"
        assert digest(slow.final_response().body) == digest(HUGE)
        record = proxy.wait_access(lambda record: record["path"] == "/big")
        assert (record["status"], record["bytes_out"]) == (200, len(HUGE))


def test_without_a_buffer_the_slow_client_holds_the_server(start: Start) -> None:
    """What the setting is for; it also shows that the answer is larger than what sockets hold on the way."""
    with OneAtATime(FRAMES["length"]) as app, start(app) as proxy, proxy.client() as slow:
        slow.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(app.thread.locked, "the server to be at it")
        with proxy.client(deadline_s=1.0) as other:
            other.send(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
            assert other.read_some(within_s=1.0) == b""
            assert digest(slow.final_response().body) == digest(HUGE)
            assert other.final_response().body == b"/other"


def test_connection_is_used_again_while_its_last_answer_is_still_being_read(start: Start) -> None:
    with OneAtATime(FRAMES["length"]) as app, start(app, buffer=RESPONSE) as proxy, proxy.client() as slow:
        slow.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: app.answered == [b"/big"], "the server to be rid of its answer")
        wait_for(lambda: _idle(proxy) == 0, "the exchange to be over for its server")
        assert proxy.get("/next").body == b"/next"
        assert app.accepted == 1
        assert digest(slow.final_response().body) == digest(HUGE)


def _idle(proxy: Proxy) -> int:
    """Requests that the server is at, as the admin API says."""
    [upstream] = proxy.admin_get("/api/v1/upstreams")["upstreams"]
    [server] = upstream["servers"]
    return int(server["in_flight"])


def test_held_answer_is_on_disk_and_not_in_memory(start: Start) -> None:
    big = reply(b"x" * 150_000_000)
    with OneAtATime(big) as app, start(app, buffer=RESPONSE) as proxy, proxy.client() as slow:
        slow.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: app.answered, "the server to be rid of its answer", 60)
        [worker] = proxy.worker_pids()
        assert memory(worker) < 100 << 20
        assert _deleted_files(worker), "it is in no file either"
        slow.reset()
        wait_for(lambda: not _deleted_files(worker), "the disk space to be given back")


def _deleted_files(pid: int) -> list[str]:
    """Files that a process holds open and nobody else can."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target, size = os.readlink(fd), fd.stat().st_size
        except OSError:
            continue  # closed while we looked
        if target.endswith(" (deleted)") and "memfd:" not in target and size > 0:
            found.append(target)
    return found


@pytest.mark.parametrize("size", [MEMORY // 2, len(BIG)], ids=["in memory", "on disk"])
def test_answer_that_is_cut_is_visibly_cut_after_its_last_bytes(start: Start, size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (size + 1)
    with ScriptedOrigin([answer(head + BIG[:size], then="close")]) as origin, start(origin, buffer=RESPONSE) as proxy:
        with proxy.client() as client:
            client.send(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
            data = client.rest()
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(body) <= size
        assert BIG.startswith(body)
        record = proxy.wait_access(lambda record: record["path"] == "/cut")
        assert record["reason"] == "upstream_cut"


def test_slow_answer_is_passed_on_as_it_comes(start: Start) -> None:
    """Holding is for slow clients: one that reads gets each piece at once."""
    gate = threading.Event()

    def script(request: Request, connection: Connection) -> Answer:
        return answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", lambda: gate.wait(20), b"def")

    with ScriptedOrigin(script) as origin, start(origin, buffer=RESPONSE) as proxy, proxy.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        data = b""
        while not data.endswith(b"abc"):
            piece = client.read_some()
            assert piece, f"the first half did not come before the second: {data!r}"
            data += piece
        gate.set()
        assert client.read_some() == b"def"
