"""Free TCP ports for processes that bind by themselves.

A port from the kernel's ephemeral range, closed again before use, may be taken by any outgoing connection
in between. These come from below that range and are reserved, until released, by an abstract Unix socket
of the same number: two test processes can never be given the same one.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass

_LOWEST, _HIGHEST = 18_000, 31_999
_ATTEMPTS = 500


@dataclass
class Port:
    """A reserved port; release() when the process that binds it has ended."""

    number: int
    _reservation: socket.socket

    def release(self) -> None:
        self._reservation.close()


def reserve_port() -> Port:
    """Reserve a port on 127.0.0.1 that nobody listens on."""
    chooser = random.Random(os.urandom(8))
    for _ in range(_ATTEMPTS):
        number = chooser.randint(_LOWEST, _HIGHEST)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0greenproxy-test-port-{number}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", number))
        except OSError:
            reservation.close()
            continue
        return Port(number, reservation)
    raise AssertionError(f"no free port in {_ATTEMPTS} attempts")
