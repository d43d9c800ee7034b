"""Measure greenproxy against nginx and Node http-proxy on this machine: `make bench`, or `make bench QUICK=1`.

Every contender proxies the same nginx origin, pinned to one core; the origin and the load share another. The rounds are
interleaved between the contenders, so that a slow minute of the machine hits all of them, and medians are compared.

Owns:       the order of a run and its exit code: 0 all targets met, 1 one missed, 2 something could not be measured.
Leaves to:  tools.py, contenders.py, load.py, report.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import Contender, Stage, StartError
from tests.bench.load import LOADTEST_CLIENTS, LOADTEST_REQUESTS, Sample, idle_connection_bytes, run_loadtest, run_wrk
from tests.bench.recovery import recovery_seconds
from tests.bench.report import NODE, OURS, Numbers, judge, markdown
from tests.bench.tools import HERE, find_tools

RESULT = HERE / "results" / "latest.md"


KILLS = 5


@dataclass(frozen=True)
class Plan:
    """How long a run takes."""

    rounds: int
    seconds: int
    connections: int
    idle_connections: int


FULL = Plan(rounds=3, seconds=8, connections=50, idle_connections=2000)
BUSY_LOAD = 0.8  # load average from which something else takes a good part of a core
QUICK = Plan(rounds=2, seconds=2, connections=50, idle_connections=500)


def main() -> int:
    """Run the bench; print the page and write it to results/latest.md."""
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    tools = find_tools()
    for line in tools.missing():
        print(f"not measured, for it is missing: {line}", file=sys.stderr)
    if tools.wrk is None or tools.nginx is None:
        return 2
    busy = os.getloadavg()[0]
    _allow_many_files()
    signal.signal(signal.SIGTERM, _leave)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="greenproxy-bench-") as folder:
        Path(folder).chmod(0o755)  # nginx started by root writes its log as another user
        stage = Stage(tools, Path(folder), proxy_core=cores[0], load_core=cores[-1])
        numbers = _measure(stage, plan)
    verdicts = judge(numbers)
    page = markdown(numbers, verdicts, _setting(plan, cores) + _caution(cores, busy))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(page, encoding="utf-8")
    print("\n" + page)
    if any(each.found == "not measured" for each in verdicts):
        return 2
    return 0 if all(each.met for each in verdicts) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.sh bench", description="Measure greenproxy against nginx and Node.")
    parser.add_argument("--quick", action="store_true", help="a run of about a minute, with more noise")
    return parser.parse_args()


def _allow_many_files() -> None:
    """Raise the soft limit of open files, which the contenders inherit: an idle connection is a file on both sides."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _leave(number: int, frame: types.FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds, and so stops the contenders


def _measure(stage: Stage, plan: Plan) -> dict[str, Numbers]:
    with ExitStack() as running:
        contenders = _start_all(stage, running)
        numbers = {each.name: Numbers(startup_s=each.startup_s) for each in contenders}
        # First, while each is fresh: later the connections would live in memory that the load has left behind.
        for each in contenders:
            print(f"{each.name}: {plan.idle_connections} idle connections", file=sys.stderr)
            numbers[each.name].idle_bytes = idle_connection_bytes(each, plan.idle_connections)
        for number in range(1, plan.rounds + 1):
            for each in contenders:
                _load(stage, plan, each, numbers[each.name], f"round {number} of {plan.rounds}, {each.name}")
        for each in contenders:
            if each.name == OURS:
                print(f"{OURS}: {KILLS} workers killed", file=sys.stderr)
                numbers[OURS].recovery_s = recovery_seconds(each, stage.room(OURS) / "error.log", KILLS)
    return numbers


def _load(stage: Stage, plan: Plan, contender: Contender, numbers: Numbers, title: str) -> None:
    def wrk(manner: str) -> Sample:
        return _say(f"{title}, {manner}, req/s", run_wrk(stage, contender, plan.connections, plan.seconds, manner))

    numbers.keep_alive.append(wrk("keep"))
    numbers.varied.append(wrk("vary"))
    numbers.close.append(wrk("close"))
    if stage.tools.node_modules:
        numbers.loadtest.append(_say(f"{title}, loadtest, ms", run_loadtest(stage, contender)))


def _start_all(stage: Stage, running: ExitStack) -> list[Contender]:
    origin = stage.origin()
    running.callback(origin.stop)
    makers: dict[str, Callable[[Contender], Contender]] = {
        "nginx": stage.nginx,
        NODE: stage.node,
        OURS: stage.greenproxy,
    }
    if stage.tools.node_modules is None:
        del makers[NODE]
    contenders = [origin]
    for make in makers.values():
        try:
            contender = make(origin)
        except StartError as error:
            print(f"not measured: {error}", file=sys.stderr)
            continue
        running.callback(contender.stop)
        contenders.append(contender)
    return contenders


def _say(title: str, sample: Sample) -> Sample:
    print(f"{title}: {sample.value:,.0f}" + (f" ({sample.errors} errors)" if sample.errors else ""), file=sys.stderr)
    return sample


def _setting(plan: Plan, cores: Sequence[int]) -> str:
    return (
        f"`make bench`: {plan.rounds} interleaved rounds of {plan.seconds} s, wrk with {plan.connections} connections "
        f"and ten browser headers, nginx as the origin, JSON access log on in nginx and greenproxy, each proxy on one "
        f"core, load and origin on another; `loadtest -n {LOADTEST_REQUESTS} -c {LOADTEST_CLIENTS}`; "
        f"{plan.idle_connections} idle connections. Medians, and in parentheses the lowest and highest round. "
        f"{platform.machine()}, Python {platform.python_version()}."
    )


def _caution(cores: Sequence[int], busy: float) -> str:
    cautions = []
    if len(cores) < 2:
        cautions.append("proxy, load and origin shared one core")
    if busy > BUSY_LOAD:
        cautions.append(f"the machine was busy before the run (load average {busy:.1f})")
    return f" **Trust the numbers little: {', and '.join(cautions)}.**" if cautions else ""


if __name__ == "__main__":
    sys.exit(main())
