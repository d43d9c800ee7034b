"""Read the request target once, so that what is routed is what is sent (RFC 9112 3.2, RFC 3986 6.2).

Pure. Most targets are plain and go on as they came. One with dot segments, also percent-encoded
ones, is normalised, and the normal form is both matched and sent: a filter in front of an
application must not see another path than the application does.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from greenproxy.errors import BadRequest
from greenproxy.http.grammar import HOST

_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([/?][^#]*)?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPED_DOT = re.compile(rb"%2[eE]")
_DOT_SEGMENT = re.compile(rb"(?:^|[/\\])\.\.?(?:[/\\]|$)")
_SLASHES = re.compile(r"/{2,}")
_PLAIN = re.compile(rb"(/[^%#?\\]*)(\?[^#]*)?")
_SAFE = "/~!$&'()*+,;=:@"


class Target(NamedTuple):
    """A target in origin form. `raw_path` and `query` are sent; `path`, decoded and with runs of
    slashes merged, is matched. `authority` is the host an absolute target named, else None.
    `query` keeps its question mark, so a bare "?" survives."""

    raw_path: bytes
    query: bytes
    path: str
    authority: bytes | None = None


def parse_target(target: bytes, method: str) -> Target:
    """Parse a request target whose bytes are already known to be visible ASCII.

    Raises BadRequest for a target that is not one of RFC 9112 3.2's forms or that hides a path.
    """
    plain = _PLAIN.fullmatch(target)
    if plain is not None:
        plain_path, plain_query = plain.groups(b"")
        if b"/." not in plain_path and b"//" not in plain_path:
            # what Target(...) comes down to, without its Python frame
            return tuple.__new__(Target, (plain_path, plain_query, plain_path.decode("ascii"), None))
    if target == b"*":
        if method != "OPTIONS":
            raise BadRequest("the target * is for OPTIONS only", reason="target_invalid")
        return Target(b"*", b"", "*")
    authority = None
    if not target.startswith(b"/"):
        authority, target = _split_absolute(target, method)
        if target == b"*":
            return Target(b"*", b"", "*", authority)
    if b"#" in target:
        raise BadRequest("a request target has no fragment", reason="target_fragment")
    raw_path, mark, query = target.partition(b"?")
    raw_path, decoded_path = _normalise(raw_path)
    return Target(raw_path, mark + query, decoded_path, authority)


def _split_absolute(target: bytes, method: str) -> tuple[bytes, bytes]:
    """Return authority and origin form of an absolute target."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadRequest("the request target is neither a path nor an http(s) URL", reason="target_invalid")
    authority, rest = match.group(1), match.group(2) or b""
    if not rest and method == "OPTIONS":
        rest = b"*"  # RFC 9112 3.2.4: the last proxy on the way sends the asterisk
    if HOST.fullmatch(authority) is None:
        raise BadRequest("the request target has no valid host", reason="target_invalid")
    return authority, rest if rest.startswith((b"/", b"*")) else b"/" + rest


def _normalise(raw_path: bytes) -> tuple[bytes, str]:
    """Return the path to send and the path to match."""
    if b"%" in raw_path:
        if _BAD_ESCAPE.search(raw_path):
            raise BadRequest("a percent sign without two hexadecimal digits", reason="target_escape")
        decoded = unquote_to_bytes(raw_path)
        if b"\0" in decoded:
            raise BadRequest("an encoded NUL in the path", reason="target_nul")
    else:
        decoded = raw_path
    if _DOT_SEGMENT.search(decoded):
        raw_path = _without_dot_segments(_ESCAPED_DOT.sub(b".", raw_path))
        decoded = unquote_to_bytes(raw_path)
        if _DOT_SEGMENT.search(decoded):  # one that hides behind an encoded slash or a backslash
            raise BadRequest("a dot segment behind an encoded slash", reason="target_dots")
    return raw_path, _SLASHES.sub("/", decoded.decode("utf-8", "surrogateescape"))


def _without_dot_segments(path: bytes) -> bytes:
    """RFC 3986 5.2.4, except that a path that climbs above the root is refused."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                raise BadRequest("the path climbs above the root", reason="target_dots")
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def strip_prefix(raw_path: bytes, path: str, prefix: str) -> bytes:
    """Return `raw_path` without `prefix`, which `path` is known to begin with; always begins with a slash.

    A prefix that is not in `raw_path` as written (escapes, doubled slashes) is cut from the decoded
    path, which is then encoded anew.
    """
    prefix = prefix.rstrip("/")
    plain = prefix.encode("utf-8", "surrogateescape")
    if raw_path.startswith(plain) and raw_path[len(plain) : len(plain) + 1] in (b"/", b""):
        rest = raw_path[len(plain) :]
    else:
        rest = quote_from_bytes(path[len(prefix) :].encode("utf-8", "surrogateescape"), safe=_SAFE).encode()
    return rest if rest.startswith(b"/") else b"/" + rest
