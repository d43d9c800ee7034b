"""How an answer to a probe is read: whole, strictly, within bounds. No sockets: a list of pieces stands in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

import pytest

from greenproxy.health.prober import MAX_ANSWER_BYTES, ProbeFailed, read_answer


class FakeConnection:
    """Gives the pieces one by one, then the end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)

    def recv(self, size: int, /) -> bytes:
        return next(self._pieces, b"")


def status_of(*pieces: bytes) -> int:
    return read_answer(FakeConnection(pieces))


WHOLE = {
    "content_length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "content_length_zero": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    "until_close": b"HTTP/1.0 200 OK\r\n\r\nok",
    "no_reason_phrase": b"HTTP/1.1 200\r\n\r\n",
    "no_content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nfin\r\n0\r\nX-T: 1\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "unasked_upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "spaces_around_value": b"HTTP/1.1 200 OK\r\nContent-Length: \t 2 \t\r\n\r\nok",
    "more_than_asked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
def test_whole_answer_gives_its_final_status(answer: bytes) -> None:
    expected = int(answer.rpartition(b"HTTP/1.")[2][2:5])
    assert status_of(answer) == expected
    assert status_of(*(answer[at : at + 1] for at in range(len(answer)))) == expected


BROKEN = {
    "nothing": (b"", "no answer"),
    "not_http": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "garbage answer: 'SSH-2.0-OpenSSH_9.2'"),
    "http_2": (b"HTTP/2 200\r\n\r\n", "garbage answer: 'HTTP/2 200'"),
    "status_of_two_digits": (b"HTTP/1.1 20 OK\r\n\r\n", "garbage answer"),
    "log_injection": (b'HTTP/1.1 200 \x1b[2J\r\n"\r\n\r\n', r"garbage answer: 'HTTP/1.1 200 \x1b[2J'"),
    "bare_lf": (b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "garbage answer"),
    "status_line_cut": (b"HTTP/1.1 20", "answer cut short"),
    "head_cut": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "answer cut short"),
    "body_cut": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "answer cut short"),
    "folded_header": (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "garbage answer: header line ' b'"),
    "space_before_colon": (b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "garbage answer: header line 'X : a'"),
    "two_lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "bad Content-Length"),
    "signed_length": (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "bad Content-Length"),
    "both_framings": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length and Transfer-Encoding",
    ),
    "unknown_coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "unknown Transfer-Encoding"),
    "bad_chunk_size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
        "bad chunk size",
    ),
    "bad_chunk_end": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", "bad chunk end"),
    "last_chunk_missing": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "answer cut short"),
}


@pytest.mark.parametrize(("answer", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_answer_fails_with_its_reason(answer: bytes, reason: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        status_of(answer)
    assert reason in str(failed.value)


CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
ENDLESS = {
    "line": ([], b"x" * 1000, "a line too long"),
    "header": ([b"HTTP/1.1 200 OK\r\n"], b"X-Header: 1\r\n" * 100, "endless header"),
    "interim": ([], b"HTTP/1.1 100 Continue\r\n\r\n", "endless interim answers"),
    "body": ([b"HTTP/1.1 200 OK\r\n\r\n"], b"x" * 65536, "endless answer"),
    "length": ([b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"], b"x" * 65536, "endless answer"),
    "chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], CHUNK, "endless answer"),
    "trailer": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"], b"X: 1\r\n" * 100, "endless header"),
}


@pytest.mark.parametrize(("start", "more", "reason"), ENDLESS.values(), ids=ENDLESS)
def test_endless_answer_fails_within_its_bound(start: list[bytes], more: bytes, reason: str) -> None:
    given = 0

    def pieces() -> Iterator[bytes]:
        nonlocal given
        for piece in chain(start, repeat(more)):
            given += len(piece)
            yield piece

    with pytest.raises(ProbeFailed, match=reason):
        read_answer(FakeConnection(pieces()))
    assert given < MAX_ANSWER_BYTES + 2 * len(more)
