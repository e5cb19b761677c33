"""Blocks round a ring: everybody sees each once; whoever dies ends it for all in the same step, and the next one is clean."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import collcomm
from tests.support.contract import equal, raises
from tests.support.peers import run_peers

from .test_failures import Processes

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.usefixtures("each_transport")


def block_of(rank: int, scale: int = 1, dtype: Any = np.float32) -> Array:
    """Of another size at each rank; one has none."""
    rows = scale * (3, 0, 5, 1)[rank % 4]
    return np.random.default_rng(rank).integers(-50, 50, (rows, 4)).astype(dtype)


# ---- round, and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both_ways", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_everybody_sees_every_block_once(n: int, both_ways: bool) -> None:
    def body(comm: collcomm.Communicator) -> list[list[int]]:
        seen = []
        ring = comm.ring(both_ways=both_ways)
        for scale, dtype in ((1, np.float32), (20_000, np.int64), (1, np.int8)):
            mine = block_of(comm.rank, scale, dtype)
            order = []
            for owner, block in ring.around(mine):
                assert block.dtype == dtype
                equal(block, block_of(owner, scale, dtype))
                order.append(owner)
            assert sorted(order) == list(range(n)) and order[0] == comm.rank
            equal(mine, block_of(comm.rank, scale, dtype))
            seen.append(order)
        return seen

    orders = run_peers(n, body)
    at = {3: [0, 2, 1], 4: [0, 3, 1, 2] if both_ways else [0, 3, 2, 1]}
    assert orders[0] == [at.get(n, orders[0][0])] * 3


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_results_come_home_to_their_owner(n: int) -> None:
    def body(comm: collcomm.Communicator) -> None:
        made = []

        def work(owner: int, block: Array) -> Array:
            equal(block, block_of(owner, 500))
            made.append(owner)
            return np.vstack([block * (comm.rank + 1), np.full((1, 4), owner, np.float32)]).astype(np.float64)

        ring = comm.ring()
        for _ in range(2):
            made.clear()
            home = []
            for helper, result in ring.visit(block_of(comm.rank, 500), work):
                equal(result, np.vstack([block_of(comm.rank, 500) * (helper + 1), np.full((1, 4), comm.rank)]))
                home.append(helper)
            assert home == [(comm.rank + shift) % n for shift in range(n)]
            assert made == [(comm.rank - shift) % n for shift in range(n)]

    run_peers(n, body)


def test_tensors_and_strides() -> None:
    torch = pytest.importorskip("torch")

    def body(comm: collcomm.Communicator) -> None:
        for both_ways in (False, True):
            ring = comm.ring(both_ways=both_ways)
            for owner, block in ring.around(torch.from_numpy(block_of(comm.rank)).to(torch.bfloat16)):
                assert block.dtype == torch.bfloat16 and block.shape == block_of(owner).shape
                equal(block.float().numpy(), block_of(owner))
            for owner, block in ring.around(block_of(comm.rank, 900)[:, ::2]):
                equal(block, block_of(owner, 900)[:, ::2])
            for owner, row in ring.around(block_of(comm.rank, 1)[:, 0]):
                equal(row, block_of(owner, 1)[:, 0])
        tensor = torch.from_numpy(block_of(comm.rank))
        for helper, result in comm.ring().visit(tensor, lambda owner, block: (block + comm.rank).to(torch.bfloat16)):
            assert torch.equal(result, (tensor + helper).to(torch.bfloat16))

    run_peers(3, body)


def test_other_calls_go_between_the_steps() -> None:
    def body(comm: collcomm.Communicator) -> None:
        other = comm.ring(both_ways=True)
        for owner, block in comm.ring().around(block_of(comm.rank)):
            equal(comm.all_reduce(np.ones(3)), np.full(3, comm.size))
            equal(block, block_of(owner))
            for inner, found in other.around(block_of(comm.rank, 2)):
                equal(found, block_of(inner, 2))

    run_peers(3, body)


@pytest.mark.parametrize("everywhere", [True, False], ids=["at all", "at one"])
def test_the_ring_goes_in_the_order_of_the_plan(everywhere: bool) -> None:
    """Also where one holds another plan than the others: all go by what all have said."""

    def body(comm: collcomm.Communicator) -> list[int]:
        if everywhere or comm.rank == 1:
            comm._group.choosing.strategy(comm.latest).order = (2, 0, 3, 1)
        order = []
        for owner, block in comm.ring().around(block_of(comm.rank, 10)):
            equal(block, block_of(owner, 10))
            order.append(owner)
        return order

    orders = run_peers(4, body, probe=False)
    assert orders[0] == ([0, 2, 1, 3] if everywhere else [0, 3, 1, 2])
    places = [orders[0].index(rank) for rank in range(4)]
    for rank in range(4):
        assert [(places[owner] - places[rank]) % 4 for owner in orders[rank]] == [0, 1, 2, 3]


def test_bytes_on_the_wire_are_what_the_docstring_says(each_transport: str) -> None:
    if each_transport == "shm":
        pytest.skip("what goes through shared memory has no wire")

    def body(comm: collcomm.Communicator) -> None:
        x, n = np.ones((1000, 256)), comm.size
        small = np.ones((1000, 16))
        for both_ways in (False, True, None):
            ring = comm.ring(both_ways=bool(both_ways))
            before = comm.stats()["bytes_sent"]
            for _ in ring.visit(x, lambda owner, block: small) if both_ways is None else ring.around(x):
                pass
            sent = comm.stats()["bytes_sent"] - before
            expected = (n - 1) * (x.nbytes + (small.nbytes if both_ways is None else 0))
            assert expected <= sent <= 1.01 * expected + 16_384

    run_peers(4, body)


# ---- errors -------------------------------------------------------------------------------------------------------------


def go_round(comm: collcomm.Communicator, block: Any, **options: Any) -> list[int]:
    return [owner for owner, _ in comm.ring(**options).around(block)]


def test_who_brings_another_kind_of_block_is_named() -> None:
    def body(comm: collcomm.Communicator) -> None:
        odd = comm.rank == 1
        calls: list[Callable[[], Any]] = [
            lambda: go_round(comm, np.ones((2, 3 if odd else 4))),
            lambda: go_round(comm, np.ones((2, 4), np.float32 if odd else np.float64)),
            lambda: go_round(comm, np.ones((2, 4)), both_ways=odd),
            lambda: comm.barrier() if odd else go_round(comm, np.ones((2, 4))),
        ]
        for call in calls:
            raises(collcomm.CollectiveMismatch, call, f"{comm.view[1].name} called something else", "a ring")
        assert go_round(comm, np.ones((2, 4)))[0] == comm.rank

    run_peers(3, body)


def test_who_stops_early_is_named_by_its_next_call_and_leaves_nothing_behind() -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.full((30_000, 4), float(comm.rank))

        def round_or_less() -> None:
            for turn, _ in enumerate(comm.ring().around(x)):
                if comm.rank == 1 and turn == 1:
                    break
            if comm.rank == 1:
                comm.all_reduce(x)

        raises(collcomm.CollectiveMismatch, round_or_less, f"{comm.view[1].name} called something else")
        for owner, block in comm.ring().around(x + 10):
            assert (block == owner + 10).all()

    run_peers(4, body)


def test_all_may_stop_early() -> None:
    def body(comm: collcomm.Communicator) -> None:
        ring = comm.ring()
        for owner, block in ring.around(block_of(comm.rank)):
            equal(block, block_of(owner))
            if owner != comm.rank:
                break
        for owner, block in ring.around(block_of(comm.rank, 2)):
            equal(block, block_of(owner, 2))

    run_peers(3, body)


def test_results_that_do_not_fit() -> None:
    def body(comm: collcomm.Communicator) -> None:
        def work(owner: int, block: Array) -> Array:
            return block if comm.rank == owner else block[:-1]

        x = np.ones((4, 2))
        raises(collcomm.CollectiveMismatch, lambda: list(comm.ring().visit(x, work)), "sizes do not fit")
        assert len(list(comm.ring().visit(x, lambda owner, block: block + 1))) == 3

    run_peers(3, body)


def test_one_exchange_of_a_ring_at_a_time_and_blocks_with_rows() -> None:
    def body(comm: collcomm.Communicator) -> None:
        ring = comm.ring()
        first = ring.around(np.ones((1, 2)))
        next(first)
        raises(RuntimeError, lambda: next(ring.around(np.ones((1, 2)))), "has not ended")
        first.close()  # type: ignore[attr-defined]
        assert [owner for owner, _ in ring.around(np.ones((1, 2)))] == [0]
        raises(ValueError, lambda: go_round(comm, np.float64(1)), "no rows")
        raises(ValueError, lambda: comm.ring(timeout=0), "positive")

    run_peers(1, body)


def test_a_step_that_takes_too_long() -> None:
    ended = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        turns = comm.ring(timeout=0.3).around(np.ones((2, 2)))
        next(turns)
        if comm.rank == 1:
            assert ended.wait(20)
        next(turns)
        raises(collcomm.CollectiveTimeout, lambda: next(turns), "step 2 of 2")
        ended.set()
        assert len(go_round(comm, np.ones((2, 2)))) == 3

    run_peers(3, body)


# ---- deaths -------------------------------------------------------------------------------------------------------------

DYING = 2


def own_block(comm: collcomm.Communicator) -> Array:
    return block_of_member(comm.view[comm.rank].id)


def block_of_member(member: int) -> Array:
    return np.full((2000 + 500 * member, 8), float(member))


def go_round_and_die(comm: collcomm.Communicator, tell: Connection, way: str) -> None:
    """Survivors leave in the same step, with the same error, and begin again in the later view."""
    members, lost = comm.size, []

    def work(owner: int, block: Array) -> Array:
        nonlocal step
        step += 1
        if comm.rank == DYING and comm.size == members and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        equal(block, block_of_member(comm.view[owner].id))
        return np.array([[comm.view[comm.rank].id, comm.view[owner].id]])

    while True:
        step, seen = 0, []
        ring = comm.ring(both_ways=way == "both ways")
        try:
            if way == "back":
                for helper, result in ring.visit(own_block(comm), work):
                    equal(result, [[comm.view[helper].id, comm.view[comm.rank].id]])
                    seen.append(helper)
            else:
                for owner, block in ring.around(own_block(comm)):
                    work(owner, block)
                    seen.append(owner)
            break
        except collcomm.PeerLost as error:
            lost.append(str(error).partition(" of ")[0])
    assert sorted(seen) == list(range(members - 1))
    tell.send(lost)
    comm.barrier()


@pytest.mark.parametrize(
    ("way", "on_failure"), [("one way", "retry"), ("both ways", "retry"), ("back", "retry"), ("back", "raise")]
)
def test_sigkill_in_the_middle_of_a_turn(way: str, on_failure: str) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(go_round_and_die, 4, way, min_size=4, on_failure=on_failure)
        heard = []
        for index in range(4):
            try:
                heard.append(peers.hear(index))
            except EOFError:
                heard.append(None)
        assert heard.count(None) == 1
        heard.remove(None)
        assert len(heard[0]) == 1 and heard == heard[:1] * 3, "not in the same step"


def go_round_until_smaller(comm: collcomm.Communicator, tell: Connection) -> None:
    """The death comes whenever it comes; who had not come to the end begins again."""
    members, ring, rounds = comm.size, comm.ring(), 0
    tell.send("running")
    while comm.size == members:
        try:
            for owner, block in ring.around(own_block(comm)):
                equal(block, block_of_member(comm.view[owner].id))
            rounds += 1
        except collcomm.PeerLost:
            assert comm.size == members - 1
    for owner, block in ring.around(own_block(comm)):
        equal(block, block_of_member(comm.view[owner].id))
    tell.send(rounds)
    comm.barrier()


def test_sigkill_at_some_instant() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(go_round_until_smaller, 3, min_size=3)
        assert [peers.hear(index) for index in range(3)] == ["running"] * 3
        peers.kill(1, signal.SIGKILL)
        assert peers.hear(0) == peers.hear(2)
