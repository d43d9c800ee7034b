"""What a child receives across the fork.

Called by:  master.py fills it; worker/worker.py, worker/checker.py and admin/app.py read it.
Invariant:  every descriptor in it is the child's to use; all others of the master were closed in the child.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from greenproxy.config.schema import Config
from greenproxy.listener.sockets import ListenerSockets
from greenproxy.shm.segment import Segment

READY = b"R"  # written to ready_fd once the child does its work; a spare writes a second one once it serves a slot


@dataclass(frozen=True, slots=True)
class Heritage:
    """The heritage of one child."""

    config: Config
    segment: Segment
    run_dir: str  # 0700, of this run only: sockets of hosted apps
    tickets: Mapping[str, int]  # upstream name -> descriptor of its shm/ticket.py counter
    listeners: ListenerSockets  # of all slots; a worker keeps its own, checker and admin have them closed
    ready_fd: int  # write end
    parent_fd: int  # read end; EOF = the master has died
    admin_socket: socket.socket | None = None  # listening; the master keeps it, so a crash of admin loses no port
    column: int = 0  # of a worker, in the segment; 0 (the retired column) = none, for checker and admin
    slot: int | None = None  # None: a spare, or no worker
    control_fd: int | None = None  # read end; a spare is told its slot here, as one decimal line
