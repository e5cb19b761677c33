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
from dataclasses import dataclass

from .schedule import Action, Schedule, Span, Step
from .values import Memory, ProofError, Value, Values, check_counts, check_result, initial_memory, same_expressions
from .window_prover import prove_windows


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
        check_counts(schedule, number, root, n)
    if len({schedule.chunks.get("out") for schedule in schedules}) > 1 and kinds <= {"all_reduce", "broadcast"}:
        raise ProofError("the ranks divide the result differently")
    if any(schedule.windows for schedule in schedules):
        memories = prove_windows(schedules, root, in_place)
    else:
        memories = _prove_messages(schedules, root, in_place)
    if kinds == {"all_reduce"}:
        same_expressions(memories, schedules[0].chunks["out"])


def _prove_messages(schedules: Sequence[Schedule], root: int, in_place: bool) -> list[Memory]:
    """Returns the memory of each rank at the end."""
    values = Values()
    ranks = [_Rank(schedule, initial_memory(schedule, root, values, in_place)) for schedule in schedules]
    given = [dict(rank.memory) for rank in ranks]
    _run(ranks, values, in_place)
    for number, rank in enumerate(ranks):
        if not in_place:
            _inputs_intact(number, rank, given[number])
        check_result(number, rank.schedule, rank.memory, root, len(schedules))
    rendezvous(schedules, in_place)
    return [rank.memory for rank in ranks]


# -- running ---------------------------------------------------------------------------------------------------------


def _run(ranks: Sequence[_Rank], values: Values, in_place: bool) -> None:
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
    values: Values,
    in_place: bool,
) -> bool:
    """Do the next step of a rank. False when it must wait for a message."""
    step = rank.step
    assert step is not None
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
        raise ProofError(f"rank {number}, step {rank.at} ({step}): {error}") from None
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


def _inputs_intact(number: int, rank: _Rank, given: Memory) -> None:
    for place, value in given.items():
        if place[0] == "in" and rank.memory.get(place) is not value:
            raise ProofError(f"rank {number}: its input chunk {place[1]} has changed")


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
