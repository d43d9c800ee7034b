"""Between WSGI and the Exchange: environ, built no further than someone asks.

A proxied request needs none of the HTTP_* variables, so environ begins without them. Layers that
run a foreign WSGI application, or want a Werkzeug Request, ask for them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, cast

from greenproxy.http import fields
from greenproxy.http.exchange import KEY, Exchange

if TYPE_CHECKING:
    from werkzeug.wrappers import Request

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_REQUEST_KEY = "greenproxy.werkzeug_request"


def direct(application: Application) -> Application:
    """Return a callable that does the same as `application` without a C frame in between.

    Calling an object with a `__call__` goes through C; calling that method itself does not. Saves
    half a microsecond a layer, and C stack that each greenlet switch would have to copy.
    """
    return application if isinstance(application, (FunctionType, MethodType)) else application.__call__  # type: ignore[operator]


def path_info(path: str) -> str:
    """Return a decoded path as WSGI wants it: its bytes as latin-1 (PEP 3333)."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")


def exchange_of(environ: Environ) -> Exchange:
    """Return the Exchange of a request."""
    return cast(Exchange, environ[KEY])


def add_http_variables(environ: Environ) -> None:
    """Add the HTTP_* variables, CONTENT_TYPE and CONTENT_LENGTH (PEP 3333, RFC 3875 4.1.18)."""
    exchange = exchange_of(environ)
    for name, value in fields.pairs(exchange.lines):
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        environ[key] = f"{environ[key]}, {value}" if key in environ and key.startswith("HTTP_") else value
    if exchange.head.content_length is not None:
        environ["CONTENT_LENGTH"] = str(exchange.head.content_length)
    elif exchange.head.chunked:
        environ["wsgi.input_terminated"] = True
    if exchange.authority:
        environ["HTTP_HOST"] = exchange.authority.decode("latin-1")


def request_of(environ: Environ) -> Request:
    """Return the Werkzeug Request of an environ, made at most once. Costs about 10 % of a plain exchange."""
    request = environ.get(_REQUEST_KEY)
    if request is None:
        from werkzeug.wrappers import Request

        add_http_variables(environ)
        request = environ[_REQUEST_KEY] = Request(environ)
    return cast("Request", request)
