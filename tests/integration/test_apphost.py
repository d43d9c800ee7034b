"""worker/apphost.py as a process on its Unix socket, with the misbehaving application in it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from greenproxy.worker import apphost
from tests.apps.hosting import HostedApp, find_python
from tests.harness.client import RawClient
from tests.harness.wait import DEADLINE_S, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def app(tmp_path: Path) -> Iterator[HostedApp]:
    with HostedApp("misbehaving", tmp_path) as running:
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: /wait?gate answers when somebody writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def request(target: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: shop.example.com", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def sized(target: str, body: bytes, *fields: str) -> bytes:
    return request(target, f"Content-Length: {len(body)}", *fields, method="POST", body=body)


def chunked(target: str, *chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*filter(None, chunks), b""))
    return request(target, "Transfer-Encoding: chunked", method="POST", body=framed)


def answer_of(body: bytes) -> bytes:
    """What /echo says of a body."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()


# Responses


@pytest.mark.parametrize(
    ("target", "status", "body", "framing"),
    [
        ("/hello", 200, b"hello\n", "length"),
        ("/empty", 200, b"", "length"),
        ("/no-content", 204, b"", None),
        ("/not-modified", 304, b"", None),
        ("/stream", 200, b"one two three", "chunked"),
        ("/write", 200, b"written returned", "chunked"),
        ("/lazy", 200, b"lazy", "chunked"),
        ("/file", 200, bytes(range(256)) * 2000, "length"),
        ("/file-like", 200, b"x" * 100000, "chunked"),
        ("/replace", 503, b"replaced", "length"),
    ],
)
def test_response_is_framed_and_the_connection_stays_open(
    app: HostedApp, target: str, status: int, body: bytes, framing: str | None
) -> None:
    with app.client() as client:
        for _ in range(2):
            response = client.request(request(target))
            assert (response.status, response.body) == (status, body)
            assert response.get("content-length") == (str(len(body)).encode() if framing == "length" else None)
            assert response.get("transfer-encoding") == (b"chunked" if framing == "chunked" else None)
            assert response.get("date")
            assert response.get("connection") is None


@pytest.mark.parametrize("target", ["/hello", "/stream", "/write", "/lazy", "/file", "/empty", "/raise", "/endless"])
def test_head_has_no_body(app: HostedApp, target: str) -> None:
    with app.client() as client:
        client.request(request(target, method="HEAD"))
        assert client.request(request("/hello")).body == b"hello\n"  # nothing was left on the connection


def test_head_does_not_announce_a_length_the_application_did_not(app: HostedApp) -> None:
    with app.client() as client:
        assert client.request(request("/empty", method="HEAD")).get("content-length") is None


def test_exc_info_replaces_the_head(app: HostedApp) -> None:
    response = app.get("/replace")
    assert (response.get("x-first"), response.get("x-second")) == (None, b"2")


def test_hop_by_hop_headers_of_the_application_are_dropped_and_close_is_obeyed(app: HostedApp) -> None:
    with app.client() as client:
        response = client.request(request("/hop"))
        assert response.body == b"framed by the host"
        assert response.get("x-kept") == b"yes"
        assert response.all("connection") == [b"close"]
        assert client.is_closed()


def test_http_1_0_gets_a_response_that_ends_with_the_connection(app: HostedApp) -> None:
    with app.client() as client:
        client.send(b"GET /stream HTTP/1.0\r\n\r\n")
        response = client.final_response()
        assert response.body == b"one two three"
        assert response.get("transfer-encoding") is None


def test_http_1_0_keep_alive(app: HostedApp) -> None:
    with app.client() as client:
        for _ in range(2):
            response = client.request(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert response.get("connection") == b"keep-alive"


def test_close_is_obeyed(app: HostedApp) -> None:
    with app.client() as client:
        assert client.request(request("/hello", "Connection: close")).get("connection") == b"close"
        assert client.is_closed()


def test_pipelined_requests_are_answered_in_order(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/hello") + sized("/echo", b"abc") + request("/stream"))
        assert [client.final_response().body for _ in range(3)] == [b"hello\n", answer_of(b"abc"), b"one two three"]


def test_request_byte_by_byte_is_understood(app: HostedApp) -> None:
    with app.client() as client:
        client.send(*(bytes([byte]) for byte in sized("/echo", b"abc")), pause_s=0.001)
        assert client.final_response().body == answer_of(b"abc")


# Failures of the application


@pytest.mark.parametrize(
    "target",
    [
        "/raise", "/exit", "/twice", "/no-start", "/split-value", "/split-name", "/split-status",
        "/text-body", "/nothing",
    ],
)  # fmt: skip
def test_failure_before_the_head_is_500_and_a_traceback_on_stderr_only(app: HostedApp, target: str) -> None:
    with app.client() as client:
        response = client.request(request(target))
        assert (response.status, response.body) == (500, b"Internal Server Error\n")
        assert b"evil" not in response.raw
        assert client.request(request("/hello")).status == 200
    assert f"app/0: exception in GET {target}\nTraceback" in app.output()


@pytest.mark.parametrize("target", ["/raise-in-stream", "/replace-too-late", "/too-short", "/file-cut"])
def test_failure_after_the_head_cuts_the_response(app: HostedApp, target: str) -> None:
    with app.client() as client:
        client.send(request(target))
        cut = client.rest()
        assert cut.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not cut.endswith(b"0\r\n\r\n")
    assert "Traceback" in app.output()
    assert app.get("/hello").status == 200


def test_body_longer_than_its_length_is_cut_there(app: HostedApp) -> None:
    with app.client() as client:
        response = client.request(request("/too-long"))
        assert response.body == b"four"
        assert client.rest() == b""


def test_failure_in_close_spoils_no_response(app: HostedApp) -> None:
    assert app.get("/raise-in-close").body == b"whole"
    app.wait_output("in close")
    assert app.get("/hello").status == 200


def test_close_is_called_also_when_the_client_leaves(app: HostedApp) -> None:
    app.get("/stream")
    assert app.get("/closed").body == b"1"
    with app.client() as client:
        client.send(request("/endless"))
        client.read_some()
    wait_for(lambda: app.get("/closed").body == b"2", "close() of the endless response")
    assert "Traceback" not in app.output()  # a client that leaves is no failure


def test_output_is_passed_on_line_by_line(app: HostedApp) -> None:
    app.get("/print")
    assert app.wait_output("to wsgi.errors\n").count("to stdout\n") == 1


# Request bodies


BODIES = [b"", b"abc", b"0123456789abcdef" * 65536]


@pytest.mark.parametrize("body", BODIES, ids=len)
def test_body_arrives_whole(app: HostedApp, body: bytes) -> None:
    with app.client() as client:
        for _ in range(2):
            assert client.request(sized("/echo", body)).body == answer_of(body)
            assert client.request(chunked("/echo", body[:10], body[10:])).body == answer_of(body)


def test_chunked_body_ends_at_its_end(app: HostedApp) -> None:
    with app.client() as client:
        client.send(chunked("/echo", b"abc", b"de") + request("/hello"))
        assert client.final_response().body == answer_of(b"abcde")
        assert client.final_response().body == b"hello\n"


def test_chunk_extensions_and_trailers_are_dropped(app: HostedApp) -> None:
    body = b"3;a=b\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
    with app.client() as client:
        sent = request("/echo", "Transfer-Encoding: chunked", method="POST", body=body)
        assert client.request(sent).body == answer_of(b"abc")
        assert client.request(request("/hello")).status == 200


@pytest.mark.parametrize("make", [sized, chunked])
def test_input_has_lines(app: HostedApp, make) -> None:  # type: ignore[no-untyped-def]
    with app.client() as client:
        response = client.request(make("/lines", b"one\ntwo\nthree\nfour"))
    assert json.loads(response.body) == ["one\n", "tw", ["o\n", "three\n", "four"]]


def test_unread_body_is_discarded(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/ignore-body", "Content-Length: 100000", method="POST"))
        assert client.final_response().body == b"not read"
        client.send(b"x" * 100000 + request("/hello"))
        assert client.final_response().body == b"hello\n"


def test_long_unread_body_closes_the_connection(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/ignore-body", "Content-Length: 100000000", method="POST"))
        assert client.final_response().body == b"not read"
        while client.try_send(b"x" * 65536):
            assert len(client.received) < 1000
        assert client.is_closed()


def test_expect_is_answered_when_the_body_is_read(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/echo", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert client.response().status == 100
        client.send(b"abc")
        assert client.response().body == answer_of(b"abc")
        assert client.request(request("/hello")).status == 200


def test_expect_of_a_body_nobody_reads_ends_the_connection(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/ignore-body", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        response = client.response()
        assert (response.status, response.get("connection")) == (200, b"close")
        assert client.is_closed()


def test_cut_body_is_an_error_in_the_application_and_no_short_body(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/echo", "Content-Length: 10", method="POST", body=b"abc"))
        client.finish_sending()
        assert client.rest() == b""
    assert app.get("/hello").status == 200


# Bad requests


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    ],
)
def test_bad_request_gets_400_and_the_connection_closes(app: HostedApp, sent: bytes) -> None:
    with app.client() as client:
        client.send(sent)
        response = client.final_response()
        assert (response.status, response.get("connection")) == (400, b"close")
        assert client.rest() == b""


def test_unknown_transfer_coding_gets_501(app: HostedApp) -> None:
    with app.client() as client:
        client.send(request("/echo", "Transfer-Encoding: gzip, chunked", method="POST"))
        assert client.final_response().status == 501
        assert client.is_closed()


def test_endless_head_gets_431(app: HostedApp) -> None:
    with app.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        while client.try_send(b"X: " + b"y" * 8000 + b"\r\n"):
            if client.read_some(0.001):
                break
        assert client.received.startswith(b"HTTP/1.1 431 ")


# Threads and connections


def test_idle_connections_hold_no_thread(app: HostedApp) -> None:
    clients = [app.client() for _ in range(200)]
    try:
        for _ in range(2):
            for client in clients:
                assert client.request(request("/hello")).status == 200
        assert app.get("/hello").status == 200
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: app.descriptors() < 100, "the closed connections to be closed on the other side too")


def test_half_a_head_holds_no_thread(app: HostedApp) -> None:
    clients = [app.client() for _ in range(10)]
    try:
        for client in clients:
            client.send(b"GET /hello HTT")
        assert app.get("/hello").status == 200
        for client in clients:
            client.send(b"P/1.1\r\nHost: a\r\n\r\n")
            assert client.final_response().status == 200
    finally:
        for client in clients:
            client.close()


def test_requests_run_in_as_many_threads_as_asked_for(tmp_path: Path) -> None:
    with HostedApp("misbehaving", tmp_path, threads=3) as app:
        clients = [app.client() for _ in range(12)]
        for client in clients:
            client.send(request("/who"))
        names = {client.final_response().body.split()[1] for client in clients}
        for client in clients:
            client.close()
    assert names == {b"app/0-0", b"app/0-1", b"app/0-2"}


# Start and stop


def test_socket_file_is_ours_only_and_replaces_a_stale_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "app-0.sock"))
    with HostedApp("misbehaving", tmp_path) as app:
        assert stat.S_IMODE(os.stat(app.path).st_mode) == 0o600
        assert sorted(os.listdir(tmp_path)) == ["app-0.sock", "output.log"]
        assert app.get("/hello").status == 200


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "app-0.sock").write_text("precious")
    app = HostedApp("misbehaving", tmp_path)
    assert app.process.wait(DEADLINE_S) == 2
    app.end()
    assert (tmp_path / "app-0.sock").read_text() == "precious"
    assert "exists and is not a socket" in app.output()


def test_stop_leaves_the_socket_file_of_its_successor(tmp_path: Path) -> None:
    with HostedApp("misbehaving", tmp_path) as old, HostedApp("misbehaving", tmp_path) as new:
        assert old.stop() == 0
        assert new.get("/hello").status == 200


@pytest.mark.parametrize(
    ("spec", "printed"),
    [
        ("broken", "the database is not there"),
        ("nowhere:application", "No module named 'nowhere'"),
        ("misbehaving:nothing", "has no attribute 'nothing'"),
        ("misbehaving:closed", "is not callable"),
        ("misbehaving:TEXT[0]", "is not module:name"),
        ("misbehaving:make(open)", "malformed node"),
    ],
)
def test_application_that_cannot_be_loaded_exits_3_with_a_traceback(tmp_path: Path, spec: str, printed: str) -> None:
    app = HostedApp(spec, tmp_path)
    assert app.process.wait(DEADLINE_S) == 3
    app.end()
    assert "Traceback" in app.output()
    assert printed in app.output()
    assert not os.path.exists(app.path)


@pytest.mark.parametrize(
    ("spec", "body"), [("make()", b"made!"), ("make('hello', mark='?')", b"hello?"), ("make(mark='.')", b"made.")]
)
def test_factory_is_called_with_its_literal_arguments(tmp_path: Path, spec: str, body: bytes) -> None:
    with HostedApp(f"misbehaving:{spec}", tmp_path) as app:
        assert app.get("/").body == body


def test_term_finishes_running_requests_and_closes_idle_connections(app: HostedApp, gate: Path) -> None:
    with app.client() as running, app.client() as idle:
        running.send(request(f"/wait?{gate}"))
        assert idle.request(request("/hello")).status == 200
        app.process.send_signal(signal.SIGTERM)
        assert idle.is_closed()
        assert not os.path.exists(app.path)
        assert app.process.poll() is None
        gate.write_bytes(b"go on")
        response = running.final_response()
        assert (response.body, response.get("connection")) == (b"waited", b"close")
        assert running.is_closed()
    assert app.process.wait(DEADLINE_S) == 0


def test_request_that_came_before_term_is_answered(tmp_path: Path) -> None:
    with HostedApp("misbehaving", tmp_path, threads=1) as app:
        clients = [app.client() for _ in range(20)]
        for client in clients:
            client.send(request("/who"))
        app.process.send_signal(signal.SIGTERM)
        assert [client.final_response().status for client in clients] == [200] * 20
        for client in clients:
            client.close()
        assert app.process.wait(DEADLINE_S) == 0


def test_idle_connection_refuses_new_bytes_once_it_is_retired(app: HostedApp) -> None:
    """A send after the end fails with nothing sent, so the proxy may send the request elsewhere, POST too."""
    with app.client() as idle:
        assert idle.request(request("/hello")).status == 200
        app.stop()
        assert not idle.try_send(sized("/echo", b"abc"))


def test_bytes_that_come_while_a_connection_is_retired_are_served_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the proxy sends, it either gets an answer or learns that nothing was taken."""
    ours, theirs = socket.socketpair()
    listening = apphost.SocketFile(str(tmp_path / "a.sock"))
    host = apphost.Host(lambda environ, start_response: [], listening, 1, "app/0")
    connection = apphost.Connection(ours)
    host._connections[connection.fd] = host._idle[connection.fd] = connection
    host._epoll.register(connection.fd, 0)
    looked = apphost.has_bytes

    def send_after_the_second_look(sock: socket.socket) -> bool:
        seen = looked(sock)
        if looks.pop() == "second":
            with pytest.raises(BrokenPipeError):
                theirs.send(b"too late")
        return seen

    looks = ["second", "first"]
    monkeypatch.setattr(apphost, "has_bytes", send_after_the_second_look)
    with theirs, listening.sock:
        host._draining.set()
        monkeypatch.setattr(host, "_stop", SimpleNamespace(wake=lambda: None), raising=False)
        host._retire(connection)
    assert looks == []
    assert host._connections == {}


def test_no_request_is_lost_to_a_stop(tmp_path: Path) -> None:
    """Every request that was taken is answered, whatever the moment of the stop."""
    with HostedApp("misbehaving", tmp_path, threads=4) as app:
        lost: list[bytes] = []
        threads = [threading.Thread(target=_ask_until_refused, args=(app.path, lost)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert app.stop() == 0
        for thread in threads:
            thread.join()
    assert lost == []


def _ask_until_refused(path: str, lost: list[bytes]) -> None:
    with RawClient(path) as client:
        while client.try_send(sized("/echo", b"abc")):
            try:
                response = client.final_response()
            except AssertionError:
                lost.append(bytes(client.received[-200:]))
                return
            if response.get("connection") == b"close":
                return


def test_int_ends_at_once(app: HostedApp, gate: Path) -> None:
    with app.client() as client:
        client.send(request(f"/wait?{gate}"))
        wait_for(lambda: app.get("/hello").status == 200)
        assert app.stop(signal.SIGINT) == 0
        assert client.rest() == b""
    assert not os.path.exists(app.path)


def test_end_of_the_parent_stops_it(app: HostedApp) -> None:
    app.abandon()
    assert app.process.wait(DEADLINE_S) == 0
    assert not os.path.exists(app.path)


def test_term_is_heard_although_the_parent_blocked_it(tmp_path: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        app = HostedApp("misbehaving", tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    with app:
        assert app.stop() == 0


# Interpreters


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"])
def test_every_supported_python_runs_it(tmp_path: Path, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no python{version} on PATH")
    with HostedApp("misbehaving", tmp_path, python=python) as app, app.client() as client:
        assert client.request(request("/hello")).body == b"hello\n"
        assert client.request(sized("/echo", BODIES[2])).body == answer_of(BODIES[2])
        assert client.request(chunked("/echo", b"abc", b"de")).body == answer_of(b"abcde")
        assert client.request(request("/stream")).body == b"one two three"
        assert client.request(request("/file")).body == bytes(range(256)) * 2000
        assert client.request(request("/raise")).status == 500
        assert app.stop() == 0
