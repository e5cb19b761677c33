"""Peers as processes that run random collectives and check each result against numpy, while somebody kills them."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

import collcomm
import collcomm.devicearrays
import collcomm.joining
from tests.support.cupyarrays import on_gpu
from tests.support.lazydevice import LazyDevice
from tests.support.ondevice import OnDevice

KINDS = (
    "all_reduce",
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "exchange",
)
ROWS = (1, 3, 500, 20_000, 150_000)
UNTOUCHED = -1.0


def data_of(member: int, turn: int, rows: int) -> np.ndarray:
    """What a member puts into turn ``turn``: whole numbers, so that sums are exact in any order."""
    return ((np.arange(rows, dtype=np.int64) * 7 + member * 31 + turn) % 1000).astype(np.float32)


def column_of(table: np.ndarray, data: np.ndarray) -> np.ndarray:
    """A column of ``table``, three wide, with ``data`` in it."""
    table[:, 1] = data
    return table[:, 1]


def exchange(comm: collcomm.Communicator, turn: int, rows: int) -> str:
    """An all_to_all with a layout for each peer: some nothing, some every other element."""
    before = comm.view
    me = before.ids[comm.rank]

    def given(sender: int, receiver: int) -> np.ndarray:
        return data_of(sender + 7 * receiver, turn, (sender * 3 + receiver * 5 + turn) % 4 * rows)

    pieces = [given(me, other) for other in before.ids]
    x = [piece if rank % 2 else np.repeat(piece, 2)[::2] for rank, piece in enumerate(pieces)]
    out = [np.full((given(other, me).size, 2), UNTOUCHED, np.float32) for other in before.ids]
    assert comm.all_to_all(x, out=[table[:, 1] for table in out]) is not None
    there = comm.view.ids
    for member, sent, piece, table in zip(before.ids, x, pieces, out, strict=True):
        np.testing.assert_array_equal(sent, piece)
        if member in there:
            np.testing.assert_array_equal(table[:, 1], given(member, me))
        assert (table[:, 0] == UNTOUCHED).all()
    return "exchange"


def one_turn(comm: collcomm.Communicator, turn: int) -> str:
    """Run the collective of ``turn`` and compare its result with what numpy makes of the contributors' data."""
    rng = random.Random(turn)
    kind, rows = rng.choice(KINDS), rng.choice(ROWS)
    if kind == "exchange":
        return exchange(comm, turn, rows)
    before = comm.view
    me = before.ids[comm.rank]
    root = rng.randrange(1000) % before.size
    blocked = kind in ("reduce_scatter", "all_to_all", "scatter")

    def given(member: int) -> np.ndarray:
        return data_of(member, turn, rows * before.size if blocked else rows)

    def block(member: int, of: int) -> np.ndarray:
        rank = before.rank_of(of)
        assert rank is not None
        return given(member)[rank * rows : (rank + 1) * rows]

    mine = given(me)
    if turn % 3 == 0:
        mine = column_of(np.zeros((mine.size, 3), np.float32), mine)
    kept = mine.copy()
    in_place = kind == "all_reduce" and turn % 2 == 0
    try:
        if kind == "all_reduce":
            result = comm.all_reduce(mine, out=mine if in_place else None)
        elif kind in ("all_gather", "reduce_scatter", "all_to_all"):
            result = getattr(comm, kind)(mine)
        elif kind == "scatter":
            result = comm.scatter(mine if me == before.ids[root] else None, root=root, out=np.empty(rows, np.float32))
        else:
            result = getattr(comm, kind)(mine, root=root)
    except collcomm.PeerLost:
        assert before.ids[root] not in comm._session.view.ids, "PeerLost although the root lives"
        np.testing.assert_array_equal(mine, kept)
        return "lost"
    there = comm.view.ids
    assert me in there and set(there) <= set(before.ids)
    expected: Any = {
        "all_reduce": lambda: sum(given(member) for member in there),
        "reduce": lambda: sum(given(member) for member in there),
        "all_gather": lambda: np.concatenate([given(member) for member in there]),
        "gather": lambda: np.concatenate([given(member) for member in there]),
        "reduce_scatter": lambda: sum(block(member, me) for member in there),
        "all_to_all": lambda: np.concatenate([block(member, me) for member in there]),
        "broadcast": lambda: given(before.ids[root]),
        "scatter": lambda: block(before.ids[root], me),
    }[kind]
    if kind in ("reduce", "gather") and me != before.ids[root]:
        assert result is None
    else:
        what = f"{kind} of {rows} rows, {before.ids} -> {there}, in place: {in_place}"
        np.testing.assert_array_equal(result, expected(), err_msg=what)
    if not in_place:
        np.testing.assert_array_equal(mine, kept)
    return kind


def take_turns(comm: collcomm.Communicator, stop: str) -> int:
    """Until ``stop`` exists. Returns the number of the last."""
    turn = 0
    while True:
        agreed = comm.all_reduce(np.array([turn, os.path.exists(stop)], np.int64), op="max")
        turn = int(agreed[0]) + 1
        if agreed[1]:
            return turn
        one_turn(comm, turn)
        comm.step()  # last, since join() returns in the members' step()


def live(
    address: str,
    name: str,
    min_size: int,
    stop: str,
    report: Connection,
    protection: Mapping[str, Any],
    on_devices: str,
    gpu: bool,
) -> None:
    """The life of one peer: turns until ``stop`` exists."""
    try:
        if on_devices:
            os.environ["COLLCOMM_TRANSPORTS"] = on_devices
            if not gpu:
                device = LazyDevice()
                collcomm.joining.find_device = collcomm.devicearrays.find_device = lambda: device  # type: ignore
        comm = collcomm.join(address, name=name, min_size=min_size, timeout=60, op_timeout=60, **protection)
        if on_devices:
            comm = on_gpu(comm) if gpu else OnDevice(comm)  # type: ignore[assignment]
        report.send(("joined", name, comm.view.epoch))
        turn = take_turns(comm, stop)
        final = comm.all_gather_object([name, turn])
        assert len({turn for _, turn in final}) == 1, final
        comm.leave()
        report.send(("done", name, turn))
    except collcomm.ViewChanged as error:
        report.send(("evicted", name, str(error)))
    except BaseException:
        report.send(("error", name, traceback.format_exc()))


@dataclass
class Churn:
    """Keeps a group of processes alive under fire. ``seed`` decides who is hit, when and how. ``protection``: ``secret`` or
    ``keys`` of coordinator and peers. ``on_devices``: data lies on devices, a real GPU or not (``gpu``), and these
    are the transports."""

    seed: int
    stop: Path
    most: int = 5
    least: int = 2
    stopped_share: float = 0.1
    protection: Mapping[str, Any] = field(default_factory=dict)
    on_devices: str = ""
    gpu: bool = False
    events: list[str] = field(default_factory=list)
    peers: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, Connection] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    evicted: set[str] = field(default_factory=set)

    def run(self, events: int, deadline: float = 300.0) -> None:
        rng = random.Random(self.seed)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["collcomm", "tests.support.churn"])
        until = time.monotonic() + deadline
        with collcomm.Coordinator("127.0.0.1:0", **self.protection) as coordinator:
            try:
                for _ in range(self.most - 1):
                    self._start(context, coordinator.address)
                while len(self.events) < events:
                    assert time.monotonic() < until, f"only {len(self.events)} events; seed {self.seed}"
                    self._hear(rng.uniform(0.0, 0.06))
                    if len(self.peers) < self.most and rng.random() < 0.5:
                        self._start(context, coordinator.address)
                    victims = sorted(self.joined & set(self.peers))
                    if len(victims) > self.least:
                        self._hit(rng, rng.choice(victims), coordinator)
                self._await(lambda: set(self.peers) <= self.joined, 60, "somebody is never admitted")
                self.stop.touch()
                self._finish(until)
                history = coordinator.snapshot()["default"]["history"]
                assert all(cause for _, _, _, cause in history), "an exit without a recorded cause"
            finally:
                for process in self.peers.values():
                    process.kill()
                for process in self.peers.values():
                    process.join(10)

    def _start(self, context: Any, address: str) -> None:
        name = f"peer-{len(self.reports)}"
        hear, tell = context.Pipe(duplex=False)
        process = context.Process(
            target=live,
            args=(address, name, 3, str(self.stop), tell, self.protection, self.on_devices, self.gpu),
            daemon=True,
        )
        process.start()
        tell.close()
        self.peers[name], self.reports[name] = process, hear

    def _hit(self, rng: random.Random, name: str, coordinator: collcomm.Coordinator) -> None:
        process = self.peers[name]
        self.joined.discard(name)
        if rng.random() >= self.stopped_share:
            process.kill()
            self.events.append(f"SIGKILL {name}")
        else:
            os.kill(process.pid, signal.SIGSTOP)
            self.events.append(f"SIGSTOP {name}")
            began = time.monotonic()
            while any(f"{name} (" in member for member in coordinator.snapshot()["default"]["members"]):
                assert time.monotonic() - began < 5, f"{name} is stopped and was not evicted"
                self._hear(0.02)
            if rng.random() < 0.5:
                os.kill(process.pid, signal.SIGCONT)
                self._await(lambda: name in self.evicted, 20, f"{name} does not notice that it was evicted")
        self.peers.pop(name, None)
        process.kill()
        process.join(10)

    def _hear(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            ready = wait([self.reports[name] for name in self.peers], max(0.0, until - time.monotonic()))
            if not ready:
                return
            for name in list(self.peers):
                if self.reports[name] in ready:
                    self._note(name)

    def _note(self, name: str) -> None:
        try:
            what, _, detail = self.reports[name].recv()
        except EOFError:
            raise AssertionError(f"{name} died of itself; seed {self.seed}") from None
        if what == "error":
            raise AssertionError(f"{name}, seed {self.seed}, after {self.events[-3:]}:\n{detail}")
        if what == "joined":
            self.joined.add(name)
        elif what == "evicted":
            self.evicted.add(name)
            self.peers.pop(name)
        elif what == "done":
            self.peers.pop(name).join(10)

    def _await(self, condition: Any, seconds: float, otherwise: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"{otherwise}; seed {self.seed}"
            self._hear(0.02)

    def _finish(self, until: float) -> None:
        while self.peers:
            assert time.monotonic() < until, f"{sorted(self.peers)} do not finish; seed {self.seed}"
            self._hear(0.1)


if __name__ == "__main__":  # a peer of `collcomm chaos`, which tells it where to join
    take_turns(collcomm.join(min_size=3, op_timeout=60), stop="")
