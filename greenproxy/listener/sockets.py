"""Bind the listeners, once, for the life of the program.

A TCP listener has one SO_REUSEPORT socket for each worker slot: the kernel spreads connections evenly
over them (the fullest of 4 workers holds 1.1-1.2 x its share; 1.3-2.0 x on one shared socket), and the
backlog of a slot outlives the worker that served it. A Unix listener has one socket that all slots share.

Owns:       sockets and their options, the files of Unix listeners.
Leaves to:  listener/server.py (accepting), master.py (who serves which slot).
Called by:  master.py before its first fork; a worker keeps one slot and closes the others.
Invariant:  a port or a path that another process serves is refused; only a socket file on which nobody
            answers is removed. Clients that connect while the program starts wait in the backlog.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from greenproxy.config.address import Address
from greenproxy.config.schema import Listener
from greenproxy.errors import StartError

# The kernel cuts it to net.core.somaxconn (4096 since Linux 5.4).
BACKLOG = 4096
# Like nginx: anyone may connect. Who must not is kept out by the rights of the folder.
UNIX_SOCKET_MODE = 0o666
_PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Bound:
    """One listener's sockets, by slot; a Unix listener has one for all."""

    listener: Listener
    sockets: tuple[socket.socket, ...]
    address: str  # the port the kernel chose, where the configuration says 0
    inode: int = 0  # of a Unix listener's file

    def of_slot(self, slot: int) -> socket.socket:
        return self.sockets[slot % len(self.sockets)]


class ListenerSockets:
    """All bound sockets. Owner: the master; a child keeps what is its own."""

    def __init__(self, bound: Sequence[_Bound]) -> None:
        self._bound = tuple(bound)

    @classmethod
    def bind(cls, listeners: Sequence[Listener], slots: int) -> ListenerSockets:
        """Bind every listener for `slots` workers, and listen.

        Raises StartError naming the address that cannot be had; then nothing stays bound.
        """
        bound: list[_Bound] = []
        try:
            for listener in listeners:
                bound.append(_bind(listener, slots))
        except StartError:
            cls(bound).close()
            raise
        return cls(bound)

    @property
    def addresses(self) -> list[str]:
        """Where clients reach us, as text, in the configuration's order."""
        return [one.address for one in self._bound]

    def of_slot(self, slot: int) -> list[tuple[Listener, socket.socket]]:
        """Return the sockets a worker in `slot` accepts from, each with its listener."""
        return [(one.listener, one.of_slot(slot)) for one in self._bound]

    def close_all_but(self, slot: int) -> None:
        """Close the sockets of the other slots, in a worker; the master has them still."""
        for one in self._bound:
            mine = one.of_slot(slot)
            for sock in one.sockets:
                if sock is not mine:
                    sock.close()

    def close_in_child(self) -> None:
        """Close every socket, and leave the files of Unix listeners where they are."""
        for one in self._bound:
            for sock in one.sockets:
                sock.close()

    def close(self) -> None:
        """Close every socket and remove the files of Unix listeners, if they are still ours."""
        self.close_in_child()
        for one in self._bound:
            if one.inode:
                _remove(one.listener.address.path, one.inode)


def _bind(listener: Listener, slots: int) -> _Bound:
    address = listener.address
    try:
        return _bind_unix(listener) if address.kind == "unix" else _bind_tcp(listener, slots)
    except socket.gaierror as exc:
        raise StartError(f"cannot listen on {address}: {exc.strerror}") from exc
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        hint = " (is another instance running?)" if exc.errno == errno.EADDRINUSE else ""
        raise StartError(f"cannot listen on {address}: {reason}{hint}") from exc


def _bind_tcp(listener: Listener, slots: int) -> _Bound:
    family, _, _, _, where = _resolve(listener.address)
    sockets: list[socket.socket] = []
    try:
        # The first socket is bound without SO_REUSEPORT, so that a port in use is refused, and gets the
        # option afterwards, so that the others may join it: the port is never free in between.
        first = _tcp_socket(family)
        sockets.append(first)
        first.bind(where)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(1, slots):
            sock = _tcp_socket(family)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(first.getsockname())
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    port = first.getsockname()[1]
    return _Bound(listener, tuple(sockets), str(Address("tcp", host=listener.address.host, port=port)))


def _resolve(address: Address) -> tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return found[0]  # type: ignore[return-value]


def _tcp_socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # [::]:80 and 0.0.0.0:80 are two listeners, as in nginx.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setblocking(False)
    return sock


def _bind_unix(listener: Listener) -> _Bound:
    path = listener.address.path
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~UNIX_SOCKET_MODE)  # at once with bind: no moment with other rights
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.setblocking(False)
    sock.listen(BACKLOG)
    return _Bound(listener, (sock,), str(listener.address), os.stat(path).st_ino)


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that has gone.

    Raises StartError when somebody answers there, or when it is no socket.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise StartError(f"cannot listen on unix:{path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # a full backlog or missing rights: somebody may well be there
    raise StartError(f"cannot listen on unix:{path}: address already in use (is another instance running?)")


def _remove(path: str, inode: int) -> None:
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except OSError:
        pass  # gone already, or its folder is: nothing is left to clean
