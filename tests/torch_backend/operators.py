"""A rank that calls torch's operators for collectives by name, as compiled programs do:
python -m tests.torch_backend.operators BACKEND RANK FOLDER"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SIZE = 2
SECONDS = 30


def functional(rank: int, name: str) -> dict[str, list[float]]:
    """What each operator gives, at this rank. ``name``: of the group."""
    ops, other = torch.ops._c10d_functional, 1 - rank

    def ours(count: int = 2) -> Any:
        return torch.arange(float(count)) + 10 * rank

    def messages() -> list[Any]:
        sent, received = ours(), torch.zeros(2)
        ops.batch_p2p_ops(["isend", "irecv"], [other, other], [5, 5], [sent, received], name)
        return [sent, received]

    def message() -> list[Any]:
        return [ops.isend(ours(), other, 6, name), ops.irecv(torch.zeros(2), other, 6, name)]

    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: ops.all_reduce(ours(), "sum", name),
        "all_reduce_": lambda: ops.all_reduce_(ours(), "max", name),
        "all_reduce_coalesced": lambda: ops.all_reduce_coalesced([ours(), ours(1)], "sum", name),
        "broadcast": lambda: ops.broadcast(ours(), 1, name),
        "all_gather_into_tensor": lambda: ops.all_gather_into_tensor(ours(), SIZE, name),
        "all_gather_into_tensor_out": lambda: ops.all_gather_into_tensor_out(ours(), SIZE, name, out=torch.zeros(4)),
        "all_gather_of_a_column": lambda: ops.all_gather_into_tensor_out(
            ours(4).view(2, 2)[:, 1], SIZE, name, out=torch.zeros(4)
        ),
        "all_gather_into_tensor_coalesced": lambda: ops.all_gather_into_tensor_coalesced([ours(), ours(1)], SIZE, name),
        "reduce_scatter_tensor": lambda: ops.reduce_scatter_tensor(ours(4), "sum", SIZE, name),
        "reduce_scatter_tensor_out": lambda: ops.reduce_scatter_tensor_out(
            ours(4), "sum", SIZE, name, out=torch.zeros(2)
        ),
        "reduce_scatter_tensor_coalesced": lambda: ops.reduce_scatter_tensor_coalesced([ours(4)], "sum", SIZE, name),
        "all_to_all_single": lambda: ops.all_to_all_single(ours(), [1, 1], [1, 1], name),
        "batch_p2p_ops": messages,
        "isend, irecv": message,
    }
    found = {}
    for what, call in calls.items():
        given = call()
        waited = [ops.wait_tensor(tensor) for tensor in (given if isinstance(given, list) else [given])]
        found[what] = torch.cat(waited).tolist()
    return found


def direct(rank: int, group: Any) -> dict[str, list[float]]:
    """Of `torch.ops.c10d`, those that need no ReduceOp."""
    ops, boxed = torch.ops.c10d, group.boxed()
    ones, both = torch.full((1,), 1.0 + rank), torch.zeros(2)
    every = [torch.zeros(1) for _ in range(SIZE)]
    calls: dict[str, Callable[[], Any]] = {
        "broadcast_": lambda: ops.broadcast_([ones.clone()], boxed, 1, 0, False, -1),
        "allgather_": lambda: ops.allgather_([every], [ones], boxed, False, -1),
        "_allgather_base_": lambda: ops._allgather_base_(both, ones, boxed, False, -1),
        "gather_": lambda: ops.gather_([every] if rank == 0 else [], [ones], boxed, 0, False, -1),
        "scatter_": lambda: ops.scatter_([ones], [[*both.split(1)]] if rank == 0 else [], boxed, 0, False, -1),
        "alltoall_base_": lambda: ops.alltoall_base_(torch.zeros(2), both, boxed, [], [], False, -1),
        "barrier": lambda: ops.barrier(ones, boxed, [], False, -1),
        "monitored_barrier_": lambda: ops.monitored_barrier_(ones, boxed, [], 5000, False),
    }
    found = {}
    for what, call in calls.items():
        given = call()
        for part in given if isinstance(given, tuple) else (given,):
            if isinstance(part, torch.ScriptObject):
                dist.Work.unbox(part).wait()
        dist.barrier()
        found[what] = [*torch.cat(every).tolist(), *both.tolist(), *ones.tolist()]
    return found


def main() -> None:
    backend, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    import collcomm.torch  # noqa: F401

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), SIZE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=SIZE, timeout=timedelta(seconds=SECONDS))
    found: dict[str, Any] = functional(rank, dist.group.WORLD.group_name)
    if hasattr(torch._C._distributed_c10d.Backend, "options") or backend == "gloo":
        found |= direct(rank, dist.group.WORLD)
    (folder / f"result-{rank}").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
