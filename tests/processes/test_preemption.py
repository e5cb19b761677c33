"""Peers that are told to go in the middle of training: they leave in good order, and nothing of the others' is run again."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.diloco import DiLoCo
from collcomm.preemption import Preemption
from tests.support.peers import run_peers
from tests.support.telling import Telling

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 30.0
GROUP = "default"


# ---- the peer: a process that trains until it is told to stop ------------------------------------------------------------


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def be_a_peer(address: str, name: str, size: int, how: str, on_failure: str) -> None:
    with collcomm.on_preemption(grace=2.0 if how == "stuck" else None) as leaving:
        if how == "aio":
            asyncio.run(train_async(address, name, size, on_failure, leaving))
            return
        comm = collcomm.join(address, name=name, min_size=size, on_failure=on_failure)
        leaving.guard(comm)
        try:
            {"steps": train, "plain": train, "stuck": train, "diloco": train_diloco}[how](comm, leaving, how)
        except collcomm.CollcommError as error:
            tell("failed", text=f"{type(error).__name__}: {error}")
            raise
        tell("ended", asked=bool(leaving), **comm.stats())


def train(comm: collcomm.Communicator, leaving: Preemption, how: str) -> None:
    """Until the test has closed standard input at all of them."""
    x = np.ones(1000, np.float32)
    step = 0
    while True:
        total = comm.all_reduce(x)
        assert total[0] == comm.size
        step += 1
        if step % 50 == 0:
            tell("step", step=step, size=comm.size)
        if how == "stuck" and leaving:
            threading.Event().wait()  # a step that takes for ever: no safe point comes
        if how == "plain" and leaving:
            comm.leave()
            return
        if leaving.step(comm):
            return
        if comm.all_reduce(np.array([stop.is_set()], np.uint8), op="max")[0]:
            comm.leave()
            return


def train_diloco(comm: collcomm.Communicator, leaving: Preemption, how: str) -> None:
    weights = {"w": np.full(1000, 1.0, np.float32)}
    diloco = DiLoCo(comm, weights, extra={"stop": (end := np.zeros(1, np.uint8))})
    while True:
        diloco.sync()
        if end[0]:
            comm.leave()
            return
        weights["w"] -= np.float32(0.01)
        diloco.round()
        end[:] = comm.all_reduce(np.array([stop.is_set()], np.uint8), op="max")
        if diloco.rounds % 20 == 0:
            tell("step", step=diloco.rounds, size=comm.size)
        if leaving.step(comm):
            return


async def train_async(address: str, name: str, size: int, on_failure: str, leaving: Preemption) -> None:
    comm = await collcomm.aio.join(address, name=name, min_size=size, on_failure=on_failure)
    step = 0
    async for view in comm.steps(leaving):
        total = await comm.all_reduce(np.ones(1000, np.float32))
        assert total[0] == view.size
        step += 1
        if step % 50 == 0:
            tell("step", step=step, size=view.size)
        if (await comm.all_reduce(np.array([stop.is_set()], np.uint8), op="max"))[0]:
            await comm.leave()
            break
    assert comm.closed
    tell("ended", asked=bool(leaving), **comm.stats())


stop = threading.Event()


def await_end() -> None:
    sys.stdin.read()
    stop.set()


# ---- the tests ---------------------------------------------------------------------------------------------------------


class Peer(Telling):
    def __init__(self, *arguments: str):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.test_preemption", *arguments],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        super().__init__(arguments[1], process, WAIT_SECONDS)

    def look_at(self, found: dict[str, Any], event: str) -> None:
        assert found["event"] != "failed" or event == "failed", found

    def end(self) -> tuple[int, str]:
        """Exit status and what it has said on standard error."""
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        try:
            code = self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait(WAIT_SECONDS)
            self.reader.join(WAIT_SECONDS)
            said = self.process.stderr.read()
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                stream.close()
        return code, said

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def training(coordinator: collcomm.Coordinator, hows: Sequence[str], on_failure: str) -> Iterator[list[Peer]]:
    """Peers p0, p1, ... that are all at work."""
    peers = [
        Peer(coordinator.address, f"p{number}", str(len(hows)), how, on_failure) for number, how in enumerate(hows)
    ]
    try:
        for peer in peers:
            peer.wait("step", size=len(hows))
        yield peers
    finally:
        for peer in peers:
            if peer.process.poll() is None:
                peer.process.kill()
            if peer.process.stdout is not None and not peer.process.stdout.closed:
                peer.end()


def causes(coordinator: collcomm.Coordinator) -> dict[str, str]:
    history = coordinator.snapshot()[GROUP]["history"]
    return {name: cause for _, _, name, cause in history if cause != "joined"}


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("how", ["steps", "diloco", "aio"])
def test_the_others_go_on_and_nothing_is_run_again(how: str, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With on_failure="raise", under which a peer that is lost in an operation is an error at all others."""
    monkeypatch.setenv("COLLCOMM_TRANSPORTS", transport)
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, training(coordinator, [how] * 3, "raise") as peers:
        peers[1].process.send_signal(signal.SIGTERM)
        ended = peers[1].wait("ended")
        assert ended["asked"] and ended["retries"] == 0
        assert peers[1].end() == (0, "")
        for peer in (peers[0], peers[2]):
            peer.wait("step", size=2)
        for peer in (peers[0], peers[2]):
            peer.stop()
        for peer in (peers[0], peers[2]):
            ended = peer.wait("ended")
            assert ended["retries"] == 0 and not ended["asked"]
            assert peer.end() == (0, "")
        assert causes(coordinator) == {"p0": "left", "p1": "left", "p2": "left"}


def test_two_go_at_once_and_one_remains() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, training(coordinator, ["steps"] * 3, "raise") as peers:
        for peer in peers[:2]:
            peer.process.send_signal(signal.SIGTERM)
        for peer in peers[:2]:
            peer.wait("ended")
            assert peer.end() == (0, "")
        peers[2].wait("step", size=1)
        peers[2].stop()
        assert peers[2].wait("ended")["retries"] == 0
        assert peers[2].end() == (0, "")
        assert causes(coordinator) == {f"p{number}": "left" for number in range(3)}


def test_a_leave_that_is_not_said_before_costs_the_others_one_operation_that_is_run_again() -> None:
    hows = ["steps", "plain", "steps"]
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, training(coordinator, hows, "retry") as peers:
        peers[1].process.send_signal(signal.SIGTERM)
        peers[1].wait("ended")
        for peer in (peers[0], peers[2]):
            peer.wait("step", size=2)
            peer.stop()
        retries = [peer.wait("ended")["retries"] for peer in (peers[0], peers[2])]
        assert max(retries) <= 1
        assert causes(coordinator)["p1"] == "left"


def test_one_that_comes_to_no_safe_point_leaves_when_its_grace_is_over() -> None:
    hows = ["steps", "stuck", "steps"]
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, training(coordinator, hows, "retry") as peers:
        peers[1].process.send_signal(signal.SIGTERM)
        code, said = peers[1].end()
        assert code == 128 + signal.SIGTERM and "this peer goes now" in said
        for peer in (peers[0], peers[2]):
            peer.wait("step", size=2)
            peer.stop()
        assert [peer.wait("ended")["retries"] for peer in (peers[0], peers[2])] == [1, 1]
        assert causes(coordinator)["p1"] == "left"


def test_a_signal_that_comes_again_ends_the_peer_and_the_others_find_it_dead() -> None:
    hows = ["steps", "stuck", "steps"]
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, training(coordinator, hows, "retry") as peers:
        peers[1].process.send_signal(signal.SIGTERM)
        threading.Event().wait(1.2)  # what is tested is that this has passed, and the grace has not
        peers[1].process.send_signal(signal.SIGTERM)
        assert peers[1].end()[0] == 128 + signal.SIGTERM
        for peer in (peers[0], peers[2]):
            peer.wait("step", size=2)
        assert causes(coordinator)["p1"] != "left"


def test_newcomers_come_in_at_the_point_at_which_others_go() -> None:
    """Rank 0 waits until somebody wants to join, and goes at the very step() that admits it."""
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        results: dict[str, Any] = {}

        def peer(name: str) -> None:
            late = name == "late"
            if late:
                together.wait(WAIT_SECONDS)
            comm = collcomm.join(coordinator.address, name=name, min_size=3, timeout=WAIT_SECONDS)
            if not late:
                together.wait(WAIT_SECONDS)
                until = time.monotonic() + WAIT_SECONDS
                while not comm.pending and time.monotonic() < until:
                    time.sleep(0.001)
                comm.step(leaving=name == "p0")
            if name == "p0":
                assert comm.closed
            else:
                names = sorted(member.name for member in comm.view.members)
                results[name] = (names, comm.all_reduce(np.ones(1))[0], comm.stats()["retries"])
                comm.barrier()
                comm.leave()

        together = threading.Barrier(4)
        threads = [threading.Thread(target=peer, args=(name,), daemon=True) for name in ("p0", "p1", "p2", "late")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        assert results == {name: (["late", "p1", "p2"], 3.0, 0) for name in ("p1", "p2", "late")}


def test_all_may_go() -> None:
    def body(comm: collcomm.Communicator) -> bool:
        comm.step(leaving=True)
        return comm.closed

    assert run_peers(3, body) == [True] * 3


if __name__ == "__main__":
    threading.Thread(target=await_end, daemon=True).start()
    be_a_peer(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
