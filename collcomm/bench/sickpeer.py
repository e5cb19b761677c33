"""A peer of `collcomm bench health`, and the coordinator that watches over it: works until it is told to end, and is made
sick from outside, or by files that appear in ``orders``."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import collcomm

JOIN_SECONDS = 60.0
LOOK_SECONDS = 0.05


def sick_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """Reduces ``nbytes`` and then computes for ``compute`` seconds, until the file "end" is there; each member asks the others in
    every tenth round. While the file "stall-INDEX" is there, peer ``index`` calls nothing; "work-INDEX" makes its work take
    as many times as long as stands in the name of no other."""
    comm = collcomm.join(case["address"], name=f"host-{case['index']}", min_size=case["n"], timeout=JOIN_SECONDS)
    emit(event="joined", member=comm.view.ids[comm.rank])
    orders, index = case["orders"], case["index"]
    stall, end = os.path.join(orders, f"stall-{index}"), os.path.join(orders, "end")
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    rounds, told = 0, time.monotonic()
    work = np.ones(1 << 16)
    while True:
        rounds += 1
        if rounds % 10 == 0:
            if comm.all_reduce(np.array([os.path.exists(end)], np.uint8), op="max")[0]:
                break
            comm.step()
        while os.path.exists(stall):
            time.sleep(LOOK_SECONDS)
        until = time.thread_time() + case["compute"]
        while time.thread_time() < until:  # processor time: a peer that gets little of it takes long
            work = np.sqrt(work + 1.0)
        comm.all_reduce(x, out=out)
        if time.monotonic() - told > 1.0:
            told = time.monotonic()
            emit(event="round", round=rounds, at=told)
    emit(event="ended", rounds=rounds)
    comm.leave()


def watch(address: str) -> None:
    """A coordinator that prints each finding, and the end of each, as a line of JSON."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    seen: set[int] = set()
    over: set[int] = set()
    with collcomm.Coordinator(address, insecure=True) as coordinator:
        print(json.dumps({"event": "listens"}), flush=True)
        while not stopped.wait(0.1):
            shown = coordinator.show("default")
            for row in shown["findings"] if shown else ():
                if row["id"] not in seen:
                    seen.add(row["id"])
                    print(json.dumps({**row, "event": "finding", "at": time.monotonic()}), flush=True)
                elif row["ended"] is not None and row["id"] not in over:
                    over.add(row["id"])
                    print(json.dumps({**row, "event": "over", "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    watch(sys.argv[1])
