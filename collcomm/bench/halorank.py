"""One rank of `collcomm bench halo`: run as ``mpirun -n N python -m collcomm.bench.halorank CASE`` (see `mpilaunch`).

Each rank has a block of a periodic box, with a halo around it, and exchanges it with its 26 neighbours in each way that there is:
by one all_to_all of ours, by ours with a message for each contiguous piece, and by mpi4py with derived types. After each, the
halos must be the same.

CASE is JSON: {"address", "transport", "grid": [[edge of a block, radius], ...], "rounds", "block"}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

import collcomm
from collcomm import datatypes

from ..datatypes.layout import all_runs
from .launch import die_with_parent
from .measure import alternate, repetitions, timed
from .mpilaunch import emit

JOIN_SECONDS = 60.0
DIRECTIONS = [direction for direction in product((-1, 0, 1), repeat=3) if any(direction)]
Field = np.ndarray[Any, np.dtype[np.float32]]
Box = tuple[list[int], list[int]]  # sizes and starts
Calls = dict[str, Callable[[], Any]]


class Block:
    """A field of ``edge`` cells along each edge and a halo of ``radius``, at ``rank``'s place in a grid of processes."""

    def __init__(self, edge: int, radius: int, shape: list[int], rank: int):
        self.field: Field = np.zeros((edge + 2 * radius,) * 3, np.float32)
        self.inside = self.field[(slice(radius, -radius),) * 3]
        place = np.unravel_index(rank, shape)
        self.leaving: list[tuple[int, int, Box]] = []  # to whom, in which direction, what
        self.coming: list[tuple[int, int, Box]] = []
        for number, direction in enumerate(DIRECTIONS):
            back = tuple(-step for step in direction)
            to, of = (_neighbour(place, way, shape) for way in (direction, back))
            self.leaving.append((to, number, _box(edge, radius, direction, radius)))
            self.coming.append((of, number, _box(edge, radius, back, 0)))

    def typed(self, boxes: list[tuple[int, int, Box]], size: int) -> list[Any]:
        """What goes to each rank, or comes from it, as one typed buffer; None for nothing."""
        found: list[Any] = []
        for rank in range(size):
            parts = [datatypes.subarray(self.field.shape, *box, "f4") for peer, _, box in boxes if peer == rank]
            whole = datatypes.struct([1] * len(parts), [0] * len(parts), parts) if parts else None
            found.append(None if whole is None else whole.over(self.field))
        return found


def _neighbour(place: Any, direction: tuple[int, ...], shape: list[int]) -> int:
    there = [at + step for at, step in zip(place, direction, strict=True)]
    return int(np.ravel_multi_index(there, shape, mode="wrap"))


def _box(edge: int, radius: int, direction: tuple[int, ...], inwards: int) -> Box:
    """The cells at that side: of the halo, or, ``inwards``, those of the block next to them."""
    sizes = [radius if step else edge for step in direction]
    starts = [{-1: inwards, 0: radius, 1: edge + radius - inwards}[step] for step in direction]
    return sizes, starts


def by_piece(comm: collcomm.Communicator, block: Block) -> Callable[[], None]:
    """A message for each contiguous piece; of two ranks the lower one sends first."""
    memory = block.field.reshape(-1)
    pieces: list[tuple[int, bool, Any]] = []
    for boxes, sends in ((block.leaving, True), (block.coming, False)):
        for peer, _, box in boxes:
            starts, sizes = all_runs(datatypes.subarray(block.field.shape, *box, "f4").layout)
            pieces += [
                (peer, sends, memory[start : start + size])
                for start, size in zip((starts // 4).tolist(), (sizes // 4).tolist(), strict=True)
            ]
    pieces.sort(key=lambda piece: (piece[0] ^ comm.rank, piece[1] != (comm.rank < piece[0])))

    def exchange() -> None:
        for peer, sends, piece in pieces:
            if peer == comm.rank:
                continue
            if sends:
                comm.send(piece, peer)
            else:
                comm.recv(piece, peer)

    return exchange


def by_mpi(world: Any, block: Block) -> tuple[Calls, list[Any]]:
    """mpi4py with derived types: requests, persistent ones, and the collective of neighbours. Also what to free."""
    from mpi4py import MPI

    field = block.field
    sides = [
        [(peer, tag, MPI.FLOAT.Create_subarray(field.shape, *box).Commit()) for peer, tag, box in boxes]
        for boxes in (block.leaving, block.coming)
    ]
    leaving, coming = sides
    kept = [world.Send_init([field, 1, kind], dest=to, tag=tag) for to, tag, kind in leaving]
    kept += [world.Recv_init([field, 1, kind], source=of, tag=tag) for of, tag, kind in coming]
    around = world.Create_dist_graph_adjacent([of for of, _, _ in coming], [to for to, _, _ in leaving])
    ones, zeros = [1] * len(DIRECTIONS), [0] * len(DIRECTIONS)
    both = [[field, ones, zeros, [kind for _, _, kind in side]] for side in (leaving, coming)]

    def requests() -> None:
        pending = [world.Irecv([field, 1, kind], source=of, tag=tag) for of, tag, kind in coming]
        pending += [world.Isend([field, 1, kind], dest=to, tag=tag) for to, tag, kind in leaving]
        MPI.Request.Waitall(pending)

    def persistent() -> None:
        MPI.Prequest.Startall(kept)
        MPI.Request.Waitall(kept)

    neighbours = partial(around.Neighbor_alltoallw, *both)
    calls: Calls = {"requests": requests, "persistent": persistent, "neighbours": neighbours}
    return calls, [*kept, around, *(kind for side in sides for _, _, kind in side)]


def measure(case: dict[str, Any]) -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    shape = MPI.Compute_dims(world.size, 3)
    ours = [case["transport"]]
    comm = collcomm.join(case["address"], min_size=world.size, timeout=JOIN_SECONDS, transports=ours)
    for edge, radius in case["grid"]:
        block = Block(edge, radius, shape, comm.rank)
        places = world.allgather(comm.rank)  # a rank of ours has a number of its own
        job = world.Create_group(world.group.Incl([places.index(rank) for rank in range(world.size)]))
        sends, receives = (block.typed(boxes, comm.size) for boxes in (block.leaving, block.coming))
        calls, freed = by_mpi(job, block)
        calls = {"ours": partial(comm.all_to_all, sends, out=receives), "pieces": by_piece(comm, block), **calls}
        _check(block, calls, comm.rank)

        def slowest(took: float, job: Any = job) -> float:
            longest: float = job.allreduce(took, MPI.MAX)
            return longest

        counts = {name: repetitions(call, case["block"], slowest) for name, call in calls.items() if name != "pieces"}
        blocks = {
            name: (partial(timed, calls[name], counts[name]) if name in counts else partial(_once, calls[name]))
            for name in calls
        }
        times = alternate(blocks, case["rounds"], job.Barrier)
        if comm.rank == 0:
            nbytes = sum(typed.nbytes for typed in sends if typed is not None)
            emit(event="times", edge=edge, radius=radius, nbytes=nbytes, times=times)
        for thing in (*freed, job):
            thing.Free()
    comm.barrier()
    comm.leave()


def _once(call: Callable[[], None]) -> list[float]:
    return timed(call, 1)


def _check(block: Block, calls: Calls, rank: int) -> None:
    """Raises AssertionError unless all ways fill the halo alike, and with something."""
    block.inside[...] = np.random.default_rng(rank).random(block.inside.shape, np.float32)
    inside, first = block.inside.copy(), None
    for name, call in calls.items():
        block.field[...] = -1
        block.inside[...] = inside
        call()
        assert (block.field >= 0).all(), f"{name} leaves cells of the halo as they were"
        first = block.field.copy() if first is None else first
        assert (block.field == first).all(), f"{name} fills the halo otherwise"


if __name__ == "__main__":
    die_with_parent()
    measure(json.loads(sys.argv[1]))
