"""The byte classes of RFC 9110 and RFC 9112 that the parsers share."""

from __future__ import annotations

import re

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 5.6.2
FIELD_TEXT = rb"[\t\x20-\x7e\x80-\xff]"  # RFC 9110 5.5: no control bytes but tab
FIELD_LINE = TOKEN + rb"+:" + FIELD_TEXT + rb"*\r\n"  # no space before the colon, no obs-fold (RFC 9112 5.1, 5.2)
FIELD_LINES = rb"((?:" + FIELD_LINE + rb")*)"

# RFC 3986 3.2.2 reg-name without the comma (a joined pair of Host lines must not pass), or an IP literal.
_PORT = rb"[0-9]{0,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=%]+)(?::(?:" + _PORT + rb"))?")

METHOD_NAMES = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}

# RFC 9110 9.2.2, without TRACE, which is not offered
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
