"""Decide what a GET or HEAD for a file is answered with: all of it, a part, or only a status.

Pure. Werkzeug parses the fields; the order of the conditions and the use of weak validators are ours,
because its make_conditional looks at Range before If-None-Match, believes weak tags in If-Range and
answers 416 to ranges that must be ignored.

Owns:       the conditions of RFC 9110 13 and the ranges of RFC 9110 14.
Leaves to:  app.py (fields and body of the answer).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from werkzeug.http import parse_date, parse_etags, quote_etag

# A file can change again within the tick of its own time stamp; Apache waits as long before it trusts one.
SETTLED_S = 2.0

# One range. Several (RFC 9110 14.2 lets us ignore them) and other units get the whole file; so does what is malformed.
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*", re.IGNORECASE)

ReadField = Callable[[bytes], "bytes | None"]


@dataclass(frozen=True, slots=True)
class Validators:
    """What identifies one state of a file. Weak ones are good for caching, not for ranges (RFC 9110 8.8.1)."""

    tag: str  # without quotes
    modified: datetime  # whole seconds, UTC
    weak: bool

    @classmethod
    def of(cls, mtime_ns: int, size: int, now: float) -> Validators:
        """Make them of a file's time stamp and size; `now` is Unix seconds."""
        seconds = mtime_ns // 10**9
        modified = datetime.fromtimestamp(seconds, timezone.utc)
        return cls(f"{mtime_ns:x}-{size:x}", modified, weak=now - mtime_ns / 1e9 < SETTLED_S)

    @property
    def etag(self) -> str:
        """Value of the ETag field."""
        return quote_etag(self.tag, self.weak)


@dataclass(frozen=True, slots=True)
class Selection:
    """The status, and the bytes of the file that go with it."""

    status: int  # 200, 206, 304, 412 or 416
    start: int = 0
    length: int = 0


def select(method: str, field: ReadField, validators: Validators, size: int) -> Selection:
    """Evaluate the request's conditions in the order of RFC 9110 13.2.2; `field` takes a lower-case name."""
    if not _preconditions_hold(field, validators):
        return Selection(412)
    if _client_has_it(field, validators):
        return Selection(304)
    # RFC 9110 14.2: Range is defined for GET only.
    value = _text(field(b"range")) if method == "GET" else None
    if value is not None and _range_is_of_this_state(_text(field(b"if-range")), validators):
        return _select_range(value, size)
    return Selection(200, 0, size)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _preconditions_hold(field: ReadField, validators: Validators) -> bool:
    if_match = _text(field(b"if-match"))
    if if_match is not None:
        tags = parse_etags(if_match)
        return tags.star_tag or (not validators.weak and tags.is_strong(validators.tag))
    since = parse_date(_text(field(b"if-unmodified-since")))
    return since is None or validators.modified <= since


def _client_has_it(field: ReadField, validators: Validators) -> bool:
    if_none_match = _text(field(b"if-none-match"))
    if if_none_match is not None:
        return parse_etags(if_none_match).contains_weak(validators.tag)
    since = parse_date(_text(field(b"if-modified-since")))
    return since is not None and validators.modified <= since


def _range_is_of_this_state(if_range: str | None, validators: Validators) -> bool:
    """RFC 9110 13.1.5: strong comparison; a date must be the very same."""
    if if_range is None:
        return True
    if validators.weak:
        return False
    return if_range == validators.etag or parse_date(if_range) == validators.modified


def _select_range(value: str, size: int) -> Selection:
    match = _RANGE.fullmatch(value)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        return Selection(200, 0, size)
    if match[3] is not None:  # the last so many bytes
        start, end = max(0, size - int(match[3])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    return Selection(206, start, end - start) if start < end else Selection(416)
