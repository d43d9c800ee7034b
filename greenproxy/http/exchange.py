"""One request and what became of it: the object that travels through the chain.

Pure data. WSGI's environ cannot carry raw header lines, interim responses or deadlines; the Exchange
does, and is found in environ under KEY. Made by listener/handler.py when a head is complete, logged
by it when the answer is out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from greenproxy.http.forwarding import Peer
from greenproxy.http.head import RequestHead, ResponseHead
from greenproxy.http.target import Target

if TYPE_CHECKING:
    from greenproxy.errors import GreenproxyError

KEY = "greenproxy.exchange"


class Deadline(Protocol):
    """When a greenlet has waited long enough (net/deadline.py)."""

    def set(self, seconds: float, error: GreenproxyError) -> None:
        """Raise `error` in the greenlet unless it is set anew or cleared within `seconds`."""

    def clear(self) -> None:
        """Wait as long as it takes."""

    def watch_current(self) -> Deadline:
        """Return a deadline for the current greenlet, which helps this one's."""
        ...

    def forget(self) -> None:
        """End it."""


class RequestBody(Protocol):
    """The request body as it comes from the client."""

    complete: bool  # the whole body has been read
    continue_owed: bool  # the client waits for "100 Continue" before it sends
    length: int | None  # None: chunked
    received: int  # decoded bytes so far
    deadline: Deadline  # of the greenlet that reads; to be changed when another one does

    def read_some(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises DownstreamError."""
        ...

    def buffered(self) -> bytes | None:
        """Return the whole body if it is here already, without waiting, else None."""
        ...


class _Defaults:
    """What most exchanges never change: read from here, so that an Exchange need not set it."""

    prefix = b""  # X-Forwarded-Prefix of a trusted proxy
    sent_path: bytes | None = None  # the path a server will get, where it is not the client's
    # the route's own page for a status that we answer with: (body, content type), or None
    error_page: Callable[[int], tuple[bytes, str] | None] | None = None
    status = 0  # 0: nothing was answered
    bytes_out = 0  # body bytes sent to the client
    host = ""  # of the authority, for matching: lower-case, without port; chain/entry.py reads it
    route = ""
    upstream = ""
    server = ""  # address of the server that answered, or was tried last
    attempts = 0  # sends to servers; a resend after a stale pooled connection is none
    upstream_seconds = 0.0
    request_id = b""
    forwarding_lines = b""  # what chain/entry.py adds to the client's lines
    flush_head = False  # the answer's head is to go out before the first byte of its body
    reason = ""  # why, when we answered ourselves or the exchange ended early
    detail = ""  # the same for a person; for the error log


class Exchange(_Defaults):
    """One request, from its complete head to the last byte of its answer.

    Times are monotonic seconds, durations seconds, sizes bytes as seen by the client.
    """

    def __init__(
        self,
        head: RequestHead,
        target: Target,
        peer: Peer,
        started: float,
        body: RequestBody | None,
        deadline: Deadline,
        relay: Callable[[ResponseHead], None],
        interim: Callable[[int, bytes], None],
    ) -> None:
        self.head = head
        self.method = head.method
        self.target = target
        self.peer = peer
        self.started = started
        self.body = body  # None: the request has none
        self.deadline = deadline
        self.relay = relay  # begin the answer with a head in bytes, in place of start_response
        self.interim = interim  # send an interim response (1xx): status, field lines
        self.lines = head.lines  # the client's lines as a server will get them
        self.authority = head.host if target.authority is None else target.authority
        self.client_ip = peer.ip
        self.scheme = peer.scheme
        self.close = not head.keep_alive  # end the client's connection after the answer

    @property
    def path(self) -> str:
        """The decoded path that routes match."""
        return self.target.path

    @property
    def query(self) -> str:
        """The query without its question mark, undecoded."""
        return self.target.query[1:].decode("latin-1")

    def header(self, name: bytes) -> bytes | None:
        """Value of a request field by its lower-case name, or None."""
        return self.head.header(name)

    def cookie(self, name: str) -> str | None:
        """Value of a request cookie, or None (RFC 6265 5.4; the first of several)."""
        wanted = name.encode("latin-1")
        for pair in b";".join(self.head.values_of(b"cookie")).split(b";"):
            key, mark, cookie = pair.strip(b" \t").partition(b"=")
            if mark and key == wanted:
                return cookie.strip(b'"').decode("latin-1")
        return None
