"""Request ids: unique without a system call per request."""

from __future__ import annotations

import os
from itertools import count


class RequestIds:
    """Makes the ids of one worker: random per worker, counted within it."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex()
        self._count = count(1)

    def next(self) -> bytes:
        """Return a new id."""
        return f"{self._prefix}-{next(self._count):x}".encode()
