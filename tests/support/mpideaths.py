"""Ranks that die at chosen instants while the group works, and what the survivors of an MPI job have seen."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import ml_dtypes
import numpy as np

import collcomm
from collcomm.bench.mpilaunch import emit
from tests.support.contract import Comm, equal

DEATH_SECONDS = 20.0  # by then the victims are dead and the others know


class Checker:
    """Reduces without pause over sizes, dtypes and kinds, and checks each result against the view that it ran in."""

    SIZES = (1, 30, 3000, 300_000)

    def __init__(self, comm: Comm, seed: int):
        self.comm, self.random = comm, np.random.default_rng(seed)  # the same choices everywhere
        self.everybody = comm.view.ids
        self.log: list[tuple[int, Any]] = []  # (number of the call, what it returned)
        self.calls = 0

    def one(self) -> None:
        comm, number = self.comm, self.calls
        self.calls += 1
        size = int(self.random.choice(self.SIZES))
        kind = self.random.choice(["all_reduce", "in_place", "scheduled", "all_gather", "reduce_scatter", "broadcast"])
        n = len(self.everybody)
        dtype = ml_dtypes.bfloat16 if kind == "scheduled" else np.float64
        before = comm.view
        give = np.full(size if kind != "reduce_scatter" else size * before.size, 1 << comm._session.member, dtype)
        kept = give.copy()
        try:
            if kind == "in_place":
                result = comm.all_reduce(give, out=give)
            elif kind == "all_gather":
                result = comm.all_gather(give)
            elif kind == "reduce_scatter":
                result = comm.reduce_scatter(give)
            elif kind == "broadcast":
                result = comm.broadcast(give, root=before.size - 1)
            else:
                result = comm.all_reduce(give)
        except collcomm.PeerLost:
            equal(give, kept)
            self.log.append((number, f"lost {kind}"))
            return
        view = comm.view
        weights = [1 << member for member in view.ids]
        if kind == "all_gather":
            expected: Any = np.repeat(weights, size)
        elif kind == "broadcast":
            expected = 1 << before.ids[-1]
        else:
            expected = sum(weights)
        where = f"call {number} {kind} of {size} in view {view.epoch} of {view.size}/{n}: {result[:4]}"
        assert (result == expected).all(), where
        if kind != "in_place":
            equal(give, kept)
        self.log.append((number, float(np.asarray(result, np.float64).sum())))


def dying(comm: Comm, case: dict[str, Any]) -> None:
    """Victims die ``after`` seconds, whatever they are doing; the others' logs must be equal."""
    checker = Checker(comm, case["seed"])
    if comm.rank in case["victims"]:
        threading.Timer(case["after"] + 0.0005 * comm.rank, os.kill, (os.getpid(), signal.SIGKILL)).start()
    left = len(comm.view.ids) - len(case["victims"])
    extra = 0
    deadline = time.monotonic() + DEATH_SECONDS
    while extra < 10:
        checker.one()
        extra += comm.size == left
        assert time.monotonic() < deadline, "the victims do not die, or nobody notices"
    emit(event="log", rank=comm.rank, log=checker.log)
    comm.leave()


def dying_everywhere(comm: Comm, case: dict[str, Any]) -> None:
    """A death while the world, a smaller group and the shared state are in use, by a thread each."""
    n, me = comm.size, comm.rank
    part = comm.split(range(1, n))
    if me == case["victims"][0]:
        threading.Timer(case["after"], os.kill, (os.getpid(), signal.SIGKILL)).start()
    state = {"w": np.full(200_000, 1.0 if me else 0.0, np.float32)}
    rounds, extra, deadline = 0, 0, time.monotonic() + DEATH_SECONDS
    while extra < 5:
        rounds += 1
        sync = comm.sync(state, revision=rounds, async_op=True) if rounds % 3 == 0 else None
        handles = [comm.all_reduce(np.ones(size), async_op=True) for size in (3, 50_000)]
        if part is not None:
            assert part.all_reduce(np.ones(1000))[0] == part.size
        for handle in handles:
            result = handle.result(20)
            assert (result == result[0]).all() and result[0] in (n, n - 1), (
                f"round {rounds}: {result[:3]} of {result.size}"
            )
        if sync is not None:
            sync.result(20)
        extra += comm.step().size == n - 1
        assert time.monotonic() < deadline, "the victim does not die, or nobody notices"
    emit(event="log", rank=comm.rank, log=[[rounds, float(state["w"].sum())]])
    comm.leave()
