"""Every method while a peer is killed with a reduction in flight and a newcomer joins: all who are left hold the same bits."""

from __future__ import annotations

import os
import signal
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.diloco import CodedSum, Cyclic, FractionalRepetition
from tests.support.lowcomm import AFTERWARDS, CONTEXT, EVERY, MAKERS, WAIT_SECONDS, live, live_async, run


def check(heard: list) -> None:
    ended = {said[1]: said for said in heard if said[0] == "ended"}
    assert set(ended) == {"p0", "p1", "p2", "newcomer"}, heard
    assert len({said[2] for said in ended.values()}) == 1, "they took different numbers of steps"
    assert len({said[4] for said in ended.values()}) == 1, "they hold different bits"
    (joined,) = [said for said in heard if said[0] == "joined"]
    assert joined[2] >= 2 * EVERY and ended["newcomer"][2] == joined[2] + AFTERWARDS


@pytest.mark.timeout(90)
@pytest.mark.parametrize("method", [*MAKERS, "gossip"])
def test_a_death_in_flight_and_a_newcomer(method: str, over_tcp: None) -> None:
    heard = run(method)
    check(heard)
    (joined,) = [said for said in heard if said[0] == "joined"]
    assert joined[3] == (method not in ("local SGD", "DiLoCo", "gossip")), "in flight when it was admitted"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("method", ["one-step-delayed", "streaming", "gossip"])
def test_the_same_where_failures_are_raised(method: str, over_tcp: None) -> None:
    """All survivors launch again what failed at all of them."""
    heard = run(method, on_failure="raise")
    check(heard)
    if method == "gossip":
        return  # who was to meet the dead counts it, too
    repeated = {said[5] for said in heard if said[0] == "ended" and said[1] != "newcomer"}
    assert len(repeated) == 1


@pytest.mark.timeout(90)
@pytest.mark.parametrize("method", ["CO2", "streaming", "gossip"])
def test_the_same_in_asyncio(method: str) -> None:
    check(run(method, body=live_async))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("dies_at", range(2 * EVERY + 1, 3 * EVERY))
def test_a_fragment_in_flight_at_any_step_of_a_round(dies_at: int) -> None:
    check(run("streaming", body=live, dies_at=dies_at))


def _sum_on(comm: collcomm.Communicator, summed: CodedSum, until: int) -> np.ndarray:
    total = np.zeros(100, np.float32)
    while summed.number < until:
        found = summed.ready()
        if found is None:
            found = summed.add({part: np.full(100, part + summed.number, np.float32) for part in summed.parts})
        n, found = summed.code.n, np.rint(found)
        assert (found == n * (n - 1) // 2 + n * (summed.number - 1)).all()
        total += found
    return total


def _add_up(address: str, name: str, dying: int, tell: Connection) -> None:
    """Sums over a code that bears one death; then over those who are left and a newcomer."""
    try:
        with collcomm.join(address, name=name, min_size=4, timeout=30, op_timeout=30) as comm:
            state = {"total": np.zeros(100, np.float32)}
            if name != "newcomer":
                (root,) = [rank for rank, member in enumerate(comm.view.members) if member.name == "p0"]
                summed = CodedSum(comm, FractionalRepetition(4, 1), 100, root=root)
                if name == f"p{dying}":
                    _sum_on(comm, summed, 5)
                    tell.send("dying")
                    os.kill(os.getpid(), signal.SIGKILL)
                state["total"] += _sum_on(comm, summed, 10)
                summed.close()
                while comm.size < 4 or dying in [
                    int(member.name[1]) for member in comm.view.members if member.name[0] == "p"
                ]:
                    comm.step()
            comm.sync(state, None if name == "newcomer" else 1)
            summed = CodedSum(comm, Cyclic(4, 1), 100)
            state["total"] += _sum_on(comm, summed, 5)
            summed.close()
            comm.barrier()
            tell.send(state["total"].tobytes())
    except BaseException:
        tell.send(traceback.format_exc())


@pytest.mark.timeout(90)
def test_a_death_that_a_gradient_code_bears_and_a_newcomer() -> None:
    heard: dict[str, Any] = {}
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        children: dict[str, Any] = {}
        pipes: dict[str, Connection] = {}

        def start(name: str) -> None:
            pipes[name], tell = CONTEXT.Pipe(duplex=False)
            children[name] = CONTEXT.Process(target=_add_up, args=(coordinator.address, name, 2, tell), daemon=True)
            children[name].start()
            tell.close()

        try:
            for name in ("p0", "p1", "p2", "p3"):
                start(name)
            started = False
            while len(heard) < 4:
                ready = wait([pipe for name, pipe in pipes.items() if name not in heard], WAIT_SECONDS)
                assert ready, f"nobody says anything; so far: {sorted(heard)}"
                for name in [name for name, pipe in pipes.items() if pipe in ready]:
                    try:
                        said = pipes[name].recv()
                    except EOFError:
                        del pipes[name]
                        continue
                    if said == "dying" and not started:
                        started = True
                        start("newcomer")
                    elif said != "dying":
                        heard[name] = said
        finally:
            for child in children.values():
                child.kill()
                child.join(10)
    assert all(isinstance(said, bytes) for said in heard.values()), heard
    assert len(heard) == 4 and len(set(heard.values())) == 1
