"""One attempt under way, and the counters of the server it goes to.

Owns:       a server's cells in this worker's column of the health table; giving connection and counters back.
Leaves to:  proxy/app.py (when an attempt begins and what follows), proxy/transport.py (the bytes).
Invariant:  a server's in-flight cell goes down exactly once for every time it went up, whatever ends the attempt.
"""

from __future__ import annotations

import time

from greenproxy.errors import UpstreamError
from greenproxy.http.exchange import Exchange
from greenproxy.proxy.transport import Answer, Connection, ServerPool
from greenproxy.proxy.upload import Upload
from greenproxy.shm.segment import (
    C_CONNECT_FAILED,
    C_FAILED,
    C_IN_FLIGHT,
    C_LAST_FAILED_NS,
    C_REQUESTS,
    C_RESPONSES_5XX,
    C_TIME_US,
    Segment,
)


class Member:
    """One server of an upstream as this worker uses it: its pool, and its cells in shared memory."""

    __slots__ = ("base", "cells", "pool")

    def __init__(self, pool: ServerPool, segment: Segment, column: int, row: int) -> None:
        self.pool = pool
        self.cells = segment.cells
        self.base = segment.cell_base(column, row)

    def failed(self, error: UpstreamError) -> None:
        """Count a failure that says something about the server's health."""
        cells, base = self.cells, self.base
        cells[base + (C_CONNECT_FAILED if error.retry == "always" else C_FAILED)] += 1
        cells[base + C_LAST_FAILED_NS] = time.monotonic_ns()  # last: the checker looks here first


class Flight:
    """One attempt under way."""

    __slots__ = ("_over", "_started", "answer", "conn", "exchange", "member", "upload")

    def __init__(self, member: Member, exchange: Exchange, started: float) -> None:
        self.member = member
        self.exchange = exchange
        self.conn: Connection | None = None
        self.answer: Answer | None = None
        self.upload: Upload | None = None
        self._started = started
        self._over = False
        member.cells[member.base + C_IN_FLIGHT] += 1

    def end(self) -> None:
        """Give connection and counters back; the connection only if it is clean. May be called twice."""
        if self._over:
            return
        self._over = True
        seconds = time.monotonic() - self._started
        self.exchange.upstream_seconds += seconds
        answer, conn, upload, member = self.answer, self.conn, self.upload, self.member
        cells, base = member.cells, member.base
        cells[base + C_IN_FLIGHT] -= 1
        cells[base + C_REQUESTS] += 1
        cells[base + C_TIME_US] += int(seconds * 1e6)
        if answer is not None and answer.head.status >= 500:
            cells[base + C_RESPONSES_5XX] += 1
        if upload is not None:
            upload.stop()
        if conn is None:
            return
        # bytes beyond the answer make a connection suspect
        clean = answer is not None and answer.complete and answer.head.reusable and not conn.buffer
        if clean and (upload is None or upload.complete):
            member.pool.give_back(conn)
        else:
            conn.close()
