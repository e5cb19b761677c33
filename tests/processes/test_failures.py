"""Peers that die, stop, hang or lose their links, as processes of their own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import collcomm
from tests.support.peers import run_peers_at

pytestmark = pytest.mark.usefixtures("each_transport")

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["collcomm", "tests.support.churn"])


class Processes:
    """Peers as child processes; each runs ``body(comm, tell)`` and may ``tell`` things. All are gone at the end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.children: list[Any] = []
        self.pipes: list[Connection] = []

    def start(self, body: Callable[..., None], n: int, *arguments: Any, **options: Any) -> None:
        for _ in range(n):
            hear, tell = CONTEXT.Pipe(duplex=False)
            name = f"p{len(self.children)}"
            child = CONTEXT.Process(
                target=_live, args=(self.address, name, body, tell, arguments, options), daemon=True
            )
            child.start()
            tell.close()
            self.children.append(child)
            self.pipes.append(hear)

    def hear(self, index: int, seconds: float = 20.0) -> Any:
        assert self.pipes[index].poll(seconds), f"peer {index} says nothing"
        said = self.pipes[index].recv()
        assert not isinstance(said, BaseException), said
        return said

    def kill(self, index: int, number: int) -> float:
        at = time.monotonic()
        os.kill(self.children[index].pid, number)
        return at

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()
        for child in self.children:
            child.join(10)


def _live(
    address: str, name: str, body: Callable[..., None], tell: Connection, arguments: tuple, options: dict
) -> None:
    try:
        with collcomm.join(address, name=name, timeout=30, **options) as comm:
            body(comm, tell, *arguments)
    except BaseException as error:
        tell.send(error if isinstance(error, collcomm.CollcommError) else AssertionError(repr(error)))


def reduce_until_smaller(comm: collcomm.Communicator, tell: Connection, size: int, in_place: bool) -> None:
    tell.send("running")
    n = comm.size
    x = np.full(size, 1.0, np.float32)
    while comm.size == n:
        x[:] = 1
        result = comm.all_reduce(x, out=x if in_place else None)
        assert (result == comm.size).all()
        assert in_place or (x == 1).all()
    tell.send((comm.size, comm.stats()["retries"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))
    comm.barrier()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("size", [10, 400_000])
def test_sigkill_inside_an_all_reduce(size: int, in_place: bool) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_until_smaller, 4, size, in_place, min_size=4)
        assert [peers.hear(i) for i in range(4)] == ["running"] * 4
        peers.kill(2, signal.SIGKILL)
        assert [peers.hear(i)[0] for i in (0, 1, 3)] == [3, 3, 3]
        causes = [cause for _, _, name, cause in coordinator.snapshot()["default"]["history"] if name == "p2"]
        assert "reports" in causes[-1] or "closed" in causes[-1]


def raise_when_lost(comm: collcomm.Communicator, tell: Connection) -> None:
    tell.send("running")
    x = np.arange(300_000, dtype=np.float32)
    try:
        while True:
            comm.all_reduce(x)
    except collcomm.PeerLost as error:
        np.testing.assert_array_equal(x, np.arange(300_000))
        tell.send(str(error))
    assert comm.all_reduce(np.ones(1))[0] == 2
    tell.send("goes on")


def test_on_failure_raise_names_the_dead_at_all_survivors() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(raise_when_lost, 3, min_size=3, on_failure="raise")
        for i in range(3):
            peers.hear(i)
        peers.kill(0, signal.SIGKILL)
        for i in (1, 2):
            text = peers.hear(i)
            assert "p0" in text and "inputs are intact" in text
            assert peers.hear(i) == "goes on"


def hold_the_gil(comm: collcomm.Communicator, tell: Connection, seconds: int) -> None:
    comm.all_reduce(np.ones(1))
    tell.send("running")
    if comm.rank == 0:
        ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the GIL: no Python thread of this process runs
    assert comm.all_reduce(np.ones(1000))[0] == comm.size
    tell.send((comm.size, comm.view.epoch))


def test_a_peer_that_is_restarted_may_use_its_name_again_at_once() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_until_smaller, 1, 10, False, min_size=1)
        peers.hear(0)
        peers.kill(0, signal.SIGKILL)
        peers.children[0].join(10)
        with collcomm.join(coordinator.address, name="p0", timeout=10) as comm:
            assert comm.size == 1


def test_two_die_at_once_and_one_is_left() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_until_smaller, 3, 50_000, True, min_size=3)
        for i in range(3):
            peers.hear(i)
        peers.kill(0, signal.SIGKILL)
        peers.kill(2, signal.SIGKILL)
        assert peers.hear(1)[0] in (1, 2)


@pytest.mark.slow
def test_a_gil_stall_of_five_seconds_is_no_death_and_a_stopped_peer_is() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(hold_the_gil, 3, 5, min_size=3)
        for i in range(3):
            peers.hear(i)
        assert [peers.hear(i) for i in range(3)] == [(3, 1)] * 3
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_until_smaller, 3, 1000, False, min_size=3)
        for i in range(3):
            peers.hear(i)
        peers.kill(1, signal.SIGSTOP)
        for i in (0, 2):
            assert peers.hear(i)[0] == 2
        assert any("silent for" in cause for *_, cause in coordinator.snapshot()["default"]["history"])
        peers.kill(1, signal.SIGCONT)
        with pytest.raises(AssertionError, match=r"evicted from view 1: silent for .* join again"):
            peers.hear(1)


def peak_of_one_all_reduce(comm: collcomm.Communicator, tell: Connection, size: int, in_place: bool) -> None:
    x = np.ones(size, np.float32)
    out = x if in_place else np.full(size, 2, np.float32)  # touched: its pages are the caller's
    comm.all_reduce(np.ones(4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    comm.all_reduce(x, out=out)
    tell.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before)
    comm.barrier()


@pytest.mark.parametrize("in_place", [False, True])
def test_memory_of_an_all_reduce(in_place: bool) -> None:
    """At most the size of the data and 64 MiB beyond the caller's arrays."""
    size = 32 << 20  # elements: 128 MiB
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(peak_of_one_all_reduce, 2, size, in_place, min_size=2)
        for i in range(2):
            assert peers.hear(i, 60) <= size * 4 * in_place + (64 << 20)


def test_the_root_is_gone() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        gone = threading.Event()

        def body(comm: collcomm.Communicator) -> None:
            root = comm.view.members[1]
            if comm.rank == 1:
                comm.close()
                gone.set()
                return
            assert gone.wait(20)
            x = np.full(100_000, comm.rank, np.float32)
            kept = x.copy()
            with pytest.raises(collcomm.PeerLost, match=f"its root, {root.name} "):
                comm.broadcast(x, root=1, out=x)
            np.testing.assert_array_equal(x, kept)
            assert comm.size == 2
            assert comm.all_reduce(np.ones(1))[0] == 2

        run_peers_at(coordinator.address, 3, body)


def test_send_to_and_recv_from_the_dead() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:

        def body(comm: collcomm.Communicator) -> None:
            comm.barrier()
            if comm.rank == 2:
                comm.close()
                return
            with pytest.raises(collcomm.PeerLost):
                comm.recv(np.zeros(3), 2, timeout=20)
            with pytest.raises(collcomm.PeerLost):
                comm.send(np.zeros(10_000_000), 2, timeout=20)  # more than the buffers in between take
            assert comm.all_reduce(np.ones(1))[0] == 2

        run_peers_at(coordinator.address, 3, body)


def test_the_coordinator_dies_and_the_peers_go_on() -> None:
    coordinator = collcomm.Coordinator("127.0.0.1:0")
    met = threading.Barrier(2, action=coordinator.close)

    def body(comm: collcomm.Communicator) -> None:
        comm.all_reduce(np.ones(1))
        met.wait(20)
        for _ in range(200):
            assert comm.all_reduce(np.ones(1000))[0] == 2
            assert comm.step().size == 2
        comm.leave(timeout=0.5)  # nobody is there to hear it
        assert comm.closed

    run_peers_at(coordinator.address, 2, body)
