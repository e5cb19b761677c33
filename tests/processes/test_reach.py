"""Peers that nobody can dial: they show a port on which nothing listens, and listen on another."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

import collcomm

JOIN_SECONDS = 20.0
RUN_SECONDS = 40.0
Comm = collcomm.Communicator


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def run(closed: Sequence[bool], body: Callable[[Comm], Any], **options: Any) -> list[Any]:
    """Run ``body`` at a peer for each of ``closed``, ids and ranks in their order; a closed one cannot be dialled. Results by
    rank; raises the first error."""
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:

        def peer(number: int, shut: bool) -> None:
            place = {"advertise": f"127.0.0.1:{closed_port()}", "listen": "127.0.0.1:0"} if shut else {}
            settings: dict[str, Any] = {"min_size": len(closed), "timeout": JOIN_SECONDS, "op_timeout": 30.0}
            try:
                settings |= {"transports": ["tcp"], "name": f"peer-{number}", **place, **options}
                with collcomm.join(coordinator.address, **settings) as comm:
                    assert comm.rank == number
                    results[number] = body(comm), coordinator.snapshot()["default"]
                    comm.barrier()
            except BaseException as error:
                errors.append(error)

        threads = []
        for number, shut in enumerate(closed):
            threads.append(threading.Thread(target=peer, args=(number, shut), daemon=True))
            threads[-1].start()
            await_joined(coordinator, number + 1)
        for thread in threads:
            thread.join(RUN_SECONDS)
        if errors:
            raise errors[0]
        assert not any(thread.is_alive() for thread in threads), "a peer hangs"
    for _, group in results.values():
        assert group["epoch"] == 1, f"no view change was needed: {group['history']}"
    return [results[rank][0] for rank in range(len(closed))]


def await_joined(coordinator: collcomm.Coordinator, count: int) -> None:
    for _ in range(1000):
        group = coordinator.snapshot().get("default", {"members": [], "waiting": []})
        if len(group["members"]) + len(group["waiting"]) >= count:
            return
        threading.Event().wait(0.01)
    raise AssertionError("a peer does not join")


def routes(comm: Comm) -> list[Any]:
    transport = comm._session.transport
    return [transport.route_of(m.id) for m in comm.view.members if m.id != comm.view.members[comm.rank].id]


def reduce_and_exchange(comm: Comm) -> list[Any]:
    x = np.arange(300_000, dtype=np.float32) + comm.rank
    total = comm.all_reduce(x)
    assert np.array_equal(total, comm.size * np.arange(300_000, dtype=np.float32) + sum(range(comm.size)))
    following, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    sent = comm.send(np.full(70_000, comm.rank, np.int64), following, async_op=True)
    got = comm.recv(np.empty(70_000, np.int64), before)
    sent.wait()
    assert (np.asarray(got) == before).all()
    return routes(comm)


@pytest.mark.parametrize("streams", [1, 2])
def test_an_earlier_member_that_cannot_be_dialled_dials(streams: int) -> None:
    found = run([True, False, False], reduce_and_exchange, streams=streams)
    assert found == [["reversed", "reversed"], ["reversed", "direct"], ["reversed", "direct"]]


def test_two_that_cannot_be_dialled_meet_at_a_third() -> None:
    found = run([False, True, True], reduce_and_exchange)
    assert found == [["direct", "direct"], ["direct", ("relay", 1)], ["direct", ("relay", 1)]]


def test_relayed_links_have_several_streams_too() -> None:
    assert run([False, True, True], reduce_and_exchange, streams=3)[2] == ["direct", ("relay", 1)]
