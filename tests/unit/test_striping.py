"""Flows over several streams: who carries how much, what becomes of streams that die, come, and say things twice."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from collcomm.transports.base import LinkBroken
from collcomm.transports.frames import Kind, pack
from collcomm.transports.stream import TcpStream

from collcomm.collectives import generate
from collcomm.engine.cutting import FRAME_BYTES
from collcomm.engine.plan import Plan, compile_plan
from tests.support.striped import CHUNK, Rank, linked, one_way, streams, there_and_back, through_slots, together

RNG = np.random.default_rng(7)


def data(chunks: int) -> Any:
    return RNG.integers(0, 256, chunks * CHUNK, np.uint8)


def empty(chunks: int) -> Any:
    return np.zeros(chunks * CHUNK, np.uint8)


def move(near: Rank, far: Rank, chunks: int, *disturbances: Any) -> None:
    """One transfer from near to far, checked."""
    plans, given, got = one_way(chunks), data(chunks), empty(chunks)
    together(lambda: near.run(plans[0], {"in": given}), lambda: far.run(plans[1], {"out": got}), *disturbances)
    assert (got == given).all()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_transfer_over_several_streams(number: int) -> None:
    with linked(*[None] * number) as (first, second, _):
        near, far = Rank(0, first), Rank(1, second)
        for chunks in (1, 7, 40):
            move(near, far, chunks)
        plans, given, got, room = there_and_back(20), data(20), empty(20), empty(2)
        together(lambda: near.run(plans[0], {"in": given, "out": got}), lambda: far.run(plans[1], {"tmp": room}))
        assert (got == given).all()
        if number > 1:
            assert sum(stream.bytes_received > 2 * FRAME_BYTES for stream in second.streams) > 1


def test_a_reduction_over_several_streams() -> None:
    size = 1_000_003
    plans = []
    for rank in range(2):
        schedule = generate("all_reduce", "ring", 2, rank)
        edges = {
            name: [size * index // number for index in range(number + 1)] for name, number in schedule.chunks.items()
        }
        plans.append(compile_plan(schedule, edges, 8))
    inputs = [RNG.integers(0, 1 << 40, size) for _ in range(2)]
    outputs = [np.zeros(size, np.int64) for _ in range(2)]

    def run(rank: Rank) -> None:
        plan: Plan = plans[rank.rank]
        memory = {"in": inputs[rank.rank], "out": outputs[rank.rank], "tmp": np.zeros(size, np.int64)}
        buffers = {name: memory[name].view(np.uint8) for name in plan.sizes}
        rank.run(plan, buffers, np.int64, np.add)

    with linked(None, None, None) as (first, second, _):
        together(lambda: run(Rank(0, first)), lambda: run(Rank(1, second)))
    for output in outputs:
        assert (output == inputs[0] + inputs[1]).all()


def test_a_slow_stream_carries_little_and_nobody_waits_for_it() -> None:
    """At rates of 20, 20 and 1: about 1/41 of all is its due; a busy machine's relays make the fast ones slow."""
    chunks = 64
    with linked(40e6, 40e6, 2e6) as (first, second, relays):
        near, far = Rank(0, first), Rank(1, second)
        move(near, far, chunks)
        move(near, far, chunks)
        passed = [relay.passed[0] for relay in relays if relay is not None]
        assert sum(passed) >= 2 * chunks * CHUNK
        assert passed[2] < min(passed[:2]) / 2


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("make", [one_way, there_and_back, through_slots])
def test_a_stream_that_is_reset_in_the_midst(make: Any, victim: int) -> None:
    """It goes again. ``there_and_back`` overwrites what it sent; in ``through_slots`` pieces wait for lost ones."""
    chunks = 40
    plans, given, got, room = make(chunks), data(chunks), empty(chunks), empty(2)
    with linked(40e6, 40e6, 40e6) as (first, second, relays):
        near, far = Rank(0, first), Rank(1, second)
        relay = relays[victim]
        assert relay is not None

        def cut() -> None:
            until(lambda: relay.passed[0] > 3 * CHUNK)
            relay.reset()

        memory = {"in": given, "out": got, "tmp": room}
        together(
            lambda: near.run(plans[0], {name: memory[name] for name in plans[0].sizes}),
            lambda: far.run(plans[1], {name: memory[name] for name in plans[1].sizes}),
            cut,
        )
        assert (got == given).all()
        assert [stream.retired for stream in first.streams] == [index == victim for index in range(3)]
        assert [stream.retired for stream in second.streams] == [index == victim for index in range(3)]
        move(near, far, 3)  # and the others go on


def test_streams_that_die_one_after_the_other_until_none_is_left() -> None:
    with linked(10e6, 10e6) as (first, second, relays):
        near, far = Rank(0, first), Rank(1, second)

        def cut() -> None:
            for relay in relays:
                assert relay is not None
                until(lambda relay=relay: relay.passed[0] > 2 * CHUNK)
                relay.reset()

        with pytest.raises(LinkBroken):
            move(near, far, 200, cut)


def test_the_only_stream_of_a_link_is_the_link() -> None:
    with linked(20e6) as (first, second, relays):
        relay = relays[0]
        assert relay is not None

        def cut() -> None:
            until(lambda: relay.passed[0] > CHUNK)
            relay.reset()

        with pytest.raises(LinkBroken):
            move(Rank(0, first), Rank(1, second), 60, cut)


def test_a_stream_is_added_in_the_midst() -> None:
    with linked(10e6, None) as (first, second, relays):
        relay = relays[0]
        assert relay is not None
        (slow_near, *_), (slow_far, *_) = first.streams, second.streams
        first.streams[1].close(), second.streams[1].close()
        first.streams, second.streams = (slow_near,), (slow_far,)
        near, far = Rank(0, first), Rank(1, second)
        (here, there), _ = streams()

        def widen() -> None:
            until(lambda: relay.passed[0] > 2 * CHUNK)
            first.add(here)  # at this end first: the other does not know of it yet
            time.sleep(0.02)
            second.add(there)

        move(near, far, 60, widen)
        assert there.bytes_received > 10 * CHUNK


def test_frames_that_come_twice_change_nothing() -> None:
    """Also in the next operation, and between its frames."""
    with linked(None, None) as (first, second, _):
        near, far = Rank(0, first), Rank(1, second)
        rubbish = bytes(FRAME_BYTES)
        move(near, far, 4)
        again = pack(Kind.DATA, 1, 1, 77, FRAME_BYTES, FRAME_BYTES, 0)
        plans, given, got = one_way(4), data(4), empty(4)

        def run() -> None:
            for stream in first.streams:
                push(stream, again + rubbish)
            near.run(plans[0], {"in": given})

        together(run, lambda: far.run(plans[1], {"out": got}))
        assert (got == given).all()


def push(stream: TcpStream, wire: bytes) -> None:
    while wire:
        wire = wire[stream.send(wire) :]


def test_the_late_rest_of_a_frame_that_came_whole_elsewhere_lands_nowhere() -> None:
    plans, given, got = one_way(2), data(2), empty(2)
    head = pack(Kind.DATA, 1, 1, 77, 0, FRAME_BYTES, 0)
    rest = pack(Kind.DATA, 1, 1, 77, FRAME_BYTES, FRAME_BYTES, 0)
    with linked(None, None) as (first, second, _):
        far = Rank(1, second)
        one, other = first.streams

        def send() -> None:
            push(one, head + given[:1000].tobytes())
            until(lambda: second.streams[0].bytes_received >= 1000)
            push(other, head + given[:FRAME_BYTES].tobytes())
            until(lambda: second.streams[1].bytes_received >= FRAME_BYTES)
            push(one, b"\xff" * (FRAME_BYTES - 1000))  # what a path that was given up may still bring
            push(one, rest + given[FRAME_BYTES:].tobytes())
            push(other, pack(Kind.DONE, 1, 1, 77, 0, 0, 0))

        together(send, lambda: far.run(plans[1], {"out": got}))
        assert (got == given).all()


def test_what_waits_for_a_lost_frame_is_taken_out_of_its_way() -> None:
    """The frame that all others wait for comes again behind them, on the only stream that is left."""
    chunks = 6
    plan, given, got = through_slots(chunks)[1], data(chunks), empty(chunks)
    with linked(None, None) as (first, second, _):
        far = Rank(1, second)

        def send() -> None:
            pieces = [
                pack(Kind.DATA, 1, 1, 77, 0, CHUNK, index) + given[index * CHUNK : (index + 1) * CHUNK].tobytes()
                for index in range(chunks)
            ]
            for piece in (*pieces[2:], pieces[1], pieces[0]):
                push(first.streams[1], piece)
            push(first.streams[1], pack(Kind.DONE, 1, 1, 77, 0, 0, 0))

        together(send, lambda: far.run(plan, {"out": got, "tmp": empty(2)}))
        assert (got == given).all()


def test_a_path_that_answers_no_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay holds what comes, as a path that drops all; its kernel's acknowledgements are hidden from the sender."""
    with linked(20e6, 20e6) as (first, second, relays):
        near, far = Rank(0, first), Rank(1, second)
        held = relays[0]
        assert held is not None
        since: list[float] = []

        def silent(stream: TcpStream) -> float:
            return time.monotonic() - since[0] if since and stream is first.streams[0] else 0.0

        monkeypatch.setattr(TcpStream, "unacknowledged_for", silent)

        def hold() -> None:
            until(lambda: held.passed[0] > 3 * CHUNK)
            held.rate = 1.0
            since.append(time.monotonic())

        move(near, far, 40, hold)
        assert first.streams[0].retired and second.streams[0].retired


def test_the_kernel_tells_of_paths() -> None:
    with linked(None) as (first, second, _):
        move(Rank(0, first), Rank(1, second), 8)
        report = first.streams[0].path_report()
        if report is None:
            pytest.skip("this system does not tell")
        assert 0 < report.rtt < 5 and report.rate > 0 and report.retransmits >= 0
        assert report.acknowledged >= 8 * CHUNK
        first.streams[0].close()
        assert first.streams[0].path_report() is None


def test_little_waits_in_the_socket_of_a_stream_among_several() -> None:
    (near, far), _ = streams()
    near.bound_queue()
    taken, payload = 0, bytes(1 << 20)
    while count := near.try_send(b"", payload):
        taken += count
    assert taken < 2 << 20
    near.close(), far.close()
