"""A socket that gives what a test wrote into it and keeps what it was sent."""

from __future__ import annotations

import socket
from typing import cast

from greenproxy.worker.apphost import Connection


class FakeSocket:
    """Gives `pieces` one by one, then the end of the stream."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""

    def fileno(self) -> int:
        return 99

    def setsockopt(self, *arguments: object) -> None:
        """Time limits mean nothing here."""

    def recv_into(self, target: memoryview) -> int:
        if not self.pieces:
            return 0
        piece = self.pieces.pop(0)
        taken, rest = piece[: len(target)], piece[len(target) :]
        if rest:
            self.pieces.insert(0, rest)
        target[: len(taken)] = taken
        return len(taken)

    def sendall(self, data: bytes) -> None:
        self.sent += data


def connection(*pieces: bytes, buffered: bytes = b"") -> tuple[Connection, FakeSocket]:
    """Make a connection that received `buffered` already and will receive `pieces`."""
    fake = FakeSocket(*pieces)
    made = Connection(cast(socket.socket, fake))
    made.buffer = buffered
    return made, fake
