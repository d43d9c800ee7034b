"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.origin import RecordingOrigin


@pytest.fixture
def origin() -> Iterator[RecordingOrigin]:
    """An origin on TCP that records every byte it receives."""
    with RecordingOrigin() as running:
        yield running
