"""The rules of a fork, in one place: what a child must do before it is itself.

    signals blocked -> fork -> child: handlers and wakeup descriptor reset, what is not its own
    closed, random re-seeded, faulthandler on, signals unblocked -> its work -> flush -> os._exit

Owns:       the order of these steps, exit codes of a child, its last words.
Leaves to:  the caller: which descriptors are not the child's own, and the work.
Invariant:  a child never returns into the master's code, and never runs its `finally` or atexit hooks.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from greenproxy.errors import WorkerBootError
from greenproxy.master import signals

UNEXPECTED_EXIT_CODE = 1
CANNOT_EXEC_EXIT_CODE = 127  # as a shell says it


def fork_child(work: Callable[[], None], forget: Callable[[], None], words_fd: int) -> int:
    """Fork a child that does `work` and exits; return its pid.

    `forget` closes what belongs to the master and to siblings. What the child has to say at its end
    (a failed boot, a traceback, faulthandler's report) goes to `words_fd`.

    Raises OSError when the machine has no process to give.
    """
    with signals.blocked() as mask:
        pid = os.fork()
        if pid == 0:
            _live(work, forget, words_fd, mask)
    return pid


def fork_program(
    command: Sequence[str], environment: dict[str, str], output: tuple[int, int], become: Callable[[], None]
) -> int:
    """Fork and exec a program in its own process group; return its pid.

    `output` becomes its stdout and stderr. Every other descriptor that is not marked inheritable is
    closed by exec. `become` runs last before exec: it drops rights. Raises OSError as fork_child does.
    """
    with signals.blocked() as mask:
        pid = os.fork()
        if pid == 0:
            _exec(command, environment, output, become, mask)
    try:
        os.setpgid(pid, pid)  # by both sides, so that neither can be too late
    except OSError:
        pass  # it has exec'ed, so it has done so itself
    return pid


def _live(work: Callable[[], None], forget: Callable[[], None], words_fd: int, mask: set[int]) -> NoReturn:
    code = UNEXPECTED_EXIT_CODE
    try:
        signals.forget_in_child()
        faulthandler.enable(words_fd)
        forget()
        random.seed()  # CPython does so too, but does not promise it
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work()
        code = 0
    except WorkerBootError as exc:
        code = WorkerBootError.EXIT_CODE
        _say(words_fd, exc.detail)
    except BaseException:  # whatever it is, a child must not unwind into the master's frames
        _say(words_fd, traceback.format_exc())
    finally:
        _flush()
        os._exit(code)


def _exec(
    command: Sequence[str],
    environment: dict[str, str],
    output: tuple[int, int],
    become: Callable[[], None],
    mask: set[int],
) -> NoReturn:
    try:
        signals.forget_in_child(before_exec=True)
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        # Sources first to numbers above 2: one of them may itself be 0, 1 or 2.
        sources = [_above_standard(fd) for fd in (null, *output)]
        for target, source in enumerate(sources):
            os.dup2(source, target)
        become()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(command[0], list(command), environment)
    except BaseException as exc:
        _say(2, f"cannot run {command[0]}: {exc}")
    finally:
        os._exit(CANNOT_EXEC_EXIT_CODE)


def _above_standard(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _say(fd: int, words: str) -> None:
    try:
        # The tail: the last lines of a traceback say what happened. A pipe takes 64 KB without a reader.
        os.write(fd, words.encode(errors="backslashreplace")[-32768:])
    except OSError:
        pass  # the master has gone; nobody is left to tell


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed or broken: this process ends in any case
