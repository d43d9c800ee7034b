"""Judge one hostile stream from what the origin received and what the client was answered.

Pure. Safe: the origin saw exactly the requests the client got answers to, in order, and nothing that any common
parser could read in another way. Right: safe, and invalid streams are refused, valid ones served; no control bytes
and no hop-by-hop fields are passed on; a cut request is never completed; no hang, and no 5xx but 501 and 505.

Owns:       the reading of the origin's bytes, strict, but separate for what is unsafe and what is only not right.
Called by:  wire/smuggling.py, once per stream.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from tests.harness.client import split_responses
from tests.harness.message import Malformed, Request, Response, request_framing, take_request, take_request_head

CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ALIAS = re.compile(rb"content[^a-z0-9-]length|transfer[^a-z0-9-]encoding", re.IGNORECASE)
_CANONICAL_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_HOP_BY_HOP = ("keep-alive", "proxy-connection", "te", "upgrade")
_OUR_REFUSALS = (501, 505)
# Naming these in Connection must not remove them: they are end-to-end, or a proxy's own words.
_KEPT_IF_NAMED = {b"close", b"keep-alive", b"host", b"content-length", b"transfer-encoding", b"via", b"forwarded"}


@dataclass(frozen=True)
class Stream:
    """One hostile stream; label: valid, invalid, or any."""

    id: str
    label: str
    raw: bytes


@dataclass
class Verdict:
    """What is wrong with how a stream was handled; empty lists are good."""

    stream: Stream
    unsafe: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def safe(self) -> bool:
        return not self.unsafe

    @property
    def right(self) -> bool:
        return not self.unsafe and not self.wrong

    def __str__(self) -> str:
        faults = [f"UNSAFE {text}" for text in self.unsafe] + self.wrong
        return f"{self.stream.id} ({self.stream.label}): {'; '.join(faults)}"


def judge(stream: Stream, received: list[bytes], answered: bytes | None) -> Verdict:
    """Judge one stream; `received`: the bytes of each of its upstream connections; `answered`: None for a hang."""
    verdict = Verdict(stream)
    requests = [request for data in received for request in _read_upstream(data, verdict)]
    answers = _read_answers(answered, requests, verdict)
    _compare(requests, answers, verdict)
    for data, request in ((request.raw, request) for request in requests):
        _check_passed_on(data, request, stream, verdict)
    _check_outcome(stream, answers, verdict)
    whole = _whole_requests(stream.raw)
    if whole is not None and len(requests) > whole:
        verdict.wrong.append(
            f"the origin got {len(requests)} requests, the stream holds {whole}: it acted on a cut one"
        )
    return verdict


def _read_upstream(data: bytes, verdict: Verdict) -> list[Request]:
    """Split one upstream connection's bytes into whole requests; a cut one at the end is allowed."""
    requests: list[Request] = []
    _check_heads(data, verdict)
    data = CONTROL.sub(b"?", data)  # only not right, and no reason to read no further
    try:
        while data:
            taken = take_request(data)
            if taken is None:
                _check_cut(data)
                break
            requests.append(taken[0])
            data = data[taken[1] :]
    except Malformed as error:
        verdict.unsafe.append(f"malformed at the origin: {error}")
    return requests


def _check_cut(data: bytes) -> None:
    """A cut request must begin like a good one."""
    head = take_request_head(data)
    if head is not None:
        request_framing(head[0])


def _check_heads(data: bytes, verdict: Verdict) -> None:
    head = data.partition(b"\r\n\r\n")[0]
    if b"\0" in head or re.search(rb"\r(?!\n)|(?<!\r)\n", head):
        verdict.unsafe.append("NUL, a bare CR or a bare LF at the origin")
    if CONTROL.search(head):
        verdict.wrong.append("control bytes passed on")
    if _ALIAS.search(head.partition(b"\r\n")[2]):
        verdict.unsafe.append("a look-alike of Content-Length or Transfer-Encoding at the origin")


def _read_answers(answered: bytes | None, requests: list[Request], verdict: Verdict) -> list[Response]:
    if answered is None:
        verdict.wrong.append("hang")
        return []
    methods = [request.method.decode("latin-1") for request in requests]
    try:
        answers = split_responses(answered, methods)
    except Malformed as error:
        verdict.unsafe.append(f"malformed at the client: {error}")
        return []
    return [answer for answer in answers if answer.status >= 200]


def _compare(requests: list[Request], answers: list[Response], verdict: Verdict) -> None:
    """The origin's requests and the answers that came from it are the same, in order."""
    seen = [b"%s %s" % (request.method, request.target) for request in requests]
    told = [base64.b64decode(name) for answer in answers for name in answer.all("x-origin-request")]
    if seen != told:
        verdict.unsafe.append(f"the origin saw {seen}, the client was answered {told}")


def _check_passed_on(data: bytes, request: Request, stream: Stream, verdict: Verdict) -> None:
    length = request.get("content-length")
    if length is not None and not _CANONICAL_LENGTH.fullmatch(length):
        verdict.unsafe.append(f"Content-Length {length!r} at the origin")
    named = _named_in_connection(stream.raw)
    names = {name.lower() for name, _ in request.headers}
    passed = (names & named) | (names & {name.encode() for name in _HOP_BY_HOP})
    if passed:
        verdict.wrong.append(f"hop-by-hop fields passed on: {sorted(passed)}")
    options = (request.get("connection") or b"").lower()
    if options not in (b"", b"close", b"keep-alive"):
        verdict.wrong.append(f"Connection: {options!r} passed on")


def _named_in_connection(raw: bytes) -> set[bytes]:
    """Give the names in any Connection field of the stream, those left out that must not be removed."""
    lines = re.findall(rb"(?im)^connection:([^\r\n]*)", raw)
    names = {name.strip().lower() for line in lines for name in line.split(b",")} - {b""}
    return {name for name in names - _KEPT_IF_NAMED if not name.startswith(b"x-forwarded-")}


def _check_outcome(stream: Stream, answers: list[Response], verdict: Verdict) -> None:
    served = [answer for answer in answers if answer.all("x-origin-request")]
    bad = [answer.status for answer in answers if answer.status >= 500 and answer.status not in _OUR_REFUSALS]
    if bad:
        verdict.wrong.append(f"answered {bad}")
    if stream.label == "valid" and not served:
        verdict.wrong.append(f"valid, but answered {[answer.status for answer in answers]}")
    if stream.label == "invalid" and answers and answers[-1].status < 400:
        verdict.wrong.append(f"invalid, but answered {[answer.status for answer in answers]}")


def _whole_requests(raw: bytes) -> int | None:
    """Count the whole requests of a stream that is strictly valid to its cut end; None if it is not."""
    count = 0
    try:
        while raw:
            taken = take_request(raw)
            if taken is None:
                _check_cut(raw)
                return None if re.search(rb"(?<!\r)\n", raw) else count
            raw = raw[taken[1] :]
            count += 1
    except Malformed:
        return None
    return count
