"""A rank that takes part in reconfigurations: python -m tests.torch_backend.reconfiguring SCENARIO BACKEND RANK FOLDER

What a scenario returns is written to the folder as result-RANK.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

GROUP_SECONDS = 15
MEET_SECONDS = 40.0
SHORT = timedelta(seconds=2)
Scenario = Callable[["Rank"], Any]


class Rank:
    """``number``: of this process; its rank is what reconfigurations make it. Processes meet in ``folder``."""

    def __init__(self, backend: str, number: int, folder: Path):
        self.backend = backend
        self.number = number
        self.folder = folder
        self._turn = 0

    def begin(self, size: int = 3, **options: Any) -> None:
        """A group without members. Gloo needs a store that all share; collcomm needs none."""
        shared = self.backend == "gloo" or not options.get("enable_reconfigure", True)
        store = dist.FileStore(str(self.folder / "store"), -1) if shared else dist.HashStore()
        options = {"enable_reconfigure": True, "timeout": timedelta(seconds=GROUP_SECONDS)} | options
        dist.init_process_group(self.backend, store=store, rank=self.number, world_size=size, **options)

    def tell(self, what: str, text: str = "") -> None:
        path = self.folder / f"{what}-{self.number}"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    def hear(self, what: str, number: int) -> str:
        path, until = self.folder / f"{what}-{number}", time.monotonic() + MEET_SECONDS
        while not path.exists():
            assert time.monotonic() < until, f"process {number} has not told {what!r}"
            time.sleep(0.01)
        return path.read_text()

    def meet(self, what: str, numbers: Sequence[int]) -> None:
        self.tell(what)
        for number in numbers:
            self.hear(what, number)

    def handles(self, turn: str, numbers: Sequence[int]) -> list[str]:
        """Everybody's, in this order."""
        self.tell(f"handle-{turn}", dist._get_reconfigure_handle())
        return [self.hear(f"handle-{turn}", number) for number in numbers]

    def reconfigure(self, uuid: int, numbers: Sequence[int]) -> None:
        dist._reconfigure(uuid=uuid, handles=self.handles(str(uuid), numbers)).wait()


def total() -> list[float]:
    """The sum of ones, my rank, and the size: all of them over this group."""
    ones = torch.ones(3)
    dist.all_reduce(ones)
    return [float(ones[0]), dist.get_rank(), dist.get_world_size()]


def refused(call: Callable[[], Any]) -> str:
    """The error that it raises."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def first(me: Rank) -> Any:
    me.begin()
    before = refused(total)
    me.reconfigure(1, [2, 0, 1])
    return [bool(before), dist._supports_reconfigure(), total()]


def ordinary(me: Rank) -> Any:
    me.begin(enable_reconfigure=False)
    before = total()
    me.reconfigure(1, [2, 1, 0])
    return [before, total()]


def by_set(me: Rank) -> Any:
    me.begin()
    dist._reconfigure(uuid=1, handles=set(me.handles("set", range(3)))).wait()
    return total()


def shrink(me: Rank, victim: int) -> Any:
    me.begin()
    me.reconfigure(1, range(3))
    total()
    if me.number == victim:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    refused(total)
    began = time.monotonic()
    me.reconfigure(2, [number for number in range(3) if number != victim])
    return [time.monotonic() - began, total()]


def grow(me: Rank) -> Any:
    if me.number == 2:
        me.hear("two", 0)
    me.begin(size=3 if me.number == 2 else 2)
    two = None
    if me.number < 2:
        me.reconfigure(1, [0, 1])
        two = total()
        me.tell("two")
    me.reconfigure(2, range(3))
    return [two, total()]


def split_and_merge(me: Rank) -> Any:
    me.begin(size=4)
    me.reconfigure(1, range(4))
    halves = ([0, 1], [3, 2])
    mine = me.number // 2
    handles = me.handles("split", range(4))
    dist._reconfigure(uuid=2 + mine, handles=[handles[number] for number in halves[mine]]).wait()
    half = total()
    me.reconfigure(4, [3, 1, 2, 0])
    return [half, total()]


def after_abort(me: Rank) -> Any:
    me.begin()
    me.reconfigure(1, range(3))
    total()
    me.meet("before abort", range(3))
    dist.group.WORLD.abort()
    me.reconfigure(2, range(3))
    return total()


def in_flight(me: Rank) -> Any:
    """Rank 0's operation, which nobody answers, ends with its communicator."""
    me.begin()
    me.reconfigure(1, range(3))
    total()
    work = dist.all_reduce(torch.ones(3), async_op=True) if me.number == 0 else None
    me.reconfigure(2, range(3))
    return [None if work is None else bool(refused(work.wait)), total()]


def once(me: Rank) -> Any:
    """Used handles are refused, and the group stays what it was."""
    me.begin()
    handles = me.handles("once", range(3))
    dist._reconfigure(uuid=1, handles=handles).wait()
    said = refused(lambda: dist._reconfigure(uuid=2, handles=handles).wait())
    return [said, total()]


def wrong(me: Rank) -> Any:
    me.begin()
    me.reconfigure(1, range(3))
    handles = me.handles("wrong", range(3))
    others = [handles[number] for number in range(3) if number != me.number]
    said = {}
    calls = [
        ("none", 2, []),
        ("malformed", 3, [*others, "nonsense"]),
        ("without mine", 4, others),
        ("twice", 5, [*handles, handles[0]]),
        ("used uuid", 1, handles),
    ]
    for what, uuid, given in calls[: 4 if me.backend == "gloo" else 5]:  # one rank of Gloo refuses it, the others wait
        said[what] = refused(lambda uuid=uuid, given=given: dist._reconfigure(uuid=uuid, handles=given).wait())
        me.meet(what, range(3))
    same = dist._get_reconfigure_handle() == handles[me.number]
    before = total()
    dist._reconfigure(uuid=6, handles=handles).wait()
    return [said, same, before, total()]


def absent(me: Rank) -> Any:
    """Process 2 gives its handle and does not come; the others go on without it."""
    me.begin()
    handles = me.handles("absent", [2, 0, 1])
    if me.number == 2:
        me.hear("done", 0), me.hear("done", 1)
        return os.getpid()
    began = time.monotonic()
    said = refused(lambda: dist._reconfigure(uuid=1, handles=handles, timeout=SHORT).wait())
    took = time.monotonic() - began
    me.reconfigure(2, [0, 1])
    result = total()
    me.tell("done")
    return [said, took, result]


def disagree(me: Rank) -> Any:
    me.begin()
    handles = me.handles("disagree", range(3))
    said = refused(lambda: dist._reconfigure(uuid=1 + (me.number == 2), handles=handles).wait())
    me.reconfigure(3, range(3))
    return [said, total()]


def subgroup(me: Rank) -> Any:
    """A group made of two of three that were reconfigured; and the reconfigured group goes on beside it."""
    me.begin(enable_reconfigure=False)
    me.reconfigure(1, [2, 1, 0])
    group = dist.new_group([0, 2])
    ones, member = torch.ones(1), dist.get_rank() != 1
    if member:
        dist.all_reduce(ones, group=group)
    return [float(ones), member, total()]


def main() -> None:
    scenario, backend, number, folder = sys.argv[1:]
    if backend == "collcomm":
        import collcomm.torch  # noqa: F401
    torch.set_num_threads(1)
    name, _, victim = scenario.partition(":")
    me = Rank(backend, int(number), Path(folder))
    scenarios: dict[str, Callable[..., Any]] = globals()
    result = scenarios[name](me, *([int(victim)] if victim else []))
    me.tell("result", json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
