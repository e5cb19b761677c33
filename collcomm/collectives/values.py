"""Symbolic values: what stands in memory while a schedule is run for its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .schedule import Schedule


class ProofError(AssertionError):
    """An algorithm is wrong; the text says at which rank and step."""


@dataclass(frozen=True, eq=False)
class Value:
    """A contribution (``owner``, ``piece``), or a sum of two values. ``owners``: a bit per contributing rank."""

    piece: int
    owners: int
    parts: tuple[Value, Value] | None = None


@dataclass
class Values:
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


def initial_memory(schedule: Schedule, root: int, values: Values, in_place: bool) -> Memory:
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


def check_counts(schedule: Schedule, rank: int, root: int, n: int) -> None:
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


def check_result(number: int, schedule: Schedule, memory: Memory, root: int, n: int) -> None:
    kind = schedule.kind
    if kind in ("reduce", "gather") and number != root:
        return
    everybody = (1 << n) - 1
    for chunk in range(schedule.chunks["out"]):
        value = memory.get(("out", chunk))
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


def same_expressions(memories: Sequence[Memory], chunks: int) -> None:
    """Values are interned, so equal expressions are one object."""
    for chunk in range(chunks):
        first = memories[0]["out", chunk]
        for number, memory in enumerate(memories):
            if memory["out", chunk] is not first:
                raise ProofError(f"ranks 0 and {number} add up out[{chunk}] in different orders")
