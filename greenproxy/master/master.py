"""The master: one loop that asks plan.py what to do, does it, and waits for signals and children.

Owns:       the processes, from fork to reaping, and the exit code of the program.
Leaves to:  plan.py (decisions), spawn.py (starting a child), estate.py (listeners, memory, folders).
Called by:  cli.py.
Invariant:  imports neither gevent nor anything that a client's bytes go through; never blocks but in
            its select; nothing a child does ends it, save a child that cannot start at all.

    TERM          graceful stop; a second one is quick
    INT, QUIT     quick stop
    USR1          reopen log files, in every process
    HUP, USR2, TTIN, TTOU   not available yet: logged, and without effect

As PID 1 it reaps orphans too; they are nobody's seat and leave no trace.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from signal import Signals

from greenproxy.config.schema import Config
from greenproxy.errors import WorkerBootError
from greenproxy.master import plan, privileges
from greenproxy.master.apps import Output
from greenproxy.master.children import Child, Children
from greenproxy.master.estate import Estate, give_log_files
from greenproxy.master.plan import Ask, Failures, Finish, GiveSlot, Goal, Kind, SayReady, Seat, Situation, Spawn, Stop
from greenproxy.master.signals import SignalQueue
from greenproxy.master.spawn import Nursery
from greenproxy.telemetry import logs
from greenproxy.telemetry.logs import log_event

INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR

# The master looks round at least once a second. A longer gap means that it was itself suspended.
_SUSPENDED_AFTER_S = 3.0


class Master:
    """A run of the program."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rules = plan.Rules(config.server.graceful_timeout, config.server.watchdog)
        self._born = self._last_round = self._awake_since = time.monotonic()
        self._goal = Goal.RUN
        self._started = self._finished = False
        self._cannot_start = ""
        self._failures: dict[str, Failures] = {}
        self._reopened = 0.0
        self._signals = SignalQueue()
        # poll, not epoll: an epoll instance would be shared with every forked child.
        self._selector = selectors.PollSelector()

    def run(self) -> None:
        """Serve until told to stop.

        Raises StartError when the machine does not let us, WorkerBootError when a child cannot start.
        """
        with ExitStack() as undo:
            self._signals.install()
            self._selector.register(self._signals, selectors.EVENT_READ, _wake)
            self._estate = Estate.open(self._config, undo)
            self._children = Children(self._estate.segment)
            self._nursery = Nursery(self._estate, self._children, self._signals.close)
            self._seats = _seats(self._estate.config)
            self._say_starting()
            while not self._finished:
                self._round()
        log_event(INFO, "stopped", "stopped", ran_s=round(time.monotonic() - self._born, 3))
        if self._cannot_start:
            raise WorkerBootError(self._cannot_start)

    def _round(self) -> None:
        now = time.monotonic()
        if now - self._last_round > _SUSPENDED_AFTER_S:
            self._awake_since = now
        self._last_round = now
        situation = self._situation()
        for action in plan.decide(situation, self._rules, now):
            self._do(action, now)
        if self._finished:
            return
        for key, _ in self._selector.select(plan.patience(situation)):
            key.data()
        # Signals before deaths: at a ^C the children die of the same signal, and that is no accident.
        for number in self._signals.take():
            self._hear(number)
        self._reap()

    def _situation(self) -> Situation:
        views = tuple(child.view(self._estate.segment) for child in self._children)
        return Situation(self._goal, self._started, self._seats, views, self._failures, self._awake_since)

    # Actions

    def _do(self, action: plan.Action, now: float) -> None:
        match action:
            case Spawn(seat):
                self._spawn(seat, now)
            case GiveSlot(pid, seat):
                self._give_slot(self._children[pid], seat)
            case Ask(pid, verb, why):
                self._ask(self._children[pid], verb, why, now)
            case SayReady():
                self._say_ready()
            case Stop(why):
                self._cannot_start = why
                log_event(ERROR, "cannot_start", why)
                self._head_for(Goal.QUICK, "a child cannot start")
            case Finish():
                self._finished = True

    def _spawn(self, seat: Seat, now: float) -> None:
        try:
            child = self._nursery.spawn(seat, now)
        except OSError as exc:  # no process, descriptor or memory to be had at the moment
            why = f"cannot start {seat}: {exc.strerror}"
            self._failures[seat.group] = self._failed_start(seat, why, now)
            log_event(ERROR, "spawn_failed", why)
            return
        self._children.add(child)
        self._watch(child.ready_fd, partial(self._on_ready, child))
        for output in child.outputs:
            self._watch(output.fd, partial(self._on_output, output))
        log_event(logging.DEBUG, "spawned", f"{seat} was forked", **_who(child))

    def _failed_start(self, seat: Seat, why: str, now: float) -> Failures:
        unborn = plan.ChildView(0, seat, now)
        failures = plan.after_death(unborn, self._failures.get(seat.group), why, now)
        assert failures is not None  # it was never ready
        return failures

    def _give_slot(self, spare: Child, seat: Seat) -> None:
        spare.take_slot(seat)
        log_event(INFO, "worker_replaced", f"the spare takes the place of {seat}", **_who(spare))

    def _ask(self, child: Child, verb: plan.Verb, why: str, now: float) -> None:
        if why:
            fields = {"verb": verb.value, "reason": why, **_who(child)}
            log_event(ERROR, "child_killed", f"{verb.value} {child.seat}: {why}", **fields)
        child.ask(verb, now)

    def _head_for(self, goal: Goal, why: str) -> None:
        if self._goal is not goal:
            self._goal = goal
            log_event(INFO, "stopping", f"{goal.value}: {why}", graceful=goal is Goal.GRACEFUL)

    # Events

    def _on_ready(self, child: Child) -> None:
        """A child says ready; a spare says so a second time, when it serves the slot it was given."""
        try:
            said = os.read(child.ready_fd, 16)
        except BlockingIOError:
            return
        if not said:
            self._unwatch(child.ready_fd)
            return
        child.ready = True
        if child.seat.group == "worker":
            self._failures.pop("worker", None)
        if child.started < self._reopened and child.seat.kind is not Kind.APP:
            child.tell(signal.SIGUSR1)
        took = round(time.monotonic() - child.waited_since, 3)
        log_event(INFO, f"{child.seat.kind.value}_ready", f"{child.seat} is ready", took_s=took, **_who(child))

    def _on_output(self, output: Output) -> None:
        if output.read() == 0:
            self._unwatch(output.fd)

    def _hear(self, number: Signals) -> None:
        match number:
            case Signals.SIGTERM:
                self._head_for(Goal.GRACEFUL if self._goal is Goal.RUN else Goal.QUICK, number.name)
            case Signals.SIGINT | Signals.SIGQUIT:
                self._head_for(Goal.QUICK, number.name)
            case Signals.SIGUSR1:
                self._reopen_logs()
            case Signals.SIGCHLD:
                pass  # every round reaps
            case _:
                log_event(WARNING, "signal_ignored", f"{number.name} is not available yet", signal=number.name)

    def _reopen_logs(self) -> None:
        """Make the files ours first: children may not be able to make them in a folder of root."""
        self._reopened = time.monotonic()
        try:
            give_log_files(self._config.log, self._estate.identity)
            logs.reopen()
        except OSError as exc:
            log_event(ERROR, "reopen_failed", f"cannot reopen the log {exc.filename}: {exc.strerror}")
        for child in self._children:
            if child.seat.kind is not Kind.APP:
                child.tell(signal.SIGUSR1)
        log_event(INFO, "logs_reopened", "log files were reopened")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is not None:
                self._bury(child, os.waitstatus_to_exitcode(status))

    def _bury(self, child: Child, code: int) -> None:
        now = time.monotonic()
        if child.ready_fd in self._selector.get_map():
            self._on_ready(child)  # it may have said so just before it died
        words = child.last_words()
        for fd in (child.ready_fd, *(output.fd for output in child.outputs)):
            self._unwatch(fd)
        self._children.remove(child)
        self._say_died(child, code, words, now)
        if self._goal is Goal.RUN:
            why = f"{child.seat} {_ending(code)}{'' if child.ready else ' before it was ready'}"
            failures = plan.after_death(
                child.view(self._estate.segment),
                self._failures.get(child.seat.group),
                f"{why}\n{words}" if words else why,
                now,
            )
            if failures is None:
                self._failures.pop(child.seat.group, None)
            else:
                self._failures[child.seat.group] = failures

    # What is said

    def _say_starting(self) -> None:
        log_event(INFO, "starting", "starting", workers=self._config.server.workers)
        settings = self._config.server
        have, needed = privileges.raise_open_files(settings.limits.max_connections)
        if have < needed:
            log_event(
                WARNING,
                "open_files_low",
                f"the limit of {have} open files is too low for server.limits.max_connections, which may take {needed}",
                limit=have,
                needed=needed,
            )

    def _say_ready(self) -> None:
        self._started = True
        took = round(time.monotonic() - self._born, 3)
        addresses = self._estate.listeners.addresses
        admin = next(iter(self._estate.admin.addresses), None)
        fields = {"listeners": addresses, "admin": admin, "workers": self._config.server.workers, "took_s": took}
        log_event(INFO, "ready", f"ready on {', '.join(addresses)}", **fields)

    def _say_died(self, child: Child, code: int, words: str, now: float) -> None:
        expected = self._goal is not Goal.RUN and not (child.asked.keys() & {plan.Verb.KILL, plan.Verb.ABORT})
        fields: dict[str, object] = {"lived_s": round(now - child.started, 3), **_who(child)}
        fields["signal" if code < 0 else "exit"] = _signal_name(-code) if code < 0 else code
        if words and child.seat.kind is not Kind.APP:
            fields["traceback"] = words
        kind = "worker" if child.seat.group == "worker" else child.seat.kind.value
        log_event(
            INFO if expected else ERROR,
            f"{kind}_{'stopped' if expected else 'died'}",
            f"{child.seat} {_ending(code)}",
            **fields,
        )

    # Descriptors

    def _watch(self, fd: int, react: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, react)

    def _unwatch(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)


def _seats(config: Config) -> tuple[Seat, ...]:
    """All seats, in start order."""
    apps = [
        Seat(Kind.APP, index, name)
        for name, upstream in config.upstreams.items()
        if upstream.wsgi is not None
        for index in range(upstream.wsgi.processes)
    ]
    helpers = [Seat(Kind.CHECKER), *([Seat(Kind.ADMIN)] if config.admin is not None else [])]
    workers = [Seat(Kind.WORKER, slot) for slot in range(config.server.workers)]
    return (*apps, *helpers, *workers, Seat(Kind.SPARE))


def _who(child: Child) -> dict[str, object]:
    """Fields of a record that name a child."""
    match child.seat.kind:
        case Kind.WORKER:
            return {"worker": child.pid, "slot": child.seat.index}
        case Kind.APP:
            return {"child": child.pid, "upstream": child.seat.upstream, "index": child.seat.index}
        case _:
            return {"child": child.pid}


def _ending(code: int) -> str:
    return f"was ended by {_signal_name(-code)}" if code < 0 else f"exited with {code}"


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"  # real-time signals have no name


def _wake() -> None:
    """The signal pipe ended the select; SignalQueue.take empties it."""
