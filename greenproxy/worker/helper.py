"""The life of a helper process, checker or admin: ready, at work, and gone when told.

Owns:       signals of such a process, its ready byte, the master's death seen from here.
Leaves to:  worker/checker.py and admin/app.py (the work), worker/worker.py (a worker's life, which drains).
Invariant:  a helper holds no traffic, so it leaves at once.
"""

from __future__ import annotations

import logging
import os
import signal

import gevent
from gevent import socket
from gevent.event import Event

from greenproxy.master.heritage import READY, Heritage
from greenproxy.telemetry import logs

_log = logging.getLogger("greenproxy.lifecycle")


def serve_until_told(heritage: Heritage) -> None:
    """Say ready, and let the greenlets work until TERM, INT or QUIT comes or the master dies."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        gevent.signal_handler(number, stop.set)
    gevent.signal_handler(signal.SIGUSR1, _reopen_logs)
    gevent.spawn(_set_at_eof, heritage.parent_fd, stop)
    os.write(heritage.ready_fd, READY)
    stop.wait()


def _set_at_eof(parent_fd: int, stop: Event) -> None:
    socket.wait_read(parent_fd)  # nobody ever writes there: readable means that the master has died
    stop.set()


def _reopen_logs() -> None:
    try:
        logs.reopen()
    except OSError as error:
        _log.error("cannot reopen the log: %s", error, extra={"event": "reopen_failed"})
