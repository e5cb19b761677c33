"""A rank of `test_deaths.py`: reduces without pause until one of the ranks kills itself, and tells what it is told."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

import collcomm.torch

DIES_AFTER = 20  # operations


def main(victim: int, calls: str) -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("collcomm", timeout=timedelta(seconds=60))
    survivors = [other for other in range(size) if other != victim]
    others = dist.new_group(survivors)
    store = dist.distributed_c10d._get_default_store()
    store.set(f"met/{rank}", "")
    if calls == "none yet" and rank == victim:  # as soon as the others need the store no more
        store.wait([f"met/{other}" for other in survivors])
        os.kill(os.getpid(), signal.SIGKILL)
    x = torch.ones(100_000)
    if rank in survivors:
        dist.all_reduce(x, group=others)  # so that it has its connections
    told = {}
    began = time.monotonic()
    try:
        for turn in range(10_000):
            began = time.monotonic()
            if rank == victim and turn == DIES_AFTER:
                os.kill(os.getpid(), signal.SIGKILL)
            if calls != "in flight":
                dist.all_reduce(x.fill_(1.0))
            else:
                works = [dist.all_reduce(torch.ones(1000), async_op=True) for _ in range(3)]
                for work in works:
                    work.wait()
    except collcomm.CollcommError as error:
        told = {"kind": type(error).__name__, "text": str(error), "seconds": time.monotonic() - began}
        told["torch's, too"] = isinstance(error, dist.DistBackendError)
    try:
        dist.all_reduce(x)
    except collcomm.CollcommError as error:
        told["then"] = type(error).__name__
    try:
        dist.all_reduce(x.fill_(1.0), group=others)
        told["others"] = float(x[0])
    except collcomm.CollcommError as error:
        told["others"] = type(error).__name__
    print(json.dumps({"rank": rank, **told}), flush=True)
    began = time.monotonic()
    dist.destroy_process_group()
    print(json.dumps({"left": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
