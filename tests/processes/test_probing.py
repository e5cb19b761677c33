"""Peers that take each other for other hosts: the thread that probes, while a group changes and works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from collcomm.transports.base import PROBES
from collcomm.transports.probe import Measurement

import collcomm
from collcomm.engine.prober import Prober
from tests.support.peers import run_peers

WAIT_SECONDS = 20.0


@pytest.fixture
def on_hosts_of_their_own(monkeypatch: pytest.MonkeyPatch, over_tcp: None) -> None:
    numbers = count()
    monkeypatch.setattr("collcomm.joining.host_identity", lambda: f"host {next(numbers)}")


def prober_of(comm: collcomm.Communicator) -> Prober:
    prober = comm._session.prober  # type: ignore[attr-defined]
    assert prober is not None
    return prober


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def probing_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("collcomm-prober")]


@pytest.mark.usefixtures("on_hosts_of_their_own")
def test_all_links_are_probed_and_nothing_is_counted_or_left() -> None:
    def body(comm: collcomm.Communicator) -> tuple[set[tuple[int, int]], int, int]:
        prober = prober_of(comm)
        until(lambda: prober.asked == comm.rank and prober.answered == comm.size - 1 - comm.rank)
        rows = {(row.source, row.target) for row in prober.rows()}
        sent = comm.stats()["bytes_sent"]
        until(lambda: not comm._session.transport.open_links(PROBES))  # type: ignore[attr-defined]
        comm.barrier()
        return rows, comm.view.ids[comm.rank], sent

    found = run_peers(3, body)
    ids = [member for _, member, _ in found]
    for rows, member, sent in found:
        others = set(ids) - {member}
        assert rows == {(member, other) for other in others} | {(other, member) for other in others}
        assert sent < 10_000, "what probes send is not the run's"
    assert probing_threads() == []


@pytest.mark.usefixtures("on_hosts_of_their_own")
def test_a_long_link_is_probed_with_several_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collcomm.engine.prober.LONG_SECONDS", 0.0)
    monkeypatch.setattr("collcomm.engine.prober.worth_it", lambda before, after: True)

    def body(comm: collcomm.Communicator) -> int:
        prober = prober_of(comm)
        tried = []
        note = prober._note

        def noted(other: int, measured: Measurement) -> None:
            tried.append([row[0] for row in measured.by_streams])
            note(other, measured)

        prober._note = noted  # type: ignore[method-assign]
        until(lambda: [1, 2, 4, 8] in tried and len(prober.rows()) == 2)
        comm.barrier()
        return len(tried)

    run_peers(2, body)


@pytest.mark.usefixtures("on_hosts_of_their_own")
def test_operations_go_on_while_links_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collcomm.engine.prober.TICK_SECONDS", 0.02)

    def body(comm: collcomm.Communicator) -> int:
        prober = prober_of(comm)
        x = np.ones(50_000, np.float32)
        deadline = time.monotonic() + WAIT_SECONDS
        done = 0
        while comm.all_reduce(np.array([not prober.rows()], np.uint8), op="max")[0]:
            assert time.monotonic() < deadline
            assert (comm.all_reduce(x) == comm.size).all()
            done += 1
        until(lambda: len(prober._delivered) > 0)  # the traffic was looked at
        comm.barrier()
        assert len(probing_threads()) == comm.size
        comm.barrier()
        return done

    assert min(run_peers(2, body)) > 0


@pytest.mark.usefixtures("on_hosts_of_their_own")
def test_who_does_not_probe_leaves_the_others_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(comm: collcomm.Communicator) -> None:
        prober = comm._session.prober  # type: ignore[attr-defined]
        if prober is not None and comm.rank:
            until(lambda: bool(prober._failures))
        comm.barrier()

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        quiet = threading.Thread(target=peer, args=(coordinator.address, "quiet", False, body), daemon=True)
        quiet.start()
        until(lambda: coordinator.address is not None)
        time.sleep(0.2)  # so that it is the earlier one
        peer(coordinator.address, "curious", True, body)
        quiet.join(WAIT_SECONDS)
    assert not quiet.is_alive() and probing_threads() == []


def peer(address: str, name: str, probe: bool, body: Callable[[collcomm.Communicator], None]) -> None:
    with collcomm.join(address, name=name, min_size=2, timeout=WAIT_SECONDS, probe=probe) as comm:
        body(comm)


def test_nothing_is_probed_on_one_host_or_when_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, over_tcp: None
) -> None:
    def body(comm: collcomm.Communicator) -> list[str]:
        comm.barrier()
        return probing_threads()

    assert run_peers(2, body) == [[], []]
    numbers = count()
    monkeypatch.setattr("collcomm.joining.host_identity", lambda: f"host {next(numbers)}")
    assert run_peers(2, body, probe=False) == [[], []]
    monkeypatch.setenv("COLLCOMM_PROBE", "0")
    assert run_peers(2, body) == [[], []]


@pytest.mark.usefixtures("on_hosts_of_their_own")
def test_leaving_in_the_middle_of_a_probe_leaves_nothing_behind() -> None:
    def body(comm: collcomm.Communicator) -> None:
        until(lambda: bool(probing_threads()))

    run_peers(4, body)
    assert probing_threads() == []


@pytest.mark.usefixtures("on_hosts_of_their_own")
def test_a_glance_does_not_wait_for_the_prober(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends' probers are in the middle of something; whoever is suspected is looked at all the same."""
    monkeypatch.setattr("collcomm.engine.prober.TICK_SECONDS", 0.02)

    def body(comm: collcomm.Communicator) -> list[tuple[int, int]]:
        prober = prober_of(comm)
        until(lambda: len(prober.rows()) == 2)
        inside, told, go_on = threading.Event(), [], threading.Event()

        def stay(now: float) -> None:
            inside.set()
            go_on.wait(WAIT_SECONDS)

        prober._look_for_work = stay  # type: ignore[method-assign]
        assert inside.wait(WAIT_SECONDS)
        prober.report = told.extend
        comm.barrier()
        other = comm.view.ids[1 - comm.rank]
        prober.look_at([other, other, 99])
        if prober._transport.makes_link(other):
            until(lambda: len(told) == 2)
            assert all(row.bandwidth > 0 for row in told)
        comm.barrier()
        go_on.set()
        return sorted((row.source, row.target) for row in told)

    found = run_peers(2, body)
    assert sorted(map(len, found)) == [0, 2] and max(found) == [(1, 2), (2, 1)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("collcomm-glances")]
