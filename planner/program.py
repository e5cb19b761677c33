"""What each step of a schedule waits for, as the engine has it: the steps that wrote what it touches, or read what it writes.

This is the part of the engine's plan that no size changes, so it is worked out once per schedule. Chunks that a schedule only
ever uses together count as one: an all_gather by doubling among 10,000 ranks has 10,000 chunks, but uses about thirty runs of
them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..collectives import Action, Schedule, Span, generate

FRAME_BYTES = 1 << 18  # the engine's: what travels in one piece
INLINE_BYTES = 1 << 16  # the engine's: up to here a plan runs step by step in one thread
INLINE_MESSAGES = 512
ALIGNMENT = 64  # bytes; borders of large chunks fall on it
EVEN_KINDS = frozenset({"all_reduce", "broadcast", "reduce"})  # one size everywhere, split as the algorithm likes

Bounds = Mapping[str, Sequence[int]]
Place = tuple[str, int, int]  # buffer, first chunk, last chunk (not included)


@dataclass(frozen=True, slots=True)
class Program:
    """A rank's steps. ``after[i]``: the earlier steps that step i must not overtake. Windows have no messages to time."""

    kind: str
    algorithm: str
    n: int
    rank: int
    chunks: Mapping[str, int]
    actions: tuple[int, ...]
    peers: tuple[int, ...]
    sources: tuple[Place | None, ...]
    targets: tuple[Place | None, ...]
    after: tuple[tuple[int, ...], ...]


def analyse(schedule: Schedule) -> Program:
    """Raises ValueError for a schedule that uses windows."""
    if schedule.windows:
        raise ValueError(
            f"{schedule.kind} by {schedule.algorithm} uses shared memory: there are no messages to simulate"
        )
    steps = schedule.steps
    return Program(
        schedule.kind,
        schedule.algorithm,
        schedule.n,
        schedule.rank,
        schedule.chunks,
        tuple(int(step.action) for step in steps),
        tuple(step.peer for step in steps),
        tuple(_place(step.source) for step in steps),
        tuple(_place(step.target) for step in steps),
        _hazards(schedule),
    )


@lru_cache(maxsize=64)
def programs(kind: str, algorithm: str, n: int, root: int = 0, **parameters: Any) -> tuple[Program, ...]:
    """Of all ranks; kept, since a choice asks for the same ones at many sizes."""
    return tuple(analyse(generate(kind, algorithm, n, rank, root, **parameters)) for rank in range(n))


def even_bounds(program: Program, nbytes: int) -> Bounds:
    """Where chunks start and end, in bytes, when ``nbytes`` (of the vector, or of all blocks; of what one rank has to give in an
    all_to_all) are split evenly."""
    n, found = program.n, dict[str, Sequence[int]]()
    own = "in" if program.kind in ("all_gather", "gather") else "out"
    for buffer, count in program.chunks.items():
        if not count:
            continue
        if program.kind == "all_to_all":
            found[buffer] = tuple(block * (nbytes // n) for block in range(count + 1))
        elif program.kind in EVEN_KINDS or (count == n and (n > 1 or buffer != own)):
            found[buffer] = split(nbytes, count)
        else:
            edges = split(nbytes, n)
            mine = edges[program.rank + 1] - edges[program.rank]
            found[buffer] = (0, mine)
    return found


@lru_cache(maxsize=256)
def split(nbytes: int, chunks: int) -> tuple[int, ...]:
    """The borders of ``chunks`` even chunks."""
    grain = ALIGNMENT if nbytes >= chunks * ALIGNMENT * 4 else 1
    return (*(index * nbytes // chunks // grain * grain for index in range(chunks)), nbytes)


def runs_inline(program: Program, sizes: Sequence[int]) -> bool:
    """Whether the engine runs it step by step: what is sent before anything is received fits the kernel's buffers."""
    if len(sizes) > INLINE_MESSAGES:
        return False
    sent: dict[int, int] = {}
    for action, peer, nbytes in zip(program.actions, program.peers, sizes, strict=True):
        if nbytes > INLINE_BYTES and action not in (Action.COPY, Action.REDUCE):
            return False
        if action == Action.SEND:
            total = sent[peer] = sent.get(peer, 0) + nbytes
            if total > INLINE_BYTES:
                return False
        elif action in (Action.RECV, Action.RECV_REDUCE):
            sent.clear()
    return True


def _place(span: Span | None) -> Place | None:
    return None if span is None else (span.buffer, span.first, span.last)


def _hazards(schedule: Schedule) -> tuple[tuple[int, ...], ...]:
    runs = _Runs(schedule)
    writer: dict[tuple[str, int], int] = {}
    readers: dict[tuple[str, int], list[int]] = {}
    after: list[tuple[int, ...]] = []
    for index, step in enumerate(schedule.steps):
        source, other, target = runs.of(step.source), runs.of(step.other), runs.of(step.target)
        found: set[int] = set()
        for key in (*source, *other):
            if key in writer:
                found.add(writer[key])
        for key in target:
            if key in writer:
                found.add(writer[key])
            found.update(readers.pop(key, ()))
            writer[key] = index
        for key in (*source, *other):
            readers.setdefault(key, []).append(index)
        found.discard(index)
        after.append(tuple(sorted(found)))
    return tuple(after)


class _Runs:
    """Numbers the runs of chunks between the borders that a schedule uses."""

    def __init__(self, schedule: Schedule):
        borders: dict[str, set[int]] = {}
        for step in schedule.steps:
            for span in (step.source, step.target, step.other):
                if span is not None:
                    borders.setdefault(span.buffer, set()).update((span.first, span.last))
        self._borders = {buffer: sorted(found) for buffer, found in borders.items()}

    def of(self, span: Span | None) -> list[tuple[str, int]]:
        if span is None:
            return []
        buffer, borders = span.buffer, self._borders[span.buffer]
        first = bisect_left(borders, span.first)
        if span.last == span.first + 1:
            return [(buffer, first)]
        return [(buffer, run) for run in range(first, bisect_left(borders, span.last))]
