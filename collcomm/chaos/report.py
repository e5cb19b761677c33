"""What a run has shown: detection and recovery by kind of fault, goodput, pauses, memory. Values first, then tables."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ..bench.measure import format_seconds, machine, quantile
from .record import Progress, Record
from .runner import Applied, Run
from .schedule import KINDS

ATTRIBUTABLE_SECONDS = 20.0  # a view change later than that has another cause
HEALED_SECONDS = 1.0  # after its end, a passing fault makes no view change any more
REMOVING = frozenset({"kill", "stop", "partition", "cut"})  # the view change to look for lacks the victim
UNNOTICED = frozenset({"slow", "coordinator"})  # work goes on without a new view


def summarise(run: Run, baseline: float | None = None) -> dict[str, Any]:
    """Everything as plain values; times in seconds. ``baseline``: the goodput of a run without faults."""
    output = goodput(run.records, run.began, run.ended) if run.began else 0.0
    faults = [_effect(applied, run.records) for applied in run.applied]
    joins = [record.joined - record.started for record in run.records if record.joined]
    return {
        "machine": machine(),
        "seconds": run.ended - run.began if run.began else 0.0,
        "peers_started": len(run.records),
        "kinds": {kind: _of_kind(kind, faults, run) for kind in KINDS if _has(kind, run)},
        "goodput": output,
        "baseline": baseline,
        "share": output / baseline if baseline else None,
        "joining": _quantiles(joins),
        "longest_pause": max(
            (step.gap for record in run.records for step in record.progress if run.began < step.time <= run.ended),
            default=0.0,
        ),
        "operations": sum(record.progress[-1].operations for record in run.records if record.progress),
        "views": max((view.epoch for record in run.records for view in record.views), default=0),
        "growth": run.resources.growth(),
        "faults": faults,
        "evicted": list(run.evicted),
        "failures": list(run.failures),
    }


def goodput(records: Iterable[Record], began: float, ended: float) -> float:
    """Steps times group size, per second: every step of every peer counts as one."""
    done = sum(_steps_at(record, ended) - _steps_at(record, began) for record in records)
    return done / max(ended - began, 1e-9)


def _steps_at(record: Record, moment: float) -> float:
    """Steps completed by then, interpolated between lines of progress."""
    progress = record.progress
    after = bisect.bisect_right(progress, moment, key=lambda entry: entry.time)
    if after == 0:
        return 0.0
    before = progress[after - 1]
    if after == len(progress):
        return float(before.steps)
    following = progress[after]
    share = (moment - before.time) / max(following.time - before.time, 1e-9)
    return before.steps + share * (following.steps - before.steps)


def _effect(applied: Applied, records: Sequence[Record]) -> dict[str, Any]:
    """``detection``: from the fault to the first survivor that froze for a new view (a slow link needs none), for a
    coordinator from its restart to the first view that it makes; ``recovery``: from the fault to the last survivor's first
    completed operation after that, or after the fault where no view changes."""
    found: dict[str, Any] = {
        **asdict(applied.fault), "began": applied.began, "peer": applied.peer, "detection": None, "recovery": None
    }  # fmt: skip
    survivors = [record for record in records if _survives(record, applied)]
    if applied.fault.kind == "spawn":
        joined = [record for record in records if record.name == applied.peer and record.joined]
        if joined and joined[0].progress:
            found["recovery"] = joined[0].progress[0].time - applied.began
        return found
    named = applied.fault.kind not in REMOVING or applied.member is not None  # else it had not joined yet
    seen = [change for record in survivors if (change := _change(record, applied)) is not None]
    if seen and named and applied.fault.kind not in UNNOTICED:
        found["detection"] = min(halted for halted, _ in seen) - applied.began
        found["recovery"] = max(first for _, first in seen) - applied.began
    else:
        if applied.fault.kind == "coordinator":
            found["detection"] = _taken_over(survivors, applied)
        waits = [wait for record in survivors if (wait := _next_completion(record, applied.began)) is not None]
        found["recovery"] = max(waits, default=None)
    return found


def _survives(record: Record, applied: Applied) -> bool:
    return record.name != applied.peer and 0 < record.joined <= applied.began and record.last_sign > applied.began


def _change(record: Record, applied: Applied) -> tuple[float, float] | None:
    """(when this peer froze, when it completed an operation again) for the view change that answers the fault."""
    lasting = applied.fault.kind == "kill" or not applied.fault.seconds
    limit = applied.began + ATTRIBUTABLE_SECONDS if lasting else applied.ended + HEALED_SECONDS
    for view in record.views:
        if view.halted is None or not applied.began <= view.halted <= limit:
            continue
        if applied.fault.kind in REMOVING and applied.member in view.members:
            continue
        # a view may be followed by another before anything completes in it
        firsts = [at for epoch, at in record.firsts.items() if epoch >= view.epoch]
        return (view.halted, min(firsts)) if firsts else None
    return None


def _taken_over(survivors: Sequence[Record], applied: Applied) -> float | None:
    changes = [view.halted for record in survivors for view in record.views if view.halted is not None]
    later = [at - applied.ended for at in changes if 0 <= at - applied.ended <= ATTRIBUTABLE_SECONDS]
    return min(later, default=None)


def _next_completion(record: Record, moment: float) -> float | None:
    """Seconds from ``moment`` to the next completed operation, as far as lines of progress tell."""
    after = bisect.bisect_left(record.progress, moment, key=lambda entry: entry.time)
    if after == len(record.progress):
        return None
    entry: Progress = record.progress[after]
    if entry.gap_end - entry.gap <= moment <= entry.gap_end:
        return entry.gap_end - moment
    return min(entry.time - moment, entry.gap)


def _has(kind: str, run: Run) -> bool:
    return any(fault.kind == kind for fault in [*run.skipped, *(applied.fault for applied in run.applied)])


def _of_kind(kind: str, faults: Sequence[dict[str, Any]], run: Run) -> dict[str, Any]:
    mine = [fault for fault in faults if fault["kind"] == kind]
    return {
        "count": len(mine),
        "skipped": sum(fault.kind == kind for fault in run.skipped),
        "detection": _quantiles(fault["detection"] for fault in mine),
        "recovery": _quantiles(fault["recovery"] for fault in mine),
    }


def _quantiles(times: Iterable[float | None]) -> dict[str, float] | None:
    known = [time for time in times if time is not None]
    if not known:
        return None
    return {"p50": quantile(known, 0.5), "p99": quantile(known, 0.99), "max": max(known), "count": len(known)}


# -- tables -------------------------------------------------------------------------------------------------------------


def print_summary(summary: dict[str, Any]) -> None:
    """On a terminal as tables, if rich is there, otherwise as plain lines."""
    header = ["fault", "times", "skipped", "noticed p50", "p99", "recovered p50", "p99"]
    rows = [
        [kind, str(each["count"]), str(each["skipped"]), *_cells(each["detection"]), *_cells(each["recovery"])]
        for kind, each in summary["kinds"].items()
    ]
    _table("collcomm chaos", header, rows)
    for name, value in _facts(summary).items():
        print(f"{name:>16}  {value}")
    grown = [
        [
            name,
            f"{each['seconds']:.0f} s",
            f"{each['rss_early'] / 2**20:.1f} -> {each['rss_late'] / 2**20:.1f} MiB",
            f"{each['descriptors_early']:.0f} -> {each['descriptors_late']:.0f}",
        ]
        for name, each in sorted(summary["growth"].items(), key=lambda item: -item[1]["seconds"])[:5]
    ]
    if grown:
        _table("the oldest processes", ["process", "watched for", "memory", "descriptors"], grown)
    for failure in summary["failures"]:
        print(f"\nFAILED: {failure}")


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    facts = {
        "run": f"{summary['seconds']:.1f} s, {summary['operations']} operations, {summary['views']} views, "
        f"{summary['peers_started']} processes",
        "goodput": f"{summary['goodput']:.2f} steps x peers per second",
        "longest pause": format_seconds(summary["longest_pause"]),
    }
    if summary["share"] is not None:
        facts["goodput"] += f", {summary['share'] * 100:.1f}% of the {summary['baseline']:.2f} of a run without faults"
    if summary["joining"]:
        facts["joined after"] = "p50 {}, p99 {} from the start of the process".format(*_cells(summary["joining"]))
    return facts


def _cells(times: dict[str, float] | None) -> list[str]:
    return ["-", "-"] if times is None else [format_seconds(times["p50"]), format_seconds(times["p99"])]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title)
        for row in [header, *rows]:
            print("  ".join(cell.rjust(14) for cell in row))
        return
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
