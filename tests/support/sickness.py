"""A group that is made up: what eight members would tell of themselves, second by second, healthy or with a fault planted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from collcomm.health.diagnosis import Diagnosis
from collcomm.health.finding import Finding
from collcomm.health.observation import FlowReport, Observation, OpenOperation, Sample
from collcomm.types import LinkRow

RATE = 125e6  # bytes/s of each host's card
PER_SECOND = 8  # operations
NBYTES = 8 << 20


@dataclass
class World:
    """``surveyed``: all links were measured when the group began; ``stride``: from one member of a ring to the next, by ranks;
    ``unprobed``: links of which no probe comes to an end;
    ``slow``: how many times as long a byte takes, by (source, target); ``late``: seconds by which a member comes late to
    operations, always; ``kind``: who sends to whom ("ring" or "direct")."""

    n: int = 8
    seed: int = 0
    kind: str = "ring"
    nbytes: int = NBYTES
    late: dict[int, float] = field(default_factory=dict)
    slow: dict[tuple[int, int], float] = field(default_factory=dict)
    starved: dict[int, float] = field(default_factory=dict)
    jitter: float = 0.05
    surveyed: bool = True
    stride: int = 1
    unprobed: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.diagnosis = Diagnosis()
        self.ids = list(range(1, self.n + 1))
        self.epoch = 1
        self.seq = 0
        self.now = 100.0
        self.found: list[tuple[float, Finding]] = []
        self.ended: list[Finding] = []
        self.diagnosis.view_changed(self.now, self.epoch, self.ids)
        if self.surveyed:
            self.probe()

    def probe(self) -> None:
        """All links are measured, and tell how they are."""
        self.diagnosis.measured(self.now, [self.row(*pair) for pair in self.pairs()])

    def row(self, source: int, target: int) -> LinkRow:
        noise = self.chance.uniform(0.9, 1.1)
        return LinkRow(source, target, 1e-4, RATE * noise / self.slow.get((source, target), 1.0), 1)

    def pairs(self) -> Iterator[tuple[int, int]]:
        return ((one, other) for one in self.ids for other in self.ids if one != other)

    def edges(self) -> list[tuple[int, int]]:
        if self.kind == "ring":
            return [(one, self.ids[(at + self.stride) % len(self.ids)]) for at, one in enumerate(self.ids)]
        return list(self.pairs())

    def noise(self) -> float:
        """Around one, now and then far more."""
        return self.chance.lognormvariate(0, self.jitter) * (10 if self.chance.random() < 0.002 else 1)

    def second(self, open_at: Callable[[int], tuple[int, float, float, tuple[int, ...]] | None] | None = None) -> None:
        """One second of work; ``open_at(member)``: the operation that it does not get out of: number, age, silent for, waits for.
        Then nothing else happens."""
        self.now += 1.0
        hung = open_at is not None
        samples: dict[int, list[Sample]] = {member: [] for member in self.ids}
        moved: dict[tuple[int, int], float] = {}
        if not hung:
            for _ in range(PER_SECOND):
                self.operation(samples, moved)
        for member in self.ids:
            flows = [
                FlowReport(target, int(nbytes), self.cost(member, target) * nbytes * self.noise(), 0.0, 0.0, 0)
                for (source, target), nbytes in moved.items()
                if source == member
            ]
            told = open_at(member) if open_at is not None else None
            opened = ()
            if told is not None:
                seq, age, silent, waiting_on = told
                opened = (OpenOperation(0, self.epoch, seq, "all_reduce", self.nbytes, age, silent, waiting_on),)
            entered = told[0] if told is not None else self.seq
            rows = tuple(samples[member])
            self.diagnosis.observe(
                Observation(
                    member,
                    self.epoch,
                    self.now - self.chance.uniform(0, 0.5),
                    1.0,
                    self.seq,
                    len(rows),
                    {0: entered},
                    0.5,
                    opened,
                    rows,
                    tuple(flows),
                )
            )
        self.look()

    def look(self) -> None:
        self.found += [(self.now, one) for one in self.diagnosis.tick(self.now)]
        if self.diagnosis.wanted:
            wanted = [pair for pair in self.diagnosis.wanted if pair not in self.unprobed]
            self.diagnosis.measured(self.now, [self.row(*pair) for pair in wanted])
        self.ended += self.diagnosis.take_ended()

    def operation(self, samples: dict[int, list[Sample]], moved: dict[tuple[int, int], float]) -> None:
        self.seq += 1
        arrives = {
            member: abs(self.chance.gauss(0, 1e-3)) * self.noise()
            + self.late.get(member, 0.0) * self.chance.uniform(0.9, 1.1)
            + self.starved.get(member, 0.0)
            for member in self.ids
        }
        edges = self.edges()
        share = self.nbytes * 2 * (self.n - 1) / self.n / (1 if self.kind == "ring" else self.n - 1)
        takes = max(self.cost(*edge) for edge in edges) * share * self.noise()
        end = max(arrives.values()) + takes
        for member in self.ids:
            samples[member].append(
                Sample(0, self.epoch, self.seq, "all_reduce", self.nbytes, end - arrives[member], 0.0)
            )
        for edge in edges:
            moved[edge] = moved.get(edge, 0.0) + share

    def cost(self, source: int, target: int) -> float:
        """Seconds per byte."""
        sharing = 1 if self.kind == "ring" else self.n - 1
        return sharing / RATE * self.slow.get((source, target), 1.0)

    def change(self, ids: list[int]) -> None:
        gone = [member for member in self.ids if member not in ids]
        self.ids, self.n = ids, len(ids)
        self.epoch += 1
        self.diagnosis.view_changed(self.now, self.epoch, ids, gone)
