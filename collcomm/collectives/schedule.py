"""A collective as data: what one rank does, step by step, on chunks of named buffers.

Buffers: "in" is the caller's input and never written; "out" takes the result; "tmp" is scratch. A buffer is divided into chunks,
numbered from 0; the generator does not know their sizes (some may be empty), only which pieces of the
operation they stand for:

    kind            in                     out                      tmp
    all_reduce      C equal pieces         the same C pieces        C pieces
    reduce_scatter  n, by destination      1, this rank's piece     n, as in
    all_gather      1, this rank's piece   n, by owner
    all_to_all      n, by destination      n, by origin             any number of blocks, all of one size
    broadcast       (none)                 C equal pieces, the root's filled beforehand
    reduce          C equal pieces         C, at the root           C elsewhere
    gather          1                      n by owner, at the root  n elsewhere, if needed
    scatter         n, at the root         1                        n elsewhere, if needed

An all_to_all with "tmp" is for blocks of one size: who passes on what others exchange could not know more. A message of several
blocks goes from "tmp" to "tmp" there, so that both ends keep it whole whatever the ranks are called (see `relabel`).

Messages between a pair of ranks are untagged and in order: a's sends to b meet b's receives from a one by one.

Where all ranks share memory, a schedule may use *windows* instead of messages: the buffer "win" of each rank, written by its
owner and read by all. Its cells have one size, and each holds a piece. SIGNAL makes known to all what was written so far;
WAIT waits until a rank has signalled so many times. Pieces larger than a cell go in *blocks*: all steps are repeated with the
next part of each piece, with another set of cells in every second block. Signals are counted per block, equally at all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Action(IntEnum):
    """What a step does."""

    SEND = 0  # source -> peer
    RECV = 1  # target <- peer
    RECV_REDUCE = 2  # target <- source (op) what comes from peer, or the other way round (received_first)
    COPY = 3  # target <- source
    REDUCE = 4  # target <- source (op) other
    SIGNAL = 5  # all may see what this rank has written
    WAIT = 6  # until peer has signalled `count` times in this block, or in the block `lag` before it


@dataclass(frozen=True, slots=True)
class Span:
    """Chunks ``first`` up to, not including, ``last`` of ``buffer``; ``owner``: the rank whose window it is, -1: own memory."""

    buffer: str
    first: int
    last: int
    owner: int = -1

    def __str__(self) -> str:
        inside = str(self.first) if self.last == self.first + 1 else f"{self.first}:{self.last}"
        return f"{self.buffer}{self.owner if self.owner >= 0 else ''}[{inside}]"


def chunk(buffer: str, index: int) -> Span:
    return Span(buffer, index, index + 1)


def cell(owner: int, index: int) -> Span:
    """A cell of a rank's window."""
    return Span("win", index, index + 1, owner)


@dataclass(frozen=True, slots=True)
class Step:
    """``received_first``: the received operand stands left of the operator. It shows in the bits (NaN, -0.0 with min)."""

    action: Action
    peer: int
    source: Span | None = None
    target: Span | None = None
    received_first: bool = False
    other: Span | None = None
    count: int = 0
    lag: int = 0

    def __str__(self) -> str:
        if self.action is Action.SEND:
            return f"send {self.source} -> {self.peer}"
        if self.action is Action.RECV:
            return f"recv {self.target} <- {self.peer}"
        if self.action is Action.COPY:
            return f"copy {self.target} <- {self.source}"
        if self.action is Action.REDUCE:
            return f"reduce {self.target} <- {self.source} + {self.other}"
        if self.action is Action.SIGNAL:
            return "signal"
        if self.action is Action.WAIT:
            return f"wait for {self.count} of {self.peer}{f', {self.lag} blocks ago' * (self.lag > 0)}"
        operands = f"{self.peer} + {self.source}" if self.received_first else f"{self.source} + {self.peer}"
        return f"reduce {self.target} <- {operands}"


def send(peer: int, source: Span) -> Step:
    return Step(Action.SEND, peer, source=source)


def recv(peer: int, target: Span) -> Step:
    return Step(Action.RECV, peer, target=target)


def recv_reduce(peer: int, target: Span, source: Span, received_first: bool = False) -> Step:
    return Step(Action.RECV_REDUCE, peer, source, target, received_first)


def copy(target: Span, source: Span) -> Step:
    return Step(Action.COPY, -1, source, target)


def combine(target: Span, source: Span, other: Span) -> Step:
    return Step(Action.REDUCE, -1, source, target, other=other)


def signal() -> Step:
    return Step(Action.SIGNAL, -1)


def wait(peer: int, count: int, lag: int = 0) -> Step:
    return Step(Action.WAIT, peer, count=count, lag=lag)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What rank ``rank`` of ``n`` does. ``chunks``: number of chunks of each buffer it has.

    ``in_place``: stays right when "in" and "out" are the same memory. ``closing``: once all ranks have given their last signal of
    a block, each can come to its result alone, by the steps after its own last signal, as often as it likes; and goes on to
    the next block only then.
    """

    kind: str
    algorithm: str
    n: int
    rank: int
    chunks: dict[str, int]
    steps: tuple[Step, ...]
    in_place: bool = False
    closing: bool = False

    @property
    def tail(self) -> int:
        """The number of the first step after the last signal."""
        return max((index + 1 for index, step in enumerate(self.steps) if step.action is Action.SIGNAL), default=0)

    @property
    def windows(self) -> bool:
        """Whether it uses windows (and no messages)."""
        return "win" in self.chunks

    def describe(self) -> str:
        """The schedule as a transcript, a line per step."""
        head = f"{self.kind} by {self.algorithm}, rank {self.rank} of {self.n}"
        return "\n".join([head, *(f"  {step}" for step in self.steps)])
