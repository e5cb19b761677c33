"""One connection: what is put back, passed over and filled up, and frames of old epochs among new ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from collcomm.transports.base import MAX_BUFFERS, LinkBroken
from collcomm.transports.frames import GREETING_BYTES, HEADER_BYTES, BadFrame, Greeting, Header, Kind, pack, unpack
from collcomm.transports.poller import SocketPoller
from collcomm.transports.stream import TcpStream
from collcomm.transports.tcpinfo import TcpInfo
from collcomm.transports.tls import Tls, TlsStream
from hypothesis import given
from hypothesis import strategies as st

from collcomm.clock import SYSTEM
from collcomm.engine.attempt import Attempt, Mismatch, Staging
from collcomm.engine.inline import receive_frame, send_frame
from collcomm.engine.progress import Halted, Progress
from collcomm.keys import make_keys
from collcomm.types import Member, View


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    (folder,) = make_keys(tmp_path_factory.mktemp("run") / "keys", ["peer"])
    return Tls(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")


@pytest.fixture(params=["tcp", "tls"])
def pair(request: pytest.FixtureRequest, tls: Tls) -> Iterator[tuple[TcpStream, TcpStream]]:
    """Every test of a stream runs on both kinds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    streams: tuple[TcpStream, TcpStream]
    if request.param == "tcp":
        streams = TcpStream(near, 2), TcpStream(far, 1)
    else:
        lines = tls.dialled(near), tls.accepted(far)
        for sock in (near, far):
            sock.setblocking(False)
        while not all([line.handshake() for line in lines]):
            pass
        streams = TlsStream(lines[0], 2), TlsStream(lines[1], 1)
    yield streams
    for stream in streams:
        stream.close()


def read(stream: TcpStream, count: int) -> bytes:
    data = bytearray(count)
    got = 0
    while got < count:
        got += stream.receive(memoryview(data)[got:])
    return bytes(data)


def test_bytes_put_back_come_first(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    near.send(b"head", b"tail")
    assert read(far, 6) == b"headta"
    far.unread(b"headta")
    far.unread(b">>")
    assert far.has_unread
    assert read(far, 10) == b">>headtail"
    assert far.try_receive(memoryview(bytearray(4))) == 0 and far.receive(memoryview(bytearray(4))) == 0


def test_bytes_that_nobody_wants_are_passed_over_as_they_come(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    far.skip(7)
    near.send(b"abc", b"")
    assert far.receive(memoryview(bytearray(9))) == 0
    near.send(b"defg", b"new")
    assert read(far, 3) == b"new"
    far.unread(b"residue!")
    far.skip(4)
    assert read(far, 4) == b"due!"


def test_a_frame_that_was_cut_short_is_filled_up(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    near.send(b"12", b"3")
    near.owe(100_000)
    near.send(b"next", b"")
    assert read(far, 3) == b"123"
    far.skip(100_000)
    assert read(far, 4) == b"next"


def test_a_closed_connection_is_a_broken_link(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    near.close()
    with pytest.raises(LinkBroken) as caught:
        read(far, 1)
    assert (caught.value.member, caught.value.evidence) == (1, "closed")
    assert far.unacknowledged_for() == 0.0


def test_what_is_owed_counts_from_when_it_is_seen(
    pair: tuple[TcpStream, TcpStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection rested for ten seconds, and then a packet was lost: that is no silence of ten seconds."""
    near, _ = pair
    now, told = 100.0, TcpInfo(last_ack_ms=10_000, acknowledged=7)
    monkeypatch.setattr("collcomm.transports.stream.read", lambda sock, least: told)
    monkeypatch.setattr("collcomm.transports.stream.time.monotonic", lambda: now)
    assert near.unacknowledged_for() == 0.0
    told = told._replace(unacked=1, retransmits=1)
    assert near.unacknowledged_for() == 0.0
    now = 101.6
    assert near.unacknowledged_for() == pytest.approx(1.6)
    told = told._replace(acknowledged=8, last_ack_ms=300)
    assert near.unacknowledged_for() == 0.0
    now = 104.0
    assert near.unacknowledged_for() == pytest.approx(0.3)


def test_a_connection_that_was_closed_here_meanwhile_is_a_broken_link(pair: tuple[TcpStream, TcpStream]) -> None:
    """As by the thread that hears of a view without the peer: then nobody may wait for what is no descriptor any more."""
    near, _ = pair
    assert near.fileno() >= 0
    near.close()
    for use in (near.fileno, lambda: near.send(b"x"), lambda: near.try_receive(memoryview(bytearray(1)))):
        with pytest.raises(LinkBroken):
            use()


def test_many_buffers_go_out_and_come_in_as_one_row(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    sent = [bytes([index % 251]) * (index % 7) for index in range(MAX_BUFFERS)]
    whole = b"".join(sent)
    taken = near.send_several(sent)
    assert 0 < taken <= len(whole)
    near.send(whole[taken:])
    data = bytearray(len(whole))
    got = 0
    while got < len(whole):
        view = memoryview(data)[got:]
        got += far.receive_several([view[:1], view[1:2], view[2:]] if len(view) > 2 else [view])
    assert data == whole
    assert near.bytes_sent == far.bytes_received == len(whole)


def test_many_buffers_respect_what_the_stream_owes_skips_and_was_given_back(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    near.send(b"12", b"3")
    near.owe(100_000)
    far.skip(3 + 100_000)
    while not near.send_several([b"ne", b"xt"]):
        assert far.receive_several([memoryview(bytearray(1))]) == 0
    far_side = bytearray(4)
    views = [memoryview(far_side)[:2], memoryview(far_side)[2:]]
    got = 0
    while not got:
        got = far.receive_several(views)
    rest = read(far, 4 - got)
    assert bytes(far_side[:got]) + rest == b"next"
    far.unread(b"back")
    assert far.receive_several(views) == 2 and far_side[:2] == b"ba"
    assert read(far, 2) == b"ck"
    near.close()
    with pytest.raises(LinkBroken):
        far.receive_several(views)


class OneLink:
    def __init__(self, stream: TcpStream):
        self.member = stream.member
        self.streams = [stream]

    def close(self) -> None: ...


def attempt_on(stream: TcpStream, epoch: int) -> Attempt:
    view = View(epoch, (Member(1, "a", "127.0.0.1", 1), Member(2, "b", "127.0.0.1", 2)))
    link = OneLink(stream)
    progress, staging = Progress(0, view, 0), Staging(4096)
    attempt = Attempt(progress, lambda *_: link, lambda: [link], lambda *_: None, staging, SYSTEM, SocketPoller)
    attempt.begin(epoch, 1, 77, 0, 2, 1e18)
    return attempt


def frame(epoch: int, payload: bytes, fingerprint: int = 77) -> bytes:
    return pack(Kind.DATA, epoch, 1, fingerprint, 0, len(payload), 0) + payload


def test_frames_of_old_epochs_are_skipped(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    attempt = attempt_on(far, epoch=5)
    near.send(frame(3, b"x" * 1000) + frame(4, b"") + frame(4, b"y" * 50) + frame(5, b"right"), b"")
    assert receive_frame(attempt, 1, frame(5, b"right")[:HEADER_BYTES], 5).tobytes() == b"right"


def test_a_frame_of_another_call_is_a_mismatch_and_of_a_later_epoch_waits(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    expected = frame(5, b"12345")[:HEADER_BYTES]
    near.send(frame(5, b"1234", fingerprint=78), b"")
    with pytest.raises(Mismatch):
        receive_frame(attempt_on(far, epoch=5), 1, expected, 5)
    later = attempt_on(far, epoch=6)  # the frame that did not fit is old now
    near.send(frame(7, b"later"), b"")
    later.progress.halt()
    with pytest.raises(Halted):
        receive_frame(later, 1, frame(6, b"12345")[:HEADER_BYTES], 5)
    assert receive_frame(attempt_on(far, epoch=7), 1, frame(7, b"later")[:HEADER_BYTES], 5).tobytes() == b"later"


def test_rubbish_instead_of_a_frame_is_a_broken_link(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    near.send(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n      ", b"")
    with pytest.raises(LinkBroken, match="not a frame"):
        receive_frame(attempt_on(far, epoch=1), 1, frame(1, b"x")[:HEADER_BYTES], 1)


def test_a_send_that_is_interrupted_leaves_a_stream_that_can_go_on(pair: tuple[TcpStream, TcpStream]) -> None:
    near, far = pair
    attempt = attempt_on(near, epoch=1)
    payload = np.zeros(12_000_000, np.uint8)  # more than the kernel takes
    attempt.progress.halt()
    with pytest.raises(Halted):
        send_frame(attempt, 1, pack(Kind.DATA, 1, 1, 77, 0, payload.size, 0), payload, payload.size)
    far.skip(HEADER_BYTES + payload.size)
    sent = 0
    while not sent:
        assert far.receive(memoryview(bytearray(1))) == 0
        sent = near.send(b"fresh", b"")
    assert read(far, 5) == b"fresh"


@given(st.binary(max_size=64))
def test_headers_and_greetings_are_checked(data: bytes) -> None:
    for parse, size in ((unpack, HEADER_BYTES), (Greeting.unpack, GREETING_BYTES)):
        with pytest.raises(BadFrame):
            parse(data.ljust(size, b"\0")[:size])


U32 = st.integers(0, 2**32 - 1)


@given(st.tuples(st.sampled_from([1, 2]), U32, U32, U32, st.integers(0, 2**40), st.integers(0, 1 << 24), U32))
def test_headers_come_out_as_they_went_in(fields: tuple[int, int, int, int, int, int, int]) -> None:
    assert unpack(pack(*fields)) == Header(*fields)


def test_greetings_come_out_as_they_went_in() -> None:
    greeting = Greeting(5, 7, 3, 4, 1, 2, 0, b"n" * 16)
    assert Greeting.unpack(greeting.pack()) == greeting


def test_what_is_on_its_way_is_waited_for_as_a_whole(pair: tuple[TcpStream, TcpStream]) -> None:
    """In however many pieces it comes, and behind what was put back or is passed over."""
    near, far = pair
    data = bytes(range(256)) * 400
    near.send(b"xy" + data[:3])
    target = bytearray(len(data))
    view = memoryview(target)
    far.skip(2)
    got = far.receive_whole(view)
    assert got <= 3, "nobody sends more: it comes back after a while"
    far.unread(view[:got].tobytes())
    got = sent = 0
    while got < len(data):
        sent += near.try_send(data[3 + sent : 3 + sent + 1500], b"") if 3 + sent < len(data) else 0
        got += far.receive_whole(view[got:])
    assert target == data
    near.close()
    with pytest.raises(LinkBroken):
        far.receive_whole(memoryview(bytearray(1)))
