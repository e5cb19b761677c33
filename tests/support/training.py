"""Peers as processes that train: they reduce, and serve newcomers in the background, while somebody kills them."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

import collcomm
from collcomm.state import Synchroniser

from .syncing import digest

ELEMENTS = 1 << 20  # of float64: 8 MiB, in 16 rounds
ROUND_BYTES = 512 << 10
ROUND_PAUSE = 0.004  # makes a transfer last long enough to be hit
TURNS = 3  # of reducing, at least, between two revisions


def live(address: str, name: str, stop: str, tell: Connection) -> None:
    """A newcomer (or founder) that trains until ``stop`` exists; tells the digest of every revision it reaches."""
    try:
        Synchroniser.round_bytes = ROUND_BYTES
        one_round = Synchroniser._one_round

        def slowly(self: Synchroniser, *arguments: Any) -> None:
            time.sleep(ROUND_PAUSE)
            one_round(self, *arguments)

        Synchroniser._one_round = slowly  # type: ignore[method-assign]
        comm = collcomm.join(address, name=name, min_size=3, timeout=60, op_timeout=30)
        founder = comm.view.epoch == 1
        _train(comm, founder, stop, tell)
        comm.leave()
        tell.send(("done", name, None))
    except collcomm.ViewChanged as error:
        tell.send(("evicted", name, str(error)))
    except BaseException:
        tell.send(("error", name, traceback.format_exc()))


def _train(comm: collcomm.Communicator, founder: bool, stop: str, tell: Connection) -> None:
    revision = 0 if founder else None
    state = {"w": np.arange(ELEMENTS, dtype=float) if founder else np.zeros(ELEMENTS), "n": np.zeros(1)}
    known: set[int] = set()  # a newcomer has seen nobody, so the first turn syncs, as the members' does that see it
    handle: Any = None
    while True:
        if set(comm.view.ids) - known:  # nobody comes in before a sync has ended, so an older handle is done
            revision = handle.result(0).revision if handle is not None else revision
            handle = comm.sync(state, revision, async_op=True)
        known = set(comm.view.ids)
        if comm.all_reduce(np.array([handle is None or handle.done()]), op="min")[0]:
            if handle is not None:
                revision, handle = handle.result(0).revision, None
            assert revision is not None
            for _ in range(TURNS):
                state["w"] += comm.all_reduce(np.array([1.0 + revision]), op="max")[0]
            revision += 1
            state["n"][0] = revision
            tell.send(("revision", comm.name, (revision, digest(state))))
            if comm.all_reduce(np.array([os.path.exists(stop)]), op="max")[0]:
                return
        comm.step()


class Training:
    """Keeps ``most`` processes alive; ``seed`` decides who is killed and when. ``bits``: the digest of each revision."""

    def __init__(self, seed: int, stop: Path, most: int = 5):
        self.bits: dict[int, str] = {}
        self.kills = 0
        self.late = 0  # newcomers that reached a revision
        self._rng = random.Random(seed)
        self._stop = stop
        self._most = most
        self._peers: dict[str, Any] = {}
        self._ears: dict[str, Connection] = {}
        self._reached: set[str] = set()  # peers that hold a whole state
        self._started = 0

    def run(self, kills: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["collcomm", "tests.support.training"])
        with collcomm.Coordinator("127.0.0.1:0") as coordinator:
            try:
                while self.kills < kills or self.late < kills // 2:
                    assert time.monotonic() < until, f"only {self.kills} kills, {self.late} newcomers; {self._peers}"
                    if len(self._peers) < self._most and (self._started < 3 or self._rng.random() < 0.7):
                        self._start(context, coordinator.address)
                    self._hear(self._rng.uniform(0.0, 0.15))
                    if len(self._reached) > 2:
                        self._kill(self._rng.choice(sorted(self._peers)))
                self._stop.touch()
                while (
                    self._reached & self._peers.keys()
                ):  # who is at the door when the others leave is not let in any more
                    assert time.monotonic() < until, f"{sorted(self._peers)} do not finish"
                    self._hear(0.1)
            finally:
                for process in self._peers.values():
                    process.kill()
                    process.join(10)

    def _start(self, context: Any, address: str) -> None:
        name = f"peer-{self._started}"
        self._started += 1
        hear, tell = context.Pipe(duplex=False)
        self._peers[name] = context.Process(target=live, args=(address, name, str(self._stop), tell), daemon=True)
        self._peers[name].start()
        tell.close()
        self._ears[name] = hear

    def _kill(self, name: str) -> None:
        process = self._peers.pop(name)
        process.kill()
        process.join(10)
        self._reached.discard(name)
        self.kills += 1

    def _hear(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while ready := wait([self._ears[name] for name in self._peers], max(0.0, until - time.monotonic())):
            for name in [name for name in self._peers if self._ears[name] in ready]:
                self._note(name)

    def _note(self, name: str) -> None:
        try:
            what, _, detail = self._ears[name].recv()
        except EOFError:
            raise AssertionError(f"{name} died of itself") from None
        assert what in ("revision", "done"), f"{name}: {detail}"
        if what == "done":
            self._peers.pop(name).join(10)
            return
        revision, bits = detail
        assert self.bits.setdefault(revision, bits) == bits, f"{name} has other bits at revision {revision}"
        if name not in self._reached:
            self.late += revision > 1
            self._reached.add(name)
