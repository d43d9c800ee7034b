"""What the master owns for the whole run: listeners, shared memory, folders, the pid file, the lifeline.

Owns:       the order in which these come into being and go.
Leaves to:  master.py (processes), heritage.py (which part of it a child gets).
Called by:  master.py, once.
Invariant:  everything that was made is undone in reverse order, also when a later step fails.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from greenproxy.config.hosted import with_hosted_servers
from greenproxy.config.schema import Config, Listener, Log
from greenproxy.errors import StartError
from greenproxy.health.table import HealthTable
from greenproxy.listener.sockets import ListenerSockets
from greenproxy.master import folders, privileges
from greenproxy.master.pidfile import PidFile
from greenproxy.master.plan import Kind, Seat
from greenproxy.master.privileges import Identity
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment
from greenproxy.shm.ticket import new_ticket_counter
from greenproxy.telemetry import logs
from greenproxy.telemetry.sink import open_sink


@dataclass(frozen=True, slots=True)
class Estate:
    """The master's property; children inherit parts of it."""

    config: Config  # with the servers of hosted apps filled in
    identity: Identity | None  # whom children become
    listeners: ListenerSockets
    admin: ListenerSockets  # the admin server's one socket; empty when there is none
    run_dir: str
    segment: Segment
    tickets: dict[str, int]
    lifeline: tuple[int, int]  # a pipe; the master alone holds the write end, so EOF means that it died

    @classmethod
    def open(cls, config: Config, undo: ExitStack) -> Estate:
        """Make everything; `undo` gets what takes it down again. Raises StartError."""
        identity = privileges.identity_of(config.server.user)
        open_logs(config.log, identity)
        listeners = ListenerSockets.bind(config.listeners, config.server.workers)
        undo.callback(listeners.close)
        admin = ListenerSockets.bind(_admin_listeners(config), 1)
        undo.callback(admin.close)
        if config.server.pid_file:
            pid_file = PidFile(config.server.pid_file)
            pid_file.take()
            undo.callback(pid_file.release)
        if config.server.state_dir:
            folders.make_state_dir(config.server.state_dir, identity)
        run_dir = folders.make_run_dir(identity)
        undo.callback(folders.remove_run_dir, run_dir)
        config = with_hosted_servers(config, run_dir)
        segment = _make_segment(config)
        tickets = {name: new_ticket_counter() for name in config.upstreams}
        return cls(config, identity, listeners, admin, run_dir, segment, tickets, os.pipe2(os.O_CLOEXEC))

    @property
    def admin_socket(self) -> socket.socket | None:
        """What the admin process accepts from; None when there is none."""
        return next((sock for _, sock in self.admin.of_slot(0)), None)

    def close_for(self, seat: Seat) -> None:
        """In a child: close what is not its own. A spare keeps every slot's listeners, for it may get any."""
        os.close(self.lifeline[1])
        if seat.kind is Kind.WORKER:
            self.listeners.close_all_but(seat.index)
        elif seat.kind is not Kind.SPARE:
            self.listeners.close_in_child()
            for counter in self.tickets.values():
                os.close(counter)
        if seat.kind is not Kind.ADMIN:
            self.admin.close_in_child()


def open_logs(log: Log, identity: Identity | None) -> None:
    """Open the master's log, and make all log files, owned by the user who will open them. Raises StartError."""
    try:
        give_log_files(log, identity)
        logs.configure(log, "master")
    except OSError as exc:
        raise StartError(f"cannot open the log {exc.filename}: {exc.strerror}") from exc


def give_log_files(log: Log, identity: Identity | None) -> None:
    """Make log files that are missing, and give them to the children's user. Raises OSError."""
    for path in logs.files_of(log):
        open_sink(path).close()
        privileges.give(path, identity)


def _admin_listeners(config: Config) -> list[Listener]:
    """The admin server as a listener. Bound here, so that an address in use is told before anything starts."""
    return [Listener.model_validate({"address": str(config.admin.address)})] if config.admin else []


def _make_segment(config: Config) -> Segment:
    segment = Segment.create()
    segment.cells[shm.H_CONFIG_GENERATION] = 1
    table = HealthTable(segment)
    try:
        for name, upstream in config.upstreams.items():
            for server in upstream.servers:
                table.add(name, str(server.address), server.weight)
    except ValueError as exc:
        raise StartError(f"upstreams: {exc}") from exc
    return segment
