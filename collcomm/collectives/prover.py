"""Proof of a collective algorithm by symbolic execution of all its ranks together.

What is shown, for given n, root and parameters: every chunk of every result holds what it should, each input exactly once;
all ranks of an all_reduce evaluate the same expression with the same order of operands, so that their bits are equal for any
operator; nothing undefined is read and no input written; messages between a pair of ranks meet receives of the same
piece in the same order, and all are received; pieces lie in chunks of their own size. There is no deadlock with eager
sends in list order (the inline executor), nor without any room between the ranks when each step goes as soon as what it
depends on is done (the streaming executor: see `rendezvous`; it waits for all that touched the same chunks before, so its
results are those of the list order). With ``in_place`` the buffers "in" and "out" are one, and a piece must not be
overwritten before it was sent.

A value is a tree of contributions: ("x", rank, piece) or (left, right), made unique, so that equality is identity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .schedule import Action, Schedule, Span, Step


class ProofError(AssertionError):
    """An algorithm is wrong; the text says at which rank and step."""


@dataclass(frozen=True, eq=False)
class Value:
    """A contribution (``owner``, ``piece``), or a sum of two values. ``owners``: a bit per contributing rank."""

    piece: int
    owners: int
    parts: tuple[Value, Value] | None = None


@dataclass
class _Interned:
    """One object per distinct value."""

    leaves: dict[tuple[int, int], Value] = field(default_factory=dict)
    sums: dict[tuple[int, int], Value] = field(default_factory=dict)

    def leaf(self, owner: int, piece: int) -> Value:
        return self.leaves.setdefault((owner, piece), Value(piece, 1 << owner))

    def sum(self, left: Value, right: Value) -> Value:
        if left.piece != right.piece:
            raise ProofError(f"pieces {left.piece} and {right.piece} are added to each other")
        if left.owners & right.owners:
            raise ProofError(f"piece {left.piece} holds an input twice")
        key = (id(left), id(right))
        found = self.sums.get(key)
        if found is None:
            found = self.sums[key] = Value(left.piece, left.owners | right.owners, (left, right))
        return found


Memory = dict[tuple[str, int], Value]


@dataclass
class _Rank:
    """The state of one rank while the ranks are run together."""

    schedule: Schedule
    memory: Memory
    at: int = 0

    @property
    def step(self) -> Step | None:
        return self.schedule.steps[self.at] if self.at < len(self.schedule.steps) else None


def prove(generate: Callable[[int], Schedule], n: int, root: int = 0, in_place: bool = False) -> None:
    """Run ``generate(rank)`` for all ranks. Raises ProofError."""
    schedules = [generate(rank) for rank in range(n)]
    kinds = {schedule.kind for schedule in schedules}
    if len(kinds) != 1:
        raise ProofError(f"the ranks run different kinds: {sorted(kinds)}")
    if in_place and not all(schedule.in_place for schedule in schedules):
        raise ProofError("the algorithm does not claim to work in place")
    for number, schedule in enumerate(schedules):
        _check_counts(schedule, number, root, n)
    if len({schedule.chunks.get("out") for schedule in schedules}) > 1 and kinds <= {"all_reduce", "broadcast"}:
        raise ProofError("the ranks divide the result differently")
    values = _Interned()
    ranks = [_Rank(schedule, _inputs(schedule, root, values, in_place)) for schedule in schedules]
    given = [dict(rank.memory) for rank in ranks]
    _run(ranks, values, in_place)
    for number, rank in enumerate(ranks):
        if not in_place:
            _inputs_intact(number, rank, given[number])
        _check_result(number, rank, root, n)
    if kinds == {"all_reduce"}:
        _same_expressions(ranks)
    rendezvous(schedules, in_place)


# -- what goes in ----------------------------------------------------------------------------------------------------


def _inputs(schedule: Schedule, root: int, values: _Interned, in_place: bool) -> Memory:
    """Initial memory: the leaf that stands for each chunk of the input."""
    kind, rank = schedule.kind, schedule.rank
    buffer = "out" if kind == "broadcast" or in_place else "in"
    if (kind == "broadcast" and rank != root) or (kind == "scatter" and rank != root):
        return {}
    count = schedule.chunks.get(buffer, 0)
    single = kind in ("all_gather", "gather")
    return {(buffer, c): values.leaf(rank, rank if single else _piece_in(kind, rank, c)) for c in range(count)}


def _piece_in(kind: str, rank: int, chunk: int) -> int:
    """The identity of the piece in chunk ``chunk`` of an input. Those of all_to_all belong to a pair of ranks."""
    return rank * 1_000_000 + chunk if kind == "all_to_all" else chunk


def _check_counts(schedule: Schedule, rank: int, root: int, n: int) -> None:
    """The buffers are divided as the table in `schedule` says."""
    kind, chunks, at_root = schedule.kind, schedule.chunks, rank == root
    single, all_ranks = ((1, 1), (n, n))
    wanted: dict[str, dict[str, tuple[int, int]]] = {
        "reduce_scatter": {"in": all_ranks, "out": single},
        "all_gather": {"in": single, "out": all_ranks},
        "all_to_all": {"in": all_ranks, "out": all_ranks},
        "gather": {"in": single, **({"out": all_ranks} if at_root else {})},
        "scatter": {"out": single, **({"in": all_ranks} if at_root else {})},
    }
    pieces = (1, chunks.get("in", chunks.get("out", 1)))
    even = {"in": pieces, "out": pieces} if kind in ("all_reduce", "reduce") else {"out": pieces}
    if kind == "reduce" and not at_root:
        del even["out"]
    for buffer, (least, most) in wanted.get(kind, even).items():
        if not least <= chunks.get(buffer, 0) <= most:
            raise ProofError(f"rank {rank}: {buffer!r} has {chunks.get(buffer, 0)} chunks, not {least} to {most}")


# -- running ---------------------------------------------------------------------------------------------------------


def _run(ranks: Sequence[_Rank], values: _Interned, in_place: bool) -> None:
    """Round robin, each rank as far as it gets: with eager sends the order of ranks makes no difference."""
    channels: dict[tuple[int, int], deque[list[Value]]] = {}
    moved = True
    while moved:
        moved = False
        for number, rank in enumerate(ranks):
            while rank.step is not None and _advance(number, rank, channels, values, in_place):
                moved = True
    for number, rank in enumerate(ranks):
        if rank.step is not None:
            raise ProofError(f"deadlock: rank {number} waits for ever in step {rank.at}: {rank.step}")
    left = {pair: len(queue) for pair, queue in channels.items() if queue}
    if left:
        raise ProofError(f"messages that nobody receives, by (from, to): {left}")


def _advance(
    number: int,
    rank: _Rank,
    channels: dict[tuple[int, int], deque[list[Value]]],
    values: _Interned,
    in_place: bool,
) -> bool:
    """Do the next step of a rank. False when it must wait for a message."""
    step = rank.step
    assert step is not None
    where = f"rank {number}, step {rank.at} ({step})"
    try:
        if step.action is not Action.COPY and (step.peer == number or not 0 <= step.peer < rank.schedule.n):
            raise ProofError("there is no such link")
        if step.action is Action.SEND:
            channels.setdefault((number, step.peer), deque()).append(_read(rank, step.source, in_place))
        elif step.action is Action.COPY:
            _write(rank, step.target, _read(rank, step.source, in_place), in_place)
        else:
            queue = channels.get((step.peer, number))
            if not queue:
                return False
            received = queue.popleft()
            if step.action is Action.RECV_REDUCE:
                mine = _read(rank, step.source, in_place)
                if len(mine) != len(received):
                    raise ProofError(f"{len(received)} chunks arrive, {len(mine)} are to be added")
                pairs = zip(received, mine, strict=True) if step.received_first else zip(mine, received, strict=True)
                received = [values.sum(left, right) for left, right in pairs]
            _write(rank, step.target, received, in_place)
    except ProofError as error:
        raise ProofError(f"{where}: {error}") from None
    rank.at += 1
    return True


def _places(rank: _Rank, span: Span | None, in_place: bool) -> list[tuple[str, int]]:
    if span is None:
        raise ProofError("a span is missing")
    count = rank.schedule.chunks.get(span.buffer, 0)
    if not 0 <= span.first < span.last <= count:
        raise ProofError(f"{span} is outside of the {count} chunks of its buffer")
    buffer = "out" if in_place and span.buffer == "in" else span.buffer
    return [(buffer, chunk) for chunk in range(span.first, span.last)]


def _read(rank: _Rank, span: Span | None, in_place: bool) -> list[Value]:
    found = []
    for place in _places(rank, span, in_place):
        if place not in rank.memory:
            raise ProofError(f"{place[0]}[{place[1]}] is read before anything was written there")
        found.append(rank.memory[place])
    return found


def _write(rank: _Rank, span: Span | None, values: Sequence[Value], in_place: bool) -> None:
    places = _places(rank, span, in_place)
    if len(places) != len(values):
        raise ProofError(f"{len(values)} chunks do not fit into {span}")
    if span is not None and span.buffer == "in":
        raise ProofError("the input is written")
    count = rank.schedule.chunks.get(span.buffer, 0) if span is not None else 0
    if rank.schedule.kind != "all_to_all" and count > 1:
        for (buffer, chunk), value in zip(places, values, strict=True):
            if value.piece != chunk:
                raise ProofError(f"piece {value.piece} is put into {buffer}[{chunk}], which has another size")
    for place, value in zip(places, values, strict=True):
        rank.memory[place] = value


# -- what comes out --------------------------------------------------------------------------------------------------


def _inputs_intact(number: int, rank: _Rank, given: Memory) -> None:
    for place, value in given.items():
        if place[0] == "in" and rank.memory.get(place) is not value:
            raise ProofError(f"rank {number}: its input chunk {place[1]} has changed")


def _check_result(number: int, rank: _Rank, root: int, n: int) -> None:
    schedule = rank.schedule
    kind = schedule.kind
    if kind in ("reduce", "gather") and number != root:
        return
    everybody = (1 << n) - 1
    for chunk in range(schedule.chunks["out"]):
        value = rank.memory.get(("out", chunk))
        if kind in ("all_reduce", "reduce"):
            piece, owners = chunk, everybody
        elif kind == "reduce_scatter":
            piece, owners = number, everybody
        elif kind in ("all_gather", "gather"):
            piece, owners = chunk, 1 << chunk
        elif kind == "all_to_all":
            piece, owners = _piece_in(kind, chunk, number), 1 << chunk
        elif kind == "broadcast":
            piece, owners = chunk, 1 << root
        else:
            piece, owners = number, 1 << root
        if value is None or value.piece != piece or value.owners != owners:
            raise ProofError(f"rank {number}: out[{chunk}] is wrong: {_words(value)}, not piece {piece} of {owners:b}")


def _words(value: Value | None) -> str:
    return "undefined" if value is None else f"piece {value.piece} of {value.owners:b}"


def _same_expressions(ranks: Sequence[_Rank]) -> None:
    """Values are interned, so equal expressions are one object."""
    for chunk in range(ranks[0].schedule.chunks["out"]):
        first = ranks[0].memory["out", chunk]
        for number, rank in enumerate(ranks):
            if rank.memory["out", chunk] is not first:
                raise ProofError(f"ranks 0 and {number} add up out[{chunk}] in different orders")


# -- without room between the ranks ----------------------------------------------------------------------------------


def rendezvous(schedules: Sequence[Schedule], in_place: bool) -> None:
    """Nothing is buffered on the way: a send is done when its receiver has taken it.

    A step may begin when all earlier steps of its rank that touched the same chunks, one of them writing, are done; the sends
    from one rank to another go in order, as do its receipts from one. What is to be reduced is taken at once, one message
    per pair, and reduced when its turn has come. Raises ProofError where this does not come to an end.
    """
    after = [_dependencies(schedule, in_place) for schedule in schedules]
    done = [[False] * len(schedule.steps) for schedule in schedules]
    sends: dict[tuple[int, int], deque[int]] = {}
    receipts: dict[tuple[int, int], deque[int]] = {}
    local: list[tuple[int, int]] = []
    for rank, schedule in enumerate(schedules):
        for index, step in enumerate(schedule.steps):
            if step.action is Action.SEND:
                sends.setdefault((rank, step.peer), deque()).append(index)
            elif step.action is Action.COPY:
                local.append((rank, index))
            else:
                receipts.setdefault((step.peer, rank), deque()).append(index)
    taken: set[tuple[int, int]] = set()  # pairs whose first receipt waits, whole, for its turn to be reduced

    def ready(rank: int, index: int) -> bool:
        return all(done[rank][earlier] for earlier in after[rank][index])

    moved = True
    while moved:
        moved = False
        for rank, index in local:
            if not done[rank][index] and ready(rank, index):
                done[rank][index] = moved = True
        for pair, waiting in receipts.items():
            source, target = pair
            while waiting:
                index = waiting[0]
                if pair not in taken:
                    outgoing = sends.get(pair)
                    early = schedules[target].steps[index].action is Action.RECV_REDUCE
                    if not outgoing or not ready(source, outgoing[0]) or not (early or ready(target, index)):
                        break
                    done[source][outgoing.popleft()] = moved = True
                    taken.add(pair)
                if not ready(target, index):
                    break
                taken.discard(pair)
                waiting.popleft()
                done[target][index] = moved = True
    for rank, steps in enumerate(done):
        if not all(steps):
            index = steps.index(False)
            raise ProofError(f"rank {rank}, step {index} ({schedules[rank].steps[index]}) waits for ever without room")


def _dependencies(schedule: Schedule, in_place: bool) -> list[list[int]]:
    """For each step the earlier ones that must be done before it; those that these depend on in turn are left out."""
    written: dict[tuple[str, int], int] = {}
    read: dict[tuple[str, int], list[int]] = {}
    found = []
    for index, step in enumerate(schedule.steps):
        reads = _chunks(step.source, in_place)
        writes = _chunks(step.target, in_place)
        earlier = {written[place] for place in reads + writes if place in written}
        for place in writes:
            earlier.update(read.get(place, ()))
        for place in writes:
            written[place] = index
            read[place] = []
        for place in reads:
            if place not in writes:
                read.setdefault(place, []).append(index)
        earlier.discard(index)
        found.append(sorted(earlier))
    return found


def _chunks(span: Span | None, in_place: bool) -> list[tuple[str, int]]:
    if span is None:
        return []
    buffer = "out" if in_place and span.buffer == "in" else span.buffer
    return [(buffer, chunk) for chunk in range(span.first, span.last)]
