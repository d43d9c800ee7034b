"""Whom children become, and how many files they may open."""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Iterator

import pytest

from greenproxy.errors import StartError
from greenproxy.master import privileges

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize("user", [None, "", ME])
def test_nobody_is_to_become_who_he_is(user: str | None) -> None:
    assert privileges.identity_of(user) is None


def test_unknown_user_is_named() -> None:
    with pytest.raises(StartError, match="no-such-user"):
        privileges.identity_of("no-such-user")


def test_only_root_may_change_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StartError, match="only root can run children as 'root'"):
        privileges.identity_of("root")


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_soft_limit_of_open_files_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    have, needed = privileges.raise_open_files(connections=1000)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert (have, needed) == (hard if hard != resource.RLIM_INFINITY else needed, 2256)
