"""The benches of the planner: what a measured plan brings over fixed choices, on networks made of namespaces."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..laboratory import (
    Laboratory,
    asymmetric_ring,
    delayed,
    flat,
    leaf_spine,
    one_slow_host,
    two_paths,
    two_sites,
)
from ..planner.choice import choose
from ..planner.commit import commit_seconds
from ..planner.simulate import predict
from .described import DescribedNetwork
from .launch import CoordinatorProcess, Peers

PORT = 48148
SECONDS = 900.0
START_SECONDS = 60.0
Row = dict[str, Any]
Ways = dict[str, dict[str, Any]]
FIXED = ("ring", "bidirectional", "doubling", "halving", "direct", "star", "hierarchical")
PLANNED: Ways = {"planned": {}}
SIZES = (64, 4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
LARGEST = {"flat": 64 << 20, "two sites": 16 << 20}  # elsewhere what takes a second or two:
MUCH = 4 << 20
HOPELESS = 3.0


def planted_ring(n: int = 8, fast: float = 10e6, seed: int = 1) -> list[list[float]]:
    """Bytes/s by [source][target]: one ring through all hosts, not in their order, is fast; all other links are slower, each in
    its own way."""
    state = seed
    ring = [0, *sorted(range(1, n), key=lambda host: (host * 37 + 11 * seed) % 101)]
    after = {ring[place]: ring[(place + 1) % n] for place in range(n)}
    rates = []
    for source in range(n):
        row = []
        for target in range(n):
            state = (state * 1103515245 + 12345) % (1 << 31)
            slow = fast * (0.15 + 0.25 * state / (1 << 31))
            row.append(fast if after[source] == target else slow)
        rates.append(row)
    return rates


def compare(
    lab: Laboratory,
    ways: Ways,
    sizes: Sequence[int],
    rounds: int = 3,
    seconds: float = 0.3,
    layout: Sequence[int] = (),
    sites: Sequence[str] = (),
    only: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    """Times of all_reduce by ``ways`` (see `planpeer`), with a peer on each host of ``layout``, numbered in that order."""
    places = list(layout) or list(range(lab.hosts))
    case = {"case": "plan_peer", "n": len(places), "kind": "all_reduce", "sizes": list(sizes), "ways": ways}
    case |= {"rounds": rounds, "seconds": seconds, "only": only or {}}
    found: dict[str, Any] = {"times": {}}
    with (
        CoordinatorProcess(f"{lab.hub_address}:{PORT}", lab.enter(None)) as coordinator,
        Peers(lambda index: lab.enter(places[index])) as peers,
    ):
        events = peers.events(SECONDS)
        for index, place in enumerate(places):
            site = sites[place] if sites else ""
            peers.start(index, {**case, "index": index, "address": coordinator.address, "site": site})
        ended = 0
        while ended < len(places):
            event = next(events)
            if event["event"] == "size":
                found["times"][event["nbytes"]] = event["times"]
            elif event["event"] == "compared":
                ended += 1
                if event["rank"] == 0:
                    found |= {name: event[name] for name in ("waited", "order", "explained", "streams")}
        peers.wait(START_SECONDS)
    return found


def laboratories() -> dict[str, Callable[[], Laboratory]]:
    """By name, each of a size that two cores keep up with."""
    return {
        "flat": lambda: flat(4, 25e6),
        "two sites": lambda: two_sites(4, 25e6, 12.5e6, 0.01),
        "asymmetric ring": lambda: asymmetric_ring(planted_ring()),
        "two paths": lambda: two_paths(5e6),
        "one slow host": lambda: one_slow_host(4, 25e6, 5e6),
        "delayed": lambda: delayed(4, 6.25e6, 0.01),
    }


def fixed_ways(lab: Laboratory) -> Ways:
    """Every algorithm that makes sense on ``lab``, each as if nothing were known of the network but who is in which site."""
    sites = lab.describe().sites
    return {
        name: {"by": [name, {"hosts": list(sites)} if name == "hierarchical" else {}]}
        for name in FIXED
        if name != "hierarchical" or len(set(sites)) > 1
    }


def bench_choice(name: str, rounds: int = 3) -> list[Row]:
    """The plan against every fixed algorithm on the laboratory ``name``, and what the simulator says of each. Algorithms that
    should take more than three times as long as the best are not timed."""
    with laboratories()[name]() as lab:
        network = DescribedNetwork(lab.describe())
        ways = fixed_ways(lab)
        sizes = [nbytes for nbytes in SIZES if nbytes <= LARGEST.get(name, MUCH)]
        predicted = {
            nbytes: {way: _predicted(network, way, ways[way]["by"][1], nbytes) for way in ways} for nbytes in sizes
        }
        only = {
            str(nbytes): ["planned", *(way for way in ways if times[way] <= HOPELESS * min(times.values()))]
            for nbytes, times in predicted.items()
        }
        found = compare(lab, PLANNED | ways, sizes, rounds, only=only)
    rows = []
    for nbytes, times in found["times"].items():
        medians = {way: statistics.median(values) for way, values in times.items()}
        planned = medians.pop("planned")
        best = min(medians, key=lambda way: medians[way])
        rows.append(
            {
                "laboratory": name,
                "nbytes": nbytes,
                "by": found["explained"][str(nbytes)]["algorithm"],
                "planned": planned,
                "best": best,
                "best_seconds": medians[best],
                "ratio": planned / medians[best],
                "simulated": {way: predicted[nbytes][way] / seconds for way, seconds in medians.items()},
                "waited": found["waited"],
            }
        )
    return rows


def _predicted(network: DescribedNetwork, algorithm: str, parameters: dict[str, Any], nbytes: int) -> float:
    given: dict[str, Any] = {name: tuple(value) for name, value in parameters.items()}
    if algorithm in ("ring", "bidirectional", "hierarchical"):
        given |= choose("all_reduce", network.n, nbytes, only="ring").parameters
    return predict("all_reduce", algorithm, network.n, nbytes, network, **given).seconds + commit_seconds(network)


def bench_order(nbytes: int = 4 << 20, rounds: int = 5) -> Row:
    """The planned ring against the ring in the order of hosts, on eight hosts among whose links a fast ring is hidden."""
    with asymmetric_ring(planted_ring()) as lab:
        network = DescribedNetwork(lab.describe())
        ways: Ways = {"planned ring": {"by": ["ring", {"order": "plan"}]}, "hosts": {"by": ["ring", {}]}}
        found = compare(lab, ways, [nbytes], rounds)
    times = {way: statistics.median(values) for way, values in found["times"][nbytes].items()}
    order = tuple(found["order"])
    predicted = {
        "planned ring": _predicted(network, "ring", {"order": order}, nbytes),
        "hosts": _predicted(network, "ring", {}, nbytes),
    }
    return {
        "order": order,
        "nbytes": nbytes,
        "times": times,
        "predicted": predicted,
        "speed-up": times["hosts"] / times["planned ring"],
        "predicted speed-up": predicted["hosts"] / predicted["planned ring"],
    }


def bench_sites(nbytes: int = 16 << 20, rounds: int = 3) -> list[Row]:
    """The plan against the flat ring on two sites of four hosts, 20 ms of round trip apart; ranks in a row at each site, and
    alternating."""
    rows = []
    for order, layout in (("in a row", range(8)), ("alternating", [0, 4, 1, 5, 2, 6, 3, 7])):
        with two_sites(4, 25e6, 12.5e6, 0.01) as lab:
            found = compare(lab, PLANNED | {"flat ring": {"by": ["ring", {}]}}, [nbytes], rounds, layout=list(layout))
        times = {way: statistics.median(values) for way, values in found["times"][nbytes].items()}
        rows.append(
            {
                "ranks": order,
                "nbytes": nbytes,
                "by": found["explained"][str(nbytes)]["algorithm"],
                "times": times,
                "ratio": times["flat ring"] / times["planned"],
            }
        )
    return rows


def bench_crossover(n: int = 8, rate: float = 6.25e6, delay: float = 0.01, rounds: int = 5) -> Row:
    """From which size on the ring beats the star, against S* = n (n-2) a B / (n-1)^2 (TPI-LLM)."""
    share = 0.0
    formula = n * (n - 2) * delay * rate / (n - 1) ** 2
    sizes = [round(formula * factor / 64) * 64 for factor in (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)]
    with delayed(n, rate, delay) as lab:
        share = lab.describe().payload_share
        ways: Ways = {"star": {"by": ["star", {}]}, "ring": {"by": ["ring", {"segments": 1}]}}
        found = compare(lab, ways, sizes, rounds, seconds=1.0)
    points = []
    for nbytes in sizes:
        times = {way: statistics.median(values) for way, values in found["times"][nbytes].items()}
        points.append((nbytes, times["star"], times["ring"]))
    return {"formula": formula * share, "measured": _crossing(points), "points": points}


def _crossing(points: Iterable[tuple[int, float, float]]) -> float:
    """Where the times of the first are no longer less than those of the second; on straight lines between the points."""
    before: tuple[int, float] | None = None
    for nbytes, first, second in points:
        gap = first - second
        if before is not None and before[1] < 0 <= gap:
            return before[0] + (nbytes - before[0]) * -before[1] / (gap - before[1])
        before = nbytes, gap
    return math.nan


def bench_long(nbytes: int = 64 << 20, rounds: int = 5, mtu: int = 1500) -> Row:
    """Two hosts, 100 ms of round trip apart, 500 Mbit/s, one packet in 10,000 lost: what fills the link."""
    rate = 62.5e6
    with delayed(2, rate, 0.05, 1e-4, mtu=mtu) as lab:
        share = lab.describe().payload_share
        ways: Ways = {"planned": {"by": ["direct", {}]}, "one stream": {"by": ["direct", {}], "plain": True}}
        found = compare(lab, ways, [nbytes], rounds, seconds=0.0)
    times = found["times"][nbytes]
    # each rank sends half of the vector twice, one after the other
    reached = {way: nbytes / statistics.median(values) for way, values in times.items()}
    return {
        "nbytes": nbytes,
        "streams": found["streams"],
        "rate": rate * share,
        "reached": reached,
        "share": {way: value / (rate * share) for way, value in reached.items()},
        "times": times,
    }


def bench_groups(nbytes: int = 1 << 20, repetitions: int = 2, rounds: int = 3) -> Row:
    """Eight groups of four at the same time on a fabric of two leaves and two spines, of which each uplink carries half of
    what one host sends; every second rank of a group is on the other leaf."""
    groups = [[i, 4 + i, j, 4 + j] for i, j in ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2), (0, 1), (2, 3))]
    case = {
        "case": "group_peer",
        "n": 8,
        "nbytes": nbytes,
        "repetitions": repetitions,
        "rounds": rounds,
        "groups": groups,
    }
    with (
        leaf_spine(2, 4, 12.5e6, 6.25e6) as lab,
        CoordinatorProcess(f"{lab.hub_address}:{PORT}", lab.enter(None)) as coordinator,
        Peers(lab.enter) as peers,
    ):
        sites = lab.describe().sites
        events = peers.events(SECONDS)
        for index in range(8):
            peers.start(index, {**case, "index": index, "address": coordinator.address, "site": f"leaf-{sites[index]}"})
        ends = [next(event for event in events if event["event"] == "compared") for _ in range(8)]
        peers.wait(START_SECONDS)
    times = min(ends, key=lambda event: event["rank"])["times"]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"nbytes": nbytes, "times": medians, "ratio": medians["unplanned"] / medians["planned"], "all": times}


def bench_paths(nbytes: int = 8 << 20, rounds: int = 3) -> Row:
    """Two hosts joined by two paths of 40 Mbit/s each: what the planned streams carry, against one flow; and when a path
    dies."""
    with two_paths(5e6) as lab:
        share = lab.describe().payload_share
        ways: Ways = {"planned": {"by": ["direct", {}]}, "one path": {"by": ["direct", {}], "plain": True}}
        found = compare(lab, ways, [nbytes], rounds, seconds=0.0)
        carried = lab.sent_by_path(0)
    times = {way: statistics.median(values) for way, values in found["times"][nbytes].items()}
    reached = {way: nbytes / seconds for way, seconds in times.items()}
    return {
        "nbytes": nbytes,
        "streams": found["streams"],
        "rate of a path": 5e6 * share,
        "reached": reached,
        "ratio": reached["planned"] / reached["one path"],
        "carried": carried,
    }


def bench_path_death(nbytes: int = 4 << 20, before: float = 8.0, after: float = 16.0) -> Row:
    """Two hosts joined by two paths of 40 Mbit/s, of which one dies in the midst of a transfer: what the other still
    carries."""
    case = {"case": "lasting_peer", "n": 2, "nbytes": nbytes, "seconds": before + after}
    with (
        two_paths(5e6) as lab,
        CoordinatorProcess(f"{lab.hub_address}:{PORT}", lab.enter(None)) as coordinator,
        Peers(lab.enter) as peers,
    ):
        share = lab.describe().payload_share
        events = peers.events(SECONDS)
        for index in range(2):
            peers.start(index, {**case, "address": coordinator.address})
        began = [next(event for event in events if event["event"] == "begins") for _ in range(2)]
        time.sleep(before)
        killed = time.monotonic()
        lab.kill_path(0)
        ended = [next(event for event in events if event["event"] == "lasted") for _ in range(2)]
        peers.wait(START_SECONDS)
    ends = ended[0]["ends"]
    alive = [later - earlier for earlier, later in pairwise(ends) if later < killed]
    hit = next(later - earlier for earlier, later in pairwise(ends) if later > killed)
    left = [later - earlier for earlier, later in pairwise(ends) if earlier > killed]
    return {
        "nbytes": nbytes,
        "rate of a path": 5e6 * share,
        "both paths": nbytes / statistics.median(alive),
        "the call that is hit": hit,
        "one path left": nbytes / statistics.median(left),
        "share": nbytes / statistics.median(left) / (5e6 * share),
        "views": ended[0]["epoch"] - began[0]["epoch"],
        "calls": len(ends),
    }
