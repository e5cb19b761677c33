"""Placement of experts that keeps tokens on their device from layer to layer (ExFlow, arXiv 2401.08383).

Tokens that one expert of a layer has served often go to the same few experts of the next. Given how many went from which to
which, experts of all layers are placed, equally many of each layer on each device, so that as few tokens as possible change
device between consecutive layers: an integer program. `milp` solves small ones with HiGHS, within a limit of time; `swaps` grows
the groups greedily and then exchanges pairs of experts while that helps, in milliseconds. `place` takes the better.

Let one rank place and tell the others: how far the solver gets within its time depends on the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Method = Literal["milp", "milp, out of time", "swaps"]
Solver = Literal["auto", "milp", "swaps"]

MAX_LAYERS, MAX_EXPERTS = 1024, 4096
SOLVABLE = 6_000  # variables of an integer program that the solver is asked about unless told to


@dataclass(frozen=True)
class FlowPlacement:
    """``device``: [layer][expert]. ``crossings``: tokens that change device, of ``total`` steps from layer to layer. ``method``:
    "milp": proved to be the least, in the solver's arithmetic; "milp, out of time": the best that the solver found; "swaps": no
    single swap does better."""

    device: tuple[tuple[int, ...], ...]
    crossings: int
    total: int
    method: Method

    @property
    def crossing_share(self) -> float:
        return self.crossings / self.total if self.total else 0.0


def place(affinity: Any, devices: int, *, solver: Solver = "auto", time_limit: float = 10.0) -> FlowPlacement:
    """``affinity[layer][e][f]``: tokens that went from expert e of the layer to expert f of the next, shape (layers - 1, N, N).

    :param devices: divides N.
    :param solver: "auto" asks the solver where scipy is installed and the program is small (`SOLVABLE`), "milp" whenever it is
        installed (ModuleNotFoundError if not), "swaps" never.
    :param time_limit: seconds for the solver.
    """
    flows = _checked(affinity, devices)
    if solver not in ("auto", "milp", "swaps"):
        raise ValueError(f"solver must be 'auto', 'milp' or 'swaps', not {solver!r}")
    if not 0 < time_limit < math.inf:
        raise ValueError(f"time_limit must be a positive number of seconds, not {time_limit!r}")
    start = min(
        (_swapped(flows, begin, devices) for begin in _starts(flows, devices)), key=lambda p: crossings(flows, p)
    )
    least, method = crossings(flows, start), "swaps"
    if solver == "milp" or (solver == "auto" and least and _variables(flows, devices) <= SOLVABLE):
        solved = _solved(flows, devices, time_limit, required=solver == "milp")
        if solved is not None:
            found, proved = solved
            found = _swapped(flows, found, devices)
            if crossings(flows, found) < least + proved:
                start, method = found, "milp" if proved else "milp, out of time"
    rows = tuple(tuple(int(device) for device in row) for row in start)
    return FlowPlacement(rows, crossings(flows, start), int(flows.sum()), method)  # type: ignore[arg-type]


def crossings(affinity: Any, device: Any) -> int:
    """Tokens that change device between consecutive layers, with the experts at ``device[layer][expert]``."""
    flows, rows = np.asarray(affinity, np.int64), np.asarray(device)
    return int(
        sum(flow[here[:, None] != there].sum() for flow, here, there in zip(flows, rows, rows[1:], strict=False))
    )


def contiguous(layers: int, experts: int, devices: int) -> tuple[tuple[int, ...], ...]:
    """The usual placement: the first N / devices experts of each layer on the first device, and so on."""
    return (tuple(expert * devices // experts for expert in range(experts)),) * layers


def _solved(flows: Counts, devices: int, time_limit: float, required: bool) -> tuple[Counts, bool] | None:
    try:
        from .milp import solve
    except ModuleNotFoundError:
        if required:
            raise
        return None
    return solve(flows, devices, time_limit)


def _variables(flows: Counts, devices: int) -> int:
    """Of the integer program: a place for each expert, and for each pair with traffic whether it meets there."""
    layers, experts = len(flows) + 1, flows.shape[1]
    return devices * (layers * experts + int(np.count_nonzero(flows)))


def _starts(flows: Counts, devices: int) -> list[Counts]:
    usual = np.array(contiguous(len(flows) + 1, flows.shape[1], devices), np.int64)
    return [_grown(flows, devices), usual]


def _grown(flows: Counts, devices: int) -> Counts:
    """Device by device: begin with the expert that has most traffic left, then take what has most traffic with the group."""
    layers, experts = len(flows) + 1, flows.shape[1]
    device = np.full((layers, experts), -1, np.int64)
    volume = np.zeros((layers, experts), np.int64)
    volume[:-1] += flows.sum(2)
    volume[1:] += flows.sum(1)
    for number in range(devices):
        room = np.full(layers, experts // devices)
        tie = np.zeros((layers, experts), np.int64)  # traffic with the group
        for step in range(layers * experts // devices):
            value = np.where((device < 0) & (room > 0)[:, None], tie if step else volume, -1)
            layer, expert = np.unravel_index(int(value.argmax()), value.shape)
            device[layer, expert] = number
            room[layer] -= 1
            if layer + 1 < layers:
                tie[layer + 1] += flows[layer, expert]
            if layer:
                tie[layer - 1] += flows[layer - 1, :, expert]
    return device


def _swapped(flows: Counts, begin: Counts, devices: int) -> Counts:
    """``begin`` after swaps of two experts of a layer, the best one each time, until none helps."""
    device = begin.copy()
    layers = len(device)
    better = True
    while better:
        better = False
        for layer in range(layers):
            gain = _meeting(
                flows, device, layer, devices
            )  # nothing flows within a layer, so gains do not touch each other
            while True:
                here = device[layer]
                now = gain[np.arange(len(here)), here]
                moved = gain[:, here]  # [e, f]: traffic of e on its device, if it were where f is
                saved = moved + moved.T - now[:, None] - now
                one, other = np.unravel_index(int(saved.argmax()), saved.shape)
                if saved[one, other] <= 0:
                    break
                here[one], here[other] = int(here[other]), int(here[one])
                better = True
    return device


def _meeting(flows: Counts, device: Counts, layer: int, devices: int) -> Counts:
    """[expert, device]: tokens that the expert of ``layer`` would have in common with the neighbouring layers there."""
    found = np.zeros((flows.shape[1], devices), np.int64)
    if layer:
        np.add.at(found.T, device[layer - 1], flows[layer - 1])
    if layer < len(flows):
        np.add.at(found.T, device[layer + 1], flows[layer].T)
    return found


def _checked(affinity: Any, devices: int) -> Counts:
    flows = np.asarray(affinity)
    if flows.ndim != 3 or flows.shape[1] != flows.shape[2] or not flows.shape[1]:
        raise ValueError(f"affinity must be of shape (layers - 1, N, N), not {flows.shape}")
    if flows.dtype.kind not in "iu" or (flows.size and flows.min() < 0):
        raise ValueError("affinity must be whole numbers of tokens, none negative")
    if len(flows) >= MAX_LAYERS or flows.shape[1] > MAX_EXPERTS:
        raise ValueError(f"at most {MAX_LAYERS} layers of {MAX_EXPERTS} experts can be placed")
    if devices < 1 or flows.shape[1] % devices:
        raise ValueError(f"{devices} devices cannot hold {flows.shape[1]} experts of a layer equally")
    return flows.astype(np.int64)
