"""What a collective will take on a network, message by message: a simulation by discrete events.

It goes by the engine's rules. A rank's sends go on at once, each when what it reads is ready; a pair's messages follow each other
in order, and the next starts when the one before has left. Transfers that are under way share what they pass (`sharing`); a
message arrives its link's latency after its last byte has left. A rank has one thread: issuing a message, taking one and
reducing it follow each other there. Ranks whose messages are all small go step by step, and wait for each receipt in turn.

Transfers are fluid (Velho and others 2013, of SimGrid): there are no packets, no slow start and no queues. Not simulated: the
commit round after a collective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, cast

from ..collectives import Schedule, generate
from .chance import chance
from .failure import Failure
from .lockstep import NoRotation, lockstep
from .network import Network
from .prediction import Prediction, Stuck
from .program import Bounds, Program, analyse, even_bounds, programs
from .sharing import FairShares, SharedClocks, Sharing
from .workload import LOCAL, RECV, SEND, Workload

PARTS = 8  # into which a large message is cut: enough that a tree passes on while it receives
CHEAP_NODES = 1000  # up to so many, into more parts
FEW_STEPS = 30_000  # of all ranks; with more, messages stay whole unless asked for
EXACT_CHANNELS = 512  # pairs and streams; with more, shares are approximate (`sharing.SharedClocks`)
CHOSEN_AMONG = 64  # ranks; programs of so few are kept
MANY_STEPS = 500_000  # of all ranks
MOST_NODES = 4_000_000  # steps of all ranks; a gigabyte or two of memory
CPU, TRANSFER, ARRIVAL, FAILURE = 0, 1, 2, 3
NEVER = float("inf")
SHOWN = 64  # ranks of which a prediction says why they never finish


def simulate(
    schedules: Sequence[Schedule],
    nbytes: int | Callable[[int], Bounds],
    network: Network,
    start: Sequence[float] | None = None,
    failures: Sequence[Failure] = (),
    *,
    parts: int | None = None,
    streams: int = 1,
    seed: int | None = None,
    exact: bool | None = None,
) -> Prediction:
    """``schedules``: of all ranks, by rank. ``nbytes``: split evenly, of the whole vector or of all blocks together (as in
    `choose`); or, for each rank, where the chunks of its buffers start and end, in bytes. ``start``: seconds at which each rank
    begins. ``parts``: at most so many per message (default: 8 to 16, or 1 where there are many steps). ``streams``: per link;
    with more than one, the network's `path` has to take the stream as a third argument. ``seed``: of the delays up to what the
    network calls ``jitter``; without one there are none. ``exact``: rates by progressive filling, whatever it takes.

    Raises ValueError for schedules that do not fit each other or are too large.
    """
    found = [analyse(schedule) for schedule in schedules]

    def bounds(program: Program) -> Bounds:
        return nbytes(program.rank) if callable(nbytes) else even_bounds(program, nbytes)

    return run(found, bounds, network, start, failures, parts=parts, streams=streams, seed=seed, exact=exact)


def predict(
    kind: str,
    algorithm: str,
    n: int,
    nbytes: int,
    network: Network,
    root: int = 0,
    seed: int | None = None,
    **parameters: Any,
) -> Prediction:
    """What the collective takes from a common start; ``parameters`` are the algorithm's, ``seed`` is as in `simulate`.

    Plain float arithmetic in a fixed order, unless there are more than ``MANY_STEPS`` steps: all ranks get the same figure.
    Beyond that, what ranks do in lock step is simulated so (`lockstep`), without jitter.

    Raises KeyError for an unknown algorithm, ValueError for more steps than can be simulated.
    """
    if n <= CHOSEN_AMONG:
        found: Sequence[Program] = programs(kind, algorithm, n, root, **parameters)
        return run(found, lambda program: even_bounds(program, nbytes), network, seed=seed)
    steps = n * len(generate(kind, algorithm, n, (root + 1) % n, root, **parameters).steps)
    if steps > MANY_STEPS:
        try:
            return lockstep(kind, algorithm, n, nbytes, network, root, **parameters)
        except NoRotation:
            pass
    if steps > MOST_NODES:
        raise ValueError(f"{kind} by {algorithm} among {n:,} ranks has some {steps:,} steps: too many to simulate")
    found = [analyse(generate(kind, algorithm, n, rank, root, **parameters)) for rank in range(n)]
    return run(found, lambda program: even_bounds(program, nbytes), network, seed=seed)


def run(
    found: Sequence[Program],
    bounds: Callable[[Program], Bounds],
    network: Network,
    start: Sequence[float] | None = None,
    failures: Sequence[Failure] = (),
    *,
    parts: int | None = None,
    streams: int = 1,
    seed: int | None = None,
    exact: bool | None = None,
) -> Prediction:
    """As `simulate`, for programs."""
    if len(found) != network.n:
        raise ValueError(f"{len(found)} schedules for a network of {network.n} ranks: give one for each")
    steps = sum(len(program.actions) for program in found)
    if parts is None:
        parts = max(PARTS, min(2 * PARTS, CHEAP_NODES // max(1, steps))) if steps <= FEW_STEPS else 1
    if parts < 1 or streams < 1:
        raise ValueError(f"parts and streams are at least 1, not {parts} and {streams}")
    if steps > MOST_NODES:
        raise ValueError(
            f"{steps:,} steps are too many to simulate one by one (at most {MOST_NODES:,}): try `lockstep`"
        )
    work = Workload(found, bounds, parts, streams)
    if start is not None and len(start) != work.n:
        raise ValueError(f"{len(start)} starting times for {work.n} ranks")
    return _Simulation(work, network, start, failures, streams, seed, exact).run()


class _Simulation:
    def __init__(
        self,
        work: Workload,
        network: Network,
        start: Sequence[float] | None,
        failures: Sequence[Failure],
        streams: int,
        seed: int | None,
        exact: bool | None,
    ):
        self.work = work
        self.network = network
        self.failures = failures
        self.heap: list[tuple[float, int, int, int]] = []
        self.number = 0
        self.exact = len(work.channels) <= EXACT_CHANNELS if exact is None else exact
        kind = FairShares if self.exact else SharedClocks
        self.sharing: Sharing = kind(network.capacities, self._alarm)
        self.paths: list[tuple[int, ...]] = []
        self.latencies: list[float] = []
        self.delays = _delays(work, network, seed) if seed is not None else None
        for source, target, stream in work.channels:
            path = cast(Any, network).path(source, target, stream) if streams > 1 else network.path(source, target)
            self.paths.append(path)
            self.sharing.open(path)
            self.latencies.append(network.latency(source, target))
        self.cpu = list(start) if start is not None else [0.0] * work.n
        self.finish = list(self.cpu)
        self.undone = [0] * work.n
        for rank in work.rank:
            self.undone[rank] += 1
        speeds = getattr(network, "computes", None) or [network.compute] * work.n
        self.per_byte = [1.0 / speed for speed in speeds]
        self.dead = bytearray(work.n)
        self.waiting: list[list[int]] = [
            [] for _ in work.channels
        ]  # sends that were issued, while another is under way
        self.under_way = [-1] * len(work.channels)
        self.done = bytearray(len(work.kind))

    def _alarm(self, when: float, what: int) -> int:
        number = self.number = self.number + 1
        heappush(self.heap, (when, number, TRANSFER, what))
        return number

    def run(self) -> Prediction:
        work, heap, sharing = self.work, self.heap, self.sharing
        pending, rank_of, kind = work.pending, work.rank, work.kind
        for index, failure in enumerate(self.failures):
            self.number += 1
            heappush(heap, (failure.at, self.number, FAILURE, index))
        ready = [node for node, count in enumerate(pending) if count == 0]
        now, events = 0.0, 0
        self._work_off(ready, now)
        sharing.settle(now)
        while heap:
            now = heap[0][0]
            ready = []
            while heap and heap[0][0] == now:
                _, number, what, which = heappop(heap)
                events += 1
                if what == CPU:
                    if self.dead[rank_of[which]]:
                        continue
                    if kind[which] == SEND:
                        self._issued(which, now, ready)
                    else:
                        self._done(which, now, ready)
                elif what == TRANSFER:
                    for channel in sharing.due(which, number, now):
                        self._left(channel, now, ready)
                elif what == ARRIVAL:
                    pending[which] -= 1
                    if pending[which] == 0:
                        ready.append(which)
                else:
                    self._fail(self.failures[which], now)
                if ready:
                    self._work_off(ready, now)
                    ready.clear()
            sharing.settle(now)
        return self._prediction(events)

    def _work_off(self, ready: list[int], now: float) -> None:
        """Give each node its turn in its rank's thread; ``ready`` grows meanwhile."""
        work, cpu = self.work, self.cpu
        overhead = self.network.overhead
        for node in ready:
            rank = work.rank[node]
            if self.dead[rank]:
                continue
            kind = work.kind[node]
            cost = overhead if kind != LOCAL else 0.0
            if kind > RECV:
                cost += work.nbytes[node] * self.per_byte[rank]
            free = cpu[rank]
            end = cpu[rank] = (free if free > now else now) + cost
            if end > now:
                self.number += 1
                heappush(self.heap, (end, self.number, CPU, node))
            elif kind == SEND:
                self._issued(node, now, ready)
            else:
                self._done(node, now, ready)

    def _issued(self, node: int, now: float, ready: list[int]) -> None:
        work = self.work
        follower = work.successor[node]
        if follower >= 0:
            work.pending[follower] -= 1
            if work.pending[follower] == 0:
                ready.append(follower)
        if work.inline[work.rank[node]]:
            self._mark(node, now)
        channel = work.channel[node]
        if self.under_way[channel] >= 0:
            self.waiting[channel].append(node)
        else:
            self._start(channel, node, now, ready)

    def _start(self, channel: int, node: int, now: float, ready: list[int]) -> None:
        self.under_way[channel] = node
        nbytes = self.work.nbytes[node]
        if nbytes > 0.0 and self.paths[channel]:
            self.sharing.start(channel, nbytes, now)
        else:
            self._left(channel, now, ready)

    def _left(self, channel: int, now: float, ready: list[int]) -> None:
        """The last byte of what is under way has left."""
        work, node = self.work, self.under_way[channel]
        self.under_way[channel] = -1
        delay = self.latencies[channel] + (self.delays[node] if self.delays else 0.0)
        receive = work.twin[node]
        if delay > 0.0:
            self.number += 1
            heappush(self.heap, (now + delay, self.number, ARRIVAL, receive))
        else:
            work.pending[receive] -= 1
            if work.pending[receive] == 0:
                ready.append(receive)
        if not work.inline[work.rank[node]]:
            self._mark(node, now)
            self._release(node, ready)
        if self.waiting[channel]:
            self._start(channel, self.waiting[channel].pop(0), now, ready)

    def _done(self, node: int, now: float, ready: list[int]) -> None:
        self._mark(node, now)
        self._release(node, ready)
        follower = self.work.successor[node]
        if follower >= 0:
            self.work.pending[follower] -= 1
            if self.work.pending[follower] == 0:
                ready.append(follower)

    def _release(self, node: int, ready: list[int]) -> None:
        followers = self.work.followers[node]
        if followers is not None:
            pending = self.work.pending
            for follower in followers:
                pending[follower] -= 1
                if pending[follower] == 0:
                    ready.append(follower)

    def _mark(self, node: int, now: float) -> None:
        rank = self.work.rank[node]
        self.done[node] = 1
        self.undone[rank] -= 1
        if now > self.finish[rank]:
            self.finish[rank] = now

    def _fail(self, failure: Failure, now: float) -> None:
        self.sharing.fail(failure.resources, now)
        for rank in failure.ranks:
            self.dead[rank] = 1

    def _prediction(self, events: int) -> Prediction:
        finish = [self.finish[rank] if left == 0 else NEVER for rank, left in enumerate(self.undone)]
        stuck = [rank for rank, left in enumerate(self.undone) if left]
        return Prediction(
            seconds=max(finish, default=0.0),
            finish=tuple(finish),
            carried=tuple(self.sharing.carried),
            busy=tuple(self.sharing.busy),
            capacities=tuple(self.network.capacities),
            messages=self.work.messages,
            events=events,
            exact=self.exact,
            stuck=tuple(Stuck(rank, why) for rank, why in self._reasons(stuck[:SHOWN]).items()),
        )

    def _reasons(self, ranks: Sequence[int]) -> dict[int, str]:
        """Why each of ``ranks`` did not finish: by its first receipt or send that did not."""
        work = self.work
        wanted, found = set(ranks), dict[int, str]()
        senders = {receive: send for send, receive in enumerate(work.twin) if receive >= 0}
        dead = {rank: failure.what for failure in self.failures for rank in failure.ranks if self.dead[rank]}
        for rank in ranks:
            if rank in dead:
                found[rank] = dead[rank]
        for node, done in enumerate(self.done):
            rank = work.rank[node]
            if done or rank not in wanted or rank in found:
                continue
            send = node if work.kind[node] == SEND else senders.get(node, -1)
            if send < 0:
                continue
            source, target, _ = work.channels[work.channel[send]]
            broken = self._broken(work.channel[send])
            if target == rank:
                cause = dead.get(source) or (broken if self.under_way[work.channel[send]] >= 0 else "")
                found[rank] = f"waits for rank {source}" + (f": {cause}" if cause else ", which waits itself")
            elif self.under_way[work.channel[send]] >= 0:
                found[rank] = f"cannot send to rank {target}: {broken}"
        return {rank: found.get(rank, "waits for the others") for rank in ranks}

    def _broken(self, channel: int) -> str:
        path = set(self.paths[channel])
        return "; ".join(failure.what for failure in self.failures if path & set(failure.resources))


def _delays(work: Workload, network: Network, seed: int) -> list[float]:
    """What chance adds to the latency of each send."""
    spread = getattr(network, "jitter", None)
    if spread is None:
        return []
    reach = [spread(source, target) for source, target, _ in work.channels]
    return [reach[channel] * chance(seed, node) if channel >= 0 else 0.0 for node, channel in enumerate(work.channel)]
