"""What the samples mean: medians, ratios, the targets and the Markdown page.

Pure: takes samples, returns text and verdicts.

Owns:       the targets of the project and how they are judged.
Leaves to:  load.py (where the samples come from).
Called by:  __main__.py, once at the end.
Invariant:  a target that was not measured, or was measured with errors, is not met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.bench.load import Sample

OURS, NGINX, NODE, ORIGIN = "greenproxy", "nginx", "Node http-proxy", "origin"
ORDER = (ORIGIN, NGINX, NODE, OURS)
IDLE_LIMIT_KB = 20.0
RECOVERY_LIMIT_MS = 300


@dataclass
class Numbers:
    """All that was measured of one contender."""

    keep_alive: list[Sample] = field(default_factory=list)  # requests per second
    close: list[Sample] = field(default_factory=list)  # requests per second
    loadtest: list[Sample] = field(default_factory=list)  # mean latency, ms
    idle_bytes: float | None = None  # resident memory of an idle keep-alive connection
    startup_s: float | None = None
    varied: list[Sample] = field(default_factory=list)  # requests per second, no two heads alike
    recovery_s: list[float] = field(default_factory=list)  # a killed worker: until the next answer


@dataclass(frozen=True)
class Verdict:
    """One target: what was asked, what was found, and whether that is enough."""

    target: str
    found: str
    met: bool


def judge(numbers: Mapping[str, Numbers]) -> list[Verdict]:
    """Judge the targets; a contender that is missing leaves its targets unmet."""
    ours, nginx, node = (numbers.get(name, Numbers()) for name in (OURS, NGINX, NODE))
    return [
        _at_least("keep-alive: 0.25 × nginx", ours.keep_alive, nginx.keep_alive, 0.25),
        _at_least("keep-alive: 1.6 × Node http-proxy", ours.keep_alive, node.keep_alive, 1.6),
        _at_least("new connection per request: Node's rate", ours.close, node.close, 1.0),
        _no_errors("loadtest: 0 errors", ours.loadtest),
        _at_most("loadtest: mean latency no higher than Node's", ours.loadtest, node.loadtest),
        _idle(ours.idle_bytes),
        _recovery(ours.recovery_s),
    ]


def markdown(numbers: Mapping[str, Numbers], verdicts: Sequence[Verdict], setting: str) -> str:
    """Return the page: the setting, what was measured, and the targets."""
    names = [name for name in ORDER if name in numbers]
    rows = [
        _row("keep-alive, req/s", names, numbers, lambda each: _cell(each.keep_alive, "{:,.0f}")),
        _row("× nginx", names, numbers, lambda each: _ratio(each.keep_alive, numbers.get(NGINX, Numbers()).keep_alive)),
        _row("× Node", names, numbers, lambda each: _ratio(each.keep_alive, numbers.get(NODE, Numbers()).keep_alive)),
        _row("keep-alive, heads all differ, req/s", names, numbers, lambda each: _cell(each.varied, "{:,.0f}")),
        _row("× nginx", names, numbers, lambda each: _ratio(each.varied, numbers.get(NGINX, Numbers()).varied)),
        _row("Connection: close, req/s", names, numbers, lambda each: _cell(each.close, "{:,.0f}")),
        _row("× Node", names, numbers, lambda each: _ratio(each.close, numbers.get(NODE, Numbers()).close)),
        _row("loadtest, mean ms", names, numbers, lambda each: _cell(each.loadtest, "{:,.0f}")),
        _row("idle connection, KB", names, numbers, lambda each: _number(each.idle_bytes, 1024, "{:.1f}")),
        _row("start, s", names, numbers, lambda each: _number(each.startup_s, 1, "{:.2f}")),
    ]
    lines = [
        setting,
        "",
        "| | " + " | ".join(_title(name) for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    lines += [*rows, "", "| target | found | |", "| --- | --- | --- |"]
    lines += [f"| {each.target} | {each.found} | {'met' if each.met else '**missed**'} |" for each in verdicts]
    return "\n".join(lines) + "\n"


def middle(samples: Sequence[Sample]) -> float | None:
    """Return the median of the samples; None if there are none."""
    return median(each.value for each in samples) if samples else None


def errors(samples: Sequence[Sample]) -> int:
    """Return how many requests failed in all samples."""
    return sum(each.errors for each in samples)


def _at_least(target: str, ours: Sequence[Sample], theirs: Sequence[Sample], factor: float) -> Verdict:
    value, reference = middle(ours), middle(theirs)
    if value is None or not reference:
        return Verdict(target, "not measured", False)
    failed = errors(ours)
    found = f"{value / reference:.2f} ×" + (f", {failed} failed requests" if failed else "")
    return Verdict(target, found, value >= factor * reference and not failed)


def _at_most(target: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Verdict:
    value, reference = middle(ours), middle(theirs)
    if value is None or reference is None:
        return Verdict(target, "not measured", False)
    return Verdict(target, f"{value:.0f} ms, Node {reference:.0f} ms", value <= reference)


def _no_errors(target: str, ours: Sequence[Sample]) -> Verdict:
    if not ours:
        return Verdict(target, "not measured", False)
    return Verdict(target, f"{errors(ours)} in {len(ours)} runs", errors(ours) == 0)


def _idle(found: float | None) -> Verdict:
    target = f"idle keep-alive connection: at most {IDLE_LIMIT_KB:.0f} KB"
    if found is None:
        return Verdict(target, "not measured", False)
    return Verdict(target, f"{found / 1024:.1f} KB", found <= IDLE_LIMIT_KB * 1024)


def _recovery(found: Sequence[float]) -> Verdict:
    target = f"SIGKILLed worker: a new one serves within {RECOVERY_LIMIT_MS} ms"
    if not found:
        return Verdict(target, "not measured", False)
    worst = max(found) * 1000
    return Verdict(target, f"worst of {len(found)}: {worst:.0f} ms", worst <= RECOVERY_LIMIT_MS)


def _title(name: str) -> str:
    return "origin, direct" if name == ORIGIN else name


def _row(title: str, names: Sequence[str], numbers: Mapping[str, Numbers], cell: Callable[[Numbers], str]) -> str:
    return f"| {title} | " + " | ".join(cell(numbers[name]) for name in names) + " |"


def _cell(samples: Sequence[Sample], form: str) -> str:
    value = middle(samples)
    if value is None:
        return "-"
    spread = [form.format(pick(each.value for each in samples)) for pick in (min, max)]
    failed = errors(samples)
    return form.format(value) + f" ({spread[0]}-{spread[1]})" + (f", **{failed} errors**" if failed else "")


def _ratio(samples: Sequence[Sample], reference: Sequence[Sample]) -> str:
    value, base = middle(samples), middle(reference)
    return "-" if value is None or not base else f"{value / base:.2f}"


def _number(value: float | None, divisor: float, form: str) -> str:
    return "-" if value is None else form.format(value / divisor)
