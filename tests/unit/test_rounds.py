"""What the algorithms are for: how many messages must follow each other, how much goes to whom, and which bits come out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from fractions import Fraction

import pytest

from collcomm.collectives import Action, Schedule, generate
from collcomm.collectives.values import Memory, Value, Values, initial_memory


def group(kind: str, algorithm: str, n: int, segments: int = 1) -> list[Schedule]:
    parameters = {"segments": segments} if segments > 1 else {}
    return [generate(kind, algorithm, n, rank, **parameters) for rank in range(n)]


def latencies(schedules: Sequence[Schedule]) -> int:
    """The most messages that wait for each other, when every rank takes its steps in the order of the list."""
    clock, at = [0] * len(schedules), [0] * len(schedules)
    channels: dict[tuple[int, int], deque[int]] = {}
    moved = True
    while moved:
        moved = False
        for rank, schedule in enumerate(schedules):
            for step in schedule.steps[at[rank] :]:
                if step.action is Action.SEND:
                    channels.setdefault((rank, step.peer), deque()).append(clock[rank] + 1)
                elif step.action is not Action.COPY:
                    queue = channels.get((step.peer, rank))
                    if not queue:
                        break
                    clock[rank] = max(clock[rank], queue.popleft())
                at[rank] += 1
                moved = True
    assert all(at[rank] == len(schedule.steps) for rank, schedule in enumerate(schedules))
    return max(clock)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 31, 64])
def test_how_many_latencies(n: int) -> None:
    rounds, whole = n.bit_length() - 1, n & (n - 1) == 0
    assert latencies(group("all_reduce", "direct", n)) == 2
    assert latencies(group("all_reduce", "halving", n)) == 2 * rounds + 2 * (not whole)
    assert rounds + (not whole) <= latencies(group("reduce_scatter", "halving", n)) <= rounds + 2 * (not whole)
    assert latencies(group("all_gather", "bidirectional", n)) == n // 2
    assert latencies(group("reduce_scatter", "bidirectional", n)) == n // 2
    assert (
        latencies(group("all_reduce", "bidirectional", n)) == 2 * (n - 1) == latencies(group("all_reduce", "ring", n))
    )


def sent(schedule: Schedule) -> Counter[int]:
    """Parts of the vector, or of all blocks together, by peer."""
    count = max(schedule.chunks.values())
    found: Counter[int] = Counter()
    for step in schedule.steps:
        if step.action is Action.SEND:
            assert step.source is not None
            found[step.peer] += Fraction(step.source.last - step.source.first, count)  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("n", [2, 4, 8, 32])
def test_halving_sends_the_large_halves_to_neighbours(n: int) -> None:
    for schedule in group("all_reduce", "halving", n):
        rank = schedule.rank
        there_and_back = {rank ^ (1 << k): Fraction(2, 2 << k) for k in range(n.bit_length() - 1)}
        assert sent(schedule) == there_and_back
        assert sum(there_and_back.values()) == 2 * Fraction(n - 1, n)


def test_halving_of_any_number_sends_no_more_than_twice_the_vector_and_the_pairing() -> None:
    for n in range(1, 65):
        for kind, most in (("all_reduce", 3), ("reduce_scatter", 2)):
            assert all(sum(sent(schedule).values()) <= most for schedule in group(kind, "halving", n))


@pytest.mark.parametrize("n", [3, 4, 5, 8, 9])
@pytest.mark.parametrize("segments", [1, 3])
def test_both_ways_round_carry_half_each(n: int, segments: int) -> None:
    for schedule in group("all_reduce", "bidirectional", n, segments):
        right, left = (schedule.rank + 1) % n, (schedule.rank - 1) % n
        assert sent(schedule) == {right: Fraction(n - 1, n), left: Fraction(n - 1, n)}
    for kind in ("all_gather", "reduce_scatter"):
        for schedule in group(kind, "bidirectional", n):
            right, left = (schedule.rank + 1) % n, (schedule.rank - 1) % n
            assert sent(schedule) == {right: Fraction(n // 2, n), left: Fraction((n - 1) // 2, n)}


def results(schedules: Sequence[Schedule]) -> tuple[list[Memory], Values]:
    """The symbolic result of each rank."""
    values = Values()
    memories = [initial_memory(schedule, 0, values, False) for schedule in schedules]
    at = [0] * len(schedules)
    channels: dict[tuple[int, int], deque[list[Value]]] = {}
    while any(at[rank] < len(schedule.steps) for rank, schedule in enumerate(schedules)):
        for rank, schedule in enumerate(schedules):
            for step in schedule.steps[at[rank] :]:
                source, target = (
                    [(span.buffer, c) for c in range(span.first, span.last)] if span else []
                    for span in (step.source, step.target)
                )
                data = [memories[rank][place] for place in source]
                if step.action is Action.SEND:
                    channels.setdefault((rank, step.peer), deque()).append(data)
                elif step.action is not Action.COPY:
                    queue = channels.get((step.peer, rank))
                    if not queue:
                        break
                    got = queue.popleft()
                    if step.action is Action.RECV_REDUCE:
                        pairs = zip(got, data, strict=True) if step.received_first else zip(data, got, strict=True)
                        got = [values.sum(left, right) for left, right in pairs]
                    data = got
                if step.action is not Action.SEND:
                    memories[rank].update(zip(target, data, strict=True))
                at[rank] += 1
    return memories, values


def shape(value: Value) -> str:
    if value.parts is None:
        return str(value.owners.bit_length() - 1)
    return f"({shape(value.parts[0])}+{shape(value.parts[1])})"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 7, 8, 13])
def test_halving_has_the_bits_of_doubling(n: int) -> None:
    """The same expression for every piece: who changes from one to the other sees no other result."""
    (doubling, *_), _ = results(group("all_reduce", "doubling", n))
    (halving, *_), _ = results(group("all_reduce", "halving", n))
    expressions = {shape(value) for (buffer, _), value in halving.items() if buffer == "out"}
    assert expressions == {shape(doubling["out", 0])}
