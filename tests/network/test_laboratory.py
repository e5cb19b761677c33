"""The laboratory's networks carry what they say, by traffic of plain sockets; and they go, however their owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from collcomm.bench.launch import child_environment
from collcomm.laboratory import (
    Laboratory,
    Network,
    asymmetric_ring,
    behind_nat,
    delayed,
    flat,
    leaf_spine,
    one_slow_host,
    sweep,
    two_paths,
    two_sites,
)
from collcomm.laboratory.guardian import names

from .traffic import Server, all_dialled, dialled, measured_rate, sending

RATE = 12.5e6  # bytes/s: little for a busy machine
LEAST, MOST = 0.5, 1.2
GONE_SECONDS = 15.0


def _check_rate(lab: Laboratory, source: int, target: int, streams: int = 4) -> None:
    told = lab.describe()
    expected = told.bandwidth[source][target] * told.payload_share
    found = measured_rate(lab, source, target, streams)
    assert LEAST <= found / expected <= MOST, f"{source} to {target}: {found / 1e6:.1f} of {expected / 1e6:.1f} MB/s"


def _check_hub(lab: Laboratory) -> None:
    """All hosts reach the hub, which knows them by the addresses that they have."""
    with Server(lab, None) as server, ThreadPoolExecutor(lab.hosts) as pool:
        answers = list(pool.map(lambda index: dialled(lab, index, server), range(lab.hosts)))
    assert all("trips" in answer for answer in answers), answers


@pytest.mark.parametrize("ipv6", [False, True])
def test_flat(ipv6: bool) -> None:
    with Network(3, RATE, ipv6) as lab:
        if not ipv6:
            _check_hub(lab)
            _check_rate(lab, 0, 2)
        assert lab.run(0, "true") == ""
        assert lab.address(0).startswith("[") == ipv6
        with pytest.raises(RuntimeError):
            lab.run(0, "false")
        with pytest.raises(IndexError):
            lab.enter(3)


def test_cut_and_unplugged() -> None:
    with flat(3) as lab, Server(lab, 1) as server:

        def reaches(source: int) -> bool:
            return "trips" in dialled(lab, source, server, seconds=0.5)

        lab.cut(0, 1)
        assert not reaches(0) and reaches(2)
        lab.mend(0)
        assert reaches(0)
        lab.unplug(1)
        assert not reaches(2)
        lab.plug_in(1)
        deadline = time.monotonic() + 10
        while not reaches(2):
            assert time.monotonic() < deadline


def test_one_slow_host() -> None:
    with one_slow_host(3, 4 * RATE, RATE / 2, slow=1) as lab:
        _check_rate(lab, 0, 2)
        _check_rate(lab, 0, 1)


def test_two_sites() -> None:
    with two_sites(2, 4 * RATE, RATE, delay=0.03) as lab:
        _check_hub(lab)
        told = lab.describe()
        assert told.sites == (0, 0, 1, 1)
        assert told.latency[0][2] == 0.03 and told.latency[0][1] == 0.0
        with Server(lab, 3) as server:
            there = dialled(lab, 0, server, count=5)
            near = dialled(lab, 2, server, count=5)
        assert 0.06 <= min(there["trips"]) < 0.12
        assert min(near["trips"]) < 0.03
        _check_rate(lab, 0, 2)
        lab.change(delay=0.01)
        assert lab.describe().latency[2][1] == 0.01
        with Server(lab, 3) as server:
            assert 0.02 <= min(dialled(lab, 0, server, count=5)["trips"]) < 0.06


def test_asymmetric_pairs() -> None:
    rates = [[0, 2e6, 16e6], [8e6, 0, 1e6], [4e6, 4e6, 0]]
    with asymmetric_ring(rates) as lab:
        _check_hub(lab)
        for source, target in ((0, 1), (1, 0), (0, 2)):
            assert lab.describe().bandwidth[source][target] == rates[source][target]
            _check_rate(lab, source, target, streams=2)


def test_delay_and_loss_of_pairs() -> None:
    delays = [[0, 0.01, 0.05], [0.03, 0, 0.02], [0.05, 0.02, 0]]
    with delayed(3, None, delays, loss=0.02, seed=5) as lab:
        _check_hub(lab)
        for source, target in ((0, 1), (2, 0)):
            with Server(lab, target) as server:
                trips = dialled(lab, source, server, seconds=20.0, count=5)["trips"]
            there_and_back = delays[source][target] + delays[target][source]
            assert there_and_back <= min(trips) < there_and_back + 0.05
        lab.change(delay=0.001)
        deadline = time.monotonic() + 20
        with Server(lab, 2) as server, sending(lab, 0, server, streams=16):
            while (told := lab.counters()[0][2])["packets"] < 20_000 and time.monotonic() < deadline:
                time.sleep(0.1)
        assert told["packets"] >= 20_000, told
        assert 0.015 < told["lost"] / told["packets"] < 0.025
        assert told["overflowed"] == 0


def test_many_streams_fill_a_long_path() -> None:
    with delayed(2, 2 * RATE, 0.05, loss=1e-4) as lab:
        expected = 2 * RATE * lab.describe().payload_share
        found = measured_rate(lab, 0, 1, streams=16, warm=2.0, seconds=1.5)
        assert LEAST <= found / expected <= MOST


def test_flows_spread_over_paths_and_a_dead_path_swallows_its_own() -> None:
    with two_paths(RATE / 2) as lab:
        _check_hub(lab)
        _check_rate(lab, 0, 1, streams=16)
        assert min(lab.sent_by_path(0)) > 100_000, "flows with different ports use both paths"
        lab.kill_path(0)
        with Server(lab, 1) as server:
            targets = [(server.address, server.port)] * 24
            answers = all_dialled(lab, 0, targets, seconds=1.0)
            failed = sum("error" in answer for answer in answers)
            assert 0 < failed < 24, f"{failed} of 24 flows were on the dead path"
            assert {answer.get("error") for answer in answers} == {None, "TimeoutError"}, "nobody is told"
            lab.mend_path(0)
            assert all("trips" in answer for answer in all_dialled(lab, 0, targets))


def test_an_oversubscribed_fabric() -> None:
    with leaf_spine(2, 2, 2 * RATE, RATE / 2) as lab:
        _check_hub(lab)
        told = lab.describe()
        assert told.sites == (0, 0, 1, 1)
        assert told.bandwidth[0][2] == RATE and told.flow[0][2] == RATE / 2 and told.bandwidth[0][1] == 2 * RATE
        _check_rate(lab, 0, 1)
        _check_rate(lab, 0, 2, streams=16)


def test_hosts_behind_translation_can_only_dial_out() -> None:
    with behind_nat(1, [2, 1], RATE) as lab, ExitStack() as stack:
        _check_hub(lab)
        servers = [stack.enter_context(Server(lab, target)) for target in range(lab.hosts)]
        targets = [(server.address, server.port) for server in servers]
        with ThreadPoolExecutor(lab.hosts) as pool:
            found = list(pool.map(lambda source: all_dialled(lab, source, targets, seconds=1.0), range(lab.hosts)))
        reached = tuple(tuple("trips" in answer for answer in answers) for answers in found)
        assert reached == lab.describe().dials, found
    with behind_nat(1, [1], RATE) as lab:
        _check_rate(lab, 1, 0)


@pytest.mark.parametrize(("inbound", "error"), [("drop", "TimeoutError"), ("reject", "ConnectionRefusedError")])
def test_the_door_of_a_translating_router(inbound: str, error: str) -> None:
    with behind_nat(1, [1], inbound=inbound) as lab:
        assert all_dialled(lab, 0, [("10.48.0.201", 5001)], seconds=1.0) == [{"error": error}]


def _is_gone(found: Callable[[], object]) -> bool:
    deadline = time.monotonic() + GONE_SECONDS
    while found() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not found()


OWNER = """
import os, subprocess, sys, time
from collcomm.laboratory import two_sites
with two_sites(1, 1e6, 1e6, 0.01) as lab:
    inside = subprocess.Popen([*lab.enter(0), "sleep", "600"], start_new_session=True)
    while os.readlink(f"/proc/{inside.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        time.sleep(0.01)  # it is on its way in
    if sys.argv[1] == "unguarded":
        lab._guardian.kill()
    print(lab.relay_pid, inside.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["guarded", "unguarded"])
def test_all_goes_when_the_owner_is_killed(how: str, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, how], stdout=subprocess.PIPE, text=True, env=child_environment(), cwd=tmp_path
    )
    assert owner.stdout is not None
    processes = [int(pid) for pid in owner.stdout.readline().split()]

    def namespaces() -> list[str]:
        return names(lambda name: name.startswith(f"cc{owner.pid}n"))

    def running() -> list[int]:
        return [pid for pid in processes if os.path.exists(f"/proc/{pid}")]

    assert len(namespaces()) == 4 and len(running()) == 2
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    if how == "unguarded":
        time.sleep(0.2)
        assert namespaces(), "nobody was there to clean"
        removed = namespaces()
        assert set(removed) <= set(sweep())
    assert _is_gone(namespaces), namespaces()
    assert _is_gone(running), running()


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="hosts"):
        flat(0)
    with pytest.raises(ValueError, match="rates"):
        Network(3, [1e6])
    with pytest.raises(ValueError, match="rate"):
        flat(2, 0.0)
    with pytest.raises(ValueError, match="rows"):
        asymmetric_ring([[0, 1e6], [1e6]])
    with pytest.raises(ValueError, match="slow"):
        one_slow_host(2, 1e6, 1e5, slow=2)
    with pytest.raises(ValueError, match="namespaces may use"):
        delayed(2, 1e6, 0.01, congestion="none such")
