"""From dumps to one clock, to observations and findings, and to a trace."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from collcomm.health.clocks import clocks_of
from collcomm.health.dump import Dump
from collcomm.health.finding import CulpritKind, Finding, Syndrome
from collcomm.health.observation import FlowReport, Observation, OpenOperation
from collcomm.health.replay import diagnose, observations
from collcomm.health.trace import chrome_trace
from tests.support.flights import COMPUTES, TOOK, WALL, Flight

BOOTS = {1: 17.0, 2: 1e6, 3: 12345.678}
MICRO = 1e-6

# -- clocks ----------------------------------------------------------------------------------------------------------


def _apart(dumps: Sequence[Dump]) -> float:
    """By how many seconds the peers differ about when they have committed the same operation, at most."""
    found: dict[int, list[float]] = defaultdict(list)
    for dump, clock in zip(dumps, clocks_of(dumps), strict=True):
        for one in dump.operations:
            found[one.seq].append(clock.time(one.commit))
    return max(max(times) - min(times) for times in found.values())


def test_wall_clocks_that_are_apart_are_set_by_commits() -> None:
    flight = Flight(n=3, boots=BOOTS, skew={2: 3600.0, 3: -0.25})
    assert _apart(flight.dumps()) < MICRO
    assert [clock.common for clock in clocks_of(flight.dumps())] == [0, 50, 50]


def test_a_clock_that_drifts_is_followed() -> None:
    """50 millionths over 20 minutes: 60 milliseconds."""
    assert _apart(Flight(n=2, count=1200, period=1.0, drift={2: 5e-5}).dumps()) < 20 * MICRO


def test_without_common_operations_wall_clocks_count() -> None:
    flight = Flight(n=2, boots=BOOTS, skew={2: 0.5})
    first, second = flight.dump(1), replace(flight.dump(2), operations=[])
    clock = clocks_of([first, second])[1]
    assert clock.common == 0
    assert clock.time(BOOTS[2]) == pytest.approx(WALL + 0.5, abs=MICRO)
    told = replace(second, header=replace(second.header, offset=-0.5))
    assert clocks_of([first, told])[1].time(BOOTS[2]) == pytest.approx(WALL, abs=MICRO)


def test_peers_without_common_operations_meet_by_a_third() -> None:
    flight = Flight(n=3, count=60, boots=BOOTS, skew={1: 5.0, 3: -5.0})
    first, second, third = flight.dumps()
    dumps = [
        replace(first, operations=first.operations[:25]), second, replace(third, operations=third.operations[30:])
    ]  # fmt: skip
    assert _apart(dumps) < MICRO


def test_a_few_commits_that_are_anything_do_not_matter() -> None:
    flight = Flight(n=2, boots=BOOTS)
    first, second = flight.dumps()
    odd = [one._replace(commit=one.commit + 9.0) if one.seq % 3 == 0 else one for one in second.operations]
    clock = clocks_of([first, replace(second, operations=odd)])[1]
    assert clock.time(second.operations[1].commit) == pytest.approx(
        clocks_of([first])[0].time(first.operations[1].commit), abs=MICRO
    )


def test_no_dumps_have_no_clocks() -> None:
    assert clocks_of([]) == []


# -- observations --------------------------------------------------------------------------------------------------------


def test_records_become_observations_second_by_second() -> None:
    flight = Flight(n=2, count=100, boots=BOOTS)
    found = list(observations(flight.dumps()))
    assert [one.at for one in found] == sorted(one.at for one in found)
    mine = [one for one in found if one.member == 1]
    assert len(mine) == 10
    assert sum(one.operations_ended for one in mine) == 100
    assert mine[-1].operations == 100
    assert mine[-1].entered == {0: 99}
    assert all(one.covers == pytest.approx(1.0, abs=0.01) for one in mine)
    assert mine[5].computed == pytest.approx(1.0 - 10 * TOOK, abs=0.05)
    assert [one.seq for one in mine[5].samples] == list(range(50, 60))
    assert mine[5].samples[0].took == pytest.approx(TOOK, abs=MICRO)
    (flow,) = mine[5].flows
    assert (flow.target, flow.nbytes) == (2, 10 * flight.nbytes)
    assert flow.busy == pytest.approx(10 * TOOK * 0.1, abs=1e-4)


def test_many_operations_a_second_are_sampled() -> None:
    flight = Flight(n=2, count=4000, period=1e-3)
    for one in observations(flight.dumps()):
        assert len(one.samples) <= 64
        assert one.operations_ended > 500


def test_what_was_open_at_the_dump_was_open_before() -> None:
    opens = {1: OpenOperation(0, 3, 50, "all_reduce", 64, 4.5, 3.25, (2,))}
    found = [one for one in observations([Flight(n=2, opens=opens, after=5.0).dump(1)]) if one.member == 1]
    inside = {round(found[-1].at - one.at): one.open[0] for one in found if one.open and one.open[0].seq == 50}
    assert sorted(inside) == [0, 1, 2, 3, 4]
    assert [round(inside[ago].age, 6) for ago in range(5)] == [4.5, 3.5, 2.5, 1.5, 0.5]
    assert [round(inside[ago].silent, 6) for ago in range(5)] == [3.25, 2.25, 1.25, 0.25, 0.0]
    assert inside[0].waiting_on == (2,)
    assert found[-1].entered == {0: 50}


def test_kept_observations_are_taken_as_they_are() -> None:
    dump = Flight(n=1, boots=BOOTS).dump(1)
    told = Observation(1, 3, BOOTS[1] + 2.0, 1.0, 10, 3, flows=(FlowReport(2, 4096, 0.5, 0.25, 0.0, 3),))
    assert list(observations([replace(dump, observations=[told])])) == [replace(told, at=pytest.approx(WALL + 2.0))]


def test_a_peer_that_has_done_nothing_says_nothing() -> None:
    assert list(observations([Flight(n=2, count=0).dump(1)])) == []
    assert diagnose([Flight(n=2, count=0).dump(1)]) == []
    assert diagnose([]) == []


# -- diagnosis -----------------------------------------------------------------------------------------------------------


def _said(findings: Sequence[Finding]) -> set[tuple[Syndrome, CulpritKind, tuple[int, ...]]]:
    return {(one.syndrome, one.culprit.kind, one.culprit.members) for one in findings}


def test_a_healthy_group_has_no_findings() -> None:
    assert diagnose(Flight(n=4, count=600, boots=BOOTS, skew={2: 3.0}, jitter=5e-3).dumps()) == []


def test_a_member_that_stopped_before_an_operation_is_named() -> None:
    opens = {one: OpenOperation(0, 3, 50, "all_reduce", 1 << 20, 7.9, 7.5, (4,)) for one in (1, 2, 3)}
    found = diagnose(Flight(n=4, opens=opens, after=8.0, boots=BOOTS, skew={3: 100.0}).dumps())
    assert _said(found) == {(Syndrome.NON_COMMUNICATION_HANG, CulpritKind.RANK, (4,))}
    assert found[0].at == pytest.approx(WALL + 5.0 + 3.0, abs=2.0)


@pytest.mark.parametrize("seconds", [0.5, 2.5, 8.0, 60.0])
def test_whose_dump_is_older_is_not_taken_for_absent(seconds: float) -> None:
    """The others went on, and are in an operation that it would be in, too."""
    flight = Flight(n=4, count=600, after=2.5)
    flight.opens = {one: OpenOperation(0, 3, 600, "all_reduce", 1 << 20, 2.4, 2.3, (4,)) for one in (1, 2, 3)}
    early = replace(flight, opens={}, after=0.0).dump(4, count=round(600 - (seconds - 2.5) * 10))
    assert diagnose([*flight.dumps()[:3], early]) == []


def test_a_member_that_becomes_slow_is_named() -> None:
    healthy, slow = Flight(n=4, count=100), Flight(n=4, count=160, late={3: 0.03})
    dumps = []
    for member in healthy.ids:
        before, after = healthy.dump(member), slow.dump(member)
        operations = [*before.operations, *after.operations[100:]]
        dumps.append(replace(after, operations=operations))
    assert _said(diagnose(dumps)) == {(Syndrome.NON_COMMUNICATION_SLOW, CulpritKind.RANK, (3,))}


def test_ten_thousand_operations_of_eight_peers_are_diagnosed_in_seconds() -> None:
    dumps = Flight(n=8, count=10_000, period=0.02, after=0.1, jitter=1e-3).dumps()
    began = time.process_time()
    assert diagnose(dumps) == []
    assert time.process_time() - began < 10.0  # a bound for any machine; what it takes is measured elsewhere


# -- trace ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    opens = {1: OpenOperation(0, 3, 50, "broadcast", 64, 0.5, 0.25, (2,))}
    dumps = Flight(n=3, boots=BOOTS, skew={2: 9.0}, opens=opens, after=1.0, late={3: 0.01}).dumps()
    found: dict[str, Any] = json.loads(json.dumps(chrome_trace(dumps), allow_nan=False))
    return found


def _of(trace: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [one for one in trace["traceEvents"] if wanted.items() <= one.items()]


def test_every_event_is_one_of_the_format(trace: dict[str, Any]) -> None:
    needed = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
        "C": {"name", "pid", "ts", "args"},
        "s": {"name", "cat", "pid", "tid", "ts", "id"},
        "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
    }
    for one in trace["traceEvents"]:
        assert needed[one["ph"]] <= one.keys()
        assert one.get("ts", 0.0) >= 0.0 and one.get("dur", 0.0) >= 0.0
    assert trace["otherData"]["peers"] == 3
    assert trace["otherData"]["left out"] == 0


def test_peers_and_tracks_have_names(trace: dict[str, Any]) -> None:
    names = {one["pid"]: one["args"]["name"] for one in _of(trace, name="process_name")}
    assert names == {one: f"lab-{one} (member {one}, rank {one - 1})" for one in (1, 2, 3)}
    tracks = {one["args"]["name"] for one in _of(trace, name="thread_name", pid=1)}
    assert tracks == {"operations", "to lab-2, stream 0", "from lab-3, stream 0"}


def test_operations_are_where_they_were(trace: dict[str, Any]) -> None:
    begin = trace["otherData"]["begin"]
    assert begin == pytest.approx(WALL + COMPUTES / 2, abs=MICRO)
    for member, late in ((1, 0.0), (2, 0.0), (3, 0.01)):
        found = _of(trace, name="all_reduce", pid=member)
        assert len(found) == 50
        assert found[10]["ts"] == pytest.approx((1.0 + late) * 1e6, abs=2.0)
        assert found[10]["dur"] == pytest.approx((TOOK + 0.01 - late + 1e-5) * 1e6, abs=2.0)
        assert found[10]["args"]["seq"] == 10


def test_phases_lie_inside_of_their_operation_one_after_the_other(trace: dict[str, Any]) -> None:
    for member in (1, 2, 3):
        outer = {one["ts"]: one for one in _of(trace, cat="operation", pid=member)}
        phases = sorted(_of(trace, cat="phase", pid=member), key=lambda one: one["ts"])
        assert Counter(one["name"] for one in phases) == {"waiting": 50, "data": 50, "commit": 50}
        for waiting, data, commit in zip(phases[::3], phases[1::3], phases[2::3], strict=True):
            around = outer[waiting["ts"]]
            assert [one["name"] for one in (waiting, data, commit)] == ["waiting", "data", "commit"]
            assert data["ts"] == pytest.approx(waiting["ts"] + waiting["dur"], abs=0.01)
            assert commit["ts"] == pytest.approx(data["ts"] + data["dur"], abs=0.01)
            assert commit["ts"] + commit["dur"] <= around["ts"] + around["dur"] + 0.01


def test_the_open_operation_is_shown(trace: dict[str, Any]) -> None:
    (one,) = _of(trace, name="broadcast (open)", pid=1)
    assert one["dur"] == pytest.approx(0.5e6, abs=1.0)
    assert one["args"]["waits_for"] == ["lab-2"]


def test_arrows_go_from_what_was_sent_to_what_was_received(trace: dict[str, Any]) -> None:
    starts, ends = ({one["id"]: one for one in _of(trace, ph=phase)} for phase in ("s", "f"))
    assert len(starts) == 150
    assert starts.keys() == ends.keys()
    ways = Counter((one["pid"], ends[number]["pid"]) for number, one in starts.items())
    assert ways == {(1, 2): 50, (2, 3): 50, (3, 1): 50}
    slices = defaultdict(list)
    for one in _of(trace, cat="transfer"):
        slices[one["pid"], one["tid"]].append((one["ts"], one["ts"] + one["dur"]))
    for one in (*starts.values(), *ends.values()):
        inside = [low for low, high in slices[one["pid"], one["tid"]] if low <= one["ts"] <= high]
        assert len(inside) == 1
    assert all(ends[number]["ts"] >= one["ts"] for number, one in starts.items())


@pytest.mark.parametrize("name", ["sent, bytes/s", "received, bytes/s"])
def test_counters_add_up_to_what_was_moved(trace: dict[str, Any], name: str) -> None:
    for member in (1, 2, 3):
        found = _of(trace, ph="C", name=name, pid=member)
        moved = sum(one["args"]["rate"] * (after["ts"] - one["ts"]) / 1e6 for one, after in pairwise(found))
        assert moved == pytest.approx(50 * (1 << 20), rel=1e-3)
        assert found[-1]["args"]["rate"] == 0.0


def test_only_the_last_seconds() -> None:
    dumps = Flight(n=2).dumps()
    trace = chrome_trace(dumps, last=1.0)
    for member in (1, 2):
        assert [one["args"]["seq"] for one in _of(trace, name="all_reduce", pid=member)] == list(range(39, 50))
    assert trace["otherData"]["left out"] > 0


def test_of_too_many_events_the_last_are_shown() -> None:
    trace = chrome_trace(Flight(n=2, count=1000).dumps(), most=1000)
    shown = [one["args"]["seq"] for one in _of(trace, cat="operation", pid=1)]
    assert 50 < len(shown) < 100
    assert shown[-1] == 999
    assert len([one for one in trace["traceEvents"] if one["ph"] != "C"]) < 1500  # counters have a bound of their own
    assert trace["otherData"]["left out"] > 1000


def test_one_peer_and_none_have_a_trace() -> None:
    alone = chrome_trace([Flight(n=3).dump(2)])
    assert len(_of(alone, name="all_reduce")) == 50
    assert _of(alone, ph="s") == []
    empty = chrome_trace([replace(Flight(n=3, count=0).dump(2))])
    assert {one["ph"] for one in empty["traceEvents"]} == {"M"}
    assert chrome_trace([])["traceEvents"] == []


def test_what_did_not_happen_is_not_shown() -> None:
    dump = Flight(n=1, count=1).dump(1)
    (one,) = dump.operations
    failed = one._replace(first=0.0, last=0.0, commit=0.0, outcome="PeerLost")
    trace = chrome_trace([replace(dump, operations=[failed], transfers=[])])
    (shown,) = _of(trace, ph="X")
    assert (shown["name"], shown["args"]["outcome"]) == ("all_reduce", "PeerLost")
