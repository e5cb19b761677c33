"""The bench of schedules over hosts: two network namespaces whose link carries a given rate, several peers in each."""

from __future__ import annotations

import statistics
from typing import Any

from ..laboratory import Network
from .launch import CoordinatorProcess, Peers
from .measure import summary

HOSTS = 2
PORT = 48148
SECONDS = 300.0
START_SECONDS = 60.0


def bench_hosts(n: int, nbytes: int, rounds: int, interleaved: bool, rate: float = 125e6) -> dict[str, Any]:
    """all_reduce of ``nbytes`` among ``n`` peers on two hosts, against the flat ring. ``interleaved``: consecutive ranks are on
    different hosts; else those of a host follow each other, the flat ring's best case. ``rate``: bytes/s, each way."""
    with (
        Network(HOSTS, rate) as network,
        CoordinatorProcess(f"{network.hub_address}:{PORT}", network.enter(None)) as coordinator,
        Peers(lambda index: network.enter(index % HOSTS if interleaved else index * HOSTS // n)) as peers,
    ):
        case = {"case": "host_peer", "n": n, "nbytes": nbytes, "rounds": rounds, "address": coordinator.address}
        events = peers.events(SECONDS)
        for index in range(n):
            peers.start(index, case)
            next(event for event in events if event["event"] == "calls")
        ends = [next(event for event in events if event["event"] == "compared") for _ in range(n)]
        peers.wait(START_SECONDS)
    first = min(ends, key=lambda event: event["rank"])
    sent = {
        who: max(statistics.median(event["sent"][who]) for event in ends)  # of the host that sends most
        for who in ("ours", "flat")
    }
    least = 2 * (HOSTS - 1) / HOSTS * nbytes
    times = first["times"]
    return {
        "kind": "hosts",
        "peers": n,
        "nbytes": nbytes,
        "order": ",".join(map(str, first["hosts"])),
        "ours": summary(times["ours"]),
        "flat": summary(times["flat"]),
        "ratio": statistics.median(times["flat"]) / statistics.median(times["ours"]),
        "sent": sent["ours"] / least,
        "sent flat": sent["flat"] / least,
    }
