"""What an application may give to start_response, write and return, and the bytes it becomes."""

from __future__ import annotations

import gzip
import io
import tempfile
import threading
from pathlib import Path

import pytest

from greenproxy.worker.apphost import ApplicationError, FileWrapper, Response, parse_head
from tests.unit.apphost.fakes import FakeSocket, connection

Headers = list[tuple[str, str]]


def response_to(head: bytes = b"GET / HTTP/1.1\r\nHost: a") -> tuple[Response, FakeSocket, threading.Event]:
    made, fake = connection()
    draining = threading.Event()
    return Response(made, parse_head(head), None, draining), fake, draining


def sent_for(headers: Headers, blocks: list[bytes], status: str = "200 OK", method: str = "GET") -> tuple[bytes, bytes]:
    """Give head and body of a response, without its Date."""
    response, fake, _ = response_to(f"{method} / HTTP/1.1\r\nHost: a".encode())
    response.start_response(status, [("Date", "now"), *headers])
    response.send(blocks)
    head, _, body = fake.sent.partition(b"\r\n\r\n")
    return head.replace(b"\r\nDate: now", b""), body


@pytest.mark.parametrize(
    ("headers", "blocks", "status", "method", "head", "body"),
    [
        ([], [b"abc"], "200 OK", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3", b"abc"),
        ([], [b"a", b"bc"], "200 OK", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3", b"abc"),
        ([], [], "200 OK", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0", b""),
        ([], [b""], "404 Not Found", "GET", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0", b""),
        ([], [b"abc"], "200", "GET", b"HTTP/1.1 200 \r\nContent-Length: 3", b"abc"),
        ([], [b"abc"], "200 OK", "HEAD", b"HTTP/1.1 200 OK", b""),
        ([("Content-Length", "3")], [b"abc"], "200 OK", "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3", b""),
        ([("Content-Length", "3")], [], "200 OK", "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3", b""),
        ([("Content-Length", "3")], [], "304 Same", "GET", b"HTTP/1.1 304 Same\r\nContent-Length: 3", b""),
        ([("Content-Length", "3")], [b"abc"], "204 No Content", "GET", b"HTTP/1.1 204 No Content", b""),
        ([("X-A", "1"), ("X-a", "2")], [], "200 OK", "HEAD", b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-a: 2", b""),
        ([("X-A", "\xe4\tb")], [], "200 OK", "HEAD", b"HTTP/1.1 200 OK\r\nX-A: \xe4\tb", b""),
    ],
)  # fmt: skip
def test_bytes_of_a_response(
    headers: Headers, blocks: list[bytes], status: str, method: str, head: bytes, body: bytes
) -> None:
    assert sent_for(headers, blocks, status, method) == (head, body)


@pytest.mark.parametrize(
    "value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b", "a\x1b[31m", "a\x7f", "\r\n\r\n<script>", "a\x0bb"]
)
def test_control_character_in_a_value_is_refused(value: str) -> None:
    response, fake, _ = response_to()
    with pytest.raises(ApplicationError):
        response.start_response("200 OK", [("X-A", value)])
    assert fake.sent == b""


def test_value_that_is_not_latin_1_is_refused_before_anything_is_sent() -> None:
    response, fake, _ = response_to()
    response.start_response("200 OK", [("X-A", "\u20ac")])
    with pytest.raises(UnicodeEncodeError):
        response.send([b"abc"])
    assert (response.head_sent, fake.sent) == (False, b"")
    response.fail("500 Internal Server Error")
    assert fake.sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


@pytest.mark.parametrize("name", ["", "X A", "X:", "X\r\nY", "X\0", "\xe4"])
def test_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ApplicationError):
        response_to()[0].start_response("200 OK", [(name, "a")])


@pytest.mark.parametrize(
    "status", ["", "OK", "20 OK", "2000 OK", "101 Switching Protocols", "600 X", "200 O\r\nK", "200OK"]
)
def test_malformed_status_is_refused(status: str) -> None:
    with pytest.raises(ApplicationError):
        response_to()[0].start_response(status, [])


@pytest.mark.parametrize("lengths", [["-1"], ["+3"], ["3 "], ["3", "4"], [""]])
def test_malformed_length_is_refused(lengths: list[str]) -> None:
    with pytest.raises(ApplicationError):
        response_to()[0].start_response("200 OK", [("Content-Length", length) for length in lengths])


def test_blocks_of_an_iterator_are_chunks() -> None:
    response, fake, _ = response_to()
    response.start_response("200 OK", [])
    response.send(iter([b"a" * 10, b"", b"b"]))
    assert fake.sent.endswith(b"\r\n\r\na\r\naaaaaaaaaa\r\n1\r\nb\r\n0\r\n\r\n")


def test_head_of_a_draining_host_says_close() -> None:
    response, fake, draining = response_to()
    response.start_response("200 OK", [])
    draining.set()  # while the application was thinking
    response.send([b"abc"])
    assert b"\r\nConnection: close\r\n" in fake.sent
    assert not response.may_continue()


def test_only_a_plain_file_is_sent_by_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"abc"))
    with tempfile.TemporaryFile() as plain, gzip.open(path) as packed:
        plain.write(b"0123456789")
        plain.seek(4)
        assert FileWrapper(plain).on_disk() == (plain.fileno(), 4, 6)
        assert FileWrapper(packed).on_disk() is None  # its descriptor has other bytes than it gives
        assert FileWrapper(io.BytesIO(b"abc")).on_disk() is None
        assert b"".join(FileWrapper(packed)) == b"abc"
