"""The body of an answer on its way to the client: at the client's pace, or ahead of it.

WSGI iterables (PEP 3333): the listener takes piece after piece and always calls `close`.

Owns:       when the attempt behind the body ends.
Leaves to:  proxy/transport.py (reading it), proxy/spool.py (keeping it), listener/handler.py (sending it).
"""

from __future__ import annotations

from collections.abc import Iterator

import gevent

from greenproxy.errors import GreenproxyError
from greenproxy.proxy.flight import Flight
from greenproxy.proxy.payload import RequestPayload
from greenproxy.proxy.spool import Buffer


class StreamedBody:
    """An answer's body as it comes from the server, at the pace of the client."""

    __slots__ = ("_flight", "_payload")

    def __init__(self, flight: Flight, payload: RequestPayload) -> None:
        self._flight = flight
        self._payload = payload

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        flight = self._flight
        answer = flight.answer
        assert answer is not None
        piece = answer.read_some(flight.exchange.deadline)
        if not piece:
            flight.end()
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the attempt, complete or not (PEP 3333)."""
        self._flight.end()
        self._payload.close()


class BufferedBody:
    """An answer's body taken from the server at its own pace and kept for a slower client."""

    __slots__ = ("_buffer", "_flight", "_greenlet", "_payload")

    def __init__(self, flight: Flight, payload: RequestPayload, buffer: Buffer) -> None:
        self._flight = flight
        self._payload = payload
        self._buffer = buffer
        self._greenlet = gevent.spawn(self._fill)

    def _fill(self) -> None:
        deadline = self._flight.exchange.deadline.watch_current()
        answer = self._flight.answer
        assert answer is not None
        try:
            while piece := answer.read_some(deadline):
                self._buffer.write(piece)
            self._flight.end()
            self._buffer.end()
        except GreenproxyError as error:
            self._buffer.end(error)
        finally:
            deadline.forget()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._flight.exchange.deadline.clear()  # the filler has a deadline of its own
        piece = self._buffer.read()
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the attempt, complete or not (PEP 3333)."""
        self._greenlet.kill()
        self._flight.end()
        self._buffer.close()
        self._payload.close()
