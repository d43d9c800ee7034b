"""Names and header fields as the configuration may give them.

Pure. What is written here goes out on the wire as it is, so the rules are those of RFC 9110 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import AfterValidator

from greenproxy.config.section import Finding, Loc
from greenproxy.config.values import Text

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_FIELD_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")  # RFC 6265 4.1.1
_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\([^()]*\))?\Z")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z|\[[0-9a-f:.]+\]\Z")
_PATH = re.compile(r"/[^\x00-\x20\x7f?#]*\Z")

# Framing and connection management are ours alone (RFC 9110 7.6.1, RFC 9112 6): a configured value would smuggle.
FRAMING_FIELDS = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


def check_token(name: str) -> str:
    """Allow a header, cookie or method name (RFC 9110 5.6.2). Raises ValueError."""
    if not _TOKEN.match(name):
        raise ValueError("{value} is not a token (RFC 9110 5.6.2)")
    return name


def check_field_value(value: str) -> str:
    """Allow what may stand in a header field: no CR, LF, NUL, nor space at its ends. Raises ValueError."""
    if not _FIELD_VALUE.match(value):
        raise ValueError("holds what a header value may not hold (a line break, a control byte, space at an end)")
    return value


def _method(name: str) -> str:
    if check_token(name) != name.upper():
        raise ValueError(f"methods are case-sensitive (did you mean {name.upper()!r}?)")
    return name


def _cookie_value(value: str) -> str:
    if not _COOKIE_VALUE.match(value):
        raise ValueError("holds what a cookie's value may not hold (RFC 6265 4.1.1)")
    return value


def _upstream_name(name: str) -> str:
    # 63 bytes is the room of a name in the health table; the characters are safe in the file name of a socket.
    if not _UPSTREAM_NAME.match(name):
        raise ValueError("a name has 1 to 63 letters, digits, '_', '.' or '-'")
    return name


def _module(text: str) -> str:
    if not _MODULE.match(text):
        raise ValueError("{value} is not module:attribute, such as shop.wsgi:application or shop:create_app()")
    return text


def _host(text: str) -> str:
    host = text.lower()
    if not _HOST.match(host):
        raise ValueError("{value} is not a host such as shop.example.com or *.example.com (without a port)")
    return host


def _path(text: str) -> str:
    if not _PATH.match(text):
        raise ValueError("{value} is not a path such as /shop/ (it starts with / and holds no space, '?' or '#')")
    if any(segment in (".", "..") for segment in text.split("/")):
        raise ValueError("{value} holds a dot segment, which no request has once it is routed")
    return text


Token = Annotated[str, AfterValidator(check_token)]
Method = Annotated[str, AfterValidator(_method)]
FieldValue = Annotated[Text, AfterValidator(check_field_value)]
CookieValue = Annotated[Text, AfterValidator(_cookie_value)]
UpstreamName = Annotated[str, AfterValidator(_upstream_name)]
ModuleAttribute = Annotated[str, AfterValidator(_module)]
HostPattern = Annotated[str, AfterValidator(_host)]
PathPrefix = Annotated[str, AfterValidator(_path)]


def header_findings(names: Iterable[tuple[Loc, str]], *, may_set_host: bool = False) -> Iterator[Finding]:
    """Find framing fields, and names given twice (they are case-insensitive), among (where, name) pairs."""
    seen: dict[str, str] = {}
    for loc, name in names:
        lower = name.lower()
        if lower in FRAMING_FIELDS or (lower == "host" and not may_set_host):
            yield loc, f"{name} is the proxy's own: it frames or routes the message"
        elif lower in seen:
            yield loc, f"{name} is given twice: as {seen[lower]} too (names are case-insensitive)"
        seen.setdefault(lower, name)
