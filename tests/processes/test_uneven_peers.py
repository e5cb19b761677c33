"""Peers of different speeds, each a process: they agree on steps by which all arrive together, also when one joins or dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import numpy as np
import pytest

import collcomm
from collcomm.diloco import DiLoCo, UnevenSteps

CONTEXT = multiprocessing.get_context("forkserver")
ROUNDS = 6
Told = list[tuple[int, dict[str, int], int]]  # round, steps by name, own steps


def _train(address: str, name: str, step_seconds: float, dies_in: int, pipe: Connection) -> None:
    """One peer. Its machine's time is counted, not taken: a step is as long as it says, however busy the test's machine is."""
    with collcomm.join(address, name=name, min_size=3, timeout=30, op_timeout=30) as comm:
        params = {"w": np.zeros(64, np.float32)}
        diloco = DiLoCo(comm, params, weighted=True)
        pace = UnevenSteps(comm)
        told: Told = []
        while True:
            diloco.sync()
            if diloco.rounds == ROUNDS:
                break
            steps = pace.agree()
            named = {member.name: pace.shares[member.id] for member in comm.view.members}
            counted = 0
            for _ in range(steps):
                params["w"] += np.float32(0.001)
                counted += 1
            if diloco.rounds == dies_in:
                os.kill(os.getpid(), signal.SIGKILL)
            told.append((diloco.rounds, named, counted))
            pace.trained(counted, counted * step_seconds)
            diloco.round(counted)
            comm.step()
        pipe.send((told, params["w"].tobytes()))


@pytest.mark.timeout(90)
def test_uneven_peers_arrive_together_by_their_own_counts() -> None:
    cost = {"fast": 0.01, "half": 0.02, "quarter": 0.04}
    dying = {"fast": -1, "half": -1, "quarter": 3}
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        peers = {}
        for name, seconds in cost.items():
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_train, args=(coordinator.address, name, seconds, dying[name], theirs))
            process.start()
            theirs.close()
            peers[name] = (process, ours)
        try:
            ended = {}
            for name in ("fast", "half"):
                assert peers[name][1].poll(60), f"{name} hangs"
                ended[name] = peers[name][1].recv()
        finally:
            for process, ours in peers.values():
                ours.close()
                process.join(10)
                if process.is_alive():
                    process.kill()
                    process.join(10)
    assert peers["quarter"][0].exitcode == -signal.SIGKILL
    assert ended["fast"][1] == ended["half"][1]
    told: dict[str, Told] = {name: rounds for name, (rounds, _) in ended.items()}
    for (number, shares, fast), (_, shares_there, half) in zip(told["fast"], told["half"], strict=True):
        assert shares == shares_there and (fast, half) == (shares["fast"], shares["half"])
        assert shares.keys() == (cost.keys() if number <= 3 else {"fast", "half"})
        if number:  # nobody is known in the first
            arrivals = [steps * cost[name] for name, steps in shares.items()]
            assert max(arrivals) - min(arrivals) < 0.1 * max(arrivals)
            assert shares["fast"] == 100
