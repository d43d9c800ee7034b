"""Request ids: unique without a system call per request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count


def request_ids() -> Iterator[bytes]:
    """Return an endless supply of ids: random per worker, counted within it. `next` runs no Python code."""
    return map((os.urandom(6).hex().encode() + b"-%x").__mod__, count(1))
