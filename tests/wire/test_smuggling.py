"""All hostile streams of the shared collection: every one safe, and at least 97 % right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wire.smuggling import VARIABLE, ReadingOrigin, cases_path, greenproxy, load_streams, run, table
from tests.wire.verdict import Stream, judge

RIGHT_SHARE = 0.97


def test_hostile_streams_are_safe_and_right(tmp_path: Path) -> None:
    path = cases_path()
    if path is None or not path.exists():
        pytest.skip(f"${VARIABLE} names no folder that holds smuggling/cases.jsonl")
    streams = load_streams(path)
    with ReadingOrigin() as origin, greenproxy(origin.address, tmp_path) as address:
        verdicts = run(address, origin, streams)
    print(table(verdicts))
    unsafe = [str(verdict) for verdict in verdicts if not verdict.safe]
    assert not unsafe, "\n".join(unsafe)
    assert sum(verdict.right for verdict in verdicts) >= RIGHT_SHARE * len(verdicts), table(verdicts)


GOOD = b"GET /m HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nX-Origin-Request: R0VUIC9t\r\nContent-Length: 0\r\n\r\n"
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("label", "raw", "received", "answered", "safe", "right"),
    [
        ("valid", GOOD, [GOOD], ANSWER, True, True),
        ("valid", GOOD, [], REFUSAL, True, False),
        ("invalid", GOOD, [], REFUSAL, True, True),
        ("invalid", GOOD, [GOOD], ANSWER, True, False),
        ("any", GOOD, [], REFUSAL, True, True),
        ("any", GOOD, [GOOD], None, False, False),  # a hang, and the origin saw what nobody was answered
        ("any", GOOD, [GOOD + GOOD], ANSWER, False, False),
        ("any", GOOD, [GOOD, GOOD], ANSWER, False, False),
        ("any", GOOD, [GOOD], ANSWER + ANSWER, False, False),
        ("any", GOOD, [GOOD + b"0\r\n\r\n"], ANSWER, False, False),
        ("any", GOOD, [GOOD.replace(b"\r\n\r\n", b"\r\nX: a\nb\r\n\r\n")], ANSWER, False, False),
        ("any", GOOD, [GOOD.replace(b"\r\n\r\n", b"\r\nX: a\x01b\r\n\r\n")], ANSWER, True, False),
        ("any", GOOD, [GOOD.replace(b"\r\n\r\n", b"\r\nTransfer_Encoding: chunked\r\n\r\n")], ANSWER, False, False),
        ("any", GOOD, [GOOD.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n")], ANSWER, True, False),
        (
            "any",
            GOOD,
            [GOOD.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")],
            REFUSAL,
            False,
            False,
        ),
        ("any", b"GET /m HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", [GOOD], ANSWER, True, False),
    ],
)
def test_verdict(
    label: str, raw: bytes, received: list[bytes], answered: bytes | None, safe: bool, right: bool
) -> None:
    verdict = judge(Stream("test:case", label, raw), received, answered)
    assert (verdict.safe, verdict.right) == (safe, right), str(verdict)
