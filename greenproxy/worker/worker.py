"""A worker: boots, says ready, serves the listeners of its slot, drains and leaves.

A spare is a worker that has booted and waits on its control pipe to be told a slot.

Owns:       the life of the process: heartbeat, signals, drain, the end.
Leaves to:  chain/build.py (what happens to a request), listener/server.py (connections), master (restarts).
Called by:  master/spawn.py, in the forked child.
Invariant:  imported in the forked child only: the first import patches, and no hub may exist in the master.
            `ready` is said when connections are accepted (a spare: could be).

    TERM, or the master has died    drain: no new connections, those in flight get graceful_timeout
    INT, QUIT                       leave at once
    USR1                            reopen the logs
"""

from __future__ import annotations

import greenproxy.worker.patched  # noqa: F401  # first of all: see there

# isort: split
import gc
import logging
import os
import signal
import time

import gevent
from gevent.event import Event
from gevent.socket import wait_read

from greenproxy.chain.build import build_application
from greenproxy.errors import GreenproxyError, WorkerBootError
from greenproxy.health.table import HealthTable
from greenproxy.listener.server import Server
from greenproxy.master.heritage import READY, Heritage
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import ProcessState
from greenproxy.telemetry import logs
from greenproxy.telemetry.accesslog import AccessLog

HEARTBEAT_S = 1.0
GC_THRESHOLD = 20_000  # allocations between looks for cycles; Python's 700 costs 3 % of throughput
_DRAIN_POLL_S = 0.02


def run(heritage: Heritage) -> None:
    """Be a worker until told to leave.

    Raises WorkerBootError when it cannot serve.
    """
    Worker(heritage).run()


class Worker:
    """One worker process."""

    def __init__(self, heritage: Heritage) -> None:
        self._heritage = heritage
        self._settings = heritage.config.server
        self._servers: list[Server] = []
        self._told = Event()  # something happened that ends the wait: a slot, a signal, the master's death
        self._slot = heritage.slot
        self._leaving = self._at_once = False
        self._cells = heritage.segment.cells
        self._base = heritage.segment.process_base(heritage.column)
        self._pulse = gevent.get_hub().loop.timer(0, HEARTBEAT_S)

    def run(self) -> None:
        """Boot, serve, drain."""
        self._boot()
        if self._slot is None:
            self._await_slot()
        if self._slot is not None and not self._leaving:
            self._serve(self._slot)
            self._wait_until_told()
            self._drain()
        self._access_log.close()

    def _boot(self) -> None:
        """Do all that takes time, so that a spare serves within milliseconds."""
        heritage = self._heritage
        self._set(shm.P_STATE, ProcessState.BOOTING)
        self._set(shm.P_GENERATION, self._cells[shm.H_CONFIG_GENERATION])
        self._set(shm.P_PID, os.getpid())
        try:
            self._access_log = AccessLog(heritage.config.log.access)
            table = HealthTable(heritage.segment)
            self._application = build_application(heritage.config, table, heritage.column, heritage.tickets)
        except (GreenproxyError, OSError) as exc:
            raise WorkerBootError(f"the worker cannot start: {exc}") from exc
        self._listen_to_signals()
        self._pulse.start(self._beat)
        # What was made so far lives as long as the process; an exchange makes hardly any cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)

    def _listen_to_signals(self) -> None:
        gevent.signal_handler(signal.SIGTERM, self._leave)
        gevent.signal_handler(signal.SIGINT, self._leave, at_once=True)
        gevent.signal_handler(signal.SIGQUIT, self._leave, at_once=True)
        gevent.signal_handler(signal.SIGUSR1, self._reopen_logs)
        gevent.spawn(self._notice_master_death)

    def _set(self, cell: int, value: int) -> None:
        self._cells[self._base + cell] = value

    def _beat(self) -> None:
        self._set(shm.P_HEARTBEAT_NS, time.monotonic_ns())
        self._set(shm.P_IN_FLIGHT, sum(server.in_flight for server in self._servers))
        self._set(shm.P_LOG_DROPS, self._access_log.dropped)

    def _serve(self, slot: int) -> None:
        self._set(shm.P_SLOT, slot + 1)
        heritage = self._heritage
        for listener, sock in heritage.listeners.of_slot(slot):
            server = Server(
                sock,
                listener,
                self._application,
                self._settings,
                self._access_log,
                heritage.segment,
                heritage.column,
            )
            server.start()
            self._servers.append(server)
        self._set(shm.P_STATE, ProcessState.READY)
        os.write(heritage.ready_fd, READY)

    def _await_slot(self) -> None:
        """Wait, booted, until a worker dies and its slot becomes ours."""
        waiter = gevent.spawn(self._read_slot)
        self._set(shm.P_STATE, ProcessState.SPARE)
        os.write(self._heritage.ready_fd, READY)
        self._wait_until_told()
        waiter.kill()
        self._told.clear()
        if self._slot is not None:
            self._heritage.listeners.close_all_but(self._slot)

    def _read_slot(self) -> None:
        control = self._heritage.control_fd
        assert control is not None  # every spare has one
        wait_read(control)
        line = os.read(control, 16)
        if line:  # EOF: the master has died, which the lifeline tells too
            self._slot = int(line)
            self._told.set()

    def _wait_until_told(self) -> None:
        if not self._leaving:
            self._told.wait()

    def _notice_master_death(self) -> None:
        wait_read(self._heritage.parent_fd)  # nobody ever writes: readable means EOF
        self._leave()

    def _leave(self, at_once: bool = False) -> None:
        self._leaving = True
        self._at_once = self._at_once or at_once
        self._told.set()

    def _drain(self) -> None:
        """Stop accepting, and wait for what is in flight; a second, quick order cuts the wait."""
        self._set(shm.P_STATE, ProcessState.DRAINING)
        for server in self._servers:
            server.drain()
        deadline = time.monotonic() + self._settings.graceful_timeout
        while not self._at_once and time.monotonic() < deadline:
            if not any(server.connection_count for server in self._servers):
                break
            gevent.sleep(_DRAIN_POLL_S)
        for server in self._servers:
            server.stop()

    def _reopen_logs(self) -> None:
        try:
            logs.reopen()
            self._access_log.reopen()
        except OSError as exc:
            logs.log_event(logging.ERROR, "reopen_failed", f"cannot reopen the log {exc.filename}: {exc.strerror}")
