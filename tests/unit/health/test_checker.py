"""The checker over a real table: a fake prober, a fake clock, and failures written as a worker writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from greenproxy.balancing.snapshot import State
from greenproxy.config.upstreams import Upstream
from greenproxy.health.prober import Verdict
from greenproxy.health.state import SECOND_NS
from greenproxy.health.table import HealthTable
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import Segment
from greenproxy.worker.checker import Checker

PROBED, UNPROBED = "127.0.0.1:8001", "127.0.0.1:8002"
WORKER_COLUMN = 3


class World:
    """A configuration with a probed and an unprobed upstream, their table, and a prober under control."""

    def __init__(self) -> None:
        check = {"path": "/", "interval": "1h", "rise": 2, "fall": 2}
        self.config: Any = SimpleNamespace(
            upstreams={
                "probed": Upstream.model_validate({"servers": [{"address": PROBED}], "health_check": check}),
                "unprobed": Upstream.model_validate({"servers": [{"address": UNPROBED}]}),
            }
        )
        self.segment = Segment.create()
        self.segment.cells[self.segment.process_base(WORKER_COLUMN) + shm.P_PID] = 4711
        self.table = HealthTable(self.segment)
        self.probed = self.table.add("probed", PROBED, 1)
        self.unprobed = self.table.add("unprobed", UNPROBED, 1)
        self.verdict = Verdict(True, "status 200")
        self.probes = 0
        self.checker = self.new_checker()

    def new_checker(self) -> Checker:
        return Checker(self.config, HealthTable(self.segment), self._probe, spread=max)

    def _probe(self, *_: object) -> Verdict:
        self.probes += 1
        return self.verdict

    def fail(self, row: int, at_ns: int, connect: int = 0, unanswered: int = 0) -> None:
        base = self.segment.cell_base(WORKER_COLUMN, row)
        self.segment.cells[base + shm.C_CONNECT_FAILED] += connect
        self.segment.cells[base + shm.C_FAILED] += unanswered
        self.segment.cells[base + shm.C_LAST_FAILED_NS] = at_ns

    def probe(self, good: bool) -> None:
        self.verdict = Verdict(good, "status 200" if good else "status 500")
        server = self.checker.server(self.probed)
        assert server.check is not None
        self.checker.probe_once(server, server.check)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.checker.stop()


def test_probes_take_a_server_out_and_in_again(world: World) -> None:
    states = []
    for good in (False, False, True, True):
        world.probe(good)
        states.append(world.table.state(world.probed))
    assert states == [State.UP, State.DOWN, State.DOWN, State.UP]
    assert world.table.probes(world.probed) == (2, 2)


def test_flip_is_logged_once_with_its_reason(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "greenproxy.health"):
        for _ in range(4):
            world.probe(False)
    [record] = caplog.records
    fields = {name: vars(record)[name] for name in ("event", "upstream", "server", "from", "to", "reason")}
    assert fields == {
        "event": "server_state",
        "upstream": "probed",
        "server": PROBED,
        "from": "up",
        "to": "down",
        "reason": "probes fail: status 500",
    }
    assert record.levelno == logging.WARNING


def test_failed_live_connect_takes_a_probed_server_down_at_once(world: World) -> None:
    world.fail(world.probed, at_ns=1, connect=1)
    world.checker.poll(2)
    assert world.table.state(world.probed) is State.DOWN
    assert world.table.reason(world.probed) == "live requests: 1 failed to connect"


def test_unanswered_requests_and_bad_probes_add_up_to_fall(world: World) -> None:
    world.probe(False)
    world.fail(world.probed, at_ns=1, unanswered=1)
    world.checker.poll(2)
    assert world.table.state(world.probed) is State.DOWN


def test_live_failure_asks_for_a_probe_out_of_turn(world: World) -> None:
    world.checker.start()
    world.fail(world.probed, at_ns=1, unanswered=1)
    world.checker.poll(2)
    server = world.checker.server(world.probed)
    assert server.wanted.is_set()
    gevent.sleep(0)  # the next turn is a second away: only the wish can bring a probe now
    gevent.sleep(0)
    assert world.probes == 1


def test_unprobed_server_is_ejected_and_comes_back(world: World) -> None:
    world.fail(world.unprobed, at_ns=1, connect=1)
    world.checker.poll(SECOND_NS)
    assert world.table.state(world.unprobed) is State.EJECTED
    world.checker.poll(2 * SECOND_NS - 1)
    assert world.table.state(world.unprobed) is State.EJECTED
    world.checker.poll(2 * SECOND_NS)
    assert world.table.state(world.unprobed) is State.UP


def test_failures_at_one_server_leave_the_other_alone(world: World) -> None:
    world.fail(world.unprobed, at_ns=1, connect=1)
    world.checker.poll(2)
    assert world.table.state(world.probed) is State.UP


def test_restarted_checker_goes_on_where_the_last_one_was(world: World) -> None:
    world.probe(False)
    world.fail(world.unprobed, at_ns=1, connect=1)
    world.checker.poll(SECOND_NS)
    world.checker = world.new_checker()
    world.probe(False)
    assert world.table.state(world.probed) is State.DOWN
    world.checker.poll(SECOND_NS + 1)
    assert world.table.record(world.unprobed).ejections == 1
    world.checker.poll(2 * SECOND_NS)
    assert world.table.state(world.unprobed) is State.UP


def test_server_left_down_by_a_removed_health_check_comes_up_at_start(world: World) -> None:
    world.table.set_state(world.unprobed, State.DOWN, "probes")
    world.checker.start()
    assert world.table.state(world.unprobed) is State.UP


def test_bug_in_one_probe_ends_no_checking(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.verdict = None  # type: ignore[assignment]
    world.checker.start()
    server = world.checker.server(world.probed)
    for probes in (1, 2):
        server.wanted.set()
        gevent.sleep(0)
        gevent.sleep(0)
        assert world.probes == probes
    assert {record.message for record in caplog.records} == {"the checker stumbled"}
