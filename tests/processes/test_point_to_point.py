"""Messages between two peers that are interrupted, or not asked for: what comes after them is whole, or an error says why not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from collcomm.transports import connector
from collcomm.transports.base import MESSAGES, LinkBroken

import collcomm
from collcomm import pointtopoint
from collcomm.datatypes.model import Method
from tests.support.contract import equal, raises
from tests.support.peers import run_peers

pytestmark = pytest.mark.usefixtures("each_transport")
BIG = 5 << 19  # bytes: two frames and a half
SOON = 0.3


def in_turn(comm: collcomm.Communicator) -> None:
    comm.all_reduce(np.ones(1))


def test_a_misfit_that_does_not_come_is_not_waited_for_beyond_the_deadline() -> None:
    """Its rest is thrown away later, as it comes."""

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            wire = wire_of(np.arange(BIG // 8), tag=0)
            in_turn(comm)
            link = comm._session.transport.link(0, MESSAGES, comm.view[1], lambda: None)
            push(link.streams[0], wire[: BIG // 2])
            in_turn(comm)
            push(link.streams[0], wire[BIG // 2 :])
            comm.send(np.arange(10), 1)
        else:
            in_turn(comm)
            raises(collcomm.CollectiveMismatch, lambda: comm.recv(np.zeros(3), 0, timeout=SOON), f"sent {BIG} bytes")
            in_turn(comm)
            equal(comm.recv(np.zeros(10, int), 0), np.arange(10))
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


@pytest.mark.parametrize("cut", [0, 31, 33, (1 << 20) + 40, BIG - 1])
@pytest.mark.parametrize("asked", [0, 5], ids=["asked for", "of another tag"])
def test_a_receive_that_timed_out_leaves_the_next_message_whole(cut: int, asked: int) -> None:
    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            wire = wire_of(np.arange(BIG // 8), tag=0)
            in_turn(comm)
            link = comm._session.transport.link(0, MESSAGES, comm.view[1], lambda: None)
            push(link.streams[0], wire[:cut])
            in_turn(comm)
            push(link.streams[0], wire[cut:])
            comm.send(np.arange(10), 1, tag=5)
        else:
            big = np.zeros(BIG // 8, int)
            in_turn(comm)
            raises(collcomm.CollectiveTimeout, lambda: comm.recv(big, 0, tag=asked, timeout=SOON), "in time")
            in_turn(comm)
            equal(comm.recv(np.zeros(10, int), 0, tag=5), np.arange(10))
            if asked or cut < 32:  # nobody had begun to take it
                equal(comm.recv(big, 0), np.arange(BIG // 8))
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


def test_a_send_that_timed_out_in_the_middle_is_told_to_the_receiver() -> None:
    def body(comm: collcomm.Communicator) -> None:
        huge = np.ones(BIG)
        if comm.rank == 0:
            comm.send(huge[:1], 1)
            raises(collcomm.CollectiveTimeout, lambda: comm.send(huge, 1, timeout=SOON), "in time")
            in_turn(comm)
            in_turn(comm)
            comm.send(np.arange(10), 1)
        else:
            comm.recv(huge[:1], 0)
            in_turn(comm)
            raises(collcomm.PeerLost, lambda: comm.recv(huge, 0), "was lost")
            in_turn(comm)
            equal(comm.recv(np.zeros(10, int), 0), np.arange(10))
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


def test_too_much_that_nobody_asks_for_stays_with_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointtopoint, "MAX_STASHED", 1 << 20)

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            for tag, size in ((1, 100_000), (2, 100_000), (3, 10)):
                comm.send(np.full(size, tag), 1, tag=tag)
        else:
            for _ in range(2):
                wrong = collcomm.CollectiveMismatch
                raises(wrong, lambda: comm.recv(np.zeros(10, int), 0, tag=3), "nobody here asks for (tag 2)")
            for tag, size in ((2, 100_000), (3, 10), (1, 100_000)):
                assert (comm.recv(np.zeros(size, int), 0, tag=tag) == tag).all()
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


WAYS = {"gathered": lambda *_: Method.GATHER, "packed": lambda *_: Method.PACK}


def columns_of(nbytes: int) -> Any:
    """Nothing yet, in runs of 4000 bytes."""
    return np.zeros((nbytes // 4000, 512), np.int64)[:, 5:505]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", [33, 5000, (1 << 20) + 40, -1])
def test_a_strided_receive_that_timed_out_leaves_the_next_message_whole(cut: int, way: str) -> None:
    """The same as above: what had come may lie in the array, between whose runs nothing changes."""

    def body(comm: collcomm.Communicator) -> None:
        comm._point.choose = WAYS[way]
        expected = np.arange(columns_of(BIG).size).reshape(-1, 500)
        if comm.rank == 0:
            wire = wire_of(expected.reshape(-1), tag=0)
            in_turn(comm)
            link = comm._session.transport.link(0, MESSAGES, comm.view[1], lambda: None)
            push(link.streams[0], wire[:cut])
            in_turn(comm)
            push(link.streams[0], wire[cut:])
            comm.send(expected, 1, tag=5)
        else:
            columns = columns_of(BIG)
            in_turn(comm)
            raises(collcomm.CollectiveTimeout, lambda: comm.recv(columns, 0, timeout=SOON), "in time")
            assert ((columns == expected) | (columns == 0) | (cut % 8 > 0)).all()
            in_turn(comm)
            assert comm.recv(columns, 0, tag=5) is columns
            equal(columns, expected)
            assert not columns.base[:, :5].any() and not columns.base[:, 505:].any()
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


@pytest.mark.parametrize("way", WAYS)
def test_a_strided_send_that_timed_out_in_the_middle_is_told_to_the_receiver(way: str) -> None:
    def body(comm: collcomm.Communicator) -> None:
        comm._point.choose = WAYS[way]
        huge = columns_of(8 * BIG)
        if comm.rank == 0:
            comm.send(huge[:1], 1)
            raises(collcomm.CollectiveTimeout, lambda: comm.send(huge, 1, timeout=SOON), "in time")
            in_turn(comm)
            in_turn(comm)
            huge[:] = 7
            comm.send(huge, 1)
        else:
            comm.recv(huge[:1], 0)
            in_turn(comm)
            raises(collcomm.PeerLost, lambda: comm.recv(huge, 0), "was lost")
            in_turn(comm)
            assert (comm.recv(huge, 0) == 7).all()
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


@pytest.mark.parametrize("way", WAYS)
def test_a_strided_misfit_is_thrown_away_whole_and_other_tags_wait(way: str) -> None:
    def body(comm: collcomm.Communicator) -> None:
        comm._point.choose = WAYS[way]
        columns, wrong = columns_of(BIG), collcomm.CollectiveMismatch
        if comm.rank == 0:
            columns[:] = 3
            comm.send(columns, 1, tag=1)
            comm.send(columns[1:], 1, tag=2)
            comm.send(columns.astype(np.int32), 1, tag=2)
            comm.send(columns, 1, tag=2)
        else:
            size = f"sent {columns.nbytes - 4000} bytes"
            raises(wrong, lambda: comm.recv(columns, 0, tag=2), size, f"expects {columns.nbytes}")
            raises(wrong, lambda: comm.recv(columns, 0, tag=2), "of another dtype")
            assert not columns.any()
            assert (comm.recv(columns, 0, tag=2) == 3).all()
            other = columns_of(BIG)[::-1]
            assert (comm.recv(other, 0, tag=1) == 3).all()
            assert not columns.base[:, :5].any() and not columns.base[:, 505:].any()
        comm.barrier()

    run_peers(2, body, op_timeout=10.0)


def wire_of(x: np.ndarray, tag: int) -> bytes:
    """The bytes of a message as `send` puts them on a connection."""
    frame, data, parts = pointtopoint.FRAME_BYTES, x.tobytes(), []
    for number in range(0, -(-len(data) // frame)):
        part = data[number * frame : (number + 1) * frame]
        code = pointtopoint._dtype_code(x.dtype)
        parts += [pointtopoint.pack(pointtopoint.Kind.DATA, 0, tag, code, len(data), len(part), number), part]
    return b"".join(parts)


def push(stream: pointtopoint.Stream, data: bytes) -> None:
    while data:
        data = data[stream.send(data) :]


def test_two_that_send_to_each_other_at_once_make_one_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions need the same link, each in a thread of its own, and none is there yet."""
    greet = connector.greet

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return greet(*arguments)

    monkeypatch.setattr(connector, "greet", slowly)

    def body(comm: collcomm.Communicator) -> None:
        other = 1 - comm.rank
        big = np.full(300_000, comm.rank)
        handle = comm.send(big, other, async_op=True)
        assert (comm.recv(np.empty_like(big), other) == other).all()
        handle.result(30)
        comm.barrier()

    run_peers(2, body)


def test_what_was_sent_before_its_sender_left_is_still_received() -> None:
    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 1:
            comm.send(np.arange(1000), 0)
            comm.leave()
            return
        until = time.monotonic() + 10.0
        while comm.latest.size > 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert comm.latest.size == 1
        equal(comm.recv(np.zeros(1000, int), 1), np.arange(1000))
        raises(collcomm.PeerLost, lambda: comm.recv(np.zeros(1), 1), "peer-")
        raises(collcomm.PeerLost, lambda: comm.send(np.zeros(1), 1), "peer-")

    run_peers(2, body)


def test_a_message_from_anybody() -> None:
    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            box = np.zeros(3)
            senders = []
            for _ in range(comm.size - 1):
                senders.append(comm.recv_any(box, tag=4))
                equal(box, np.full(3, float(senders[-1])))
            assert sorted(senders) == [1, 2]
            late = comm.recv_any(box, async_op=True)
            equal(comm.recv(np.zeros(1), 2, tag=9), np.ones(1))  # beside it, and of one of those it listens to
            comm.send(np.ones(1), 1)
            assert late.result() == 1
            raises(collcomm.CollectiveTimeout, lambda: comm.recv_any(box, timeout=SOON), "nothing came in time")
            comm.send(np.ones(1), 1)
            comm.send(np.ones(1), 2)
            raises(collcomm.PeerLost, lambda: comm.recv_any(box), "nobody is left")
        else:
            comm.send(np.full(3, float(comm.rank)), 0, tag=4)
            if comm.rank == 2:
                comm.send(np.ones(1), 0, tag=9)
            else:
                comm.recv(np.zeros(1), 0)
                comm.send(np.zeros(3), 0)
            comm.recv(np.zeros(1), 0)

    run_peers(3, body)


def test_a_group_that_its_members_make_without_the_others() -> None:
    def body(comm: collcomm.Communicator) -> None:
        if comm.rank != 1:
            part = comm.create_group([2, 0], "turned")
            assert part.rank == {2: 0, 0: 1}[comm.rank]
            equal(part.all_gather(np.array([comm.rank])), np.array([2, 0]))
            raises(ValueError, lambda: comm.create_group([1], "not mine"), "is not among the ranks")
        comm.barrier()

    run_peers(3, body)


def test_a_message_from_anybody_over_a_new_connection() -> None:
    """The old one was given up by its sender, in the middle of a message."""

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            box = np.zeros(1)
            assert comm.recv_any(box) == 1
            comm.barrier()
            comm.barrier()
            assert comm.recv_any(box) == 1 and box[0] == 2.0
        else:
            comm.send(np.ones(1), 0)
            comm.barrier()
            raises(collcomm.CollectiveTimeout, lambda: comm.send(np.zeros(8 << 20), 0, tag=3, timeout=SOON), "in time")
            comm.barrier()
            comm.send(np.full(1, 2.0), 0)
        comm.barrier()

    run_peers(2, body)


def test_what_waits_for_a_message_ends_with_its_communicator() -> None:
    def body(comm: collcomm.Communicator) -> None:
        part = comm.create_group([0, 1], "part")
        handles = []
        if comm.rank == 0:
            handles = [part.recv(np.zeros(1), 1, async_op=True), part.recv_any(np.zeros(1), async_op=True)]
        comm.barrier()
        began = time.monotonic()
        part.close()
        assert time.monotonic() - began < 5
        for handle in handles:
            raises(collcomm.CommunicatorClosed, handle.result, "was closed")
        raises(collcomm.CommunicatorClosed, lambda: part.send(np.zeros(1), 1 - comm.rank), "was closed")
        comm.barrier()

    run_peers(2, body)


def test_a_wait_that_ends_because_this_end_was_closed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread closes the communicator: the wait may find its connection gone before it finds the word for it."""

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            point = comm._point

            def close_first(*_: Any) -> bool:
                point.close()
                raise LinkBroken(comm.view.ids[1], "closed", "Bad file descriptor")

            monkeypatch.setattr(point, "_receive_next", close_first)
            with pytest.raises(collcomm.CommunicatorClosed, match="was closed"):
                comm.recv(np.zeros(4), 1, timeout=10)
        comm.barrier()

    run_peers(2, body)
