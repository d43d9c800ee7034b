"""Send a request body while its answer may already be on the way.

Owns:       the greenlet that sends the body, and what went wrong in it.
Leaves to:  proxy/app.py (what to do about it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import gevent

from greenproxy.errors import GreenproxyError, UpstreamError, UpstreamTimeout
from greenproxy.http.body import LAST_CHUNK, encode_chunk
from greenproxy.http.exchange import Deadline, RequestBody
from greenproxy.proxy.transport import NOT_ANSWERED, Connection, send_more

# Gives the body piece by piece, waiting under the given deadline.
Pieces = Callable[[Deadline], Iterator[bytes]]


class Upload:
    """One body on its way to one server.

    `error` is set when the client failed to deliver; the connection is closed then, which wakes the
    greenlet that waits for the answer. A server that stops reading is no error here: it may have
    answered early, and the answer decides.
    """

    def __init__(
        self,
        conn: Connection,
        pieces: Pieces,
        chunked: bool,
        answer_deadline: Deadline,
        timeout: float,
    ) -> None:
        self.error: GreenproxyError | None = None
        self.complete = False
        self._conn = conn
        self._pieces = pieces
        self._chunked = chunked
        self._answer_deadline = answer_deadline
        self._timeout = timeout
        self._answered = False
        # an answer cannot be late before its request is complete
        answer_deadline.set(math.inf, NOT_ANSWERED)
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        deadline = self._answer_deadline.watch_current()
        try:
            self._send(deadline)
            self.complete = True
            if not self._answered:
                self._answer_deadline.set(self._timeout, NOT_ANSWERED)
        except UpstreamError as error:
            if isinstance(error, UpstreamTimeout):
                self._fail(error)
        except GreenproxyError as error:
            self._fail(error)
        finally:
            deadline.forget()

    def _send(self, deadline: Deadline) -> None:
        for piece in self._pieces(deadline):
            send_more(self._conn, encode_chunk(piece) if self._chunked else piece, deadline, self._timeout)
        if self._chunked:
            send_more(self._conn, LAST_CHUNK, deadline, self._timeout)

    def _fail(self, error: GreenproxyError) -> None:
        if not self._answered:
            self.error = error
            self._conn.close()

    def answered(self) -> None:
        """Say that the answer's head is here: from now on only it matters."""
        self._answered = True

    def stop(self) -> None:
        """End the upload, complete or not."""
        if not self._greenlet.dead:
            self._greenlet.kill()


def client_pieces(body: RequestBody) -> Pieces:
    """Return a reader of a body as it comes from its client; it can be used once."""

    def pieces(deadline: Deadline) -> Iterator[bytes]:
        body.deadline = deadline
        while piece := body.read_some():
            yield piece

    return pieces
