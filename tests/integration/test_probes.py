"""One probe against a real socket: TCP and Unix, good, bad, slow and absent servers."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from greenproxy.config.address import Address
from greenproxy.config.schema import HealthCheck
from greenproxy.health.prober import probe
from tests.harness.origin import Answer, RecordingOrigin, ScriptedOrigin, answer, chunked, reply, split
from tests.harness.ports import reserve_port

pytestmark = pytest.mark.integration

HEAD = b"HTTP/1.1 200 OK\r\n"


def check_with(**keys: object) -> HealthCheck:
    return HealthCheck.model_validate({"path": "/healthz", "timeout": "5s", **keys})


def test_probe_asks_for_its_path_and_host_and_closes() -> None:
    with RecordingOrigin() as origin:
        verdict = probe(Address.parse(origin.address), check_with(path="/health/deep", host="shop.example.com"))
        assert (verdict.good, verdict.reason) == (True, "status 200")
        [request] = origin.wait_requests(1)
        assert (request.method, request.target) == (b"GET", b"/health/deep")
        assert request.get("host") == b"shop.example.com"
        assert request.get("connection") == b"close"


def test_host_of_a_probe_is_the_servers_address_by_default() -> None:
    with RecordingOrigin() as origin:
        probe(Address.parse(origin.address), check_with())
        assert origin.wait_requests(1)[0].get("host") == origin.address.encode()


def test_path_beyond_ascii_is_sent_percent_encoded() -> None:
    with RecordingOrigin() as origin:
        probe(Address.parse(origin.address), check_with(path="/zdraví/%20"))
        assert origin.wait_requests(1)[0].target == b"/zdrav%C3%AD/%20"


def test_unix_socket_is_probed(tmp_path: Path) -> None:
    with RecordingOrigin(tmp_path / "app.sock") as origin:
        assert probe(Address.parse(origin.address), check_with()).good
        assert origin.wait_requests(1)[0].get("host") == b"localhost"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_probe_without_path_only_connects(kind: str, tmp_path: Path) -> None:
    with RecordingOrigin(tmp_path / "app.sock" if kind == "unix" else None) as origin:
        verdict = probe(Address.parse(origin.address), check_with(path=None))
        assert (verdict.good, verdict.reason) == (True, "connected")
    assert origin.received == b""


@pytest.mark.parametrize(
    ("expect", "status", "good"),
    [
        ("200-399", 200, True),
        ("200-399", 302, True),
        ("200-399", 404, False),
        ("200", 204, False),
        (["200", "503"], 503, True),
        ("400-499", 200, False),
    ],
)
def test_status_must_be_an_expected_one(expect: object, status: int, good: bool) -> None:
    with ScriptedOrigin([answer(reply(b"x" * (status != 204), status=b"%d Word" % status))]) as origin:
        verdict = probe(Address.parse(origin.address), check_with(expect=expect))
    assert (verdict.good, verdict.reason) == (good, f"status {status}")


ANSWERS: dict[str, tuple[Answer, bool, str]] = {
    "byte by byte": (answer(*split(reply(b"ok"))), True, "status 200"),
    "chunked": (answer(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"o", b"k")), True, "status 200"),
    "garbage": (answer(b"\x16\x03\x01 not at all HTTP\r\n\r\n", then="close"), False, "garbage answer"),
    "closed without a word": (answer(then="close"), False, "no answer"),
    "cut head": (answer(HEAD, then="close"), False, "answer cut short"),
    "cut body": (answer(HEAD + b"Content-Length: 5\r\n\r\nok", then="close"), False, "answer cut short"),
    "reset": (answer(then="reset"), False, "answer: Connection reset by peer"),
}


@pytest.mark.parametrize(("scripted", "good", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_answer_decides_the_verdict(scripted: Answer, good: bool, reason: str) -> None:
    with ScriptedOrigin([scripted]) as origin:
        verdict = probe(Address.parse(origin.address), check_with())
    assert verdict.good is good
    assert reason in verdict.reason


SILENCES = {
    "says nothing": answer(then="hang"),
    "stops in its head": answer(HEAD, then="hang"),
    "stops in its body": answer(HEAD + b"Content-Length: 5\r\n\r\nok", then="hang"),
    "never ends its body": answer(HEAD + b"\r\nok", then="hang"),
    "drips": answer(HEAD, *[lambda: time.sleep(0.05), b"X: 1\r\n"] * 20, then="hang"),
}


@pytest.mark.parametrize("scripted", SILENCES.values(), ids=SILENCES)
def test_slow_answer_is_given_up_at_the_timeout(scripted: Answer) -> None:
    with ScriptedOrigin([scripted]) as origin:
        started = time.monotonic()
        verdict = probe(Address.parse(origin.address), check_with(timeout="300ms"))
        assert 0.3 <= time.monotonic() - started < 5
    assert (verdict.good, verdict.reason) == (False, "answer timed out after 0.3 s")


def test_absent_server_is_refused(tmp_path: Path) -> None:
    port = reserve_port()
    try:
        verdict = probe(Address.parse(f"127.0.0.1:{port.number}"), check_with())
    finally:
        port.release()
    assert (verdict.good, verdict.reason) == (False, "connect: Connection refused")
    verdict = probe(Address.unix(str(tmp_path / "none.sock")), check_with())
    assert (verdict.good, verdict.reason) == (False, "connect: No such file or directory")


def test_server_that_never_accepts_times_out(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))  # the backlog is full now
        verdict = probe(Address.unix(str(path)), check_with(timeout="200ms"))
    assert not verdict.good
    assert verdict.reason in ("connect timed out after 0.2 s", "connect: Resource temporarily unavailable")


def test_name_that_cannot_be_a_name_fails_its_probe() -> None:
    verdict = probe(Address("tcp", host="a" * 64 + ".invalid", port=80), check_with())
    assert not verdict.good
    assert verdict.reason.startswith("connect")
