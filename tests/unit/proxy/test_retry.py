"""The whole table of what may be tried again."""

from __future__ import annotations

import itertools

import pytest

from greenproxy.errors import (
    ConnectFailed,
    ConnectTimeout,
    NoServerAvailable,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamTimeout,
)
from greenproxy.proxy.retry import RetryPolicy, may_resend, may_retry, may_retry_status, word_of

IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")
OTHERS = ("POST", "PATCH", "PROPFIND", "get", "")
ALL_WORDS = frozenset({"connect", "reset", "timeout", "503"})
WORDS: list[tuple[UpstreamError, str]] = [
    (ConnectFailed(), "connect"),
    (ConnectTimeout(), "connect"),
    (UpstreamReset(), "reset"),
    (UpstreamTimeout(), "timeout"),
    (UpstreamProtocolError(), ""),
    (NoServerAvailable(), ""),
    (UpstreamError(reason="upstream_cut"), ""),
]
errors = pytest.mark.parametrize(("error", "word"), WORDS, ids=lambda value: type(value).__name__)


@errors
def test_failure_has_its_word(error: UpstreamError, word: str) -> None:
    assert word_of(error) == word


@errors
@pytest.mark.parametrize("method", IDEMPOTENT + OTHERS)
@pytest.mark.parametrize("replayable", [True, False])
def test_failure_is_retried_if_nothing_was_sent_or_it_does_no_harm(
    error: UpstreamError, word: str, method: str, replayable: bool
) -> None:
    policy = RetryPolicy(2, ALL_WORDS)
    expected = word == "connect" or (word in ("reset", "timeout") and method in IDEMPOTENT and replayable)
    assert may_retry(policy, error, method, 1, replayable) is expected


@errors
def test_failure_is_retried_only_where_the_policy_names_it(error: UpstreamError, word: str) -> None:
    for on in itertools.chain.from_iterable(itertools.combinations(sorted(ALL_WORDS), size) for size in range(5)):
        assert may_retry(RetryPolicy(9, frozenset(on)), error, "GET", 1, True) is (word in on)


@pytest.mark.parametrize(
    ("allowed", "made", "retries"),
    [(1, 1, False), (2, 1, True), (2, 2, False), (3, 2, True), (3, 3, False), (3, 4, False)],
)
def test_attempts_are_bounded(allowed: int, made: int, retries: bool) -> None:
    policy = RetryPolicy(allowed, ALL_WORDS)
    assert may_retry(policy, ConnectFailed(), "GET", made, True) is retries
    assert may_retry_status(policy, 503, "GET", made, True) is retries


@pytest.mark.parametrize("status", [200, 404, 500, 502, 503, 504])
@pytest.mark.parametrize("method", IDEMPOTENT + OTHERS)
@pytest.mark.parametrize("replayable", [True, False])
def test_status_is_retried_where_named_and_harmless(status: int, method: str, replayable: bool) -> None:
    policy = RetryPolicy(2, frozenset({"503"}))
    expected = status == 503 and method in IDEMPOTENT and replayable
    assert may_retry_status(policy, status, method, 1, replayable) is expected


@pytest.mark.parametrize(
    ("error", "sent"), [(ConnectFailed(), False), (ConnectTimeout(), False), (UpstreamReset(), True)]
)
@pytest.mark.parametrize("method", IDEMPOTENT + OTHERS)
@pytest.mark.parametrize("replayable", [True, False])
def test_stale_connection_is_replaced_unless_harm_could_be_done(
    error: UpstreamError, sent: bool, method: str, replayable: bool
) -> None:
    assert may_resend(error, method, replayable) is (replayable and (not sent or method in IDEMPOTENT))
