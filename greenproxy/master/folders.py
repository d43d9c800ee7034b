"""Folders of a run: one for sockets, and the state that outlives it.

Owns:       making them 0700 for the children's user, and removing what is of one run only.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from greenproxy.errors import StartError
from greenproxy.master.privileges import Identity, give

# The path of a Unix socket has at most 107 bytes; `/greenproxy-XXXXXXXX/NAME-99.sock` must fit behind it.
_LONGEST_BASE = 40


def make_run_dir(identity: Identity | None) -> str:
    """Make the folder of this run, in TMPDIR. Raises StartError."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _LONGEST_BASE:
        base = "/tmp"
    try:
        path = tempfile.mkdtemp(prefix="greenproxy-", dir=base)
        give(path, identity)
    except OSError as exc:
        raise StartError(f"cannot make a folder in {base}: {exc.strerror}") from exc
    return path


def make_state_dir(path: str, identity: Identity | None) -> None:
    """Make server.state_dir where it is missing, and close it to others. Raises StartError."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(path, 0o700)
        give(path, identity)
    except OSError as exc:
        raise StartError(f"server.state_dir: cannot use {path}: {exc.strerror}") from exc


def remove_run_dir(path: str) -> None:
    """Remove the folder of this run with all that is in it."""
    shutil.rmtree(path, ignore_errors=True)
