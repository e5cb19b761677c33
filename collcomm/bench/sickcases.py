"""`collcomm bench health`: faults put into a running group, one at a time, and what its coordinator says of them."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from ..laboratory import Laboratory, asymmetric_ring
from .report import print_table
from .sickward import HOSTS, RATE, Row, Ward

NBYTES = 1 << 20
COMPUTE_SECONDS = 0.04  # of processor time in each round
SMALL_NBYTES = 128 << 10  # where operations are counted
WARM_SECONDS = 25.0
FIND_SECONDS = 30.0
LEFT_SECONDS = 4.0  # by then, traffic that a new plan has just led elsewhere does not show any more
MORE_SECONDS = 3.0  # for what else is said of a fault
REST_SECONDS = 12.0  # after a fault, for findings to end
WELL_SECONDS = 120.0  # that of a link that came and went ends a minute later
CLEAN_ROUNDS = 1000
CHANGED_ROUNDS = 200  # after a join, and after a leave
PACE_SECONDS = 20.0
MOST_SECONDS = 900.0  # for so many rounds


class Fault(NamedTuple):
    """How to make it, and what is to be said: ``hosts`` in the order in which they are to be named, if that is ``ordered``."""

    make: AbstractContextManager[None]
    syndrome: str
    culprit: str
    hosts: list[int]
    ordered: bool = True


def faults(ward: Ward, chance: random.Random) -> dict[str, Fault]:
    """By name, each somewhere where nothing is found just now, which is waited for."""
    deadline = time.monotonic() + WELL_SECONDS
    while not (links := [link for link in ward.carrying() if set(link) <= set(ward.unsuspected())]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"of each link something is still said after {WELL_SECONDS:.0f} s")
        time.sleep(0.5)
    host = chance.choice(ward.unsuspected())
    source, target = chance.choice(links)
    pair, others = [source, target], [one for one in range(HOSTS) if one != host]
    return {
        "stopped before launch": Fault(ward.ordered(f"stall-{host}"), "non-communication hang", "rank", [host]),
        "blackholed link": Fault(ward.cut((source, target)), "communication hang", "link", pair, False),
        "link at a tenth": Fault(ward.slowed([(source, target)]), "communication slow", "link", pair),
        "slow egress": Fault(ward.slowed([(host, o) for o in others]), "communication slow", "sender", [host]),
        "slow ingress": Fault(ward.slowed([(o, host) for o in others]), "communication slow", "receiver", [host]),
        "starved of processor": Fault(ward.starved(host), "non-communication slow", "rank", [host]),
        "flapping link": Fault(ward.flapping((source, target)), "communication hang", "link", pair, False),
        "bit flip": Fault(ward.ordered(f"flip-{host}"), "corruption", "rank", [host]),
    }


def bench_health(rounds: int = 3, only: tuple[str, ...] = (), seed: int = 1) -> list[Row]:
    """A thousand operations without a fault, a join and a leave, and as many with uneven work; then each fault so many times in
    a row, in one running group. ``only``: names of faults, and nothing else."""
    chance = random.Random(seed)
    rates = [[RATE] * HOSTS for _ in range(HOSTS)]
    rows: list[Row] = []
    with asymmetric_ring(rates) as lab:
        if not only:
            rows += [*_clean(lab), _uneven(lab)]
        rows += _sick(lab, rounds, only, chance)
        if not only:
            rows += [_set_aside(lab, name) for name in ("starved of processor", "slow egress")]
    return rows


def _clean(lab: Laboratory) -> list[Row]:
    with tempfile.TemporaryDirectory() as orders, Ward(lab, orders, SMALL_NBYTES) as ward:
        clean = _said("none", ward, CLEAN_ROUNDS)
        ward.join([HOSTS])
        joined = _said("none, after a join", ward, CHANGED_ROUNDS)
        ward.leave(HOSTS)
        return [clean, joined, _said("none, after a leave", ward, CHANGED_ROUNDS)]


def _uneven(lab: Laboratory) -> Row:
    with tempfile.TemporaryDirectory() as orders, Ward(lab, orders, SMALL_NBYTES, uneven=True) as ward:
        return _said("none, uneven work", ward, CLEAN_ROUNDS)


def _said(name: str, ward: Ward, rounds: int) -> Row:
    """All findings within so many rounds. Raises TimeoutError when these take too long."""
    until, deadline = ward.round + rounds, time.monotonic() + MOST_SECONDS
    found: list[Row] = []
    while ward.round < until:
        found += ward.rest(1.0)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: {rounds} rounds have taken more than {MOST_SECONDS:.0f} s")
    said = [f"{one['syndrome']}: {one['culprit']} {one['members']}, {one['evidence']}" for one in found]
    return {"fault": name, "runs": rounds, "false": len(found), "said": said}


def _sick(lab: Laboratory, rounds: int, only: tuple[str, ...], chance: random.Random) -> list[Row]:
    with tempfile.TemporaryDirectory() as orders, Ward(lab, orders, NBYTES, compute=COMPUTE_SECONDS) as ward:
        ward.rest(WARM_SECONDS)
        return [_repeat(ward, name, rounds, chance) for name in only or tuple(faults(ward, chance))]


def _set_aside(lab: Laboratory, name: str) -> Row:
    """Seconds per round without the last peer; with it, sick; and after the coordinator has set it aside."""
    last = HOSTS - 1
    with tempfile.TemporaryDirectory() as orders, Ward(lab, orders, NBYTES, compute=COMPUTE_SECONDS, size=last) as ward:
        ward.rest(WARM_SECONDS)
        without = ward.seconds_per_round(PACE_SECONDS)
    with (
        tempfile.TemporaryDirectory() as orders,
        Ward(lab, orders, NBYTES, compute=COMPUTE_SECONDS, slow="evict") as ward,
    ):
        ward.rest(WARM_SECONDS)
        ward.peers.excuse(last)
        links = [(last, other) for other in range(last)]
        with ward.starved(last) if name == "starved of processor" else ward.slowed(links):
            began = time.monotonic()
            gone = ward.wait(lambda event: event["event"] == "members" and event["number"] == last, FIND_SECONDS)
            seconds = time.monotonic() - began
            ward.rest(REST_SECONDS)
            after = ward.seconds_per_round(PACE_SECONDS)
    row = {"fault": f"{name}, set aside", "runs": 1, "exact": int(gone is not None), "seconds": seconds}
    return {**row, "without": without, "after": after, "said": [f"{after / without:.2f} x the round without it"]}


def _repeat(ward: Ward, name: str, rounds: int, chance: random.Random) -> Row:
    """``seconds``, ``operations``: from the fault to what is said first. ``more``: findings besides that, of the same faults.
    ``unused``: runs more in which nothing was said of a link that the traffic had left as soon as it was slow."""
    exact, more, unused = 0, 0, 0
    seconds: list[float] = []
    operations: list[int] = []
    wrong: list[Any] = []
    while exact + len(wrong) < rounds and unused <= rounds:
        fault = faults(ward, chance)[name]
        members = [ward.members[host] for host in fault.hosts]
        ward.rest(0.1)
        began, round_ = time.monotonic(), ward.round
        with fault.make:
            found = ward.wait(lambda event: event["event"] == "finding", LEFT_SECONDS)
            left = found is None and name == "link at a tenth" and tuple(fault.hosts) not in ward.carrying()
            found = found or ward.wait(lambda event: event["event"] == "finding", FIND_SECONDS - LEFT_SECONDS)
            if found is not None and _is(found, fault, members):
                exact += 1
                seconds.append(found["at"] - began)
                operations.append(ward.round - round_)
            elif found is None and left:
                unused += 1
            else:
                said = None if found is None else (found["syndrome"], found["culprit"], found["members"])
                wrong.append(f"{said} for {members}")
            more += len(ward.rest(MORE_SECONDS))
        more += len(ward.rest(REST_SECONDS))
    return {
        "fault": name,
        "runs": exact + len(wrong),
        "unused": unused,
        "exact": exact,
        "seconds": statistics.median(seconds) if seconds else None,
        "longest": max(seconds, default=None),
        "operations": max(operations, default=None),
        "more": more,
        "wrong": wrong,
    }


def _is(found: Row, fault: Fault, members: list[int]) -> bool:
    said = found["members"]
    right = said == members if fault.ordered else sorted(said) == sorted(members)
    return right and (found["syndrome"], found["culprit"]) == (fault.syndrome, fault.culprit)


def run_health(rounds: int) -> list[Row]:
    rows = bench_health(rounds)
    cells = [
        {
            "fault": row["fault"],
            "runs": str(row["runs"]),
            "unused": str(row.get("unused", "")),
            "exact": str(row.get("exact", "")),
            "found after": "" if row.get("seconds") is None else f"{row['seconds']:.1f} s",
            "at most": "" if row.get("longest") is None else f"{row['longest']:.1f} s",
            "operations": "" if row.get("operations") is None else str(row["operations"]),
            "also said": str(row.get("more", row.get("false", ""))),
            "else": "; ".join(map(str, row.get("wrong") or row.get("said") or [])),
        }
        for row in rows
    ]
    print_table("collcomm bench health", cells)
    return rows
