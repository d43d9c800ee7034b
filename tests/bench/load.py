"""The load: wrk, the npm tool loadtest, and idle connections, each against one contender.

Owns:       how load is made and how the tools' output is read.
Leaves to:  report.py (what the numbers mean).
Called by:  __main__.py.
Invariant:  a run with refused, failed or non-2xx requests never passes as a rate: errors travel with it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.contenders import Contender, Stage
from tests.bench.tools import HERE

LOADTEST_REQUESTS = 1000
LOADTEST_CLIENTS = 200


@dataclass(frozen=True)
class Sample:
    """What one run of a tool found: a rate (requests per second) or a mean latency (ms), and failed requests."""

    value: float
    errors: int


def run_wrk(stage: Stage, contender: Contender, connections: int, seconds: int, manner: str) -> Sample:
    """Load the contender with wrk; `manner` is keep, vary or close, as browser.lua explains them."""
    command = [str(stage.tools.wrk), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "browser.lua")]
    command += [contender.url, "--", manner]
    return parse_wrk(_output(stage, command, seconds + 30))


def run_loadtest(stage: Stage, contender: Contender) -> Sample:
    """Run `loadtest -n 1000 -c 200`, as the paper did."""
    script = f"{stage.tools.node_modules}/loadtest/bin/loadtest.js"
    command = [str(stage.tools.node), script, "-n", str(LOADTEST_REQUESTS), "-c", str(LOADTEST_CLIENTS)]
    # One core is left for the load, so the tool's own default of several processes would only be in its way.
    return parse_loadtest(_output(stage, [*command, "--cores", "1", contender.url], 60))


def parse_wrk(text: str) -> Sample:
    """Read the rate and every kind of error from wrk's summary."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.MULTILINE)
    if rate is None:
        raise ValueError(f"wrk printed no rate:\n{text}")
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = sum(map(int, sockets.groups())) if sockets else 0
    return Sample(float(rate[1]), errors + (int(statuses[1]) if statuses else 0))


def parse_loadtest(text: str) -> Sample:
    """Read the mean latency (ms) and the errors; requests that were never completed count as errors."""
    found = {
        key: re.search(rf"^{key}:\s+([\d.]+)", text, re.MULTILINE)
        for key in ("Completed requests", "Total errors", "Mean latency")
    }
    values = {key: float(match[1]) for key, match in found.items() if match}
    if len(values) != len(found):
        raise ValueError(f"loadtest printed no result:\n{text}")
    unfinished = max(0, LOADTEST_REQUESTS - int(values["Completed requests"]))
    return Sample(values["Mean latency"], int(values["Total errors"]) + unfinished)


def idle_connection_bytes(contender: Contender, count: int) -> float:
    """Return what one idle keep-alive connection costs: the growth of resident memory over `count` of them."""
    with ExitStack() as warm_up:
        _open_idle(warm_up, contender.port, 100)
    before = contender.rss_bytes()
    with ExitStack() as connections:
        _open_idle(connections, contender.port, count)
        return (contender.rss_bytes() - before) / count


def _open_idle(stack: ExitStack, port: int, count: int) -> None:
    for _ in range(count):
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
        _read_response(sock)


def _read_response(sock: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _receive(sock)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if length:
        missing = int(length[1]) - len(body)
        while missing > 0:
            missing -= len(_receive(sock))
        return
    while not body.endswith(b"0\r\n\r\n"):
        body += _receive(sock)


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("an idle connection was closed during its first response")
    return data


def _output(stage: Stage, command: Sequence[str], timeout_s: float) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {stage.load_core}),
    )
    return done.stdout + done.stderr
