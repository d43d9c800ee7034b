"""The checker process: probes the servers, watches how live requests fare, and writes the table's rows.

Owns:       the state of every server after the start, and one log line a flip.
Leaves to:  health/state.py (what a flip is), health/prober.py (one probe), the workers (counting
            failures in their columns), master (starting it again when it dies).
Invariant:  the only writer of rows. All it knows is in the table, so a checker that is started again
            goes on where the last one was; while there is none, traffic runs on the last known states.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import gevent
from gevent.event import Event
from gevent.pool import Group

from greenproxy.balancing.snapshot import State
from greenproxy.config.address import Address
from greenproxy.config.schema import Config
from greenproxy.config.upstreams import HealthCheck
from greenproxy.health import state
from greenproxy.health.prober import Verdict, probe
from greenproxy.health.table import HealthTable
from greenproxy.master.heritage import Heritage
from greenproxy.worker.helper import serve_until_told

POLL_S = 0.05
FIRST_PROBE_S = 1.0  # a server's first probe comes within this time: nobody knows yet whether it is there
JITTER = 0.1  # of the interval, to both sides: probes of many servers and proxies must not march in step
LEVELS = {State.UP: logging.INFO, State.DRAINING: logging.INFO}

log = logging.getLogger("greenproxy.health")

Prober = Callable[[Address, HealthCheck], Verdict]
Spread = Callable[[float, float], float]  # a number between two


@dataclass(slots=True)
class CheckedServer:
    """One server of one upstream, and the event that asks for a probe out of turn."""

    row: int
    upstream: str
    address: Address
    check: HealthCheck | None
    wanted: Event = field(default_factory=Event)

    @property
    def settings(self) -> state.Settings:
        """What health/state.py has to know of the configuration."""
        if self.check is None:
            return state.Settings()
        return state.Settings(True, self.check.rise, self.check.fall)


class Checker:
    """All servers of a configuration, each with its greenlet, and one that polls the workers' columns."""

    def __init__(
        self, config: Config, table: HealthTable, prober: Prober = probe, spread: Spread = random.uniform
    ) -> None:
        self._table = table
        self._prober = prober
        self._spread = spread
        self._servers = {server.row: server for server in _servers_of(config, table)}
        self._greenlets = Group()

    def start(self) -> None:
        """Begin to probe and to poll, from what the table holds."""
        for server in self._servers.values():
            self._tick(server, time.monotonic_ns())
        self._greenlets.spawn(self._poll_for_ever)
        for server in self._servers.values():
            if server.check is not None:
                self._greenlets.spawn(self._probe_for_ever, server, server.check)

    def stop(self) -> None:
        """Stop at once; a probe under way is given up."""
        self._greenlets.kill()

    def server(self, row: int) -> CheckedServer:
        """The server of a row. Raises KeyError."""
        return self._servers[row]

    def poll(self, now_ns: int) -> None:
        """Read the live failures that are new, and let ejections end."""
        for row in self._table.rows_with_new_failures():
            failures = self._table.take_failures(row)
            if (server := self._servers.get(row)) is not None:
                self._failed_live(server, failures, now_ns)
        for row in self._table.rows_due(now_ns):
            if (server := self._servers.get(row)) is not None:
                self._tick(server, now_ns)

    def _tick(self, server: CheckedServer, now_ns: int) -> None:
        record = self._table.record(server.row)
        self._save(server, record, state.tick(record, now_ns, server.settings))

    def _failed_live(self, server: CheckedServer, failures: state.Failures, now_ns: int) -> None:
        record = self._table.record(server.row)
        if record.state is State.UP:
            server.wanted.set()
        self._save(server, record, state.observe_failures(record, failures, now_ns, server.settings))

    def _poll_for_ever(self) -> None:
        while True:
            gevent.sleep(POLL_S)
            _logging_errors(self.poll, time.monotonic_ns())

    def _probe_for_ever(self, server: CheckedServer, check: HealthCheck) -> None:
        wait = self._spread(0, min(JITTER * check.interval, FIRST_PROBE_S))
        while True:
            server.wanted.wait(wait)
            server.wanted.clear()
            _logging_errors(self.probe_once, server, check)
            wait = check.interval * self._spread(1 - JITTER, 1 + JITTER)

    def probe_once(self, server: CheckedServer, check: HealthCheck) -> None:
        """Probe a server and take the verdict into account."""
        verdict = self._prober(server.address, check)
        self._table.count_probe(server.row, verdict.good)
        # Read after the probe: live failures may have changed the record meanwhile.
        record = self._table.record(server.row)
        self._save(server, record, state.observe_probe(record, verdict.good, verdict.reason, server.settings))

    def _save(self, server: CheckedServer, before: state.Record, after: state.Record) -> None:
        if after == before:
            return
        self._table.save(server.row, after)
        if after.state is not before.state:
            _log_flip(server, before.state, after)


def run(heritage: Heritage) -> None:
    """Be the checker until told to leave. The sockets are gevent's own, so nothing is monkey patched."""
    checker = Checker(heritage.config, HealthTable(heritage.segment))
    checker.start()
    serve_until_told(heritage)
    checker.stop()


def _servers_of(config: Config, table: HealthTable) -> list[CheckedServer]:
    return [
        CheckedServer(table.row(name, str(server.address)), name, server.address, upstream.health_check)
        for name, upstream in config.upstreams.items()
        for server in upstream.servers
    ]


def _logging_errors(step: Callable[..., None], *args: object) -> None:
    """Take a step. One server that trips over a bug of ours must not end the checking of the others."""
    try:
        step(*args)
    except Exception:
        log.exception("the checker stumbled", extra={"event": "checker_error"})


def _log_flip(server: CheckedServer, before: State, after: state.Record) -> None:
    address = str(server.address)
    log.log(
        LEVELS.get(after.state, logging.WARNING),
        "%s of upstream %s is %s: %s",
        address,
        server.upstream,
        after.state.name.lower(),
        after.reason,
        extra={
            "event": "server_state",
            "upstream": server.upstream,
            "server": address,
            "from": before.name.lower(),
            "to": after.state.name.lower(),
            "reason": after.reason,
        },
    )
