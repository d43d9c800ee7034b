"""Start a child: its pipes, its heritage, its entry.

Owns:       the pipes between the master and a child, and which end belongs to whom.
Leaves to:  fork.py (the rules of a fork), apps.py (the command of a hosted app), worker/ and admin/ (the work).
Called by:  master.py.
Invariant:  a start that fails leaves no descriptor and no column behind.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from greenproxy.master import apps, fork, privileges
from greenproxy.master.children import Child, Children
from greenproxy.master.estate import Estate
from greenproxy.master.heritage import Heritage
from greenproxy.master.plan import Kind, Seat
from greenproxy.shm import segment as shm
from greenproxy.telemetry import logs

# A worker needs a second; on a machine that swaps it may need many.
BOOT_LIMIT_S = 60.0


class Nursery:
    """Where children come from."""

    def __init__(self, estate: Estate, children: Children, close_signals: Callable[[], None]) -> None:
        self._estate = estate
        self._children = children
        self._close_signals = close_signals

    def spawn(self, seat: Seat, now: float) -> Child:
        """Start a child for a seat. Raises OSError."""
        with ExitStack() as on_error, ExitStack() as childs_ends:
            pipes = _Pipes(on_error, childs_ends)
            child = self._spawn_app(seat, now, pipes) if seat.kind is Kind.APP else self._spawn_own(seat, now, pipes)
            on_error.pop_all()
            return child

    def _spawn_app(self, seat: Seat, now: float, pipes: _Pipes) -> Child:
        app = self._estate.config.upstreams[seat.upstream].wsgi
        assert app is not None  # _seats makes app seats of hosted upstreams only
        ready, ready_end = pipes.to_us()
        stdout, stdout_end = pipes.to_us()
        stderr, stderr_end = pipes.to_us()
        kept: deque[str] = deque(maxlen=apps.KEPT_LINES)
        outputs = [apps.Output(stdout, seat, "stdout", kept), apps.Output(stderr, seat, "stderr", kept)]
        parent = self._estate.lifeline[0]

        def become() -> None:
            for fd in (ready_end, parent):
                os.set_inheritable(fd, True)
            privileges.become(self._estate.identity)

        command = apps.command(app, seat, self._estate.run_dir, ready_end, parent)
        pid = fork.fork_program(command, apps.environment(app, os.environ), (stdout_end, stderr_end), become)
        for output in outputs:
            output.pid = pid
        return Child(pid, seat, now, app.start_timeout, ready, outputs=tuple(outputs), kept_lines=kept)

    def _spawn_own(self, seat: Seat, now: float, pipes: _Pipes) -> Child:
        ready, ready_end = pipes.to_us()
        words, words_end = pipes.to_us()
        control_end, control = pipes.from_us() if seat.kind is Kind.SPARE else (None, None)
        column = self._take_column(pipes.on_error) if seat.group == "worker" else 0
        estate = self._estate
        heritage = Heritage(
            config=estate.config,
            segment=estate.segment,
            run_dir=estate.run_dir,
            tickets=estate.tickets,
            listeners=estate.listeners,
            ready_fd=ready_end,
            parent_fd=estate.lifeline[0],
            admin_socket=estate.admin_socket,
            column=column,
            slot=seat.index if seat.kind is Kind.WORKER else None,
            control_fd=control_end,
        )
        ours = [fd for fd in (ready, words, control) if fd is not None]

        def forget() -> None:
            self._children.forget()
            self._close_signals()
            for fd in ours:
                os.close(fd)
            estate.close_for(seat)

        pid = fork.fork_child(lambda: self._live(seat.kind, heritage), forget, words_end)
        return Child(pid, seat, now, BOOT_LIMIT_S, ready, column=column, control_fd=control, words_fd=words)

    def _take_column(self, on_error: ExitStack) -> int:
        column = self._children.take_column()
        on_error.callback(self._children.give_back_column, column)
        # A child that says ready is watched from then on: it starts with a heartbeat.
        base = self._estate.segment.process_base(column)
        self._estate.segment.cells[base + shm.P_HEARTBEAT_NS] = time.monotonic_ns()
        return column

    def _live(self, kind: Kind, heritage: Heritage) -> None:
        """Be the child. Everything that brings gevent is imported here, after the fork."""
        run = _entry(kind)
        privileges.become(self._estate.identity)
        logs.become(kind.value)
        logs.capture_stderr()
        signal.signal(signal.SIGUSR1, lambda number, frame: _reopen_logs())
        run(heritage)


class _Pipes:
    """Pipes of one child: our ends are closed if the start fails, the child's ends in any case."""

    def __init__(self, on_error: ExitStack, childs_ends: ExitStack) -> None:
        self.on_error = on_error
        self._childs_ends = childs_ends

    def to_us(self) -> tuple[int, int]:
        """Make a pipe the child writes to; return (our end, never blocking; its end)."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self._own(ours, theirs)
        os.set_blocking(ours, False)
        return ours, theirs

    def from_us(self) -> tuple[int, int]:
        """Make a pipe the child reads from; return (its end, our end)."""
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        self._own(ours, theirs)
        return theirs, ours

    def _own(self, ours: int, theirs: int) -> None:
        self.on_error.callback(os.close, ours)
        self._childs_ends.callback(os.close, theirs)


def _entry(kind: Kind) -> Callable[[Heritage], None]:
    """Import what the child runs, before rights are dropped: our modules may lie where its user must not look."""
    match kind:
        case Kind.CHECKER:
            from greenproxy.worker.checker import run
        case Kind.ADMIN:
            from greenproxy.admin.app import run
        case _:
            from greenproxy.worker.worker import run
    # These are otherwise imported at their first use.
    import encodings.idna  # noqa: F401

    import gevent

    hub = gevent.get_hub()
    _ = hub.resolver_class, hub.threadpool_class
    return run


def _reopen_logs() -> None:
    with suppress(OSError):  # the old file goes on; the master has logged why
        logs.reopen()
