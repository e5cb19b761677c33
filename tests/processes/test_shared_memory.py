"""Members of one host use each other's windows by themselves, and nothing is left of them, however their owners end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collcomm.transports.window import OwnWindow, supported

import collcomm
from collcomm.engine.windowplan import WINDOW_BYTES
from tests.support.contract import kinds, uneven
from tests.support.peers import run_peers, run_peers_at

pytestmark = pytest.mark.skipif(bool(supported()), reason=supported())
BLOCKS = 3 * WINDOW_BYTES // 8 + 5  # elements that go through a window in several blocks


def windows() -> int:
    """Windows in this process's memory, those of others included."""
    return Path("/proc/self/maps").read_text().count("/memfd:collcomm")


def has_windows(comm: collcomm.Communicator) -> bool:
    return comm._group._in_host.shared is not None


def check_all(comm: collcomm.Communicator, size: int) -> None:
    """Every kind, from every root, of ``size`` integers per rank, also in uneven blocks."""
    kinds(comm, (size,), width=1)
    uneven(comm, (-(-size // 9),))


@pytest.mark.parametrize(("n", "size"), [(2, BLOCKS), (3, BLOCKS), (5, 1), (5, 30_011), (3, 0)])
def test_every_kind_in_blocks(n: int, size: int) -> None:
    def body(comm: collcomm.Communicator) -> int:
        check_all(comm, size)
        assert has_windows(comm)
        comm.barrier()
        found = windows()
        comm.barrier()  # nobody leaves before
        return found

    gc.collect()
    before = windows()  # of what other tests have left to the garbage collector
    mapped = before + n * n  # all in this process: each maps its own and those of the others
    assert run_peers(n, body) == [mapped] * n
    assert windows() <= before


def test_who_would_rather_use_tcp_is_respected() -> None:
    """One such member, and all use messages: over Unix sockets where both ends like that."""

    def body(comm: collcomm.Communicator) -> int:
        check_all(comm, 1000)
        assert not has_windows(comm)
        return len(comm._session.transport.offers)

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        names = iter((["tcp"], ["shm", "tcp"], ["tcp", "shm"]))
        join = collcomm.join

        def one_each(*arguments: Any, **options: Any) -> collcomm.Communicator:
            return join(*arguments, transports=next(names), **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collcomm, "join", one_each)
            assert sorted(run_peers_at(coordinator.address, 3, body)) == [1, 2, 2]


def test_shared_memory_alone_needs_one_host() -> None:
    def body(comm: collcomm.Communicator) -> None:
        check_all(comm, 100)
        assert has_windows(comm)

    run_peers(2, body, transports=["shm"])


def test_no_memory_for_a_window_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: OwnWindow, nbytes: int) -> None:
        raise OSError(28, "No space left on device")

    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(collcomm.CollcommError, match=r"window.*No space left.*tcp"):
            comm.all_reduce(np.ones(3))

    monkeypatch.setattr(OwnWindow, "__init__", full)
    run_peers(2, body)


def test_a_group_that_grows_and_shrinks_keeps_few_windows() -> None:
    def body(comm: collcomm.Communicator) -> None:
        for turn in range(20):
            part = comm.split([0, 1] if turn % 2 else [1, 2])
            if part is not None:
                assert part.all_reduce(np.array([1]))[0] == 2
                part.close()
        comm.barrier()

    gc.collect()
    before = windows()
    run_peers(3, body)
    assert windows() <= before


# -- owners that are killed --------------------------------------------------------------------------------------------


def survive(address: str, name: str, n: int, tell: Connection) -> None:
    """Reduces in place until two are left; tells what it holds in memory and descriptors then."""
    with collcomm.join(address, name=name, min_size=n, timeout=30, transports=["shm", "tcp"]) as comm:
        x = np.empty(BLOCKS)
        tell.send("running")
        while comm.size > 2:
            x[:] = 1
            comm.all_reduce(x, out=x)
            assert (x == comm.size).all()
        comm.all_reduce(x, op="max")
        tell.send((windows(), len(os.listdir("/proc/self/fd"))))
        comm.barrier()


@pytest.mark.parametrize("seed", range(3))
def test_who_is_killed_leaves_nothing(seed: int) -> None:
    n = 5
    context = multiprocessing.get_context("forkserver")
    before = set(Path("/dev/shm").glob("collcomm*"))  # other programs may come and go there
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        pipes, processes = [], []
        for number in range(n):
            hear, tell = context.Pipe(duplex=False)
            processes.append(context.Process(target=survive, args=(coordinator.address, f"p{number}", n, tell)))
            processes[-1].start()
            pipes.append(hear)
        try:
            for hear in pipes:
                assert hear.poll(30) and hear.recv() == "running"
            for number in range(n - 2):
                time.sleep(0.02 + 0.013 * seed)
                processes[number].kill()
            for hear in pipes[n - 2 :]:
                assert hear.poll(30)
                held, descriptors = hear.recv()
                assert held == 2 and descriptors < 40
            for process in processes[n - 2 :]:
                process.join(20)
                assert process.exitcode == 0
        finally:
            for process in processes:
                process.kill()
                process.join(10)
    assert processes[0].exitcode == -signal.SIGKILL
    assert set(Path("/dev/shm").glob("collcomm*")) <= before
