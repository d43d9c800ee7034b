"""Find and open what lies under one folder, and nothing else.

A path is first opened without access (O_PATH), which neither blocks on a FIFO nor wakes a device. The
kernel then tells what it found and where that really is; only that is judged, and only that is opened.
So a link that changes between check and use gains nothing.

Owns:       the way from a request's path to a descriptor.
Leaves to:  app.py (what is answered).
Invariant:  a returned descriptor is a regular file that lies under the root after all symbolic links,
            with no segment that begins with a dot. When in doubt: nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from werkzeug.security import safe_join

# Errors that say: there is nothing of this name. Any other (EIO, EMFILE, ...) is ours to report.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG))


@dataclass(frozen=True, slots=True)
class Found:
    """What a path names. `fd` is open for reading and the caller's to close; None: a folder."""

    fd: int | None
    size: int = 0
    mtime_ns: int = 0


class Tree:
    """The files under one folder."""

    __slots__ = ("_root",)

    def __init__(self, root: str) -> None:
        self._root = root

    def find(self, path: str) -> Found | None:
        """Return what `path`, decoded and relative to the root, names; None if nothing that may be served.

        Raises PermissionError for a file that may be served but that this process may not read, and
        OSError when the system fails.
        """
        relative = safe_join(".", path.strip("/"))
        if relative is None or "\0" in path or _hidden(path):
            return None
        try:
            # The root is looked up each time: a deployment may swap the link that names it.
            root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return _look(root, relative)
            finally:
                os.close(root)
        except OSError as exc:
            if exc.errno in _ABSENT:
                return None
            raise


def _hidden(path: str) -> bool:
    return any(segment.startswith(".") for segment in path.split("/"))


def _look(root: int, relative: str) -> Found | None:
    handle = os.open(relative, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
    try:
        if not _allowed(_place(root), _place(handle)):
            return None
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            return Found(None)
        return _open(handle) if stat.S_ISREG(mode) else None
    finally:
        os.close(handle)


def _place(handle: int) -> str:
    """Where an open descriptor really lies, after all links."""
    return os.readlink(f"/proc/self/fd/{handle}")


def _allowed(root: str, place: str) -> bool:
    base = root.rstrip("/") + "/"
    return place == root or (place.startswith(base) and not _hidden(place[len(base) :]))


def _open(handle: int) -> Found:
    fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    return Found(fd, status.st_size, status.st_mtime_ns)
