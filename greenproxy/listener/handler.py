"""One client connection: strict heads in, answers out, one request after the other.

A pywsgi WSGIHandler whose parser, deadlines and writer are ours: pywsgi's drop header lines after a
malformed one, take `+5` as a length and wait for ever (DESIGN: it must not face clients).

Owns:       the connection, its buffer, its deadlines, keep-alive, the order of answers, lingering close.
Leaves to:  http/head.py (grammar), the application (what to answer), telemetry (the record).
Invariant:  every request that was begun is answered or logged with its reason; a refused one is
            answered, and the connection closed so that the client sees the answer.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gevent.pywsgi import WSGIHandler

from greenproxy.errors import BadRequest, ClientClosed, GreenproxyError
from greenproxy.http.body import LAST_CHUNK, encode_chunk
from greenproxy.http.exchange import KEY, Deadline, Exchange, RequestBody
from greenproxy.http.fields import without
from greenproxy.http.forwarding import Peer
from greenproxy.http.head import RequestHead, RequestParser, ResponseHead, explain_request, refused_head
from greenproxy.http.replies import error_reply, head_from_wsgi, page_reply
from greenproxy.http.target import Target, parse_target
from greenproxy.http.wsgi import path_info
from greenproxy.listener.body import Body
from greenproxy.net.deadline import NEVER
from greenproxy.net.stream import Stream

if TYPE_CHECKING:
    from greenproxy.listener.server import Server

# After the answer to a request whose body we do not want: how much more we read and for how long, so
# that the client gets to read the answer instead of a reset (RFC 9112 9.6).
LINGER_S = 5.0
LINGER_BYTES = 64 * 1024 * 1024
# A client that has closed its side is taken for gone when its request is so old (nginx: at once).
GONE_AFTER_S = 1.0
# An unread body up to this size is read to its end to keep the connection.
DRAIN_BYTES = 64 * 1024

_HEAD_SLOW = BadRequest("the request head did not arrive in time", status=408, reason="head_timeout")
_BODY_SLOW = BadRequest("the request body did not arrive in time", status=408, reason="body_timeout")
_IDLE = ClientClosed("no further request", reason="idle_timeout")
_SEND_SLOW = ClientClosed("the client stopped reading its answer", reason="send_timeout")
_LINGERED = ClientClosed("lingered long enough", reason="linger_timeout")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"Connection: close\r\n"
_KEEP = b"Connection: keep-alive\r\n"
_BODILESS = frozenset({204, 304})  # RFC 9110 6.4.1
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Handler(WSGIHandler):
    """Serves one connection; runs in a greenlet of its own."""

    server: Server

    def __init__(self, sock: Any, address: Any, server: Server) -> None:
        # not super().__init__: it makes a buffered file for the parser that we replace, 8 KB a connection
        self.socket = sock
        self.client_address = address
        self.server = server
        self.stream = Stream(sock)
        self.buffer = b""  # bytes received and not yet used
        self.peer: Peer = server.peer_of(address)
        self._parser = RequestParser(server.head_limits)
        self._refused = b""  # the bytes of a head, as long as they may turn out to be none
        self.idle = True  # waiting for the first byte of a request
        self.served = 1  # requests, the one under way included
        self._exchange: Exchange | None = None
        self._head: ResponseHead | None = None  # of the answer, before it is sent
        self._head_sent = False
        self._chunked = False
        self._promised = 0  # bytes of an answer that comes in pieces, where its head says

    def handle(self) -> None:
        """Serve requests until either side closes."""
        self.deadline = self.server.deadlines.watch()
        self.server.connected(self)
        try:
            while self._serve_one():
                pass
        except ClientClosed:
            pass  # logged where an exchange was under way; an idle connection needs no word
        except OSError:
            pass  # the client is gone; nobody is left to tell
        finally:
            self.stream.release()
            self.deadline.forget()
            self.server.disconnected(self)

    # One request

    def _serve_one(self) -> bool:
        """Serve one request; False when the connection is done."""
        server = self.server
        try:
            head = self._read_head()
        except BadRequest as error:
            self._refuse(refused_head(self._refused), error)
            return False
        if head is None:
            return False
        try:
            target = parse_target(head.target, head.method)
            body = self._body_of(head) if head.has_body else None
        except BadRequest as error:
            self._refuse(head, error)
            return False
        exchange = Exchange(
            head, target, self.peer, time.monotonic(), body, self.deadline, self._relay, self._send_interim
        )
        if server.draining or self.served >= server.max_requests:
            exchange.close = True
        self._exchange = exchange
        self._head = None
        self._head_sent = False
        self.served += 1
        self.deadline.guard = self._client_gone
        try:
            self._run(exchange)
        finally:
            self.deadline.guard = None
            server.finished(exchange)
            self._exchange = None
        if exchange.close:
            self._linger()
            return False
        return body is None or self._skip_body(body)

    def _read_head(self) -> RequestHead | None:
        """Return the next request head, None when the client is done. Raises BadRequest."""
        server, deadline = self.server, self.deadline
        data = self.buffer
        if not data:
            if server.draining:
                return None
            self.idle = True
            deadline.set(server.keepalive_timeout, _IDLE)
            data = self.stream.receive()
            self.idle = False
            if not data:
                return None
        self._refused = data  # should it be: for the log
        head = self._parser.parse(data)
        if head is None:
            deadline.set(server.limits.header_timeout, _HEAD_SLOW)  # absolute: not moved by more bytes
            data, head = self._read_head_slowly(data)
        deadline.at = NEVER
        self._refused = b""
        if head is not None:
            self.buffer = data[head.size :]
        return head

    def _read_head_slowly(self, data: bytes) -> tuple[bytes, RequestHead | None]:
        """Read a head that did not come in one piece, or find out what is wrong with it."""
        limits = self.server.head_limits
        skipped = data.startswith(b"\r\n")
        if skipped:
            data = data[2:]  # RFC 9112 2.2: ignore one empty line before the request line
        head = self._parser.parse(data)
        checked = 0
        while head is None:
            checked = explain_request(data, checked, limits)
            more = self.stream.receive()
            if not more:
                if data.strip(b"\r\n"):
                    raise BadRequest("the client closed in the middle of a request head", reason="head_cut")
                return b"", None
            data += more
            self._refused = data
            if not skipped and data.startswith(b"\r\n"):
                data, skipped = data[2:], True
            # no line is looked at twice, however slowly the bytes come
            if data.find(b"\r\n\r\n", max(0, len(data) - len(more) - 3)) >= 0:
                head = self._parser.parse(data)
        return data, head

    def _body_of(self, head: RequestHead) -> Body:
        expect = head.values.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise BadRequest("only the expectation 100-continue is known", status=417, reason="expect_unknown")
        owed = expect is not None and head.minor == 1
        return Body(self, None if head.chunked else head.content_length, owed, self.server.limits.max_body)

    def receive_body(self, deadline: Deadline, more_time: float) -> bytes:
        """Wait for bytes of the request body, under the deadline of the greenlet that asks.

        `more_time` is what the body has earned beyond body_timeout, less what it has used up.
        Raises BadRequest 408 and ClientClosed.
        """
        deadline.set(self.server.limits.body_timeout + more_time, _BODY_SLOW)
        try:
            return self.stream.receive()
        except OSError as exc:
            raise ClientClosed("the client's connection broke in its request body", reason="client_reset") from exc
        finally:
            deadline.clear()

    def send_continue(self) -> None:
        """Ask the client for its body (RFC 9110 10.1.1)."""
        self._send(_CONTINUE)

    def _client_gone(self) -> GreenproxyError | None:
        """Look for a client that closed while a server works for it; asked a few times a second.

        A client that has only ended its own sending looks the same; it gets the answer if that is quick.
        """
        exchange = self._exchange
        if exchange is None or time.monotonic() - exchange.started < GONE_AFTER_S or not self.stream.closed_by_peer():
            return None
        return ClientClosed("the client closed before its answer was complete")

    def _run(self, exchange: Exchange) -> None:
        """Let the application answer, and see to it that an answer or a visible end goes out."""
        try:
            target = exchange.target
            environ = {
                **self.server.base_environ,
                "REQUEST_METHOD": exchange.method,
                "PATH_INFO": target.path if target.path.isascii() else path_info(target.path),
                "QUERY_STRING": target.query[1:].decode("latin-1") if target.query else "",
                "SERVER_PROTOCOL": "HTTP/1.1" if exchange.head.minor else "HTTP/1.0",
                "REMOTE_ADDR": self.peer.ip,
                "wsgi.input": exchange.body if exchange.body is not None else self.server.empty_input,
                KEY: exchange,
            }
            result = self.server.application(environ, self._start_response)
            if type(result) is list and self._head is not None and not self._head_sent:
                self._send_whole(exchange, self._head, result[0] if len(result) == 1 else b"".join(result))
                return
            try:
                self._answer(exchange, result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except GreenproxyError as error:
            self._failed(exchange, error)
        except OSError as exc:
            self._failed(exchange, ClientClosed(f"sending the answer failed: {exc}", reason="client_reset"))
        except Exception as exc:
            self.server.log_crash(exchange, exc)
            self._failed(exchange, GreenproxyError("an unexpected error; the error log has it"))

    # The answer

    def _relay(self, head: ResponseHead) -> None:
        """Begin the answer with a head in bytes; what start_response comes down to."""
        self._head = head

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None and self._head_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        exchange = self._exchange
        assert exchange is not None
        exchange.relay(head_from_wsgi(status, headers))  # which layers may have wrapped
        return self._write

    def _write(self, data: bytes) -> None:
        """WSGI's write(): for old applications that run inside us."""
        exchange = self._exchange
        assert exchange is not None
        self._send_piece(exchange, data)

    def _answer(self, exchange: Exchange, result: Iterable[bytes]) -> None:
        if exchange.flush_head and not self._head_sent:
            self._send(self._start_pieces(exchange))
        for piece in result:
            if piece:
                self._send_piece(exchange, piece)
        if not self._head_sent:
            self._send_whole(exchange, self._require_head(), b"")
        elif self._chunked:
            self._send(LAST_CHUNK)
        elif exchange.bytes_out < self._promised:
            raise RuntimeError(f"an answer of {exchange.bytes_out} bytes that says it has {self._promised}")

    def _require_head(self) -> ResponseHead:
        if self._head is None:
            raise RuntimeError("the application gave no response head")
        return self._head

    def _send_whole(self, exchange: Exchange, head: ResponseHead, body: bytes) -> None:
        """Send head and whole body at once."""
        if exchange.method == "HEAD" or head.status in _BODILESS:
            self._send_bodiless(exchange, head, len(body))
            return
        if not head.length_in_lines:
            framing = b"Content-Length: %d\r\n" % len(body)
        elif head.content_length == len(body):
            framing = b""
        else:
            raise RuntimeError(f"an answer of {len(body)} bytes that says it has {head.content_length}")
        data = self._head_bytes(exchange, head, framing) + body
        self.stream.send(data, self.deadline, self.server.send_timeout, _SEND_SLOW)
        exchange.bytes_out = len(body)

    def _send_bodiless(self, exchange: Exchange, head: ResponseHead, length: int) -> None:
        """Send an answer that has no body (RFC 9110 6.4.1); one to HEAD says how long its body would be, if known."""
        if head.status == 204 and head.length_in_lines:
            head.lines = without(head.lines, (b"content-length",))  # RFC 9110 8.6
        known = length and exchange.method == "HEAD" and head.status not in _BODILESS and not head.length_in_lines
        self._send(self._head_bytes(exchange, head, b"Content-Length: %d\r\n" % length if known else b""))

    def _send_piece(self, exchange: Exchange, piece: bytes) -> None:
        """Send one piece of a body that comes in pieces, the head before the first."""
        start = b"" if self._head_sent else self._start_pieces(exchange)
        if exchange.method == "HEAD" or exchange.status in _BODILESS:
            if start:
                self._send(start)
            return
        exchange.bytes_out += len(piece)
        if exchange.bytes_out > self._promised > 0:
            raise RuntimeError(f"an answer of more than the {self._promised} bytes that it says it has")
        if self._chunked:
            self._send(start + encode_chunk(piece))
        elif start:
            self._send(start + piece)
        else:
            self._send(piece)

    def _start_pieces(self, exchange: Exchange) -> bytes:
        """Return the head of an answer whose body comes in pieces."""
        head = self._require_head()
        return self._head_bytes(exchange, head, self._framing(exchange, head))

    def _framing(self, exchange: Exchange, head: ResponseHead) -> bytes:
        """RFC 9112 6.3: chunked for HTTP/1.1 when the length is unknown, the end of the connection for HTTP/1.0."""
        self._chunked = False
        self._promised = 0
        if exchange.method == "HEAD" or head.status in _BODILESS:
            return b""
        if head.length_in_lines:
            self._promised = head.content_length or 0
            return b""
        if exchange.head.minor == 0:
            exchange.close = True
            return b""
        self._chunked = True
        return _CHUNKED

    def _head_bytes(self, exchange: Exchange, head: ResponseHead, framing: bytes) -> bytes:
        """Write the head; from here on the status is decided."""
        self._head_sent = True
        exchange.status = head.status
        body = exchange.body
        if body is not None and not body.complete and not self._can_skip(body):
            exchange.close = True
        connection = _CLOSE if exchange.close else b"" if exchange.head.minor else _KEEP
        date = b"" if head.has_date else self.server.date_line()
        return b"HTTP/1.1 %d %b\r\n%b%b%b%b\r\n" % (head.status, head.reason, head.lines, date, framing, connection)

    def _send(self, data: bytes) -> None:
        self.stream.send(data, self.deadline, self.server.send_timeout, _SEND_SLOW)

    def _send_interim(self, status: int, lines: bytes) -> None:
        """Pass on an interim response (RFC 9110 15.2); an HTTP/1.0 client would not understand it."""
        exchange = self._exchange
        if exchange is not None and exchange.head.minor == 1 and not self._head_sent:
            self._send(
                b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, b"Early Hints" if status == 103 else b"Processing", lines)
            )

    # Refusals and ends

    def _refuse(self, head: RequestHead, error: BadRequest) -> None:
        """Answer a request that does not reach the application, log it, and close."""
        target = Target(head.target.partition(b"?")[0], b"", "")  # for the log alone
        exchange = Exchange(
            head, target, self.peer, time.monotonic(), None, self.deadline, self._relay, self._send_interim
        )
        exchange.request_id = next(self.server.request_ids)
        exchange.close = True
        self._exchange = exchange
        self._head_sent = False
        try:
            self._failed(exchange, error)
        finally:
            self.deadline.clear()
            self.server.finished(exchange)
            self._exchange = None
        self._linger()

    def _failed(self, exchange: Exchange, error: GreenproxyError) -> None:
        """Answer with the error's status, or cut the answer that is under way where all can see it."""
        exchange.reason = error.reason
        exchange.detail = error.detail
        if isinstance(error, ClientClosed):
            exchange.status = error.status
            exchange.close = True
            self._abort()
        elif self._head_sent:
            exchange.close = True
            self._abort()
        else:
            if isinstance(error, BadRequest):
                exchange.close = True  # where the next request begins may be in doubt
            self._send_error(exchange, error.status)

    def _send_error(self, exchange: Exchange, status: int) -> None:
        request_id = exchange.request_id.decode("latin-1")
        page = exchange.error_page(status) if exchange.error_page is not None else None
        if page is not None:
            head, body = page_reply(status, page[0], page[1], request_id)
        else:
            head, body = error_reply(status, request_id, exchange.header(b"accept"))
        try:
            self._send_whole(exchange, head, body)
        except (OSError, ClientClosed) as exc:
            exchange.close = True
            exchange.detail += f" (and the answer could not be sent: {exc})"

    def _abort(self) -> None:
        """Reset the connection: an answer that is not complete must not look complete."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass  # closed already
        self.stream.release()
        self.socket.close()

    def _can_skip(self, body: RequestBody) -> bool:
        """Is the rest of an unread body small and certain to come, so that the connection can be kept?"""
        return body.length is not None and not body.continue_owed and body.length - body.received <= DRAIN_BYTES

    def _skip_body(self, body: RequestBody) -> bool:
        """Read what the application left of the body; False when the connection cannot be kept."""
        try:
            while not body.complete:
                body.read_some()
        except GreenproxyError:
            return False
        return True

    def _linger(self) -> None:
        """Close so that the client gets to read the answer: stop writing, read on for a moment (RFC 9112 9.6)."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
            self.deadline.set(LINGER_S, _LINGERED)
            left = LINGER_BYTES
            while left > 0:
                data = self.stream.receive()
                if not data:
                    break
                left -= len(data)
        except (OSError, ClientClosed):
            pass  # gone, or lingered long enough: either way the connection ends here
