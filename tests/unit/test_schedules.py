"""Every algorithm is proved for every number of ranks, and run on real numbers."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from collcomm.planner import Links, choose
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm.collectives import ALGORITHMS, BY_MESSAGES, THROUGH_WINDOWS, Action, Schedule, Step, generate
from collcomm.collectives.prover import ProofError, prove
from collcomm.collectives.ring import wave
from collcomm.engine.request import request

ROOTED = ("broadcast", "reduce", "gather", "scatter")
SEGMENTED = {("all_reduce", "ring"), ("all_reduce", "bidirectional"), ("broadcast", "ring")}


def roots(kind: str, n: int) -> list[int]:
    return sorted({0, n // 2, n - 1}) if kind in ROOTED else [0]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Proofs make many objects and no cycles: looking for these would take a third of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(("kind", "algorithm"), sorted(ALGORITHMS))
def test_proved_for_1_to_64_ranks(kind: str, algorithm: str) -> None:
    windows = (kind, algorithm) in THROUGH_WINDOWS  # all pairs of ranks wait for each other there: n^3 of work
    for n in (*range(1, 25), 32, 48, 64) if windows else range(1, 65):
        for root in roots(kind, n):
            schedules = [ALGORITHMS[kind, algorithm](n, rank, root) for rank in range(n)]
            prove(schedules.__getitem__, n, root)
            if schedules[0].in_place:
                prove(schedules.__getitem__, n, root, in_place=True)


@pytest.mark.parametrize("lag", [2, 3, 5])
@pytest.mark.parametrize("algorithm", ["ring", "bidirectional", "hierarchical"])
def test_a_wave_that_lags_is_proved_too(algorithm: str, lag: int) -> None:
    for n, segments in ((2, 4), (3, 5), (8, 5), (9, 2)):
        hosts = {"hosts": tuple(rank % 3 for rank in range(n))} if algorithm == "hierarchical" else {}
        options = {"segments": segments, "lag": lag, **hosts}
        generator = ALGORITHMS["all_reduce", algorithm]
        prove(lambda rank: generator(n, rank, 0, **options), n, 0, True)
        prove(lambda rank: generator(n, rank, 0, **options), n, 0, False)


def test_a_wave_comes_by_every_segment_once_per_step_and_in_order() -> None:
    for steps, segments, lag in itertools.product((1, 2, 5), (1, 3, 7), (1, 2, 7)):
        found = list(wave(steps, segments, lag))
        assert sorted(found) == sorted(itertools.product(range(steps), range(segments)))
        for segment in range(segments):
            assert [step for step, which in found if which == segment] == list(range(steps))


@pytest.mark.parametrize(("kind", "algorithm"), sorted(SEGMENTED))
@pytest.mark.parametrize("segments", [2, 3, 8])
def test_segments_are_proved_too(kind: str, algorithm: str, segments: int) -> None:
    for n in (1, 2, 3, 4, 5, 8, 13):
        for root in roots(kind, n):
            for in_place in (False, True)[: 1 + (kind == "all_reduce")]:
                prove(lambda rank: ALGORITHMS[kind, algorithm](n, rank, root, segments=segments), n, root, in_place)


def mutations(schedule: Schedule) -> list[Schedule]:
    """The schedule with one thing wrong, in all ways that this test can think of."""
    found = []
    steps = schedule.steps
    for i, step in enumerate(steps):
        found.append(steps[:i] + steps[i + 1 :])
        by_hearsay = step.action is Action.WAIT and schedule.kind in ("broadcast", "scatter") and schedule.rank != 0
        if step.peer >= 0 and not by_hearsay:  # who waits for one that has waited for the root knows as much
            found.append((*steps[:i], dataclasses.replace(step, peer=(step.peer + 1) % schedule.n), *steps[i + 1 :]))
        if step.action is Action.RECV_REDUCE:
            plain = Step(Action.RECV, step.peer, target=step.target)
            found.append((*steps[:i], plain, *steps[i + 1 :]))
        for part in ("source", "target", "other"):
            span = getattr(step, part)
            if span is not None and schedule.chunks[span.buffer] > 1:
                moved = (span.first + 1) % schedule.chunks[span.buffer]
                other = dataclasses.replace(span, first=moved, last=moved + 1)
                found.append((*steps[:i], dataclasses.replace(step, **{part: other}), *steps[i + 1 :]))
    return [dataclasses.replace(schedule, steps=tuple(changed)) for changed in found]


@pytest.mark.parametrize(("kind", "algorithm"), sorted(ALGORITHMS))
def test_the_prover_finds_what_is_broken(kind: str, algorithm: str) -> None:
    n = 4
    tried = 0
    for rank in range(n):
        for broken in mutations(generate(kind, algorithm, n, rank)):
            tried += 1
            with pytest.raises(ProofError):
                prove(lambda r: broken if r == rank else generate(kind, algorithm, n, r), n)
    assert tried > 10


def test_the_prover_sees_the_order_of_operands() -> None:
    def swapped(rank: int) -> Schedule:
        schedule = generate("all_reduce", "doubling", 4, rank)
        if rank != 2:
            return schedule
        steps = [dataclasses.replace(step, received_first=not step.received_first) for step in schedule.steps]
        return dataclasses.replace(schedule, steps=tuple(steps))

    with pytest.raises(ProofError, match="different orders"):
        prove(swapped, 4)


def test_a_schedule_reads_as_a_transcript() -> None:
    assert generate("all_reduce", "ring", 3, 1).describe() == "\n".join(
        [
            "all_reduce by ring, rank 1 of 3",
            "  send in[1] -> 2",
            "  reduce out[0] <- in[0] + 0",
            "  send out[0] -> 2",
            "  reduce out[2] <- in[2] + 0",
            "  send out[2] -> 2",
            "  recv out[1] <- 0",
            "  send out[1] -> 2",
            "  recv out[0] <- 0",
        ]
    )


def execute(schedules: list[Schedule], memory: list[dict[str, list[np.ndarray]]]) -> None:
    """Run the schedules of all ranks on lists of chunks."""
    channels: dict[tuple[int, int], deque[list[np.ndarray]]] = {}
    at = [0] * len(schedules)
    moved = True
    while moved:
        moved = False
        for rank, schedule in enumerate(schedules):
            while at[rank] < len(schedule.steps):
                step, mine = schedule.steps[at[rank]], memory[rank]
                source = mine[step.source.buffer][step.source.first : step.source.last] if step.source else []
                if step.action is Action.SEND:
                    channels.setdefault((rank, step.peer), deque()).append([chunk.copy() for chunk in source])
                else:
                    data = [chunk.copy() for chunk in source]
                    if step.action is not Action.COPY:
                        queue = channels.get((step.peer, rank))
                        if not queue:
                            break
                        received = queue.popleft()
                        reduces = step.action is Action.RECV_REDUCE
                        data = [a + b for a, b in zip(received, source, strict=True)] if reduces else received
                    assert step.target is not None
                    for index, chunk in zip(range(step.target.first, step.target.last), data, strict=True):
                        assert mine[step.target.buffer][index].shape == chunk.shape
                        mine[step.target.buffer][index] = chunk
                at[rank] += 1
                moved = True
    assert all(at[rank] == len(schedule.steps) for rank, schedule in enumerate(schedules))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_on_numbers_with_uneven_chunks(data: Any) -> None:
    kind, algorithm = data.draw(st.sampled_from(sorted(BY_MESSAGES)))
    n = data.draw(st.integers(1, 9))
    root = data.draw(st.integers(0, n - 1)) if kind in ROOTED else 0
    counts = tuple(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    size = data.draw(st.integers(0, 20))
    table = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n * n, max_size=n * n))).reshape(n, n)
    even = kind in ("all_reduce", "broadcast", "reduce")
    order = tuple(data.draw(st.permutations(range(n)))) if data.draw(st.booleans()) else None
    schedules = [generate(kind, algorithm, n, rank, root, order=order) for rank in range(n)]
    memory = []
    for rank, schedule in enumerate(schedules):
        asked = request(
            kind,
            np.dtype(np.int64),
            size=size if even else 0,
            root=root if kind in ROOTED else -1,
            counts=() if even or kind == "all_to_all" else counts,
            sends=tuple(map(int, table[rank])) if kind == "all_to_all" else (),
            receives=tuple(map(int, table[:, rank])) if kind == "all_to_all" else (),
        )
        bounds = asked.bounds(schedule.chunks, range(n), rank)
        made = {
            buffer: [
                np.arange(low, high) + 100 * rank
                if buffer == "in" or (kind == "broadcast" and rank == root)
                else np.full(high - low, -1)
                for low, high in pairwise(edges)
            ]
            for buffer, edges in bounds.items()
        }
        memory.append(made)
    given_in = [np.concatenate([np.empty(0, int), *made.get("in", [])]) for made in memory]
    execute(schedules, memory)
    for rank in range(n):
        if kind in ("reduce", "gather") and rank != root:
            continue
        result = np.concatenate([np.empty(0, int), *memory[rank]["out"]])
        own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        if kind in ("all_reduce", "reduce"):
            expected = sum(given_in)
        elif kind == "reduce_scatter":
            expected = sum(given_in)[own]
        elif kind in ("all_gather", "gather"):
            expected = np.concatenate(given_in)
        elif kind == "broadcast":
            expected = np.arange(size) + 100 * root
        elif kind == "scatter":
            expected = given_in[root][own]
        else:
            starts = [int(table[other, :rank].sum()) for other in range(n)]
            expected = np.concatenate(
                [given_in[other][starts[other] : starts[other] + table[other, rank]] for other in range(n)]
            )
        np.testing.assert_array_equal(result, expected)


def test_the_planner_chooses_by_size() -> None:
    assert choose("all_reduce", 4, 1024).algorithm == "doubling"
    large = choose("all_reduce", 4, 64 << 20)
    assert large.algorithm == "ring" and large.parameters["segments"] == 64
    assert choose("broadcast", 8, 100).algorithm == "tree"
    assert choose("broadcast", 8, 64 << 20).algorithm == "ring"
    assert choose("all_to_all", 5, 10**6).algorithm == "direct"
    slow = Links(latency=0.05, bandwidth=6e6)
    assert choose("all_reduce", 8, 30_000, slow).algorithm in ("doubling", "star")
    for kind in {kind for kind, _ in ALGORITHMS}:
        for n in (1, 2, 3, 7, 64):
            for nbytes in (0, 1, 10**4, 10**9):
                picked = choose(kind, n, nbytes)
                assert (kind, picked.algorithm) in ALGORITHMS and picked.seconds >= 0
