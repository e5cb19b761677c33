"""Peers that nobody can dial: they show a port on which nothing listens, and listen on another."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.keys import make_keys

from .test_failures import Processes

JOIN_SECONDS = 20.0
RUN_SECONDS = 40.0
Comm = collcomm.Communicator


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def run(
    closed: Sequence[bool],
    body: Callable[[Comm], Any],
    hints: Mapping[int, bool] = {},
    keys: Sequence[Path] = (),
    **options: Any,
) -> list[Any]:
    """Run ``body`` at a peer for each of ``closed``, ids and ranks in their order; a closed one cannot be dialled. Results by
    rank; raises the first error. ``hints``: what peers say of that; ``keys``: of the coordinator and the peers."""
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    with collcomm.Coordinator("127.0.0.1:0", keys=keys[0] if keys else None) as coordinator:

        def peer(number: int, shut: bool) -> None:
            place = {"advertise": f"127.0.0.1:{closed_port()}", "listen": "127.0.0.1:0"} if shut else {}
            settings: dict[str, Any] = {"min_size": len(closed), "timeout": JOIN_SECONDS, "op_timeout": 30.0}
            try:
                settings |= {"transports": ["tcp"], "name": f"peer-{number}", **place, **options}
                settings |= {"reachable": hints.get(number), "keys": keys[number + 1] if keys else None}
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


def test_several_streams_of_a_link_are_relayed() -> None:
    assert run([False, True, True], reduce_and_exchange, streams=3)[2] == ["direct", ("relay", 1)]


def test_who_says_so_is_not_dialled_in_vain() -> None:
    """All could be dialled here; nobody tries."""
    found = run([False, True, True], reduce_and_exchange, hints={1: False, 2: False})
    assert found[2] == ["direct", ("relay", 1)]
    found = run([True, False], reduce_and_exchange, hints={0: False})
    assert found == [["reversed"], ["reversed"]]


def test_relayed_links_are_encrypted_from_end_to_end(tmp_path: Path) -> None:
    peers = make_keys(tmp_path / "keys", ["ann", "bob", "cat"])
    found = run([False, True, True], reduce_and_exchange, keys=[tmp_path / "keys" / "coordinator", *peers])
    assert found[2] == ["direct", ("relay", 1)]


def receive_from_anybody(comm: Comm) -> list[Any]:
    """Nobody but the receiver knows of the links that have to be made."""
    if comm.rank == 2:
        for _ in range(2):
            out = np.empty(10, np.int64)
            source = comm.recv_any(out)
            assert (out == source).all()
    else:
        comm.send(np.full(10, comm.rank, np.int64), 2)
    return routes(comm)


def test_messages_from_anybody_come_through_relays() -> None:
    run([False, True, True], receive_from_anybody)


def reduce_on(comm: Comm, tell: Connection) -> None:
    """Until there are three; a result of four tells of the start."""
    first = True
    while True:
        out = comm.all_reduce(np.ones(100_000, np.float32))
        assert (out == comm.size).all()
        if comm.size == 3:
            tell.send(routes(comm))
            comm.barrier()
            return
        if first:
            tell.send(routes(comm))
            first = False


def test_the_others_go_on_when_a_relay_dies() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        for number in range(4):
            shut = {"advertise": f"127.0.0.1:{closed_port()}", "listen": "127.0.0.1:0"} if number > 1 else {}
            peers.start(reduce_on, 1, min_size=4, transports=["tcp"], **shut)
            await_joined(coordinator, number + 1)
        assert [peers.hear(number) for number in (1, 2, 3)][1:] == [["direct", "direct", ("relay", 1)]] * 2
        peers.kill(0, signal.SIGKILL)
        after = [peers.hear(number, 30.0) for number in (1, 2, 3)]
        assert after == [["direct", "direct"], ["direct", ("relay", 2)], ["direct", ("relay", 2)]]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_two_alone_meet_at_the_coordinator(tls: bool, tmp_path: Path) -> None:
    keys = [tmp_path / "keys" / "coordinator", *make_keys(tmp_path / "keys", ["ann", "bob"])] if tls else []
    assert run([True, True], reduce_and_exchange, keys=keys) == [[("relay", 0)]] * 2
