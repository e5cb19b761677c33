"""Peers as processes that share state; their parent hears of every round of a transfer and kills whom it likes."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

import collcomm
from collcomm.state import Synchroniser

ROUND_BYTES = 2 << 20
JOIN_SECONDS = 30.0
MAX_DELAY = 0.003  # about what a round takes
NUMBER = 3 << 20  # of float64: 24 MiB, in 12 rounds or more


def trained() -> dict[str, np.ndarray]:
    """The state that wins: a large array, and small ones around it."""
    rng = np.random.default_rng(7)
    return {"a": rng.standard_normal(1000), "large": rng.standard_normal(NUMBER), "z": np.arange(70_000)}


def untrained() -> dict[str, np.ndarray]:
    return {name: np.zeros_like(array) for name, array in trained().items()}


def digest(state: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(state[name]).data for name in sorted(state))).hexdigest()


def nbytes(state: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in state.values())


def live(address: str, name: str, min_size: int, has_state: bool, on_failure: str, tell: Connection) -> None:
    """One sync, told to the parent round by round; called again when PeerLost is raised."""
    try:
        Synchroniser.round_bytes = ROUND_BYTES
        one_round = Synchroniser._one_round
        rounds = 0

        def noted(self: Synchroniser, *arguments: Any) -> None:
            nonlocal rounds
            rounds += 1
            tell.send(("round", name, rounds))
            assert tell.poll(JOIN_SECONDS) and tell.recv() == "go"
            one_round(self, *arguments)

        Synchroniser._one_round = noted  # type: ignore[method-assign]
        with collcomm.join(
            address, name=name, min_size=min_size, on_failure=on_failure, timeout=JOIN_SECONDS, op_timeout=30
        ) as comm:
            state = trained() if has_state else untrained()
            before = comm.stats()["bytes_received"]
            revision = 5 if has_state else None
            try:
                report = comm.sync(state, revision)
            except collcomm.PeerLost:
                tell.send(("lost", name, None))
                report = comm.sync(state, revision)
            wire = comm.stats()["bytes_received"] - before
            tell.send(("synced", name, (digest(state), report, wire)))
            comm.all_gather_object(name)
    except collcomm.CollcommError as error:
        tell.send(("refused", name, f"{type(error).__name__}: {error}"))
    except BaseException:
        tell.send(("error", name, traceback.format_exc()))


class Group:
    """A context with a coordinator and processes; ``ends`` is how each of them ended, ``lost`` are those who
    heard of PeerLost on the way."""

    def __init__(self) -> None:
        self.processes: dict[str, Any] = {}
        self.ends: dict[str, tuple[str, Any]] = {}
        self.lost: set[str] = set()
        self._ears: dict[str, Connection] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["collcomm", "tests.support.syncing"])
        self._coordinator = collcomm.Coordinator("127.0.0.1:0")

    def __enter__(self) -> Group:
        self._coordinator.__enter__()
        return self

    def start(self, name: str, min_size: int, has_state: bool, on_failure: str = "retry") -> None:
        hear, tell = self._context.Pipe()
        arguments = (self._coordinator.address, name, min_size, has_state, on_failure, tell)
        self.processes[name] = self._context.Process(target=live, args=arguments, daemon=True)
        self.processes[name].start()
        tell.close()
        self._ears[name] = hear

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.ends[name] = ("killed", None)

    def run(
        self, victims: Mapping[tuple[str, int], str], seed: int = 0, seconds: float = 40.0
    ) -> dict[str, tuple[str, Any]]:
        """Until all have ended. ``victims``: who is killed when which peer has begun which round; at what moment in that round
        is left to ``seed``. No peer begins its next round before that."""
        rng = random.Random(seed)
        until = time.monotonic() + seconds
        open_ears = dict(self._ears)
        while open_ears:
            ready = wait(list(open_ears.values()), max(0.0, until - time.monotonic()))
            assert ready, f"{sorted(open_ears)} do not end; so far {self.ends}"
            for name, ear in list(open_ears.items()):
                if ear not in ready:
                    continue
                try:
                    what, _, detail = ear.recv()
                    if what == "round":
                        ear.send("go")
                except (EOFError, OSError):
                    del open_ears[name]
                    continue
                if what == "round":
                    if (name, detail) in victims:
                        time.sleep(rng.uniform(0.0, MAX_DELAY))
                        self.kill(victims[name, detail])
                elif what == "lost":
                    self.lost.add(name)
                else:
                    assert what != "error", f"{name}: {detail}"
                    self.ends.setdefault(name, (what, detail))
        return self.ends

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.join(10)
        self._coordinator.__exit__(None, None, None)
