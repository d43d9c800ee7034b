"""What the admin API says: the shared memory and the configuration, as plain dicts.

Owns:       the names and units of the JSON's fields.
Leaves to:  admin/app.py (routes, access, HTTP), health/table.py (what a cell means).
Invariant:  reads only; the rows are the checker's, the columns the workers'.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from greenproxy import __version__
from greenproxy.config.schema import Config
from greenproxy.config.upstreams import Upstream
from greenproxy.health.table import HealthTable
from greenproxy.shm import segment as shm
from greenproxy.shm.segment import ProcessState, Segment

# Column 0 holds the counters of workers that are gone.
FIRST_COLUMN = 1

Json = dict[str, Any]


def is_ready(segment: Segment) -> bool:
    """Is there a worker that accepts connections?"""
    return any(_process(segment, column)[shm.P_STATE] == ProcessState.READY for column in _worker_columns(segment))


def status(segment: Segment, now_ns: int, now_monotonic_ns: int) -> Json:
    """The proxy as a whole, and its workers by slot. Times: seconds; `now_ns` is the wall clock."""
    workers = [_worker(segment, column, now_monotonic_ns) for column in _worker_columns(segment)]
    started_ns = segment.cells[shm.H_STARTED_NS]
    return {
        "version": __version__,
        "master_pid": segment.cells[shm.H_MASTER_PID],
        "started": _iso(started_ns // 1_000_000),
        "uptime_s": round((now_ns - started_ns) / 1e9, 3),
        "generation": segment.cells[shm.H_CONFIG_GENERATION],
        "requests": segment.cells[Segment.process_base(0) + shm.P_REQUESTS]
        + sum(worker["requests"] for worker in workers),
        "workers": sorted(workers, key=_by_slot),
    }


def upstreams(config: Config, table: HealthTable) -> Json:
    """Every upstream with its servers, in the configuration's order."""
    return {"upstreams": [_upstream(name, upstream, table) for name, upstream in config.upstreams.items()]}


def _worker_columns(segment: Segment) -> list[int]:
    return [
        column
        for column in segment.live_columns()
        if column >= FIRST_COLUMN and _process(segment, column)[shm.P_STATE] != ProcessState.NONE
    ]


def _process(segment: Segment, column: int) -> list[int]:
    base = Segment.process_base(column)
    return segment.cells[base : base + shm.PROCESS_CELLS].tolist()


def _worker(segment: Segment, column: int, now_monotonic_ns: int) -> Json:
    cells = _process(segment, column)
    return {
        "pid": cells[shm.P_PID],
        "slot": cells[shm.P_SLOT] - 1 if cells[shm.P_SLOT] else None,
        "state": ProcessState(cells[shm.P_STATE]).name.lower(),
        "generation": cells[shm.P_GENERATION],
        "connections": cells[shm.P_CONNECTIONS],
        "requests": cells[shm.P_REQUESTS],
        "in_flight": cells[shm.P_IN_FLIGHT],
        "log_drops": cells[shm.P_LOG_DROPS],
        "heartbeat_age_s": round(max(0, now_monotonic_ns - cells[shm.P_HEARTBEAT_NS]) / 1e9, 3),
    }


def _by_slot(worker: Json) -> tuple[bool, int, int]:
    slot = worker["slot"]
    return slot is None, slot or 0, worker["pid"]  # a spare has no slot, and comes last


def _upstream(name: str, upstream: Upstream, table: HealthTable) -> Json:
    return {
        "name": name,
        "balance": upstream.balance,
        "health_check": upstream.health_check is not None,
        "servers": [_server(name, str(server.address), table) for server in upstream.servers],
    }


def _server(upstream: str, address: str, table: HealthTable) -> Json:
    row = table.row(upstream, address)
    totals = table.totals(row)
    good, bad = table.probes(row)
    return {
        "address": address,
        "state": table.state(row).name.lower(),
        "reason": table.reason(row),
        "since": _iso(table.changed_ms(row)),
        "weight": table.weight(row),
        "in_flight": totals.in_flight,
        "requests": totals.requests,
        "failures": {"connect": totals.connect_failed, "no_answer": totals.failed},
        "responses_5xx": totals.responses_5xx,
        "mean_latency_ms": round(totals.time_us / totals.requests / 1000, 3) if totals.requests else None,
        "probes": {"good": good, "bad": bad},
    }


def _iso(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
