"""Proof of a schedule through windows: besides right results, that nobody reads a cell while its owner may write it.

The ranks are run for several blocks, with a vector clock each (Mattern 1989): a signal takes the clock along, a wait merges
it. A read must know of the write that it reads, a write of all reads of what it overwrites. What a wait waits for does not
depend on the order in which ranks happen to run, so one order shows it for all. Values belong to a block: a cell of an
earlier one is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .schedule import Action, Schedule, Span, Step
from .values import Memory, ProofError, Value, Values, check_result, initial_memory

BLOCKS = 5  # cells come round every second block, and lags are as long


@dataclass
class _Cell:
    value: Value
    block: int
    written: int  # at this time of its owner
    readers: dict[int, int] = field(default_factory=dict)  # rank -> its time


@dataclass
class _Rank:
    number: int
    schedule: Schedule
    memories: list[Memory]  # one per block
    clock: list[int]
    at: int = 0  # steps done, over all blocks
    signals: list[list[int]] = field(default_factory=list)  # the clock at each

    @property
    def block(self) -> int:
        return self.at // max(1, len(self.schedule.steps))

    @property
    def step(self) -> Step | None:
        steps = self.schedule.steps
        return steps[self.at % len(steps)] if self.at < BLOCKS * len(steps) else None


def prove_windows(schedules: Sequence[Schedule], root: int, in_place: bool) -> list[Memory]:
    """Raises ProofError. Returns the memory of each rank after the last block."""
    n = len(schedules)
    counts = {sum(step.action is Action.SIGNAL for step in schedule.steps) for schedule in schedules}
    if len(counts) != 1:
        raise ProofError(f"the ranks signal unequally often: {sorted(counts)}")
    if len({schedule.closing for schedule in schedules}) != 1:
        raise ProofError("the ranks do not agree whether the algorithm closes")
    for schedule in schedules:
        if schedule.closing:
            _check_closing(schedule)
    values = [Values() for _ in range(BLOCKS)]
    ranks = [
        _Rank(number, schedule, [initial_memory(schedule, root, values[b], in_place) for b in range(BLOCKS)], [0] * n)
        for number, schedule in enumerate(schedules)
    ]
    given = [dict(rank.memories[-1]) for rank in ranks]
    machine = _Machine(ranks, values, counts.pop(), in_place)
    machine.run()
    for rank in ranks:
        for memory in rank.memories:
            check_result(rank.number, rank.schedule, memory, root, n)
        for place, value in given[rank.number].items():
            if not in_place and place[0] == "in" and rank.memories[-1].get(place) is not value:
                raise ProofError(f"rank {rank.number}: its input chunk {place[1]} has changed")
    return [rank.memories[-1] for rank in ranks]


def _check_closing(schedule: Schedule) -> None:
    """After its last signal, the rank waits for the last ones of all others, and reads windows only to write its own memory, from
    nothing that it overwrites meanwhile."""
    signals = sum(step.action is Action.SIGNAL for step in schedule.steps)
    tail = schedule.steps[schedule.tail :]
    heard = {step.peer for step in tail if step.action is Action.WAIT and step.count == signals and not step.lag}
    if len(heard) != schedule.n - 1:
        raise ProofError(f"rank {schedule.rank} claims to close, and does not wait for all others at the end")
    written: set[Span] = set()
    for step in tail:
        if step.target is not None and step.target.owner >= 0:
            raise ProofError(
                f"rank {schedule.rank} claims to close, and writes a window after its last signal ({step})"
            )
        for span in (step.source, step.other):
            if (
                span is not None
                and span.owner < 0
                and span not in written
                and (span.buffer != "in" or schedule.in_place)
            ):
                raise ProofError(f"rank {schedule.rank} claims to close, and cannot repeat ({step})")
        if step.target is not None:
            written.add(step.target)


class _Machine:
    def __init__(self, ranks: list[_Rank], values: list[Values], signals: int, in_place: bool):
        self._ranks = ranks
        self._values = values
        self._signals = signals
        self._in_place = in_place
        self._cells: dict[tuple[int, int, int], _Cell] = {}  # owner, cell, set

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            for rank in self._ranks:
                while (step := rank.step) is not None and self._advance(rank, step):
                    rank.at += 1
                    moved = True
        for rank in self._ranks:
            if rank.step is not None:
                raise ProofError(f"deadlock: rank {rank.number} waits for ever in block {rank.block}: {rank.step}")

    def _advance(self, rank: _Rank, step: Step) -> bool:
        try:
            rank.clock[rank.number] += 1
            if step.action is Action.SIGNAL:
                rank.signals.append(list(rank.clock))
            elif step.action is Action.WAIT:
                return self._wait(rank, step)
            elif step.action is Action.COPY:
                self._write(rank, step.target, self._read(rank, step.source))
            elif step.action is Action.REDUCE:
                left, right = self._read(rank, step.source), self._read(rank, step.other)
                self._write(rank, step.target, self._values[rank.block].sum(left, right))
            else:
                raise ProofError("a schedule through windows has no messages")
        except ProofError as error:
            raise ProofError(f"rank {rank.number}, block {rank.block} ({step}): {error}") from None
        return True

    def _wait(self, rank: _Rank, step: Step) -> bool:
        if step.peer == rank.number or not 0 <= step.peer < len(self._ranks):
            raise ProofError("there is no such rank to wait for")
        if not 1 <= step.count <= self._signals or step.lag < 0:
            raise ProofError(f"there are {self._signals} signals in a block")
        if rank.block < step.lag:
            return True
        index = (rank.block - step.lag) * self._signals + step.count - 1
        signals = self._ranks[step.peer].signals
        if index >= len(signals):
            return False
        rank.clock = list(map(max, rank.clock, signals[index]))
        return True

    def _read(self, rank: _Rank, span: Span | None) -> Value:
        place = self._place(rank, span)
        if span is not None and span.buffer == "win":
            cell = self._cells.get((span.owner, span.first, rank.block % 2))
            if cell is None or cell.block != rank.block or cell.written > rank.clock[span.owner]:
                raise ProofError(f"{span} may not be written yet")
            cell.readers[rank.number] = rank.clock[rank.number]
            return cell.value
        if place not in rank.memories[rank.block]:
            raise ProofError(f"{span} is read before anything was written there")
        return rank.memories[rank.block][place]

    def _write(self, rank: _Rank, span: Span | None, value: Value) -> None:
        place = self._place(rank, span)
        assert span is not None
        if span.buffer == "win":
            if span.owner != rank.number:
                raise ProofError("only its owner writes a window")
            key = (span.owner, span.first, rank.block % 2)
            before = self._cells.get(key)
            late = [r for r, time in before.readers.items() if time > rank.clock[r]] if before is not None else []
            if late:
                raise ProofError(f"{span} may still be read by rank {late[0]}")
            self._cells[key] = _Cell(value, rank.block, rank.clock[rank.number])
            return
        if span.buffer == "in":
            raise ProofError("the input is written")
        if rank.schedule.kind != "all_to_all" and rank.schedule.chunks[span.buffer] > 1 and value.piece != span.first:
            raise ProofError(f"piece {value.piece} is put into {span}, which has another size")
        rank.memories[rank.block][place] = value

    def _place(self, rank: _Rank, span: Span | None) -> tuple[str, int]:
        if span is None:
            raise ProofError("a span is missing")
        if span.last != span.first + 1 or not 0 <= span.first < rank.schedule.chunks.get(span.buffer, 0):
            raise ProofError(f"{span} is not one chunk of its buffer")
        if (span.buffer == "win") != (span.owner >= 0) or span.owner >= len(self._ranks):
            raise ProofError(f"{span} is in nobody's memory")
        return ("out" if self._in_place and span.buffer == "in" else span.buffer), span.first
