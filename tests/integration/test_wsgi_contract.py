"""WSGI applications that run inside us (files, respond, the admin API) over the real listener (PEP 3333).

What an application promises of its answer's length is held against what it gives: an answer that is
too short or too long must not be taken for a whole one, nor begin the next.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import socket as gevent_socket

from greenproxy.config.schema import Listener, ServerSettings
from greenproxy.listener.server import Server
from greenproxy.shm.segment import Segment
from greenproxy.telemetry.accesslog import AccessLog

StartResponse = Callable[..., Callable[[bytes], None]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TEN = [("Content-Length", "10")]


@contextmanager
def serving(application: Application) -> Iterator[tuple[str, int]]:
    segment = Segment.create()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        listener = Listener.model_validate({"address": "127.0.0.1:0"})
        settings = ServerSettings.model_validate({"workers": 1})
        server = Server(sock, listener, application, settings, AccessLog(None), segment, 1)
        server.start()
        try:
            yield sock.getsockname()
            with gevent.Timeout(10):
                while server.connection_count:
                    gevent.sleep(0.001)
            gevent.sleep(0)  # the socket is closed after the count goes down
        finally:
            server.stop()


def ask(application: Application, request: bytes = GET) -> bytes:
    """Send a request, say that nothing follows once something came back, and return all that came."""
    with serving(application) as address, gevent.Timeout(10):
        client = gevent_socket.create_connection(address)
        client.sendall(request)
        received = b""
        try:
            while piece := client.recv(65536):
                received += piece
                if received.endswith((b"0123456789", b"\r\n\r\n")):
                    client.shutdown(socket.SHUT_WR)
        except ConnectionResetError:
            pass  # how an answer that is cut looks
        client.close()
        return received


def body_of(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[2]


def giving(*pieces: bytes, headers: list[tuple[str, str]], whole: bool = False) -> Application:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return list(pieces) if whole else iter(pieces)

    return application


def test_answer_in_pieces_as_long_as_it_says_is_sent() -> None:
    received = ask(giving(b"01234", b"", b"56789", headers=TEN))
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body_of(received) == b"0123456789"


def test_answer_shorter_than_it_says_is_cut_and_ends_the_connection() -> None:
    assert ask(giving(b"01234", headers=TEN), GET + GET).count(b"HTTP/1.1") == 1


def test_answer_longer_than_it_says_is_cut_and_ends_the_connection() -> None:
    received = ask(giving(b"01234", b"56789HTTP/1.1 200 OK", headers=TEN), GET + GET)
    assert received.count(b"HTTP/1.1") == 1
    assert len(body_of(received)) <= 10


def test_whole_answer_that_is_not_as_long_as_it_says_becomes_a_500() -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert ask(giving(b"01234", headers=TEN, whole=True), last).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("whole", [True, False])
def test_head_gets_the_length_and_no_body(whole: bool) -> None:
    received = ask(giving(b"0123456789", headers=TEN, whole=whole), GET.replace(b"GET", b"HEAD"))
    assert b"Content-Length: 10\r\n" in received
    assert body_of(received) == b""


def test_write_is_there_for_old_applications() -> None:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEN)
        write(b"01234")
        return [b"56789"]

    assert body_of(ask(application)) == b"0123456789"


def test_start_response_again_after_an_error_replaces_the_answer() -> None:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise KeyError("late")
        except KeyError as error:
            start_response("503 Service Unavailable", TEN, (KeyError, error, error.__traceback__))
        return [b"0123456789"]

    received = ask(application)
    assert received.startswith(b"HTTP/1.1 503 ")


def test_iterable_is_closed_also_when_it_fails() -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"01234"
            raise RuntimeError("half way")

        def close(self) -> None:
            closed.append(True)

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    received = ask(application)
    assert closed == [True]
    assert not received.endswith(b"0\r\n\r\n"), "an answer that broke off must not look complete"


def test_input_gives_the_body_and_no_more() -> None:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        lines = [environ["wsgi.input"].readline(), *environ["wsgi.input"], environ["wsgi.input"].read()]
        start_response("200 OK", [("Content-Length", str(len(repr(lines))))])
        return [repr(lines).encode()]

    request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 8\r\n\r\na\nb\nc\nd\nGET /"
    assert body_of(ask(application, request)) == b"[b'a\\n', b'b\\n', b'c\\n', b'd\\n', b'']"
