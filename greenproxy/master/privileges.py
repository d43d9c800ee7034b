"""Rights: the user children become, and how many files they may open.

Owns:       dropping rights, giving files to that user, RLIMIT_NOFILE.
Leaves to:  fork.py (when). The master keeps its rights: for new ports, keys and reopened logs.
"""

from __future__ import annotations

import os
import pwd
import resource
from dataclasses import dataclass

from greenproxy.errors import StartError

# Listeners, shared memory, logs, pipes, the hub, idle pooled connections of a small configuration.
_OTHER_FILES = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the machine, with all its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def identity_of(user: str | None) -> Identity | None:
    """Return whom children become; None = nobody else.

    Raises StartError when the user is unknown, or we may not become it.
    """
    if not user:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise StartError(f"server.user: this machine has no user {user!r}") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise StartError(f"server.user: only root can run children as {user!r}")
    return Identity(user, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(user, entry.pw_gid)))


def become(identity: Identity | None) -> None:
    """Drop the rights of this process for good."""
    if identity is None:
        return
    # Groups first: after setuid we may not change them any more.
    os.setgroups(identity.groups)
    os.setgid(identity.gid)
    os.setuid(identity.uid)
    if os.getresuid() != (identity.uid,) * 3:
        raise StartError(f"could not become {identity.name!r}")


def give(path: str, identity: Identity | None) -> None:
    """Make the children's user the owner of a file or folder."""
    if identity is not None:
        os.chown(path, identity.uid, identity.gid)


def raise_open_files(connections: int) -> tuple[int, int]:
    """Raise the soft limit of open files to the hard one; return what we have and what a worker may need.

    `connections` are those of one worker; a proxied connection is two descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass  # a hard limit beyond the kernel's fs.nr_open: what we have stays
    needed = 2 * connections + _OTHER_FILES
    return (needed if soft == resource.RLIM_INFINITY else soft), needed
