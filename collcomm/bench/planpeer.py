"""A peer of `collcomm bench plan`: waits for the measured plan, then times collectives by it and by fixed choices, in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import collcomm

from ..communicator import Communicator
from ..engine import Group
from ..planner import Choice, choose
from ..transports.base import COLLECTIVES
from ..types import View
from .measure import slowest

JOIN_SECONDS = 60.0
PLAN_SECONDS = 90.0  # for links to be measured and a plan to be fitted
SETTLED_SECONDS = 4.0  # without a newer plan
CUT = ("ring", "bidirectional", "hierarchical")  # algorithms that are told into how many segments
PAUSE_SECONDS = 0.05
STEP_SECONDS = 2.0  # between two looks for a plan: so links are idle


def plan_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """Times ``case["kind"]`` by ``case["ways"]``: name -> {"by": None for the plan or [algorithm, parameters], "plain": True
    for a group of which no link is measured}; ``only``: of some sizes, the names of the ways that are timed; ``sizes`` in
    bytes, ``seconds`` of one block of calls, ``rounds`` of blocks. Fixed choices go by ``index``, the peers' numbers, as ranks;
    so are orders told."""
    if case.get("site"):
        os.environ["COLLCOMM_SITE"] = case["site"]
    join = partial(collcomm.join, case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    comm = join()
    plain = None
    if any(way.get("plain") for way in case["ways"].values()):
        plain = _in_order(join(group="plain", probe=False), case["index"])
    waited = await_plan(comm)
    ordered = _in_order(comm, case["index"])
    order = [ordered.view.ids.index(comm.view.ids[rank]) for rank in plan_order(comm)]
    frame_bytes = comm._group.choosing.strategy(comm.view).frame_bytes
    groups = {
        name: _by(plain if way.get("plain") else ordered, way["by"], order, frame_bytes) if way.get("by") else comm
        for name, way in case["ways"].items()
    }
    for nbytes in case["sizes"]:
        only = case.get("only", {}).get(str(nbytes), groups)
        times = _timed(comm, {name: group for name, group in groups.items() if name in only}, case, nbytes)
        if comm.rank == 0:
            emit(event="size", nbytes=nbytes, times=times)
    explained = {str(nbytes): _explained(comm, case["kind"], nbytes) for nbytes in case["sizes"]}
    links = comm._session.transport.open_links(COLLECTIVES)  # type: ignore[attr-defined]
    emit(
        event="compared",
        rank=comm.rank,
        waited=waited,
        order=order,
        explained=explained,
        streams=max((len(link.streams) for link in links), default=0),
    )
    comm.barrier()
    if plain is not None:
        plain.leave()
    comm.leave()


def lasting_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """Reduces ``nbytes`` over and over for ``seconds``, once the plan is there, and tells when each call ended."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    await_plan(comm)
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    emit(event="begins", epoch=comm.view.epoch)
    ends, until = [], time.monotonic() + case["seconds"]
    while comm.all_reduce(np.array([time.monotonic() < until], np.uint8), op="min")[0]:
        comm.all_reduce(x, out=out)
        ends.append(time.monotonic())
    assert (out == comm.size).all()
    emit(
        event="lasted",
        rank=comm.rank,
        ends=ends,
        epoch=comm.view.epoch,
        how=str(comm.explain("all_reduce", case["nbytes"])),
    )
    comm.leave()


def _in_order(comm: Communicator, index: int) -> Communicator:
    """The same members, ranked by their ``index``."""
    indices = comm.all_gather(np.array([index]))
    return comm.create_group([int(rank) for rank in np.argsort(indices)], "in order")


def _explained(comm: Communicator, kind: str, nbytes: int) -> dict[str, Any]:
    found = comm.explain(kind, nbytes)
    return {"text": str(found), "algorithm": found.algorithm, "predicted": found.predicted}


def plan_order(comm: Communicator) -> tuple[int, ...]:
    """Ranks in the order of the plan; in their own without one."""
    plan = comm.view.plan
    found = [] if plan is None else [comm.view.rank_of(member) for member in plan.order]
    order = tuple(rank for rank in found if rank is not None)
    return order if len(order) == comm.size else tuple(range(comm.size))


def await_plan(comm: Communicator) -> float:
    """Wait while links are measured, then step until no better plan has come for a while; returns the seconds until the last
    one came. Nothing is called meanwhile: beside operations, probes take twenty times as long."""
    began = last = time.monotonic()
    prober = comm._session.prober  # type: ignore[attr-defined]
    hosts = comm.view.hosts
    links = 2 * sum(host != hosts[comm.rank] for host in hosts)
    while len(prober.rows()) < links and time.monotonic() - began < PLAN_SECONDS:
        time.sleep(PAUSE_SECONDS)
    revision = 0
    while True:
        time.sleep(STEP_SECONDS)
        plan = comm.step().plan
        now = time.monotonic()
        if plan is not None and plan.revision != revision:
            revision, last = plan.revision, now
        quiet = revision and now - last > SETTLED_SECONDS
        if comm.all_reduce(np.array([quiet or now - began > PLAN_SECONDS], np.uint8), op="min")[0]:
            return last - began


def _by(comm: Communicator | None, way: list[Any], order: Sequence[int], frame_bytes: int) -> Communicator:
    """A communicator of all members whose collectives go ``way``; ``order``: what "plan" stands for."""
    assert comm is not None
    algorithm, parameters = way
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
    if given.get("order") == "plan":
        given["order"] = tuple(order)
    group = fixed(comm, range(comm.size), algorithm, frame_bytes, **given)
    assert group is not None
    return group


def fixed(
    comm: Communicator, ranks: Sequence[int], algorithm: str, frame_bytes: int, **given: Any
) -> Communicator | None:
    """A part of ``comm`` whose collectives go by ``algorithm``, whatever the plan says; None at the others. ``frame_bytes``:
    0 for the usual size."""

    def choose_fixed(kind: str, nbytes: int, view: View) -> Choice:
        cut = choose(kind, view.size, nbytes, only="ring").parameters if algorithm in CUT else {}
        return Choice(algorithm, {**cut, **given}, 0.0, frame_bytes)

    group = comm.split(ranks)
    if group is not None:
        assert isinstance(group._group, Group)
        group._group.choose = choose_fixed
    return group


def _timed(
    comm: Communicator, groups: dict[str, Communicator], case: dict[str, Any], nbytes: int
) -> dict[str, list[float]]:
    """Seconds per call, by way; the ways take turns."""
    x = np.ones(max(1, nbytes // 4), np.float32)
    out = np.empty_like(x)
    times: dict[str, list[float]] = {name: [] for name in groups}
    counts: dict[str, int] = {}
    for turn in range(case["rounds"] + 1):
        for name, group in groups.items():
            comm.barrier()
            began = time.perf_counter()
            for _ in range(counts.get(name, 1)):
                group.all_reduce(x, out=out)
            took = (time.perf_counter() - began) / counts.get(name, 1)
            if turn:
                times[name].append(took)
                continue
            group.all_reduce(x, out=out)  # the first made connections
            began = time.perf_counter()
            group.all_reduce(x, out=out)
            once = slowest(comm, time.perf_counter() - began)
            counts[name] = max(1, min(200, int(case["seconds"] / once)))
    assert (out == comm.size).all()
    return times
