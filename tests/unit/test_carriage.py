"""The ways of a message's bytes: each shows the same ones, whatever is asked for, and puts what comes where it belongs."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from collcomm.transports.base import MAX_BUFFERS
from collcomm.transports.stream import SocketStream
from hypothesis import given
from hypothesis import strategies as st

from collcomm import carriage
from collcomm.carriage import Carriage, Packed, Row, Runs
from collcomm.datatypes import hindexed, hvector, resized, struct
from collcomm.datatypes.packing import HostPacking
from collcomm.datatypes.strides import packing_of

PATIENCE = 100_000  # turns of a loop that ought to end


def table(count: int, run: int, gap: int, step: int = 1) -> Any:
    """An array of ``count`` runs."""
    whole = np.arange(count * abs(step) * (run + gap), dtype=np.uint32).astype(np.uint8).reshape(-1, run + gap)
    return whole[::step, :run]


def blocks(*sizes: int) -> HostPacking:
    """Runs of these sizes, in an order that no stride gives."""
    places = list(range(len(sizes)))
    random.Random(1).shuffle(places)
    room = max(sizes) + 3
    layout = hindexed(list(sizes), [place * room for place in places], np.uint8).layout
    return HostPacking(layout, np.random.default_rng(2).integers(0, 256, room * len(sizes), np.uint8))


LAYOUTS: dict[str, Callable[[], HostPacking]] = {
    "rows": lambda: packing_of(table(50, 300, 17)),
    "rows backwards": lambda: packing_of(table(50, 300, 17, -2)),
    "one after the other in one place": lambda: packing_of(np.broadcast_to(np.arange(200, dtype=np.uint8), (9, 200))),
    "boxes": lambda: packing_of(np.arange(9 * 8 * 700, dtype=np.uint16).reshape(9, 8, 700)[1:8, 2::3, 5:600]),
    "more than go at once": lambda: packing_of(table(3 * MAX_BUFFERS + 5, 2, 1)),
    "longer than goes at once": lambda: packing_of(table(3, carriage.GATHERED_BYTES + 11, 5)),
    "in no order": lambda: blocks(1, 900, 3, 70_000, 12, 12, 5, 400_000, 2),
    "two vectors": lambda: HostPacking(
        struct(
            [1, 1], [5000, 8], [hvector(30, 40, 100, np.uint8), resized(hvector(7, 11, 20, np.uint8), 0, 200)]
        ).layout,
        np.random.default_rng(3).integers(0, 256, 9000, np.uint8),
    ),
}
WAYS: tuple[type[Runs] | type[Packed], ...] = (Runs, Packed)


def packed(packing: HostPacking) -> bytes:
    room = np.empty(packing.nbytes, np.uint8)
    packing.pack(room)
    return room.tobytes()


def empty_copy(packing: HostPacking) -> HostPacking:
    return HostPacking(packing.layout, np.zeros_like(packing.memory), packing.origin)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYOUTS)
@given(seed=st.integers(0, 2**32))
def test_any_part_is_shown_as_it_is(way: type[Runs] | type[Packed], name: str, seed: int) -> None:
    packing, rng = LAYOUTS[name](), random.Random(seed)
    expected, shown = packed(packing), way(packing)
    for _ in range(10):
        start = rng.randrange(len(expected))
        limit = rng.randint(1, rng.choice((3, 2000, len(expected))))
        views = shown.outgoing(start, limit)
        assert 0 < len(views) < MAX_BUFFERS
        found = b"".join(views)
        assert found and found == expected[start : start + limit][: len(found)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "one after the other in one place"])
def test_what_comes_in_pieces_lies_where_it_belongs(way: type[Runs] | type[Packed], name: str) -> None:
    packing, rng = LAYOUTS[name](), random.Random(5)
    expected, target = packed(packing), empty_copy(packing)
    taken, got = way(target), 0
    for _ in range(PATIENCE):
        room = taken.incoming(got, len(expected) - got)
        come = rng.randint(0, min(rng.choice((1, 700, 1 << 20)), sum(map(len, room))))
        data = expected[got : got + come]
        for view in room:
            view[: len(data)] = data[: len(view)]
            data = data[len(view) :]
        if come:
            taken.arrived(got, come)
        got += come
        if got == len(expected):
            break
    assert packed(target) == expected
    touched = np.zeros_like(packing.memory)
    HostPacking(packing.layout, touched, packing.origin).unpack(np.full(packing.nbytes, 1, np.uint8))
    assert not target.memory[touched == 0].any()


@pytest.mark.parametrize("way", [Row, *WAYS])
def test_a_whole_message_can_be_put_there(way: type[Row] | type[Runs] | type[Packed]) -> None:
    whole = np.zeros((30, 900), np.uint8)
    columns = whole.reshape(-1) if way is Row else whole[:, :800]
    data = np.random.default_rng(4).integers(0, 256, columns.size, np.uint8)
    target: Any = columns if way is Row else packing_of(columns)
    way(target).put(data)
    np.testing.assert_array_equal(columns.reshape(-1), data)


def test_few_runs_are_shown_where_they_lie() -> None:
    columns = table(40, 3000, 9)
    for view in Runs(packing_of(columns)).outgoing(0, 1 << 30):
        assert np.may_share_memory(np.frombuffer(view, np.uint8), columns)


# -- over a connection -------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow() -> Iterator[tuple[SocketStream, SocketStream]]:
    """Ends that never take much at once."""
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with closing(SocketStream(near, 2)) as first, closing(SocketStream(far, 1)) as second:
        yield first, second


def carry(near: SocketStream, far: SocketStream, source: Carriage, target: Carriage, size: int) -> int:
    """All of ``source``, in turns; returns how often something was taken in part."""
    sent = got = cut = 0
    for _ in range(PATIENCE):
        views = source.outgoing(sent, size - sent) if sent < size else ()
        if views:
            taken = near.send_several(views)
            cut += taken < sum(map(len, views))
            sent += taken
        room = target.incoming(got, size - got)
        count = far.receive_several(room)
        if count:
            target.arrived(got, count)
            got += count
        if got == size:
            return cut
    raise AssertionError("it does not end")


@pytest.mark.parametrize("name", ["rows", "boxes", "in no order", "more than go at once"])
@pytest.mark.parametrize(
    "ways", [(Runs, Runs), (Runs, Packed), (Packed, Runs)], ids=["runs", "runs, packed", "packed, runs"]
)
def test_what_is_taken_in_part_goes_on_where_it_was(
    narrow: tuple[SocketStream, SocketStream], name: str, ways: tuple[Any, Any]
) -> None:
    packing = LAYOUTS[name]()
    target = empty_copy(packing)
    cut = carry(*narrow, ways[0](packing), ways[1](target), packing.nbytes)
    assert packed(target) == packed(packing)
    assert cut or packing.nbytes < 20_000
