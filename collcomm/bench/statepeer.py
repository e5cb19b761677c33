"""Peers of the bench of shared state: donors that go on with their steps, and the newcomer that they serve."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import collcomm

JOIN_SECONDS = 120.0
BEFORE_STEPS = 100  # what "during" is compared with
REDUCED = 512  # of float64: a small all_reduce, as of losses or norms
WORK = 1 << 14  # elements of a piece of work: stays in L2

Emit = Callable[..., None]
Case = dict[str, Any]


def donor(case: Case, emit: Emit) -> None:
    comm = collcomm.join(case["address"], min_size=case["n"] - 1, timeout=JOIN_SECONDS)
    state = _state(case, 1.0)
    comm.sync(state, revision=1)
    work = _work(case["work"])
    comm.barrier()
    before, _ = _steps(comm, work, case["idle"], BEFORE_STEPS, None)
    emit(event="running")
    while comm.size < case["n"]:
        comm.step()
    handle = comm.sync(state, revision=1, async_op=True)
    reducing = comm if case["together"] else comm.split(range(case["n"] - 1))
    assert reducing is not None
    during, others = _steps(reducing, work, case["idle"], None, handle)
    emit(event="served", before=before, during=during[: len(during) - others] or during)
    comm.barrier()
    comm.leave()


def newcomer(case: Case, emit: Emit) -> None:
    state = _state(case, 0.0)
    comm = collcomm.join(case["address"], min_size=case["n"] - 1, timeout=JOIN_SECONDS)
    began = time.perf_counter()
    handle = comm.sync(state, revision=None, async_op=True)
    ended: list[float] = []
    handle.add_done_callback(lambda _: ended.append(time.perf_counter()))
    if case["together"]:
        _steps(comm, lambda: None, 0.0, None, handle)
    else:
        comm.split(range(case["n"] - 1))
    report = handle.result()
    if report.bytes_received != case["nbytes"] or not (state["w"] == 1).all():
        raise AssertionError(f"the state is wrong: {report}")
    emit(event="synced", seconds=ended[0] - began, turns=report.turns, donors=len(report.donors))
    comm.barrier()
    comm.leave()


def _state(case: Case, value: float) -> dict[str, Any]:
    return {"w": np.full(case["nbytes"] // 4, value, np.float32)}


def _work(seconds: float) -> Callable[[], None]:
    """A call that takes about ``seconds`` of one core, measured now."""
    x, y = np.linspace(0, 1, WORK), np.empty(WORK)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        np.sin(x, out=y)
        took.append(time.perf_counter() - began)
    pieces = max(1, round(seconds / sorted(took)[len(took) // 2]))

    def call() -> None:
        for _ in range(pieces):
            np.sin(x, out=y)

    return call


def _steps(
    comm: collcomm.Communicator, work: Callable[[], None], idle: float, count: int | None, handle: Any
) -> tuple[list[float], int]:
    """Times of ``count`` steps, or of steps until ``handle`` is done at all members; and how many of the last ones came
    after it was done here."""
    times: list[float] = []
    late = 0
    x = np.zeros(REDUCED)
    while count is None or len(times) < count:
        began = time.perf_counter()
        work()
        time.sleep(idle)
        x[0] = handle is not None and handle.done()
        done = comm.all_reduce(x)[0]
        times.append(time.perf_counter() - began)
        late += bool(x[0])
        if done == comm.size:
            break
    return times, late
