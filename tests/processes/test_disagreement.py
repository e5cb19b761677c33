"""Peers that call different things, too late, or with rubbish: a clear error for all, and the group stays usable."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import collcomm
from tests.support.peers import run_peers

pytestmark = pytest.mark.usefixtures("each_transport")

Body = Callable[[collcomm.Communicator], Any]


def by_rank(comm: collcomm.Communicator, odd: Body, others: Body, odd_rank: int) -> Any:
    return odd(comm) if comm.rank == odd_rank else others(comm)


MISMATCHES: dict[str, tuple[Body, Body, str]] = {
    "op": (lambda c: c.all_reduce(np.ones(4), op="max"), lambda c: c.all_reduce(np.ones(4)), "all_reduce.max"),
    "dtype": (lambda c: c.all_reduce(np.ones(4, int)), lambda c: c.all_reduce(np.ones(4)), "int64"),
    "size": (lambda c: c.all_reduce(np.ones(5)), lambda c: c.all_reduce(np.ones(4)), "5 elements"),
    "large size": (lambda c: c.all_reduce(np.ones(600_000)), lambda c: c.all_reduce(np.ones(500_000)), "600000"),
    "kind": (lambda c: c.barrier(), lambda c: c.all_reduce(np.ones(4)), "barrier"),
    "root": (lambda c: c.broadcast(np.ones(4), root=1), lambda c: c.broadcast(np.ones(4), root=0), "root 1"),
    "no data": (lambda c: c.split([0, 1, 2]), lambda c: c.barrier(), "split"),
    "ranks": (lambda c: c.split([2]), lambda c: c.split([0, 1]), r"ranks \[2\]"),
    "counts": (
        lambda c: c.all_gather(np.ones(1), counts=[1, 1, 1]),
        lambda c: c.all_gather(np.ones(2), counts=[2, 2, 2]),
        "all_gather",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_mismatch_is_raised_everywhere_and_names_the_odd_one(case: str) -> None:
    odd, others, said = MISMATCHES[case]

    def body(comm: collcomm.Communicator) -> None:
        odd_name = comm.view.members[2].name
        x = np.ones(3)
        for _ in range(2):  # the group works before, between and after
            assert comm.all_reduce(x)[0] == 3
            with pytest.raises(collcomm.CollectiveMismatch, match=said) as caught:
                by_rank(comm, odd, others, 2)
            assert odd_name in str(caught.value)
        assert comm.all_reduce(x)[0] == 3 and x[0] == 1
        assert comm.size == 3

    run_peers(3, body)


def test_all_to_all_counts_that_do_not_fit() -> None:
    def body(comm: collcomm.Communicator) -> None:
        receives = [1, 1] if comm.rank == 0 else [2, 1]
        with pytest.raises(collcomm.CollectiveMismatch, match="do not fit"):
            comm.all_to_all(np.ones(2), send_counts=[1, 1], recv_counts=receives)
        assert comm.all_reduce(np.ones(1))[0] == 2

    run_peers(2, body)


def test_in_place_input_is_intact_after_a_mismatch() -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.arange(400_000, dtype=np.float64)
        with pytest.raises(collcomm.CollectiveMismatch):
            comm.all_reduce(x, op="sum" if comm.rank else "prod", out=x)
        np.testing.assert_array_equal(x, np.arange(400_000))

    run_peers(3, body)


def test_timeout_names_who_did_not_come_and_reaches_the_late() -> None:
    def body(comm: collcomm.Communicator) -> None:
        late = comm.view.members[1].name
        if comm.rank == 1:
            time.sleep(1.2)
        with pytest.raises(collcomm.CollectiveTimeout, match=f"{late} had not called it"):
            comm.all_reduce(np.ones(8), timeout=0.5)
        assert comm.all_reduce(np.ones(1))[0] == 3

    run_peers(3, body)


def test_a_slow_peer_is_waited_for() -> None:
    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            time.sleep(2.0)
        assert comm.all_reduce(np.ones(100_000))[0] == 2 and comm.stats()["retries"] == 0

    run_peers(2, body)


def test_arguments_that_make_no_sense() -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.ones(4)
        frozen = np.ones(4)
        frozen.flags.writeable = False
        for error, text, call in (
            (TypeError, "must be an array", lambda: comm.all_reduce("abc")),
            (TypeError, "must be an array", lambda: comm.all_reduce(object())),
            (TypeError, "cannot be sent", lambda: comm.all_reduce(np.array(["a"]))),
            (TypeError, "cannot be sent", lambda: comm.all_reduce(np.array([object()]))),
            (ValueError, "op 'sun'", lambda: comm.all_reduce(x, op="sun")),
            (TypeError, "no exact result", lambda: comm.all_reduce(np.ones(4, int), op="avg")),
            (TypeError, "needs integers", lambda: comm.all_reduce(x, op="bxor")),
            (ValueError, "read-only", lambda: comm.all_reduce(x, out=frozen)),
            (ValueError, "shape", lambda: comm.all_reduce(x, out=np.ones(5))),
            (TypeError, "dtype", lambda: comm.all_reduce(x, out=np.ones(4, np.float32))),
            (ValueError, "share equally", lambda: comm.reduce_scatter(np.ones(3))),
            (ValueError, "none negative", lambda: comm.all_gather(x, counts=[-1, 5])),
            (ValueError, "none negative", lambda: comm.all_gather(x, counts=[4])),
            (ValueError, "counts say", lambda: comm.all_gather(x, counts=[3, 3])),
            (ValueError, "both", lambda: comm.all_to_all(x, send_counts=[2, 2])),
            (ValueError, "root must be", lambda: comm.broadcast(x, root=2)),
            (ValueError, "rank must be", lambda: comm.send(x, 5)),
            (ValueError, "itself", lambda: comm.send(x, comm.rank)),
            (ValueError, "tag", lambda: comm.send(x, 1 - comm.rank, tag=-1)),
            (ValueError, "positive", lambda: comm.all_reduce(x, timeout=0)),
            (TypeError, "codec .* floating", lambda: comm.all_reduce(np.ones(4, int), codec="int8")),
            (ValueError, "codec .* sum and mean", lambda: comm.all_reduce(x, op="max", codec="int8")),
            (ValueError, "ranks must be", lambda: comm.split([0, 0])),
        ):
            with pytest.raises(error, match=text):
                call()
        assert comm.all_reduce(x)[0] == 2  # nobody was disturbed

    run_peers(2, body)


def test_closed_communicator() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        comm = collcomm.join(coordinator.address, timeout=10)
        handle = comm.all_reduce(np.ones(3), async_op=True)
        assert handle.result(10)[0] == 1
        comm.leave()
        assert comm.closed
        for call in (lambda: comm.all_reduce(np.ones(1)), comm.barrier, comm.step, lambda: comm.recv(np.ones(1), 0)):
            with pytest.raises(collcomm.CommunicatorClosed, match="join again"):
                call()
        comm.leave()
        comm.close()


def test_garbage_on_the_data_port_disturbs_nobody() -> None:
    connections: list[socket.socket] = []
    sent = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            for member in comm.view.members:
                for rubbish in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 4096, b"CCL\x01" + b"\xff" * 60, b"CC"):
                    connection = socket.create_connection((member.host, member.port), 5)
                    connection.sendall(rubbish)
                    connections.append(connection)
            sent.set()
        assert sent.wait(20)
        for _ in range(20):
            assert comm.all_reduce(np.ones(100_000))[0] == 3
        assert comm.view.epoch == 1

    run_peers(3, body)
    for connection in connections:
        connection.close()
