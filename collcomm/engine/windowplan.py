"""From a schedule through windows and the sizes of its chunks to what its executor needs: byte ranges, cells, blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..collectives import Action, Schedule, Span

SLOT_BYTES = 1 << 20  # of each window, for one of two blocks: what stays in cache between being written and being read
DEVICE_SLOT_BYTES = 1 << 26  # on a device a block costs some launches and a wait for its end, and must be worth them
SLOTS = 2
WINDOW_BYTES = SLOTS * SLOT_BYTES
DEVICE_WINDOW_BYTES = SLOTS * DEVICE_SLOT_BYTES
CELL_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Place:
    """``buffer``: its name, or "" for the window of rank ``owner``. ``start``: in bytes; of a cell, within a slot."""

    buffer: str
    owner: int
    start: int


@dataclass(frozen=True, slots=True)
class Move:
    """One step, or several that reduce one after the other into the same target. ``sources``: what is copied, or reduced from
    left to right. ``nbytes`` of all blocks together; ``fresh``: it is the first to write this part of its target, ``final``:
    and the last, a part of the result."""

    action: Action
    nbytes: int = 0
    sources: tuple[Place, ...] = ()
    target: Place | None = None
    peer: int = -1
    signals: int = 0  # that a wait waits for, from the start of its block
    lag: int = 0
    fresh: bool = False
    final: bool = False


@dataclass
class WindowPlan:
    """``moves`` are done ``blocks`` times, each time with the next ``cell`` bytes of what they move. ``signals``: per block.

    ``closing``: see `Schedule`. ``tail``: the first move after the last signal.
    """

    algorithm: str
    moves: tuple[Move, ...]
    sizes: dict[str, int]  # bytes of each buffer
    blocks: int
    slot: int  # bytes of a window for one of two blocks
    cell: int
    signals: int
    closing: bool
    tail: int
    bytes_written: int  # to the own window
    bytes_read: int  # from those of others


def compile_windows(
    schedule: Schedule,
    bounds: Mapping[str, Sequence[int]],
    itemsize: int,
    largest: int,
    in_place: bool = False,
    slot: int = SLOT_BYTES,
    closing: bool = True,
) -> WindowPlan:
    """``bounds[buffer]``: where each chunk starts, and the end of the last, in elements. ``largest``: elements of the largest
    piece of any rank, so that all ranks go through equally many blocks. ``slot``: as in the plan; windows have `SLOTS` of
    them. ``closing``: False where the windows of the dead cannot be relied on."""
    if in_place and "in" in schedule.chunks and not schedule.in_place:
        raise AssertionError(f"{schedule.kind} by {schedule.algorithm} cannot run in place")
    cell = slot // schedule.chunks["win"] // CELL_ALIGNMENT * CELL_ALIGNMENT
    assert cell, f"a window has no room for {schedule.chunks['win']} cells"
    signals = sum(step.action is Action.SIGNAL for step in schedule.steps)
    moves: list[Move] = []
    written: set[Span] = set()
    last = {step.target: index for index, step in enumerate(schedule.steps)}
    for index, step in enumerate(schedule.steps):
        private = next((span for span in (step.source, step.target, step.other) if span and span.owner < 0), None)
        edges = bounds[private.buffer] if private is not None else bounds["out" if "out" in bounds else "in"]
        moved = private or step.target  # within windows, the piece that has its cell's number
        piece = moved.first if moved else 0
        spans = [span for span in (step.source, step.other) if span is not None]
        move = Move(
            step.action,
            (edges[piece + 1] - edges[piece]) * itemsize if step.target is not None else 0,
            tuple(_place(span, bounds, itemsize, cell, in_place) for span in spans),
            None if step.target is None else _place(step.target, bounds, itemsize, cell, in_place),
            step.peer,
            step.count,
            step.lag,
            step.target is not None and step.target not in written,
            step.target is not None and step.target.buffer == "out" and last[step.target] == index,
        )
        if moves and _goes_on(moves[-1], move):
            moves[-1] = replace(moves[-1], sources=(*moves[-1].sources, *move.sources[1:]), final=move.final)
        else:
            moves.append(move)
        if step.target is not None:
            written.add(step.target)
    return WindowPlan(
        schedule.algorithm,
        tuple(moves),
        {buffer: edges[-1] * itemsize for buffer, edges in bounds.items()},
        max(1, -(-largest * itemsize // cell)),
        slot,
        cell,
        signals,
        schedule.closing and closing,
        max((index + 1 for index, move in enumerate(moves) if move.action is Action.SIGNAL), default=0),
        sum(move.nbytes for move in moves if _is_window(move.target)),
        sum(move.nbytes for move in moves for place in move.sources if _is_window(place, schedule.rank)),
    )


def _goes_on(one: Move, other: Move) -> bool:
    """Whether ``other`` reduces more into what ``one`` has just reduced."""
    return one.action is other.action is Action.REDUCE and other.sources[0] == other.target == one.target


def _is_window(place: Place | None, other_than: int = -1) -> bool:
    return place is not None and place.owner >= 0 and place.owner != other_than


def _place(span: Span, bounds: Mapping[str, Sequence[int]], itemsize: int, cell: int, in_place: bool) -> Place:
    if span.owner >= 0:
        return Place("", span.owner, span.first * cell)
    return Place(
        "out" if in_place and span.buffer == "in" else span.buffer, -1, bounds[span.buffer][span.first] * itemsize
    )
