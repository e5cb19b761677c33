"""One rank of a test under mpirun: runs the checks that its argument names, and tells how they ended.

Run as ``mpirun -n N python -m tests.support.mpirank '{"cases": ["reductions", ...]}'``: names of the contract's checks, or
of those below, after which this rank is no longer in its group. With "seed", victims die (`mpideaths`); with "on_devices", arrays
lie on a `LazyDevice`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

import numpy as np
from collcomm.transports.mpi import CommFailed

import collcomm
import collcomm.devicearrays
from collcomm.bench.launch import die_with_parent
from collcomm.bench.mpilaunch import emit
from tests.support.contract import CONTRACT, Comm, equal, raises, same_everywhere
from tests.support.lazydevice import LazyDevice
from tests.support.mpideaths import dying, dying_everywhere
from tests.support.ondevice import OnDevice


def parting_words(comm: Comm) -> None:
    """What was sent before leaving arrives, although nobody has asked for it yet."""
    if comm.rank == 0:
        comm.send(np.arange(200_000.0), 1)
    elif comm.rank == 1:
        time.sleep(0.3)
        out = np.zeros(200_000)
        equal(comm.recv(out, 0), np.arange(200_000.0))
    comm.leave()


def cut_short(comm: Comm) -> None:
    """MPI has no second connection: what follows a message that was sent in part only is not sent at all."""
    if comm.rank == 0:
        raises(collcomm.CollectiveTimeout, lambda: comm.send(np.ones(3_000_000), 1, timeout=0.3), "in time")
        raises(collcomm.PeerLost, lambda: comm.send(np.ones(3), 1), "cut short")
    assert comm.all_reduce(np.ones(1))[0] == comm.size
    comm.leave()


def coded(comm: Comm) -> None:
    """all_reduce with codecs, small and large, of the same bits everywhere; and with different ones."""
    n = comm.size
    for codec in ("f16", "int8", "e3m0"):
        for size in (0, 1, 1000, 300_000):
            x = np.random.default_rng(comm.rank).standard_normal(size).astype(np.float32)
            found = comm.all_reduce(x, codec=codec)
            same_everywhere(comm, found)
            assert (
                np.abs(found - comm.all_reduce(x)).max(initial=0) < {"f16": 0.02, "int8": 0.2, "e3m0": 3.0 * n}[codec]
            )
    for size in (3, 300_000):
        assert (comm.all_reduce(np.ones(size, np.float32), codec="auto") == n).all()
    odd = "bf16" if comm.rank == n - 1 else "int8"
    raises(collcomm.CollectiveMismatch, lambda: comm.all_reduce(np.ones(3, np.float32), codec=odd), "int8", "bf16")
    assert (comm.all_reduce(np.ones(3, np.float32), codec="int8") == n).all()
    comm.leave()


def overlapping(comm: Comm) -> None:
    """A fused all_reduce, also one whose function fails, and rings."""

    def epilogue(shard: np.ndarray, start: int) -> np.ndarray:
        if (shard < 0).all():
            raise ValueError("all are negative")
        return shard + np.arange(start, start + len(shard))[:, None]

    n = comm.size
    for width in (1, 5000):
        x = np.ones((2 * n - 1, width))
        equal(comm.fused_all_reduce(x, epilogue, out=x), np.arange(n, 3 * n - 1)[:, None] * np.ones(width))
        x[:] = -1
        x[0] = 1
        error: type[Exception] = collcomm.EpilogueFailed if comm.rank == 0 else ValueError
        raises(error, lambda: comm.fused_all_reduce(x, epilogue), "all are negative")
        for both_ways in (False, True):
            for owner, block in comm.ring(both_ways).around(np.full((comm.rank, width), comm.rank)):
                equal(block, np.full((owner, width), owner))
        for helper, result in comm.ring().visit(np.full((2, width), comm.rank), lambda owner, block: block * comm.rank):
            equal(result, np.full((2, width), comm.rank * helper))
    comm.leave()


def leaving(comm: Comm) -> None:
    """The last rank leaves, the others go on."""
    n = comm.size
    part = comm.split(range(1, n))
    if comm.rank == n - 1:
        comm.leave(timeout=20)
        assert comm.closed
        return
    for size in (1, 10_000):
        while (result := comm.all_reduce(np.ones(size)))[0] == n:
            pass
        assert (result == n - 1).all() and comm.size == n - 1 and comm.view.epoch == 2
    state = {"w": np.full(1000, comm.rank)}
    assert comm.sync(state, revision=comm.rank).revision == n - 2 and (state["w"] == n - 2).all()
    if part is not None:
        assert part.all_reduce(np.ones(1))[0] == n - 2 == part.size
    comm.leave()


def expiring(comm: Comm) -> None:
    """A peer comes late: everybody learns it, and the group goes on."""
    last = comm.size - 1
    if comm.rank == last:
        time.sleep(1.2)
    late = comm.view[last].name
    raises(collcomm.CollectiveTimeout, lambda: comm.all_reduce(np.ones(3), timeout=0.3), f"{late} had not called it")
    assert comm.all_reduce(np.ones(3))[0] == comm.size and comm.view.epoch == 2
    comm.leave()


def interrupted(comm: Comm) -> None:
    """A rank learns of a failure when the others have their results: they help it, though they wait for it elsewhere."""
    n, part = comm.size, comm.split(range(comm.size))
    assert part is not None and part.all_reduce(np.ones(3))[0] == n
    if comm.rank == 0:
        turns: Any = part._group._turns  # type: ignore[attr-defined]
        exchange = turns.exchange

        def late(*arguments: Any) -> None:
            exchange(*arguments)
            raise CommFailed("a failure, heard of late")

        turns.exchange = late
    assert part.all_reduce(np.full(3, 2.0))[0] == 2 * n
    comm.barrier(timeout=10)
    assert part.all_reduce(np.full(3, 3.0))[0] == 3 * n and part.size == n
    comm.leave()


def expiring_for_good(comm: Comm) -> None:
    """Without ULFM: the time-out closes this peer's communicator."""
    if comm.rank:
        time.sleep(2)
        os._exit(0)
    late = comm.view[1].name
    raises(collcomm.CollectiveTimeout, lambda: comm.all_reduce(np.ones(3), timeout=0.3), late, "closed")
    raises(collcomm.CollectiveTimeout, lambda: comm.all_reduce(np.ones(3)))
    emit(event="done", case="expiring_for_good", rank=0)
    os._exit(0)


def absent() -> None:
    """The last rank never joins, and all are told."""
    if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
        raises(collcomm.CollectiveTimeout, lambda: collcomm.join(timeout=0.5), "not all ranks")
        emit(event="done", case="absent", rank=0)
    else:
        from mpi4py import MPI  # noqa: F401 - it is there, but does not join

        time.sleep(1.5)
    os._exit(0)


ENDING = {
    "coded": coded,
    "overlapping": overlapping,
    "parting_words": parting_words,
    "cut_short": cut_short,
    "leaving": leaving,
    "expiring": expiring,
    "interrupted": interrupted,
    "expiring_for_good": expiring_for_good,
}


def main() -> None:
    die_with_parent()
    case = json.loads(sys.argv[1])
    if case.get("cases") == ["absent"]:
        absent()
    comm = collcomm.join(
        timeout=20, op_timeout=case.get("op_timeout", 20.0), on_failure=case.get("on_failure", "retry")
    )
    name = "join"
    try:
        if "seed" in case:
            (dying_everywhere if case.get("everywhere") else dying)(comm, case)
            return
        if case.get("on_devices"):
            device = LazyDevice()
            collcomm.devicearrays.find_device = lambda: device  # type: ignore[assignment,return-value]
            comm = OnDevice(comm)  # type: ignore[assignment]
        for name in case["cases"]:
            (ENDING.get(name) or CONTRACT[name])(comm)
            emit(event="done", case=name, rank=comm._session.member)
        if not comm.closed:
            comm.leave()
    except BaseException as error:
        emit(event="error", case=name, rank=comm._session.member, text="".join(traceback.format_exception(error)))
        os._exit(1)


if __name__ == "__main__":
    main()
