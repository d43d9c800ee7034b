"""The small layers and ends of a chain that need no room of their own.

Each is made once per route that asks for it, and costs nothing on others. A layer acts on the
Exchange and passes on; the answer's head is changed by wrapping `exchange.relay`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from greenproxy.config.routes import HeaderEdit, Respond
from greenproxy.http import fields
from greenproxy.http.exchange import KEY, Exchange
from greenproxy.http.head import ResponseHead
from greenproxy.http.replies import make_head
from greenproxy.http.target import strip_prefix
from greenproxy.http.wsgi import Application, Environ, direct
from greenproxy.routing.split import Split

StartResponse = Callable[..., Any]


class Edit:
    """A header edit, compiled: fields that go, and lines that come in their place or anew."""

    def __init__(self, edit: HeaderEdit) -> None:
        self._gone = tuple(name.lower().encode() for name in (*edit.set, *edit.remove))
        self._added = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in edit.set.items())

    def apply(self, lines: bytes) -> bytes:
        """Return edited field lines."""
        return fields.without(lines, self._gone) + self._added

    def take_from(self, lines: bytes) -> bytes:
        """Return field lines without those that the edit replaces or removes."""
        return fields.without(lines, self._gone)


class RequestHeaders:
    """Change the header a server gets."""

    def __init__(self, app: Application, edit: HeaderEdit) -> None:
        self._app = direct(app)
        self._edit = Edit(edit)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]
        exchange.lines = self._edit.apply(exchange.lines)
        exchange.forwarding_lines = self._edit.take_from(exchange.forwarding_lines)
        return self._app(environ, start_response)


class ResponseHeaders:
    """Change the header a client gets."""

    def __init__(self, app: Application, edit: HeaderEdit) -> None:
        self._app = direct(app)
        self._edit = Edit(edit)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]
        relay = exchange.relay

        def edited(head: ResponseHead) -> None:
            head.lines = self._edit.apply(head.lines)
            head.has_date = head.header(b"date") is not None
            relay(head)

        exchange.relay = edited
        return self._app(environ, start_response)


class StripPrefix:
    """Take the route's path prefix off, and tell the application what was taken (X-Forwarded-Prefix)."""

    def __init__(self, app: Application, prefix: str) -> None:
        self._app = direct(app)
        self._prefix = prefix
        self._line = prefix.rstrip("/").encode()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]
        target = exchange.target
        exchange.sent_path = strip_prefix(target.raw_path, target.path, self._prefix)
        lines = exchange.forwarding_lines
        if exchange.prefix:  # what a proxy before us took off comes first
            lines = fields.without(lines, (b"x-forwarded-prefix",))
        exchange.forwarding_lines = b"%bX-Forwarded-Prefix: %b%b\r\n" % (lines, exchange.prefix, self._line)
        return self._app(environ, start_response)


class Splitter:
    """Share requests out over several upstreams, keeping each client on its own."""

    def __init__(self, split: Split, apps: Mapping[str, Application]) -> None:
        self._split = split
        self._apps = apps

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]
        name, cookie = self._split.choose(exchange.cookie(self._split.cookie), random.random())
        if cookie is not None:
            relay, line = exchange.relay, f"Set-Cookie: {cookie}\r\n".encode("latin-1")

            def with_cookie(head: ResponseHead) -> None:
                head.lines += line
                relay(head)

            exchange.relay = with_cookie
        return self._apps[name](environ, start_response)


class Responder:
    """Answer with what the configuration says."""

    def __init__(self, respond: Respond) -> None:
        self._status = respond.status
        self._body = respond.body.encode()
        headers = dict(respond.headers)
        if respond.location is not None:
            headers["Location"] = respond.location
        if self._body:
            headers.setdefault("Content-Type", respond.content_type)
        self._headers = tuple(headers.items())

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange: Exchange = environ[KEY]
        exchange.relay(make_head(self._status, self._headers))
        return [self._body]
