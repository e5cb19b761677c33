"""Two transports over real sockets: who comes in at a peer's door, and who does not."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from collcomm.transports import SocketTransport, TcpRoute, connector, door
from collcomm.transports.base import LinkBroken
from collcomm.transports.frames import Greeting
from collcomm.transports.link import SocketLink

from collcomm.membership.pairkeys import pair_keys, view_secret
from collcomm.types import Member, Way, WayKind

WAIT_SECONDS = 10.0
MEMBERS = (1, 2, 3)


def keys_of(member: int, epoch: int) -> dict[int, bytes]:
    return dict(zip(MEMBERS, pair_keys(view_secret(b"s" * 32, epoch), member, MEMBERS), strict=True))


def peer(member: int, epoch: int, streams: int = 1) -> SocketTransport:
    transport = SocketTransport([TcpRoute("127.0.0.1", 0, streams)])
    transport.introduce(member)
    if epoch:
        transport.admit(epoch, keys_of(member, epoch))
    return transport


def port(transport: SocketTransport) -> int:
    number: int = transport.routes[0].listener.getsockname()[1]
    return number


def row(transport: SocketTransport, member: int) -> Member:
    return Member(member, f"peer-{member}", "127.0.0.1", port(transport))


def in_time() -> Callable[[], None]:
    deadline = time.monotonic() + WAIT_SECONDS

    def check() -> None:
        assert time.monotonic() < deadline, "no link in time"

    return check


def talk(near: SocketLink, far: SocketLink) -> None:
    for here, there in zip(near.streams, far.streams, strict=True):
        here.send(b"hello", b"")
        data, got = bytearray(5), 0
        while got < 5:
            got += there.receive(memoryview(data)[got:])
        assert data == b"hello"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the door logs, each text once it is complete."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    collector = Collector(logging.WARNING)
    door.log.addHandler(collector)
    yield found
    door.log.removeHandler(collector)


@pytest.mark.parametrize("streams", [1, 3])
def test_members_of_a_view_are_linked(streams: int) -> None:
    with closing(peer(1, 1, streams)) as first, closing(peer(2, 1, streams)) as second:
        near = second.link(0, 0, row(first, 1), in_time())
        far = first.link(0, 0, row(second, 2), in_time())
        assert len(near.streams) == len(far.streams) == streams
        talk(near, far)
        talk(far, near)
        first.admit(2, keys_of(1, 2))
        second.admit(2, keys_of(2, 2))
        assert second.link(0, 0, row(first, 1), in_time()) is near  # links outlive views


def test_who_is_early_waits_for_the_view_of_the_other() -> None:
    with closing(peer(1, 0)) as first, closing(peer(2, 5)) as second:
        later = threading.Timer(0.2, lambda: first.admit(5, keys_of(1, 5)))
        later.start()
        talk(second.link(0, 0, row(first, 1), in_time()), first.link(0, 0, row(second, 2), in_time()))
        later.join()


def test_who_is_late_dials_again_in_the_next_view() -> None:
    with closing(peer(1, 5)) as first, closing(peer(2, 4)) as second:
        later = threading.Timer(0.2, lambda: second.admit(5, keys_of(2, 5)))
        later.start()
        talk(second.link(0, 0, row(first, 1), in_time()), first.link(0, 0, row(second, 2), in_time()))
        later.join()


def test_who_was_put_out_of_the_group_stays_out(warnings: list[str]) -> None:
    """It has the keys of its last view, and learns of no later one."""
    with closing(peer(1, 4)) as first, closing(peer(3, 4)) as evicted:
        remaining = keys_of(1, 5)
        del remaining[3]
        first.admit(5, remaining)
        began = time.monotonic()

        def give_up() -> None:
            if time.monotonic() - began > 0.3:
                raise TimeoutError

        with pytest.raises(TimeoutError):
            evicted.link(0, 0, row(first, 1), give_up)
        evicted.admit(5, keys_of(3, 4))  # it lies about its view
        for _ in range(5):
            with pytest.raises(LinkBroken, match="hung up"):
                evicted.link(0, 0, row(first, 1), in_time())
        assert len(warnings) == 1 and "member 3, who is not in view 5" in warnings[0]


def test_nobody_passes_for_somebody_else(warnings: list[str]) -> None:
    with closing(peer(1, 4)) as first, closing(peer(2, 4)) as second:
        second.introduce(3)
        with pytest.raises(LinkBroken, match="hung up"):
            second.link(0, 0, row(first, 1), in_time())
        assert len(warnings) == 1 and "could not prove that it is member 3" in warnings[0]


def test_a_listener_that_knows_no_key_is_found_out() -> None:
    with closing(peer(1, 4)) as imposter, closing(peer(2, 4)) as second:
        wrong = keys_of(1, 4)
        wrong[2] = bytes(32)
        imposter.admit(4, wrong)
        with pytest.raises(LinkBroken):
            second.link(0, 0, row(imposter, 1), in_time())


def test_a_crowd_that_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> None:
    monkeypatch.setattr(door, "MOST_STRANGERS", 20)
    with closing(peer(1, 4)) as first, closing(peer(2, 4)) as second:
        crowd = [socket.create_connection(("127.0.0.1", port(first)), WAIT_SECONDS) for _ in range(100)]
        talk(second.link(0, 0, row(first, 1), in_time()), first.link(0, 0, row(second, 2), in_time()))
        for sock in crowd:
            sock.close()
        assert len(warnings) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: somewhere\r\nUser-Agent: something\r\n\r\n",
        Greeting(4, 0, 9, 1, 0, 1, 0, bytes(16)).pack(),
        Greeting(4, 0, 2, 7, 0, 1, 0, bytes(16)).pack(),
        Greeting(4, 0, 2, 1, 0, 1, 0, bytes(16)).pack() + bytes(32),
        Greeting(4, 0, 2, 1, 0, 1, 0, bytes(16)).pack() + b"\xff" * 5000,
    ],
    ids=["http", "no member", "for another", "no proof", "a long one"],
)
def test_rubbish_at_the_door(data: bytes, warnings: list[str]) -> None:
    with closing(peer(1, 4)) as first, closing(peer(2, 4)) as second:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port(first)), WAIT_SECONDS) as sock:
                sock.settimeout(WAIT_SECONDS)
                sock.sendall(data)
                try:
                    while sock.recv(1000):
                        pass
                except ConnectionResetError:
                    pass
        assert len(warnings) == 1 and "127.0.0.1" in warnings[0]
        talk(second.link(0, 0, row(first, 1), in_time()), first.link(0, 0, row(second, 2), in_time()))


def test_who_never_speaks_is_dropped_in_time(monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> None:
    monkeypatch.setattr(door, "GREETING_SECONDS", 0.2)
    with closing(peer(1, 4)) as first, socket.create_connection(("127.0.0.1", port(first)), WAIT_SECONDS) as sock:
        sock.settimeout(WAIT_SECONDS)
        assert sock.recv(1) == b""
        assert len(warnings) == 1 and "within 0.2 s" in warnings[0]


# ---- ways -------------------------------------------------------------------------------------------------------


def introduced(transports: list[SocketTransport], *ways: Way) -> list[Member]:
    """All in view 4 with members 1, 2, ...; returns their rows."""
    rows = [row(transport, number) for number, transport in enumerate(transports, 1)]
    for number, transport in enumerate(transports, 1):
        transport.admit(4, keys_of(number, 4), rows, [way for way in ways if number in way.pair])
    return rows


def test_the_way_says_who_dials_and_both_ends_hold_one_link() -> None:
    with closing(peer(1, 0)) as first, closing(peer(2, 0)) as second:
        rows = introduced([first, second], Way((1, 2), 1, WayKind.REVERSED))
        assert first.makes_link(2) and not second.makes_link(1) and first.route_of(2) == "reversed"
        near = first.link(0, 0, rows[1], in_time())
        far = second.link(0, 0, rows[0], in_time())
        talk(near, far)
        for transport in (first, second):
            transport.reroute(Way((1, 2), 2, WayKind.DIRECT))
        assert second.link(0, 0, rows[0], in_time()) is far, "what works stays"
        talk(second.link(1, 0, rows[0], in_time()), first.link(1, 0, rows[1], in_time()))


def test_who_has_not_heard_of_a_later_way_dials_when_it_has() -> None:
    with closing(peer(1, 0)) as first, closing(peer(2, 0)) as second:
        rows = introduced([first, second])
        first.reroute(Way((1, 2), 1, WayKind.REVERSED))
        heard = threading.Timer(0.2, lambda: second.reroute(Way((1, 2), 1, WayKind.REVERSED)))
        heard.start()
        linked: list[SocketLink] = []
        waiting = threading.Thread(target=lambda: linked.append(second.link(0, 0, rows[0], in_time())))
        waiting.start()
        near = first.link(0, 0, rows[1], in_time())
        waiting.join(WAIT_SECONDS)
        talk(near, linked[0])
        heard.join()


class Told:
    """An asker that takes down what it is told: the member that was looked for, and whom it dialled."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int]] = []

    def unreachable(self, member: int, epoch: int, number: int, dialled: int, text: str) -> None:
        self.said.append((member, dialled))

    def call(self, member: int, epoch: int, gid: int, purpose: int, stream: int, streams: int) -> None: ...


def test_when_no_other_way_is_named_the_link_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "SETTLE_SECONDS", 0.3)
    with closing(peer(1, 0)) as first, closing(peer(2, 0)) as second:
        rows = introduced([first, second])
        asker = Told()
        second.ask(asker)
        first.close()
        with pytest.raises(LinkBroken, match="refused"):
            second.link(0, 0, rows[0], in_time())
        assert set(asker.said) == {(1, 1)}
