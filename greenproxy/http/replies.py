"""The answers we give ourselves: error pages, and heads made from WSGI's status and headers.

Pure. A page names the status and the request id, which is what an operator needs to find the log
record; it never says anything about servers or files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from http import HTTPStatus

from greenproxy.http import fields
from greenproxy.http.grammar import FIELD_LINE, FIELD_TEXT, TOKEN
from greenproxy.http.head import ResponseHead

_FIELD_LINE = re.compile(FIELD_LINE)
_NAME = re.compile(rb"(?:" + TOKEN + rb")+")
_REASON = re.compile(rb"(?:" + FIELD_TEXT + rb")*")
# The listener writes framing itself.
_NOT_OURS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

_HINTS = {
    400: "The request could not be understood.",
    404: "There is nothing here.",
    408: "The request took too long to arrive.",
    413: "The request is larger than this site accepts.",
    502: "The application did not give a usable answer. Trying again in a moment may help.",
    503: "The application is not available right now. Trying again in a moment may help.",
    504: "The application took too long to answer. Trying again in a moment may help.",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} {phrase}</title><style>
:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto 0;padding:0 1.25rem}}
h1{{font-size:1.5rem;margin:0 0 .5rem}}p{{margin:.25rem 0}}small{{opacity:.7}}code{{user-select:all}}
</style></head><body><h1>{status} {phrase}</h1><p>{hint}</p><p><small>Request <code>{request_id}</code></small></p>
</body></html>
"""


@lru_cache(maxsize=128)
def phrase_of(status: int) -> str:
    """Return the reason phrase of a status, "Unknown" for one without."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def make_head(status: int, headers: Sequence[tuple[str, str]], reason: str | None = None) -> ResponseHead:
    """Return a response head made of native strings; hop-by-hop fields are dropped, framing is read.

    Raises ValueError for a header that would break the message (CR, LF, control bytes, no token).
    """
    lines = []
    for name, value in headers:
        line = f"{name}: {value}\r\n".encode("latin-1")
        if _NAME.fullmatch(name.encode("latin-1")) is None or _FIELD_LINE.fullmatch(line) is None:
            raise ValueError(f"response header {name!r} has bytes that no header may have")
        lines.append(line)
    phrase = (phrase_of(status) if reason is None else reason).encode("latin-1")
    if _REASON.fullmatch(phrase) is None:
        raise ValueError("the reason phrase has bytes that no reason may have")
    head = ResponseHead(status, phrase, fields.without(b"".join(lines), _NOT_OURS))
    length = head.header(b"content-length")
    if length is not None:
        if not length.isdigit():
            raise ValueError(f"Content-Length {length!r} is not one decimal number")
        head.content_length = int(length)
        head.length_in_lines = True
    head.has_date = head.header(b"date") is not None
    return head


def head_from_wsgi(status: str, headers: Sequence[tuple[str, str]]) -> ResponseHead:
    """Return the head that a WSGI application gave to start_response. Raises ValueError."""
    code, _, reason = status.partition(" ")
    if not (len(code) == 3 and code.isdigit()):
        raise ValueError(f"WSGI status {status!r} does not begin with three digits")
    return make_head(int(code), headers, reason)


def error_reply(
    status: int, request_id: str, accept: bytes | None, extra: Sequence[tuple[str, str]] = ()
) -> tuple[ResponseHead, bytes]:
    """Return head and body of an error answer: a page for browsers, plain text for others."""
    phrase = phrase_of(status)
    if accept is not None and b"text/html" in accept:
        kind = "text/html; charset=utf-8"
        text = _PAGE.format(
            status=status, phrase=phrase, hint=_HINTS.get(status, ""), request_id=escape(request_id) or "-"
        )
    else:
        kind = "text/plain; charset=utf-8"
        text = f"{status} {phrase}\n" + (f"request {request_id}\n" if request_id else "")
    return page_reply(status, text.encode(), kind, request_id, extra)


def page_reply(
    status: int, body: bytes, content_type: str, request_id: str, extra: Sequence[tuple[str, str]] = ()
) -> tuple[ResponseHead, bytes]:
    """Return head and body of an answer with a given page; never cached."""
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    if request_id:
        headers.append(("X-Request-ID", request_id))
    return make_head(status, [*headers, *extra]), body
