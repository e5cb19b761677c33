"""Connections that are added to a living link, in place of dead ones first, from where they are to come."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from collcomm.transports import SocketTransport, TcpRoute
from collcomm.transports.base import LinkBroken
from collcomm.transports.frames import MAX_STREAMS
from collcomm.transports.link import SocketLink

from collcomm.bench.launch import free_port
from tests.support.striped import Rank, one_way, together
from tests.unit.test_door import in_time, keys_of, row
from tests.unit.test_striping import data, empty


def made(streams: int, sources: Any = ()) -> Iterator[tuple[SocketTransport, SocketTransport, SocketLink, SocketLink]]:
    """Two transports, of which the second has dialled the first, and both ends of their link."""
    transports = []
    for member in (1, 2):
        transport = SocketTransport([TcpRoute("127.0.0.1", 0, streams, sources=sources)])
        transport.introduce(member)
        transport.admit(1, keys_of(member, 1))
        transports.append(transport)
    first, second = transports
    near = second.link(0, 0, row(first, 1), in_time())
    yield first, second, near, first.link(0, 0, row(second, 2), in_time())
    for transport in transports:
        transport.close()


@pytest.fixture
def pair() -> Iterator[tuple[SocketTransport, SocketTransport, SocketLink, SocketLink]]:
    yield from made(1)


def settled(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def serials(link: SocketLink) -> list[int]:
    return [stream.serial for stream in link.streams]


def test_streams_are_added_and_dead_ones_replaced(pair: Any) -> None:
    first, second, near, far = pair
    seen = near.streams
    assert second.widen(0, 0, row(first, 1), 3) == 2
    assert near.streams is not seen and len(seen) == 1 and second.striped
    settled(lambda: len(far.streams) == 3)
    assert serials(near) == serials(far) and first.striped
    moved = first.traffic()
    near.streams[1].retire()
    assert second.widen(0, 0, row(first, 1), 3) == 1
    settled(lambda: serials(near) == serials(far))
    assert len(near.streams) == 3 and not any(stream.retired for stream in (*near.streams, *far.streams))
    assert first.traffic() == moved
    assert second.widen(0, 0, row(first, 1), 2) == 0
    given, got, plans = data(12), empty(12), one_way(12)
    together(
        lambda: Rank(1, near).run(plans[1], {"out": got}),
        lambda: Rank(0, far).run(plans[0], {"in": given}),
    )
    assert (got == given).all()


def test_a_link_is_widened_by_who_made_it_and_within_bounds(pair: Any) -> None:
    first, second, near, _ = pair
    with pytest.raises(ValueError, match="widen"):
        first.widen(0, 0, row(second, 2), 2)
    for streams in (0, MAX_STREAMS + 1):
        with pytest.raises(ValueError, match="streams"):
            second.widen(0, 0, row(first, 1), streams)
    with pytest.raises(LinkBroken, match="no link"):
        second.widen(5, 0, row(first, 1), 2)
    second.drop_member(1)
    with pytest.raises(LinkBroken):
        second.widen(0, 0, row(first, 1), 2)
    assert len(near.streams) == 1


def test_connections_come_from_where_they_are_to(pair: Any) -> None:
    first, second, near, _ = pair
    port = free_port("127.0.0.3")
    second.widen(0, 0, row(first, 1), 4, [("127.0.0.2", 0), ("127.0.0.3", port)])
    names = [stream.socket.getsockname() for stream in near.streams]
    assert [name[0] for name in names[1:]] == ["127.0.0.2", "127.0.0.3", "127.0.0.2"]
    assert names[2] == ("127.0.0.3", port)


def test_a_route_has_sources_of_its_own() -> None:
    for _, _, near, _ in made(3, ["127.0.0.2", ("127.0.0.4", 0)]):
        hosts = [stream.socket.getsockname()[0] for stream in near.streams]
        assert hosts == ["127.0.0.2", "127.0.0.4", "127.0.0.2"]


def test_an_addition_to_a_link_that_is_gone_is_closed(pair: Any) -> None:
    first, second, near, far = pair
    first.drop_member(2)
    second.widen(0, 0, row(first, 1), 2)
    room = memoryview(bytearray(1))
    settled(lambda: bool(select.select([near.streams[1].socket], [], [], 0)[0]))
    with pytest.raises(LinkBroken):
        near.streams[1].try_receive(room)
    assert len(far.streams) == 1
