"""A group as it would tell of itself: eight members that compute and communicate, with jitter and with faults that are planted.

Each operation begins when its members arrive; flows move their bytes, each at its own speed; all leave together when the last
byte has come. From that, each member's observations are cut, once a second, each at its own phase.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from collcomm.health.diagnosis import Diagnosis
from collcomm.health.finding import Finding
from collcomm.health.observation import FlowReport, Observation, OpenOperation, Sample
from collcomm.types import LinkRow

Edge = tuple[int, int]
NEVER = math.inf


@dataclass(frozen=True)
class Fault:
    """From ``at`` on, until ``until``. ``absent``: does not come to the next operation, ``mute``: and tells nothing;
    ``blackhole``: flows that move nothing; ``slow``: by flow, times as long per byte; ``starved``: by member, times as long to
    compute; ``grinding``: by member, times as long within an operation; ``flapping``: a flow that is down for the first
    ``down`` of every ``cycle`` seconds."""

    at: float = NEVER
    until: float = NEVER
    absent: frozenset[int] = frozenset()
    mute: bool = False
    blackhole: frozenset[Edge] = frozenset()
    slow: dict[Edge, float] = field(default_factory=dict)
    starved: dict[int, float] = field(default_factory=dict)
    grinding: dict[int, float] = field(default_factory=dict)
    flapping: Edge | None = None
    down: float = 2.5
    cycle: float = 6.0


@dataclass(frozen=True)
class Phase:
    """What is done from ``at`` on."""

    at: float = 0.0
    epoch: int = 1
    ids: tuple[int, ...] = tuple(range(8))
    pattern: str = "ring"  # "direct", "all_to_all"
    nbytes: int = 8 << 20
    compute: float = 0.1
    work: dict[int, float] = field(default_factory=dict)  # times as much as others
    burst: int = 1  # operations in a row, before the first of which is computed

    def edges(self) -> dict[Edge, int]:
        """Bytes by flow of one operation."""
        n = len(self.ids)
        if self.pattern == "ring":
            each = 2 * self.nbytes * (n - 1) // n
            return {(self.ids[i], self.ids[(i + 1) % n]): each for i in range(n)}
        each = (2 if self.pattern == "direct" else 1) * self.nbytes // n
        return {(a, b): each for a in self.ids for b in self.ids if a != b}

    @property
    def kind(self) -> str:
        return "all_to_all" if self.pattern == "all_to_all" else "all_reduce"


@dataclass
class Transfer:
    """``moves``: (from, to, bytes); between ``start`` and the first of them, the receiver takes nothing. ``stuck``: from, to."""

    start: float
    moves: list[tuple[float, float, int]]
    stuck: list[tuple[float, float]]

    @property
    def end(self) -> float:
        return self.moves[-1][1] if self.moves else NEVER


@dataclass
class Run:
    """One operation."""

    phase: Phase
    seq: int
    arrived: dict[int, float]
    transfers: dict[Edge, Transfer]
    own: dict[int, float]  # seconds in which a member had something to do
    commit: float


class World:
    def __init__(self, seed: int, phases: list[Phase], fault: Fault | None = None, tails: float = 0.03):
        self.random = random.Random(seed)
        self.phases = phases
        self.fault = fault or Fault()
        self.tails = tails
        self.bandwidth: dict[Edge, float] = {}
        self.runs: list[Run] = []
        self.offset = {member: self.random.random() for phase in phases for member in phase.ids}

    def jitter(self) -> float:
        """1 and somewhat more; now and then far more."""
        return 1.0 + min(8.0, self.tails * (self.random.paretovariate(1.5) - 1.0)) + abs(self.random.gauss(0, 0.01))

    def rate(self, edge: Edge) -> float:
        if edge not in self.bandwidth:
            self.bandwidth[edge] = 1e8 * self.random.uniform(0.7, 1.3)
        return self.bandwidth[edge]

    @property
    def healthy_seconds(self) -> float:
        """The longest that an operation took before the fault."""
        healthy = [run.commit - min(run.arrived.values()) for run in self.runs if run.commit <= self.fault.at]
        return max(healthy, default=0.0)

    def simulate(self, until: float) -> None:
        now, seq, epoch = 0.0, 0, self.phases[0].epoch
        while now < until:
            phase = [phase for phase in self.phases if phase.at <= now][-1]
            if phase.epoch != epoch:
                now, epoch = now + 0.3, phase.epoch
            seq += 1
            run = self._operation(phase, seq, now)
            self.runs.append(run)
            now = run.commit

    def _operation(self, phase: Phase, seq: int, now: float) -> Run:
        fault = self.fault
        on = fault.at <= now < fault.until
        arrived = {}
        for member in phase.ids:
            compute = phase.compute if seq % phase.burst == 0 else 1e-4
            work = compute * phase.work.get(member, 1.0) * self.jitter()
            arrived[member] = now + work * (fault.starved.get(member, 1.0) if on else 1.0)
            if on and member in fault.absent:
                arrived[member] = NEVER if fault.until == NEVER else fault.until
        grinding = fault.grinding if on else {}
        transfers = {edge: self._transfer(edge, nbytes, arrived, on) for edge, nbytes in phase.edges().items()}
        own = {member: 0.15 * phase.nbytes / 1e8 * grinding.get(member, 1.0) for member in phase.ids}
        work_done = [arrived[member] + own[member] for member in phase.ids]
        last = max([*work_done, *(transfer.end for transfer in transfers.values())])
        commit = last + 2e-4 * self.jitter() if last < NEVER else NEVER
        return Run(phase, seq, arrived, transfers, own, commit)

    def _transfer(self, edge: Edge, nbytes: int, arrived: dict[int, float], on: bool) -> Transfer:
        source, target = edge
        start, begin = arrived[source], max(arrived[source], arrived[target])
        seconds = nbytes / self.rate(edge) * self.jitter()
        if on:
            seconds *= self.fault.slow.get(edge, 1.0)
            if edge in self.fault.blackhole:
                until = self.fault.until
                return Transfer(start, [] if until == NEVER else [(until, until + seconds, nbytes)], [(begin, until)])
            if edge == self.fault.flapping and begin < NEVER:
                return self._flapping(start, begin, seconds, nbytes)
        if begin == NEVER:
            return Transfer(start, [], [])
        return Transfer(start, [(begin, begin + seconds, nbytes)], [])

    def _flapping(self, start: float, begin: float, seconds: float, nbytes: int) -> Transfer:
        moves, stuck, now, left = [], [], begin, seconds
        while left > 1e-9:
            within = (now - self.fault.at) % self.fault.cycle
            if within < self.fault.down:
                stuck.append((now, now + self.fault.down - within))
                now = stuck[-1][1] + 1e-6
                continue
            step = min(left, self.fault.cycle - within)
            moves.append((now, now + step, int(nbytes * step / seconds)))
            now, left = now + step + 1e-9, left - step
        return Transfer(start, moves, stuck)

    def observations(self, until: float) -> Iterator[Observation]:
        """In the order of their times."""
        due = [(offset, member) for member, offset in self.offset.items()]
        heapq.heapify(due)
        told: dict[int, float] = {}
        while due and due[0][0] < until:
            at, member = heapq.heappop(due)
            heapq.heappush(due, (at + 1.0 + self.random.uniform(-0.02, 0.02), member))
            phase = [phase for phase in self.phases if phase.at <= at][-1]
            quiet = self.fault.mute and member in self.fault.absent and at >= self.fault.at
            if member in phase.ids and not quiet:
                yield self._observation(member, told.get(member, at - 1.0), at, phase.epoch)
                told[member] = at

    def _observation(self, member: int, since: float, at: float, epoch: int) -> Observation:
        samples, open_, flows = [], [], {}
        entered, done = 0, 0
        for run in self._near(member, since, at):
            phase = run.phase
            begun, took = run.arrived[member], run.commit - run.arrived[member]
            if begun <= at:
                entered = max(entered, run.seq)
            if since < run.commit <= at:
                waited = max(0.0, took - run.own[member])
                samples.append(Sample(0, phase.epoch, run.seq, phase.kind, phase.nbytes, took, waited))
            elif begun <= at < run.commit:
                open_.append(self._open(run, member, at))
            for (source, target), transfer in run.transfers.items():
                if source == member and transfer.start < at:
                    self._account(flows, target, transfer, since, at)
        done = bisect_right(self.runs, at, key=lambda run: run.commit)
        entered = entered or done
        reports = tuple(FlowReport(target, *values, 0) for target, values in sorted(flows.items()))  # type: ignore[arg-type]
        return Observation(
            member,
            epoch,
            at,
            at - since,
            done,
            len(samples),
            {0: entered},
            0.0,
            tuple(open_),
            tuple(samples[:64]),
            reports,
        )

    def _near(self, member: int, since: float, at: float) -> list[Run]:
        first = bisect_right(self.runs, since - 1.0, key=lambda run: run.commit)
        last = bisect_right(self.runs, at, key=lambda run: min(run.arrived.values()))
        return [run for run in self.runs[first:last] if member in run.arrived]

    def _open(self, run: Run, member: int, at: float) -> OpenOperation:
        moved, waiting = run.arrived[member], set()
        for (source, target), transfer in run.transfers.items():
            if member in (source, target):
                moved = max([moved, *(min(at, to) for begin, to, _ in transfer.moves if begin <= at)])
                if transfer.end > at and (member == target or transfer.start <= at):
                    waiting.add(target if member == source else source)
        silent = max(0.0, at - moved)
        phase = run.phase
        return OpenOperation(
            0, phase.epoch, run.seq, phase.kind, phase.nbytes, at - run.arrived[member], silent, tuple(sorted(waiting))
        )

    def _account(self, flows: dict[int, list[float]], target: int, transfer: Transfer, since: float, at: float) -> None:
        taken_at = min([begin for begin, *_ in transfer.moves] + [begin for begin, _ in transfer.stuck] + [NEVER])
        nbytes = sum(int(size * _overlap(begin, to, since, at) / (to - begin)) for begin, to, size in transfer.moves)
        busy = _overlap(transfer.start, transfer.end, since, at)
        held = _overlap(transfer.start, taken_at, since, at)
        silent = max((at - begin for begin, to in transfer.stuck if begin <= at < to), default=0.0)
        if nbytes or busy or silent:
            have = flows.setdefault(target, [0, 0.0, 0.0, 0.0])
            flows[target] = [have[0] + nbytes, have[1] + busy, have[2] + held, max(have[3], silent)]

    def probe(self, edge: Edge, now: float) -> LinkRow:
        slower = self.fault.slow.get(edge, 1.0) if self.fault.at <= now < self.fault.until else 1.0
        shared = self.random.uniform(0.55, 1.0)  # with the traffic of the run
        return LinkRow(*edge, 1e-4, self.rate(edge) / slower * shared)


def _overlap(begin: float, end: float, since: float, until: float) -> float:
    return max(0.0, min(end, until) - max(begin, since))


@dataclass
class Outcome:
    found: list[Finding]
    ended: list[Finding]
    diagnosis: Diagnosis

    @property
    def said(self) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(each.syndrome.value, each.culprit.kind.value, each.culprit.members) for each in self.found]


def diagnose(
    world: World,
    until: float,
    *,
    probes: bool = True,
    survey: bool = True,
    live: bool = True,
    spoil: Callable[[Observation], list[Observation]] = lambda observation: [observation],
    stop_at_first: bool = False,
) -> Outcome:
    """What the diagnosis says of ``world``. ``live``: views are announced; otherwise it finds them by itself, as in dumps.
    ``probes``: what it wants probed is; ``survey``: all links were when the group began."""
    world.simulate(until)
    diagnosis, found, ended = Diagnosis(), [], []
    views = [phase for phase in world.phases if phase is world.phases[0] or phase.epoch != world.phases[0].epoch]
    asked_at, ticked = NEVER, 0.0
    if live:
        diagnosis.view_changed(0.0, views[0].epoch, views[0].ids, [])
    if survey:
        ids = world.phases[0].ids
        diagnosis.measured(0.0, [world.probe((a, b), 0.0) for a in ids for b in ids if a != b])
    known = views.pop(0)
    for observation in world.observations(until):
        while ticked + 0.1 < observation.at:
            ticked += 0.1
            found += diagnosis.tick(ticked)
        if views and observation.at >= views[0].at:
            fresh = views.pop(0)
            if live:
                diagnosis.view_changed(fresh.at, fresh.epoch, fresh.ids, set(known.ids) - set(fresh.ids))
            known = fresh
        for each in spoil(observation):
            diagnosis.observe(each)
        found += diagnosis.tick(observation.at)
        ended += diagnosis.take_ended()
        if probes and diagnosis.wanted:
            asked_at = min(asked_at, observation.at)
        if observation.at > asked_at + 0.5:
            diagnosis.measured(observation.at, [world.probe(edge, observation.at) for edge in diagnosis.wanted])
            asked_at = NEVER
        if found and stop_at_first:
            break
    return Outcome(found, ended, diagnosis)


def phase_of(pattern: str, **changes: object) -> Phase:
    return replace(Phase(pattern=pattern), **changes)  # type: ignore[arg-type]
