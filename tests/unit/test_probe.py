"""The protocol of probes over real sockets: what both ends learn, and who does not speak it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from collcomm.planner.estimate import RateEstimate, believed
from collcomm.transports.base import LinkBroken
from collcomm.transports.probe import (
    MAGIC,
    RECORD,
    Asker,
    Estimates,
    Kind,
    Measurement,
    Record,
    Surroundings,
    Train,
    answer,
)
from collcomm.transports.sockets import SocketLink
from collcomm.transports.stream import SocketStream, TcpStream
from collcomm.transports.trains import CHUNK_BYTES, Trains

ESTIMATES = Estimates(RateEstimate, believed)
SHORT = Train(0.005, 0.02, 0.05, 4 << 20, 1 << 20)
WAIT_SECONDS = 10.0


def tcp_pair() -> tuple[TcpStream, TcpStream]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return TcpStream(near, 2), TcpStream(far, 1)


@pytest.fixture(params=["tcp", "unix"])
def links(request: pytest.FixtureRequest) -> Iterator[tuple[SocketLink, SocketLink]]:
    """A link of four streams, both ends."""
    pairs: list[tuple[SocketStream, SocketStream]] = []
    for _ in range(4):
        if request.param == "tcp":
            pairs.append(tcp_pair())
        else:
            one, other = socket.socketpair()
            pairs.append((SocketStream(one, 2), SocketStream(other, 1)))
    ends = SocketLink((0, 4, 2), [near for near, _ in pairs]), SocketLink((0, 4, 1), [far for _, far in pairs])
    yield ends
    for end in ends:
        end.close()


def in_time() -> Callable[[], None]:
    deadline = time.monotonic() + WAIT_SECONDS

    def check() -> None:
        assert time.monotonic() < deadline, "it hangs"

    return check


def around(busy: bool = False, moved: Callable[[], int] = lambda: 0) -> Surroundings:
    return Surroundings(in_time(), lambda: busy, moved)


class Answering:
    """`answer` on a thread of its own; ``outcome``: what it returned or raised."""

    def __init__(self, link: SocketLink, busy: bool = False):
        self._thread = threading.Thread(target=self._run, args=(link, busy), daemon=True)
        self.outcome: Any = None
        self._thread.start()

    def _run(self, link: SocketLink, busy: bool) -> None:
        try:
            self.outcome = answer(link, ESTIMATES, around(busy))
        except BaseException as error:
            self.outcome = error

    def join(self) -> Any:
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        return self.outcome


def test_both_ends_learn_the_same(links: tuple[SocketLink, SocketLink]) -> None:
    near, far = links
    answering = Answering(far, busy=True)
    asker = Asker(near, ESTIMATES, around())
    asker.begin(5.0)
    assert asker.busy
    assert 0 < asker.ping() < 1.0
    for streams in (1, 2, 4):
        assert asker.send(streams, SHORT) > 0
        assert asker.receive(streams, SHORT) > 0
    assert min(asker.both(SHORT)) > 0
    asker.end()
    here, there = asker.measured, answering.join()
    assert isinstance(there, Measurement) and 0 < there.latency < 1.0
    assert [row[0] for row in here.by_streams] == [1, 2, 4]
    for (_, out, back), (_, their_out, their_back) in zip(here.by_streams, there.by_streams, strict=True):
        assert min(out, their_back) > 0 and 1 / 4 <= out / their_back <= 4
        assert min(back, their_out) > 0 and 1 / 4 <= back / their_out <= 4


def test_who_was_busy_is_so_no_longer_once_it_says_so(links: tuple[SocketLink, SocketLink]) -> None:
    """An operation that waits for others, say, keeps nobody's links busy: the rest of the probe need not go slowly."""
    near, far = links
    busy = True
    there = Surroundings(in_time(), lambda: busy, lambda: 0)
    answering = threading.Thread(target=answer, args=(far, ESTIMATES, there), daemon=True)
    answering.start()
    asker = Asker(near, ESTIMATES, around())
    asker.begin(5.0)
    asker.ping()
    assert asker.busy
    busy = False
    asker.send(1, SHORT)
    assert not asker.busy
    asker.end()
    answering.join(WAIT_SECONDS)


@pytest.mark.parametrize("mine", [True, False], ids=["at this end", "at the other"])
def test_other_traffic_meanwhile_is_told(links: tuple[SocketLink, SocketLink], mine: bool) -> None:
    near, far = links
    traffic = count(0, 1 << 20).__next__
    here, there = (around(moved=traffic), around()) if mine else (around(), around(moved=traffic))
    answering = threading.Thread(target=answer, args=(far, ESTIMATES, there), daemon=True)
    answering.start()
    asker = Asker(near, ESTIMATES, here)
    asker.begin(5.0)
    asker.ping()
    assert not asker.measured.contended
    asker.send(1, SHORT)
    asker.end()
    answering.join(WAIT_SECONDS)
    assert asker.measured.contended


def test_a_train_ends_and_what_follows_it_is_kept() -> None:
    near, far = tcp_pair()
    here, there = RateEstimate(0.0, 0.0), RateEstimate(0.0, 0.0)
    budget = Train(0.0, 0.0, 1.0, 10 * CHUNK_BYTES + 7, 1 << 20)
    sending = threading.Thread(target=Trains([near], [], here, RateEstimate(0, 0), budget, in_time()).run)
    sending.start()
    sending.join(WAIT_SECONDS)
    near.send(b"what follows")
    time.sleep(0.01)
    Trains([], [far], RateEstimate(0, 0), there, budget, in_time()).run()
    assert far.bytes_received % CHUNK_BYTES in (0, len(b"what follows"))
    rest, got = bytearray(12), 0
    while got < 12:
        got += far.receive(memoryview(rest)[got:])
    assert rest == b"what follows"
    near.close()
    far.close()


def said(kind: int, **fields: Any) -> bytes:
    record = Record(kind, **fields)
    return RECORD.pack(MAGIC, record.kind, record.streams, record.flag, *record[3:])


HELLO = said(Kind.HELLO)
RUBBISH = {
    "other bytes": bytes(range(256)) * 4,
    "no hello": said(Kind.PING),
    "a kind that is none": HELLO + said(77),
    "more streams than the link has": HELLO + said(Kind.TAKE, streams=5, seconds=0.1),
    "no streams": HELLO + said(Kind.TAKE, streams=0, seconds=0.1),
    "a train without end": HELLO + said(Kind.GIVE, seconds=1e9),
    "a train of no known length": HELLO + said(Kind.GIVE, seconds=float("nan")),
    "too many bytes": HELLO + said(Kind.GIVE, nbytes=1 << 60, seconds=1.0),
    "negative seconds": HELLO + said(Kind.BOTH, seconds=-1.0),
    "a result that nobody asked for": HELLO + said(Kind.RESULT),
    "a train of other bytes": HELLO + said(Kind.TAKE, seconds=0.1) + b"\xff" * (2 * CHUNK_BYTES),
    "pings for ever": HELLO + said(Kind.PING) * 1000,
    "something else than enough": HELLO + said(Kind.GIVE, nbytes=1 << 20, seconds=0.5) + said(Kind.PING),
}


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_ends_the_link_and_nothing_else(links: tuple[SocketLink, SocketLink], data: bytes) -> None:
    near, far = links
    answering = Answering(far)
    left = memoryview(data)
    while left:
        left = left[near.streams[0].send(left) :]
    outcome = answering.join()
    assert isinstance(outcome, LinkBroken), outcome
    assert outcome.member == 1


@pytest.mark.parametrize("after", [b"", HELLO, HELLO + said(Kind.TAKE, seconds=0.1) + bytes(100)], ids=len)
def test_who_hangs_up_is_noticed(links: tuple[SocketLink, SocketLink], after: bytes) -> None:
    near, far = links
    answering = Answering(far)
    if after:
        near.streams[0].send(after)
    near.close()
    assert isinstance(answering.join(), LinkBroken)


def test_who_falls_silent_is_given_up(links: tuple[SocketLink, SocketLink], monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = links
    monkeypatch.setattr("collcomm.transports.probe.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("collcomm.transports.trains.PATIENCE_SECONDS", 0.05)
    for begun in (b"", said(Kind.TAKE, seconds=0.02)):
        near.streams[0].send(HELLO + begun)
        with pytest.raises(LinkBroken, match=r"does not go on|has not come"):
            answer(far, ESTIMATES, around())


def test_an_answerer_that_lies_about_its_speed_is_not_believed(links: tuple[SocketLink, SocketLink]) -> None:
    near, far = links

    def exaggerate(least: float, enough: float) -> RateEstimate:
        class Exaggerated(RateEstimate):
            @property
            def rate(self) -> float:
                return 1e6 * super().rate

        return Exaggerated(least, enough)

    lying = threading.Thread(target=answer, args=(far, Estimates(exaggerate, believed), around()), daemon=True)
    lying.start()
    asker = Asker(near, ESTIMATES, around())
    asker.begin(5.0)
    asker.ping()
    rate = asker.send(1, SHORT)
    asker.end()
    lying.join(WAIT_SECONDS)
    assert 0 < rate < 1e12


def test_delivery_of_a_connection_is_told_where_the_kernel_does() -> None:
    near, far = tcp_pair()
    try:
        data, sink = memoryview(bytes(1 << 20)), memoryview(bytearray(1 << 20))
        sent = got = 0
        check = in_time()
        while got < len(data):
            check()
            sent += near.try_send(b"", data[sent : sent + (1 << 16)]) if sent < len(data) else 0
            got += far.try_receive(sink)
        sample = near.delivery()
        if sample is None:
            pytest.skip("this kernel does not tell")
        assert 0 < sample.nbytes <= len(data) + 1 and 0 <= sample.seconds < WAIT_SECONDS
        assert 0 <= near.unacknowledged() <= len(data)
    finally:
        near.close()
        far.close()
    assert near.delivery() is None and near.unacknowledged() == 0
