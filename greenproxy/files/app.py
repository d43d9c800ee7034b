"""Serve the files of a folder: a route's `files`.

Owns:       the answers: file, part, redirect of a folder, refusals; the content types.
Leaves to:  tree.py (what may be opened), conditional.py (which part of it), chain/entry.py (error pages).
Called by:  the route's chain, as its last WSGI application.
Invariant:  every descriptor is closed by the body's close(), also for HEAD and 304. No answer and no
            error names a place in the file system. A file that shrinks meanwhile gives a short body,
            one that grows gives no byte beyond its Content-Length.
"""

from __future__ import annotations

import mimetypes
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from werkzeug.http import http_date
from werkzeug.wrappers import Response

from greenproxy.errors import DownstreamError
from greenproxy.files.conditional import Selection, Validators, select
from greenproxy.files.tree import Found, Tree
from greenproxy.http.exchange import Exchange
from greenproxy.http.replies import phrase_of
from greenproxy.http.wsgi import Environ, exchange_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

BLOCK = 64 * 1024

_METHODS = ("GET", "HEAD")

# What Python's own table lacks, or has by an old name (RFC 9239).
_MORE_TYPES = {
    ".avif": "image/avif",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_UNKNOWN = "application/octet-stream"


def _media_types() -> mimetypes.MimeTypes:
    """A table of our own: an answer must not depend on the machine's mime.types."""
    table = mimetypes.MimeTypes()
    for suffix, kind in _MORE_TYPES.items():
        table.add_type(kind, suffix)
    return table


_TYPES = _media_types()


def content_type(name: str) -> str:
    """Return the media type for a file name; a packed file is what it is, not what is in it."""
    guess, packing = _TYPES.guess_type(name)
    kind = _PACKED.get(packing, _UNKNOWN) if packing else guess or _UNKNOWN
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


class FileBody:
    """A stretch of an open file, in blocks. Owns the descriptor."""

    __slots__ = ("_fd", "_left", "_offset")

    def __init__(self, fd: int, start: int, length: int) -> None:
        self._fd = fd
        self._offset = start
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        while self._left and (block := os.pread(self._fd, min(BLOCK, self._left), self._offset)):
            self._offset += len(block)
            self._left -= len(block)
            yield block

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FilesApp:
    """A WSGI application for the files under `root`; needs the Exchange in environ.

    `index` is the file that stands for its folder. `strip` is a prefix of the request's path that is
    not part of the file's.
    """

    def __init__(self, root: str, index: str = "index.html", strip: str = "") -> None:
        self._tree = Tree(root)
        self._index = index
        self._strip = strip.rstrip("/")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request.

        Raises DownstreamError: 404 for what is not there or not to be seen, 403 for what this process
        may not read.
        """
        return self._respond(exchange_of(environ))(environ, start_response)

    def _respond(self, exchange: Exchange) -> Response:
        if exchange.method not in _METHODS:
            exchange.reason = "method_not_allowed"
            return _refusal(405, {"Allow": ", ".join(_METHODS)})
        path = exchange.path.removeprefix(self._strip)
        folder_wanted = path.endswith("/")
        found = self._find(path)
        if found.fd is None and not folder_wanted:
            return _redirect_to_folder(exchange)
        if found.fd is None:
            path += self._index
            found = self._find(path)
        elif folder_wanted:
            os.close(found.fd)
            raise _not_found()
        if found.fd is None:
            raise _not_found()
        return _send(exchange, found, found.fd, path)

    def _find(self, path: str) -> Found:
        try:
            found = self._tree.find(path)
        except PermissionError:
            raise DownstreamError("no permission to read the file", status=403, reason="file_forbidden") from None
        if found is None:
            raise _not_found()
        return found


def _not_found() -> DownstreamError:
    return DownstreamError("no such file", status=404, reason="file_not_found")


def _send(exchange: Exchange, found: Found, fd: int, path: str) -> Response:
    validators = Validators.of(found.mtime_ns, found.size, time.time())
    chosen = select(exchange.method, exchange.header, validators, found.size)
    body = FileBody(fd, chosen.start, chosen.length)
    if chosen.status in (412, 416):
        body.close()
        return _refuse_condition(exchange, chosen, found.size)
    response = Response(body, _status(chosen.status), direct_passthrough=True)
    response.headers["Content-Type"] = content_type(path)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["ETag"] = validators.etag
    response.headers["Last-Modified"] = http_date(validators.modified)
    if chosen.status != 304:
        response.headers["Content-Length"] = str(chosen.length)
    if chosen.status == 206:
        last = chosen.start + chosen.length - 1
        response.headers["Content-Range"] = f"bytes {chosen.start}-{last}/{found.size}"
    return response


def _refuse_condition(exchange: Exchange, chosen: Selection, size: int) -> Response:
    if chosen.status == 412:
        exchange.reason = "precondition_failed"
        return _refusal(412, {})
    exchange.reason = "range_not_satisfiable"
    return _refusal(416, {"Content-Range": f"bytes */{size}"})


def _status(status: int) -> str:
    return f"{status} {phrase_of(status)}"


def _refusal(status: int, headers: dict[str, str]) -> Response:
    text = _status(status)
    return Response(f"{text}\n", text, headers, content_type="text/plain; charset=utf-8")


def _redirect_to_folder(exchange: Exchange) -> Response:
    """Send the client to the same path with a slash, so that relative links work; the query goes along.

    A path that begins with two slashes would name another host. So would a backslash, which Werkzeug quotes.
    """
    path = exchange.target.raw_path.decode("ascii").lstrip("/")
    query = exchange.target.query.decode("ascii")
    return Response(
        status=_status(301), headers={"Location": f"/{path}/{query}"}, content_type="text/plain; charset=utf-8"
    )
