"""Send every case of accept/ and reject/ through the running proxy and look at both ends.

A reject case proves the answer, that the connection is closed, and that nothing reached the upstream: once
streaming, where a body that turns out bad may leave a cut request behind, and once with whole requests
buffered, where not a byte may arrive. An accept case proves what the upstream got, byte by byte where it matters,
and that the connection is still in step: a further request is served on it.
"""

from __future__ import annotations

import pytest

from tests.harness.client import RawClient
from tests.harness.message import Request, Response
from tests.harness.origin import Connection, RecordingOrigin
from tests.harness.wait import wait_for
from tests.wire.cases import Case, load_folder, unescape
from tests.wire.conftest import Wire

ACCEPT = load_folder("accept")
REJECT = load_folder("reject")
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe.example\r\nConnection: close\r\n\r\n"


def _names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_there_are_enough_cases() -> None:
    assert len(ACCEPT) + len(REJECT) >= 150


@pytest.mark.parametrize("case", ACCEPT, ids=_names(ACCEPT))
def test_accept(case: Case, streaming_wire: Wire) -> None:
    origin = streaming_wire.origin
    with streaming_wire.proxy.client() as client:
        origin.clear()
        client.send(case.raw)
        answers = _read_answers(client, case)
        if case.one("after", "open") == "closed":
            assert client.rest() == b"", "bytes after the last answer"
        else:
            probe = client.request(PROBE)
            assert probe.status == 200 and probe.get("x-origin-request") == b"GET /probe"
    _check_answers(case, answers)
    requests = _seen(origin, b"/probe")
    assert _lines(requests) == case.all("upstream")
    _check_request(case, requests[-1])


@pytest.mark.parametrize("case", REJECT, ids=_names(REJECT))
def test_reject(case: Case, streaming_wire: Wire) -> None:
    _check_reject(case, streaming_wire)


@pytest.mark.parametrize("case", REJECT, ids=_names(REJECT))
def test_reject_with_whole_requests_buffered(case: Case, buffering_wire: Wire) -> None:
    _check_reject(case, buffering_wire)


def _check_reject(case: Case, wire: Wire) -> None:
    wire.origin.clear()
    with wire.proxy.client() as client:
        client.send(case.raw)  # a proxy that answers early and closes at once would break the pipe
        if case.one("send") == "half_close":
            client.finish_sending()
        answers = client.responses(case.methods)
        was_reset = client.was_reset
    final = [str(answer.status) for answer in answers if answer.status >= 200]
    wanted = case.statuses
    if final or wanted != [{"400", "none"}]:
        assert len(final) == len(wanted), f"answers {final}"
        assert all(got in want for got, want in zip(final, wanted, strict=True)), f"answers {final}"
        assert (answers[-1].get("connection") or b"").lower() == b"close"
        assert not was_reset, "reset: a lingering close lets the client read its answer"
    _check_interim(case, answers)
    assert wire.proxy.request("GET", "/fence").status == 200  # what was sent upstream before, has arrived by now
    _check_upstream_of_reject(case, wire)


def _check_upstream_of_reject(case: Case, wire: Wire) -> None:
    """Nothing but the expected whole requests came; a cut one only where the case allows it."""
    expected = case.all("upstream")
    may_be_cut = "cut" in expected and not wire.buffered
    seen = _lines(_seen(wire.origin, b"/fence"))
    assert seen == [line for line in expected if line != "cut"], "a refused request reached the upstream"
    for connection in list(wire.origin.connections):
        if connection.pending:
            assert may_be_cut, f"a part of a refused request reached the upstream: {connection.pending[:500]!r}"
            _wait_closed(connection)


def _wait_closed(connection: Connection) -> None:
    wait_for(lambda: connection.closed, "the upstream connection of a cut request to be closed")


def _read_answers(client: RawClient, case: Case) -> list[Response]:
    answers: list[Response] = []
    for method in case.methods or ["GET"] * len(case.statuses):
        answers.append(client.response(method))
        while answers[-1].status < 200:
            answers.append(client.response(method))
    return answers


def _check_answers(case: Case, answers: list[Response]) -> None:
    final = [str(answer.status) for answer in answers if answer.status >= 200]
    assert [{status} for status in final] == case.statuses
    _check_interim(case, answers)
    for line in case.all("answer_has"):
        name, value = line.split(":", 1)
        assert answers[-1].all(name) == [unescape(value.strip())]


def _check_interim(case: Case, answers: list[Response]) -> None:
    if case.one("interim") == "none":
        assert all(answer.status >= 200 for answer in answers), "an interim answer came"


def _seen(origin: RecordingOrigin, own: bytes) -> list[Request]:
    """Give the whole requests the upstream got, in order and without our own; it must have understood every byte."""
    for connection in origin.connections:
        assert not connection.error, f"the upstream got bytes that are no request: {connection.error}"
    return [request for request in origin.requests if request.target != own]


def _lines(requests: list[Request]) -> list[str]:
    return [f"{request.method.decode()} {request.target.decode()}" for request in requests]


def _check_request(case: Case, request: Request) -> None:
    """Hold the last request the upstream got against the case."""
    for line in case.all("has") + case.all("only"):
        name, value = line.split(":", 1)
        wanted = unescape(value.strip())
        assert wanted in request.all(name), f"{name}: {request.all(name)}, not {wanted!r}"
    for line in case.all("only"):
        assert len(request.all(line.split(":", 1)[0])) == 1
    for name in case.all("lacks"):
        assert request.all(name) == []
    for name in case.all("present"):
        assert len(request.all(name)) == 1
    for text in case.all("raw_has"):
        assert unescape(text).lower() in request.raw.lower()
    for text in case.all("raw_lacks"):
        assert unescape(text).lower() not in request.raw.lower()
    if "body" in case.expected:
        assert request.body == unescape(case.one("body"))
    order = [name.strip() for name in case.one("order").split(",") if name]
    assert [name for name in request.names() if name in order] == order
