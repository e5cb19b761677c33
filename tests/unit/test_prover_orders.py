"""The prover runs ranks in list order; here they run in any order that dependencies allow, and with full sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm.collectives import BY_MESSAGES, Action, Schedule, Span, generate
from collcomm.engine.plan import Plan, compile_plan

ROOTED = ("broadcast", "reduce", "gather", "scatter")
Node = tuple[int, int]  # rank, step
Combine = Callable[[Any, Any], Any]
Memory = dict[tuple[str, int], Any]


def group(kind: str, algorithm: str, n: int, root: int = 0, segments: int = 1) -> list[Schedule]:
    parameters = {"segments": segments} if segments > 1 else {}
    return [generate(kind, algorithm, n, rank, root, **parameters) for rank in range(n)]


def plans(schedules: Sequence[Schedule], in_place: bool) -> list[Plan]:
    """What the engine makes of the schedules, a byte per chunk: its dependencies are the ones that are tried here."""
    return [
        compile_plan(s, {buffer: range(count + 1) for buffer, count in s.chunks.items()}, 1, in_place)
        for s in schedules
    ]


def places(span: Span | None, in_place: bool) -> list[tuple[str, int]]:
    if span is None:
        return []
    buffer = "out" if in_place and span.buffer == "in" else span.buffer
    return [(buffer, index) for index in range(span.first, span.last)]


class Run:
    """All ranks of one collective, any step of which may be taken once those that it must not overtake are done."""

    def __init__(self, schedules: Sequence[Schedule], memory: list[Memory], combine: Combine, in_place: bool):
        self.schedules, self.memory, self.combine, self.in_place = schedules, memory, combine, in_place
        self.after = [[set(message.after) for message in plan.messages] for plan in plans(schedules, in_place)]
        for rank, schedule in enumerate(schedules):
            last: dict[tuple[bool, int], int] = {}
            for index, step in enumerate(schedule.steps):
                if step.action is not Action.COPY:  # a pair's messages keep their order
                    way = (step.action is Action.SEND, step.peer)
                    if way in last:
                        self.after[rank][index].add(last[way])
                    last[way] = index
        self.left: list[Node] = [(rank, i) for rank, s in enumerate(schedules) for i in range(len(s.steps))]
        self.done: set[Node] = set()
        self.channels: dict[tuple[int, int], deque[list[Any]]] = {}

    def possible(self, node: Node) -> bool:
        rank, index = node
        step = self.schedules[rank].steps[index]
        if any((rank, earlier) not in self.done for earlier in self.after[rank][index]):
            return False
        return step.action in (Action.SEND, Action.COPY) or bool(self.channels.get((step.peer, rank)))

    def take(self, node: Node) -> None:
        rank, index = node
        step, memory = self.schedules[rank].steps[index], self.memory[rank]
        data = [memory[place] for place in places(step.source, self.in_place)]
        if step.action is Action.SEND:
            self.channels.setdefault((rank, step.peer), deque()).append(data)
        elif step.action is not Action.COPY:
            received = self.channels[step.peer, rank].popleft()
            if step.action is Action.RECV_REDUCE:
                pairs = [(a, b) if step.received_first else (b, a) for a, b in zip(received, data, strict=True)]
                received = [self.combine(left, right) for left, right in pairs]
            data = received
        for place, value in zip(places(step.target, self.in_place), data, strict=step.action is not Action.SEND):
            memory[place] = value
        self.done.add(node)
        self.left.remove(node)

    def to_the_end(self, pick: Callable[[list[Node]], Node]) -> list[list[Any]]:
        """The results by rank. ``pick`` chooses among the steps that may be next."""
        while self.left:
            choices = [node for node in self.left if self.possible(node)]
            assert choices, f"nobody can go on: {self.left}"
            self.take(pick(choices))
        return [
            [memory.get(("out", index)) for index in range(schedule.chunks.get("out", 0))]
            for memory, schedule in zip(self.memory, self.schedules, strict=True)
        ]


def letters(schedules: Sequence[Schedule], in_place: bool) -> list[Memory]:
    """An own word for each chunk of each input."""
    buffer = "out" if in_place or schedules[0].kind == "broadcast" else "in"
    return [
        {(buffer, index): f"{rank}.{index}" for index in range(schedule.chunks.get(buffer, 0))}
        for rank, schedule in enumerate(schedules)
    ]


def bracket(left: str, right: str) -> str:
    return f"({left}+{right})"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_that_dependencies_allow_gives_the_same_expressions(data: Any) -> None:
    kind, algorithm = data.draw(st.sampled_from(sorted(BY_MESSAGES)))
    n = data.draw(st.integers(1, 7))
    root = data.draw(st.integers(0, n - 1)) if kind in ROOTED else 0
    segments = data.draw(st.integers(1, 3)) if (kind, algorithm) in SEGMENTED else 1
    schedules = group(kind, algorithm, n, root, segments)
    in_place = all(schedule.in_place for schedule in schedules) and data.draw(st.booleans())
    chance: Random = data.draw(st.randoms(use_true_random=False))
    expected = Run(schedules, letters(schedules, False), bracket, False).to_the_end(lambda choices: choices[0])
    found = Run(schedules, letters(schedules, in_place), bracket, in_place).to_the_end(chance.choice)
    assert found == expected


SEGMENTED = {("all_reduce", "ring"), ("all_reduce", "bidirectional"), ("broadcast", "ring")}
ALL_REDUCES = sorted(algorithm for kind, algorithm in BY_MESSAGES if kind == "all_reduce")


def nan(payload: int) -> np.float32:
    return np.uint32(0x7FC00000 | payload).view(np.float32)


def awkward(n: int) -> list[list[np.float32]]:
    """Per rank: numbers whose sum depends on the order, zeros of both signs, and NaNs that can be told apart."""
    numbers = np.random.default_rng(n).standard_normal(n).astype(np.float32) * np.float32(10.0) ** (np.arange(n) % 9)
    zeros = [np.float32(-0.0 if rank % 2 else 0.0) for rank in range(n)]
    return [[numbers[rank], zeros[rank], nan(rank + 1)] for rank in range(n)]


@pytest.mark.parametrize("ufunc", [np.add, np.minimum, np.maximum, np.multiply], ids=lambda ufunc: ufunc.__name__)
@pytest.mark.parametrize("algorithm", ALL_REDUCES)
def test_all_ranks_end_with_the_same_bits(algorithm: str, ufunc: np.ufunc) -> None:
    for n in (2, 3, 4, 5, 7, 8, 13):
        schedules = group("all_reduce", algorithm, n)
        chunks = schedules[0].chunks["in"]
        block = [np.array(row, np.float32) for row in awkward(n)]
        memory: list[Memory] = [{("in", index): block[rank] for index in range(chunks)} for rank in range(n)]
        with np.errstate(invalid="ignore", over="ignore"):
            results = Run(schedules, memory, ufunc, False).to_the_end(lambda choices: choices[-1])
        for one, other in pairwise(results):
            assert [chunk.tobytes() for chunk in one] == [chunk.tobytes() for chunk in other], n
