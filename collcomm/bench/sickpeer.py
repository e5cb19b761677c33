"""A peer of `collcomm bench health`, and the coordinator that watches over it: works until it is told to end, and is made
sick from outside, or by files that appear in ``orders``."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import collcomm
from collcomm.checking import CheckedCommunicator
from collcomm.health.policy import Action, Policy

JOIN_SECONDS = 60.0
LOOK_SECONDS = 0.05
TELL_SECONDS = 0.2
CHECKED_BYTES = 64 << 10
TRAFFIC_SECONDS = 2.0


class Flipping:
    """``comm``, but that one bit of what this peer contributes flips when the file ``order`` appears."""

    def __init__(self, comm: Any, order: str):
        self._comm = comm
        self._order = order
        self._done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def all_reduce(self, x: Any, **options: Any) -> Any:
        ordered = os.path.exists(self._order)
        if ordered and not self._done:
            x.view(np.uint32)[x.size // 2] ^= 1 << 22
        self._done = ordered
        return self._comm.all_reduce(x, **options)


def sick_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """Computes for ``compute`` seconds of processor time and reduces ``nbytes``, until the file "end" is there, which members
    tell each other in every round; in every tenth some of what is reduced is checked. While "stall-INDEX" is there, peer
    ``index`` calls nothing; for "flip-INDEX" see `Flipping`; with "leave-INDEX" it leaves. ``uneven``: it computes up to
    three times as long, by its index, and for twice that now and then."""
    comm = collcomm.join(case["address"], name=f"host-{case['index']}", min_size=case["n"], timeout=JOIN_SECONDS)
    emit(event="joined", member=comm.view.ids[comm.rank])
    orders, index = case["orders"], case["index"]
    stall, end, leave, flip = (
        os.path.join(orders, name) for name in (f"stall-{index}", "end", f"leave-{index}", f"flip-{index}")
    )
    checked = CheckedCommunicator(Flipping(comm, flip), "sum", 1, "report", None)  # type: ignore[arg-type]
    chance = random.Random(index)
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    few = np.arange(CHECKED_BYTES // 4, dtype=np.float32)
    round_, told = 0, time.monotonic()
    work = np.ones(1 << 16)
    while True:
        ended, agreed = comm.all_reduce(np.array([os.path.exists(end), round_ + 1]), op="max")
        round_, tenth = int(agreed), agreed % 10 == 0  # a newcomer counts as the others do
        if ended:
            break
        if tenth:
            checked.all_reduce(few.copy())  # a bit may flip in it
        while os.path.exists(stall):
            time.sleep(LOOK_SECONDS)
        compute = case["compute"]
        if case["uneven"]:
            compute *= (1 + index % 3) * (2 if chance.random() < 0.1 else 1)
        until = time.thread_time() + compute
        while time.thread_time() < until:  # processor time: a peer that gets little of it takes long
            work = np.sqrt(work + 1.0)
        comm.all_reduce(x, out=out)
        if tenth:
            if os.path.exists(leave):
                break
            comm.step()
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            emit(event="round", round=round_, at=told)
    emit(event="ended", rounds=round_)
    comm.leave()


def watch(address: str, slow: str) -> None:
    """A coordinator that prints each finding, the end of each, who sends how much to whom, and how many members there are, as
    lines of JSON. ``slow``: what it does about slow operations."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    seen: set[int] = set()
    over: set[int] = set()
    traffic_at = 0.0
    members = 0
    with collcomm.Coordinator(address, insecure=True, policy=Policy(slow=Action(slow))) as coordinator:
        print(json.dumps({"event": "listens"}), flush=True)
        while not stopped.wait(0.1):
            shown = coordinator.show("default")
            if shown and len(shown["members"]) != members:
                members = len(shown["members"])
                print(json.dumps({"event": "members", "number": members}), flush=True)
            if shown and shown["at"] - traffic_at >= TRAFFIC_SECONDS:
                traffic_at = shown["at"]
                traffic = {"event": "traffic", "rows": shown["traffic"], "relayed": shown["relayed"]}
                print(json.dumps(traffic), flush=True)
            for row in shown["findings"] if shown else ():
                if row["id"] not in seen:
                    seen.add(row["id"])
                    print(json.dumps({**row, "event": "finding", "at": time.monotonic()}), flush=True)
                elif row["ended"] is not None and row["id"] not in over:
                    over.add(row["id"])
                    print(json.dumps({**row, "event": "over", "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "avoid")
