"""The fields of an access record.

Pure. One JSON object a line:

    time         when the answer was out, UTC, ISO 8601 with milliseconds
    request_id   as in X-Request-ID
    client       address of the client, as far as trusted proxies vouch for it
    method host path   the request line and Host; no query, which may hold secrets
    status       as sent; 499 = the client went away first, nothing sent
    bytes_in     request body bytes received
    bytes_out    response body bytes sent
    duration_ms  from the complete request head to the last byte of the answer
    upstream_ms  of that, in servers
    route upstream server   names from the configuration, and the address of the (last) server
    attempts     sends to servers, 0 when we answered ourselves
    reason       only when we answered ourselves or the exchange ended early: why
"""

from __future__ import annotations

from typing import Any

from greenproxy.http.exchange import Exchange

# A record must fit one atomic write to a pipe (telemetry/sink.py, 4096 bytes). One over LONG_RECORD has its
# texts cut to MAX_TEXT characters: the three that a client can make long then are 3 kB, escaped.
LONG_RECORD = 1500
MAX_TEXT = 512


def access_record(exchange: Exchange, time: str, now: float) -> dict[str, Any]:
    """Return the access record of a finished exchange; `now` is monotonic seconds."""
    record: dict[str, Any] = {
        "time": time,
        "request_id": exchange.request_id.decode("latin-1"),
        "client": exchange.client_ip,
        "method": exchange.method,
        "host": exchange.host,
        "path": exchange.target.raw_path.decode("latin-1"),
        "status": exchange.status,
        "bytes_in": 0 if exchange.body is None else exchange.body.received,
        "bytes_out": exchange.bytes_out,
        "duration_ms": round((now - exchange.started) * 1000, 3),
        "upstream_ms": round(exchange.upstream_seconds * 1000, 3),
        "route": exchange.route,
        "upstream": exchange.upstream,
        "server": exchange.server,
        "attempts": exchange.attempts,
    }
    if exchange.reason:
        record["reason"] = exchange.reason
    return record


def shortened(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with over-long texts cut, so that a client cannot make a record of any size."""
    return {
        key: value[:MAX_TEXT] + "..." if isinstance(value, str) and len(value) > MAX_TEXT else value
        for key, value in record.items()
    }
