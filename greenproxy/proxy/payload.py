"""The body of a request in the form in which it goes to a server.

Owns:       how much of a body is collected before a server is taken, and its framing towards the server.
Leaves to:  proxy/spool.py (memory and disk), proxy/upload.py (sending what is not here yet).
"""

from __future__ import annotations

from greenproxy.http.exchange import Exchange, RequestBody
from greenproxy.proxy.spool import SpooledBody
from greenproxy.proxy.upload import Pieces, client_pieces


class RequestPayload:
    """The request's body in the form it will be sent: whole, on disk, or as it comes."""

    __slots__ = ("_body", "_spooled", "framing", "whole")

    def __init__(self, exchange: Exchange | None, buffer: int) -> None:
        """Read the body as far as `buffer` asks for; no exchange means no body. Raises DownstreamError."""
        self._body = body = exchange.body if exchange is not None else None
        self._spooled: SpooledBody | None = None
        self.whole: bytes | None = b""
        self.framing = b""
        if exchange is None or body is None:
            return
        self.whole = body.buffered()
        if self.whole is None and buffer:
            self._spooled = SpooledBody(body, buffer)
            self.whole = self._spooled.whole()
        self.framing = self._framing(exchange, body)

    def _framing(self, exchange: Exchange, body: RequestBody) -> bytes:
        """Say how the body ends, where the client's own Content-Length does not stay among the lines."""
        if exchange.head.length_in_lines:
            return b""
        length = self._spooled.length if self._spooled is not None else body.length
        return b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length

    @property
    def chunked(self) -> bool:
        """Does the body go out in chunks?"""
        return self.framing.startswith(b"T")

    @property
    def replayable(self) -> bool:
        """Can the body be sent again? One that streams can, until its first byte was read."""
        body = self._body
        return self.whole is not None or self._spooled is not None or body is None or not body.received

    def pieces(self) -> Pieces:
        """Return a reader of the body from its beginning."""
        if self._spooled is not None:
            spooled = self._spooled
            return lambda deadline: spooled.pieces()
        assert self._body is not None
        return client_pieces(self._body)

    def close(self) -> None:
        """Give disk space back."""
        if self._spooled is not None:
            self._spooled.close()


NO_BODY = RequestPayload(None, 0)  # of every request without one
