"""A collective as data: what one rank does, step by step, on chunks of named buffers.

Buffers: "in" is the caller's input and never written; "out" takes the result; "tmp" is scratch. A buffer is divided into chunks,
numbered from 0; the generator does not know their sizes (some may be empty), only which pieces of the
operation they stand for:

    kind            in                     out                      tmp
    all_reduce      C equal pieces         the same C pieces        C pieces
    reduce_scatter  n, by destination      1, this rank's piece     n, as in
    all_gather      1, this rank's piece   n, by owner
    all_to_all      n, by destination      n, by origin
    broadcast       (none)                 C equal pieces, the root's filled beforehand
    reduce          C equal pieces         C, at the root           C elsewhere
    gather          1                      n by owner, at the root  n elsewhere, if needed
    scatter         n, at the root         1                        n elsewhere, if needed

Messages between a pair of ranks are untagged and in order: a's sends to b meet b's receives from a one by one.
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


@dataclass(frozen=True, slots=True)
class Span:
    """Chunks ``first`` up to, not including, ``last`` of ``buffer``."""

    buffer: str
    first: int
    last: int

    def __str__(self) -> str:
        inside = str(self.first) if self.last == self.first + 1 else f"{self.first}:{self.last}"
        return f"{self.buffer}[{inside}]"


def chunk(buffer: str, index: int) -> Span:
    return Span(buffer, index, index + 1)


@dataclass(frozen=True, slots=True)
class Step:
    """``received_first``: the received operand stands left of the operator. It shows in the bits (NaN, -0.0 with min)."""

    action: Action
    peer: int
    source: Span | None = None
    target: Span | None = None
    received_first: bool = False

    def __str__(self) -> str:
        if self.action is Action.SEND:
            return f"send {self.source} -> {self.peer}"
        if self.action is Action.RECV:
            return f"recv {self.target} <- {self.peer}"
        if self.action is Action.COPY:
            return f"copy {self.target} <- {self.source}"
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """What rank ``rank`` of ``n`` does. ``chunks``: number of chunks of each buffer it has.

    ``in_place``: stays right when "in" and "out" are the same memory.
    """

    kind: str
    algorithm: str
    n: int
    rank: int
    chunks: dict[str, int]
    steps: tuple[Step, ...]
    in_place: bool = False

    def describe(self) -> str:
        """The schedule as a transcript, a line per step."""
        head = f"{self.kind} by {self.algorithm}, rank {self.rank} of {self.n}"
        return "\n".join([head, *(f"  {step}" for step in self.steps)])
