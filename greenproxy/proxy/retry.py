"""May a failed attempt be made again?

Pure. Before the first response byte only. A connection that never came up sent nothing, so any
method may go to another server; after bytes were sent only an idempotent method may (RFC 9110 9.2.2),
and only while its body can be sent again.
"""

from __future__ import annotations

from dataclasses import dataclass

from greenproxy.errors import ConnectFailed, ConnectTimeout, UpstreamError, UpstreamReset, UpstreamTimeout
from greenproxy.http.grammar import IDEMPOTENT


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts`: sends in all, the first included; `on`: words of the configuration and statuses."""

    attempts: int
    on: frozenset[str]


def word_of(error: UpstreamError) -> str:
    """Return the configuration's word for a failure, "" for one that is never retried."""
    if isinstance(error, (ConnectFailed, ConnectTimeout)):
        return "connect"
    if isinstance(error, UpstreamReset):
        return "reset"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return ""


def may_retry(policy: RetryPolicy, error: UpstreamError, method: str, attempts: int, replayable: bool) -> bool:
    """May another attempt follow one that failed with `error`? `attempts` were made so far."""
    if attempts >= policy.attempts:
        return False
    if word_of(error) not in policy.on:
        return False
    return error.retry == "always" or (method in IDEMPOTENT and replayable)


def may_retry_status(policy: RetryPolicy, status: int, method: str, attempts: int, replayable: bool) -> bool:
    """May another attempt follow an answer with `status`?"""
    return attempts < policy.attempts and str(status) in policy.on and method in IDEMPOTENT and replayable


def may_resend(error: UpstreamError, method: str, replayable: bool) -> bool:
    """May a request go out again that a stale pooled connection swallowed?

    The server closed an idle connection while our request was on its way: no attempt in the sense of
    the policy. If bytes of it were sent, nobody can know that a non-idempotent method was not acted upon.
    """
    return replayable and (error.retry == "always" or method in IDEMPOTENT)
