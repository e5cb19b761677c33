"""Collectives in which all ranks do the same, up to rotation (rings, direct exchange), for thousands of ranks: each step of all
ranks is a handful of vector operations, where `simulate` would have hundreds of millions of messages.

One rank's program stands for all; that the others are its rotations is checked on a few. What is approximate, beside numpy's
order of additions: transfers of a ring are taken to be under way all the time, so their max-min rates are worked out once;
of a direct exchange, rounds are taken to follow each other, and their rates are those of the nearest of a few rounds looked at.
The ways of a ring (right, left), and what is sent and received in a direct exchange, each have the rank's thread for themselves.
All chunks are taken to be as large as rank 0's.
Of what a step waits for, only the last ``WINDOW`` steps count: older messages have gone round the ring since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..collectives import Action, generate
from .network import Network
from .prediction import Prediction
from .program import Bounds, Place, Program, analyse, even_bounds, runs_inline

WINDOW = 64
LANES = 4  # up to so many different partners, all transfers go on together
LOOKED_AT = 12  # rounds of a direct exchange whose routes are worked out
LEVELS = 200  # of rates in a filling; what is left then has equal shares
RECEIVING = -1
MOST_STEPS = 400_000  # of a rank

Vector = np.ndarray[Any, np.dtype[np.float64]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def lockstep(
    kind: str,
    algorithm: str,
    n: int,
    nbytes: int,
    network: Network,
    root: int = 0,
    order: Sequence[int] = (),
    **parameters: Any,
) -> Prediction:
    """As `simulate.predict`. ``order``: the ranks as they stand round the ring.

    Raises NoRotation, ValueError for too many steps, KeyError for an unknown algorithm.
    """
    if network.n != n:
        raise ValueError(f"{n} ranks on a network of {network.n}")
    ranks = tuple(order) or tuple(range(n))
    program = _program(kind, algorithm, n, 0, root, parameters)
    if len(program.actions) > MOST_STEPS:
        raise ValueError(f"{len(program.actions):,} steps of each rank are too many (at most {MOST_STEPS:,})")
    for rank in sorted({1 % n, n // 2, n - 1, (root - 1) % n, root, (root + 1) % n} - {0}):
        if _shape(_program(kind, algorithm, n, rank, root, parameters)) != _shape(program):
            raise NoRotation(
                f"{kind} by {algorithm}: rank {rank} is no rotation of rank 0; `simulate` takes such schedules"
            )
    return _Lockstep(program, even_bounds(program, nbytes), network, ranks).run()


def _program(kind: str, algorithm: str, n: int, rank: int, root: int, parameters: dict[str, Any]) -> Program:
    return analyse(generate(kind, algorithm, n, rank, root, **parameters))


def _shape(program: Program) -> tuple[Any, ...]:
    """What is equal for rotations of each other."""
    shifts = tuple((peer - program.rank) % program.n if peer >= 0 else -1 for peer in program.peers)
    return program.actions, shifts, program.after


class NoRotation(ValueError):
    """Ranks differ by more than a rotation."""


class _Lockstep:
    """``ranks``: by place. Vectors are by place: entry p is of rank ``ranks[p]``."""

    def __init__(self, program: Program, bounds: Bounds, network: Network, ranks: Sequence[int]):
        self.program, self.network, self.ranks, self.n = program, network, ranks, program.n
        self.sizes = [
            _length(source or target, bounds) for source, target in zip(program.sources, program.targets, strict=True)
        ]
        self.inline = runs_inline(program, self.sizes)
        speeds = getattr(network, "computes", None) or [network.compute] * self.n
        self.per_byte = 1.0 / np.array([speeds[rank] for rank in ranks])
        self.capacities = np.array(network.capacities)
        self.sent: dict[int, list[int]] = {}  # steps that send, by how far
        self.taken: dict[int, list[int]] = {}  # steps that receive, by how far the sender sends
        for index, action in enumerate(program.actions):
            if action == Action.SEND:
                self.sent.setdefault(program.peers[index], []).append(index)
            elif action in (Action.RECV, Action.RECV_REDUCE):
                self.taken.setdefault(-program.peers[index] % self.n, []).append(index)
        self.together = len(self.sent) <= LANES
        self.carried = np.zeros(len(self.capacities))
        self.busy = np.zeros(len(self.capacities))
        self.rates: dict[int, Vector] = {}
        self.latencies: dict[int, Vector] = {}
        self.stands_for: dict[int, int] = {}
        self._look()
        self.cpu: dict[int, Vector] = {}
        self.free: dict[int, Vector] = {}
        self.on_the_way: dict[int, deque[Vector]] = {shift: deque() for shift in self.sent}
        self.number_taken = dict.fromkeys(self.sent, 0)
        self.done: dict[int, Vector] = {}
        self.executed = bytearray(len(self.sizes))
        self.end = np.zeros(self.n)
        self.operations = 0

    def _look(self) -> None:
        """Find the rates of the transfers by how far they go."""
        shifts = sorted(self.sent)
        looked_at = (
            shifts
            if self.together
            else sorted({shifts[i * (len(shifts) - 1) // (LOOKED_AT - 1)] for i in range(LOOKED_AT)})
        )
        routes = {shift: self._routes(shift) for shift in looked_at}
        for shift in shifts:
            self.stands_for[shift] = min(looked_at, key=lambda seen: (abs(seen - shift), seen))
        count = len(self.capacities)
        if self.together:
            width = max(route.shape[1] for route in routes.values())
            padded = [
                np.pad(route, ((0, 0), (0, width - route.shape[1])), constant_values=-1) for route in routes.values()
            ]
            rates = _fill(np.concatenate(padded), self.capacities) if padded else np.zeros(0)
            for place, shift in enumerate(looked_at):
                self.rates[shift] = rates[place * self.n : (place + 1) * self.n]
        else:
            self.rates = {shift: _fill(route, self.capacities) for shift, route in routes.items()}
        for shift, steps in self.sent.items():
            route, rates = routes[self.stands_for[shift]], self.rates[self.stands_for[shift]]
            nbytes = float(sum(self.sizes[step] for step in steps))
            flows, columns = np.nonzero(route >= 0)
            resources = route[flows, columns]
            self.carried += nbytes * np.bincount(resources, minlength=count)
            longest = np.zeros(count)
            np.maximum.at(longest, resources, nbytes / rates[flows])
            self.busy = np.maximum(self.busy, longest) if self.together else self.busy + longest

    def _routes(self, shift: int) -> Numbers:
        network, n, ranks = self.network, self.n, self.ranks
        paths, latencies = [], np.zeros(n)
        for place in range(n):
            source, target = ranks[place], ranks[(place + shift) % n]
            paths.append(network.path(source, target))
            latencies[place] = network.latency(source, target)
        self.latencies[shift] = latencies
        width = max(1, max(map(len, paths)))
        return np.array([(*path, *(-1,) * (width - len(path))) for path in paths], dtype=np.int64)

    def run(self) -> Prediction:
        program = self.program
        for index, action in enumerate(program.actions):
            if self.executed[index]:
                continue
            if action == Action.SEND:
                self._send(index)
                if not self.inline:
                    self._take_what_can_be(program.peers[index])
            elif action in (Action.RECV, Action.RECV_REDUCE):
                self._receive(index)
            else:
                self._finish(index, self._turn(0, self._waits(index), self.sizes[index] * self.per_byte))
        finish = np.zeros(self.n)
        finish[list(self.ranks)] = self.end
        return Prediction(
            seconds=float(finish.max()),
            finish=tuple(map(float, finish)),
            carried=tuple(map(float, self.carried)),
            busy=tuple(map(float, self.busy)),
            capacities=tuple(self.network.capacities),
            messages=self.n * sum(len(steps) for steps in self.sent.values()),
            events=self.operations,
            exact=False,
        )

    def _waits(self, index: int) -> Vector | float:
        """When what the step waits for is done."""
        found: Vector | float = 0.0
        if not self.inline:
            for earlier in self.program.after[index]:
                if earlier in self.done:
                    found = np.maximum(found, self.done[earlier])
        return found

    def _turn(self, lane: int, since: Vector | float, cost: Vector | float) -> Vector:
        """When the rank's thread is done with it."""
        lane = 0 if self.inline else lane
        before = self.cpu.get(lane, 0.0)
        end = self.cpu[lane] = np.maximum(np.maximum(since, before) + cost, np.zeros(self.n))
        return end

    def _finish(self, index: int, when: Vector) -> None:
        self.operations += 1
        self.executed[index] = 1
        self.end = np.maximum(self.end, when)
        self.done[index] = when
        if len(self.done) > WINDOW:
            del self.done[next(iter(self.done))]

    def _send(self, index: int) -> None:
        shift = self.program.peers[index]
        seen = self.stands_for[shift]
        lane = shift if self.together else 0
        issued = self._turn(lane, self._waits(index), self.network.overhead)
        left = np.maximum(issued, self.free.get(lane, 0.0)) + self.sizes[index] / self.rates[seen]
        self.free[lane] = left
        self.on_the_way[shift].append(left + self.latencies[seen])
        self._finish(index, issued if self.inline else left)

    def _take_what_can_be(self, shift: int) -> None:
        index = self.taken[shift][self.number_taken[shift]]
        if all(self.executed[earlier] for earlier in self.program.after[index]):
            self._receive(index)

    def _receive(self, index: int) -> None:
        shift = -self.program.peers[index] % self.n
        if not self.on_the_way.get(shift):
            raise NoRotation(f"{self.program.algorithm}: step {index} of all ranks waits for a later one of all ranks")
        arrived = np.roll(self.on_the_way[shift].popleft(), shift)
        self.number_taken[shift] += 1
        cost: Vector | float = self.network.overhead
        if self.program.actions[index] == Action.RECV_REDUCE:
            cost = cost + self.sizes[index] * self.per_byte
        self._finish(
            index, self._turn(shift if self.together else RECEIVING, np.maximum(arrived, self._waits(index)), cost)
        )


def _length(place: Place | None, bounds: Bounds) -> int:
    return bounds[place[0]][place[2]] - bounds[place[0]][place[1]] if place else 0


def _fill(routes: Numbers, capacities: Vector) -> Vector:
    """Max-min fair rates of transfers that all go on at once; ``routes``: resources by transfer, -1 for none."""
    rates = np.full(len(routes), np.inf)
    flows, columns = np.nonzero(routes >= 0)
    resources = routes[flows, columns]
    room = capacities.copy()
    for _ in range(LEVELS):
        if not len(flows):
            return rates
        waiting = np.bincount(resources, minlength=len(room))
        share = np.where(waiting > 0, room / np.maximum(waiting, 1), np.inf)
        level = share.min()
        fixed = np.unique(flows[share[resources] <= level * (1 + 1e-9)])
        rates[fixed] = level
        gone = np.isin(flows, fixed)
        room = np.maximum(0.0, room - level * np.bincount(resources[gone], minlength=len(room)))
        flows, resources = flows[~gone], resources[~gone]
    waiting = np.bincount(resources, minlength=len(room))
    np.minimum.at(rates, flows, room[resources] / waiting[resources])
    return rates
