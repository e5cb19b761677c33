"""TLS lines over real sockets: nothing is lost or doubled when buffers are small, and who has no certificate stays out."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from collcomm.transports import SocketTransport, TcpRoute, Tls
from collcomm.transports.base import LinkBroken
from collcomm.transports.stream import TcpStream
from collcomm.transports.tls import TlsStream

from collcomm.errors import AuthenticationFailed
from collcomm.keys import make_keys
from collcomm.types import Member

WAIT_SECONDS = 20.0
KEY = b"k" * 32


def tls_of(folder: Path) -> Tls:
    return Tls(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Tls]:
    """Certificates of two peers of one run, and of one of another run."""
    folders = make_keys(tmp_path_factory.mktemp("one") / "keys", ["ann", "bob"])
    folders += make_keys(tmp_path_factory.mktemp("two") / "keys", ["eve"])
    return [tls_of(folder) for folder in folders]


@pytest.fixture
def narrow(runs: list[Tls]) -> Iterator[tuple[TlsStream, TlsStream]]:
    """Two ends whose kernel buffers hold less than a record."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        server.bind(("127.0.0.1", 0))
        server.listen()
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        near.connect(server.getsockname())
        far, _ = server.accept()
    lines = runs[0].dialled(near), runs[1].accepted(far)
    for sock in (near, far):
        sock.setblocking(False)
    while not all([line.handshake() for line in lines]):
        pass
    streams = TlsStream(lines[0], 2), TlsStream(lines[1], 1)
    yield streams
    for stream in streams:
        stream.close()


HEAD = struct.Struct("<II")  # index, length of what follows
END = 1000


def test_frames_cut_short_and_given_up_leave_the_stream_in_order(narrow: tuple[TlsStream, TlsStream]) -> None:
    """A sender that is interrupted anywhere owes the rest; the receiver gets every other frame, whole."""
    near, far = narrow
    rng = random.Random(7)
    frames = [rng.randbytes(rng.choice((1, 24, 32, 5000, 16376, 16377, 70_000, 300_000))) for _ in range(150)]
    impatient = {index for index in range(len(frames)) if rng.random() < 0.4}
    gone: dict[int, bool] = {}  # frames that were given up -> whether something of them was sent
    deadline = time.monotonic() + WAIT_SECONDS

    def send_frame(index: int, payload: bytes) -> None:
        header, sent, tries = HEAD.pack(index, len(payload)), 0, 0
        total = HEAD.size + len(payload)
        while sent < total:
            assert time.monotonic() < deadline
            if index in impatient and tries > 2 and not 0 < sent < HEAD.size:
                gone[index] = sent > 0
                break
            tries += 1
            how = near.try_send if index % 2 else near.send
            sent += how(header[sent:], payload[max(0, sent - HEAD.size) :])
        if 0 < sent < total:
            near.owe(total - sent)

    def send_all() -> None:
        for index, payload in enumerate(frames):
            send_frame(index, payload)
        send_frame(END, b"")

    def take(count: int) -> bytes:
        data, got = bytearray(count), 0
        while got < count:
            assert time.monotonic() < deadline, "nothing comes"
            got += far.receive(memoryview(data)[got:])
        return bytes(data)

    sender = threading.Thread(target=send_all)
    sender.start()
    found: dict[int, bytes] = {}
    while True:
        index, length = HEAD.unpack(take(HEAD.size))
        if index == END:
            break
        found[index] = take(length)
    sender.join(WAIT_SECONDS)
    assert not sender.is_alive()
    assert set(found) == set(range(len(frames))) - {index for index, begun in gone.items() if not begun}
    assert all(found[index] == frames[index] for index in found if index not in gone)
    assert sum(gone.values()) > 3, "the buffers were too wide for this test"


def test_what_trickles_in_does_not_hold_up_its_reader(narrow: tuple[TlsStream, TlsStream]) -> None:
    """Half a record is nothing to read yet, and no reason to spin."""
    near, far = narrow
    record = near._line
    record._tls.write(b"x" * 1000)
    sealed = record._outgoing.read()
    record.sock.send(sealed[:500])
    assert select.select([far], [], [], WAIT_SECONDS)[0]
    assert far.try_receive(memoryview(bytearray(10))) == 0 and not far.has_unread
    assert not select.select([far], [], [], 0)[0]  # it has been taken in
    assert far.receive(memoryview(bytearray(10))) == 0 and not far.has_unread
    record.sock.send(sealed[500:])
    got = 0
    while got < 1000:
        got += far.receive(memoryview(bytearray(300)))
        assert far.has_unread == (got < 1000)


def test_damage_on_the_way_breaks_the_link(narrow: tuple[TlsStream, TlsStream]) -> None:
    near, far = narrow
    near._line._tls.write(b"x" * 100)
    sealed = bytearray(near._line._outgoing.read())
    sealed[50] ^= 1
    near._line.sock.send(sealed)
    assert select.select([far], [], [], WAIT_SECONDS)[0]
    with pytest.raises(LinkBroken):
        far.receive(memoryview(bytearray(100)))


# ---- who comes in --------------------------------------------------------------------------------------------------------


def attempt(first: Tls | None, second: Tls | None) -> tuple[type, type]:
    """The kinds of streams of a link between two peers who know the right keys; raises what dialling raises."""
    routes = [TcpRoute("127.0.0.1", tls=tls) for tls in (first, second)]
    with closing(SocketTransport(routes[:1])) as near, closing(SocketTransport(routes[1:])) as far:
        rows = []
        for member, transport, route in ((1, near, routes[0]), (2, far, routes[1])):
            transport.introduce(member)
            transport.admit(1, {1: KEY, 2: KEY})
            rows.append(Member(member, f"peer-{member}", "127.0.0.1", route.port))
        deadline = time.monotonic() + WAIT_SECONDS

        def check() -> None:
            assert time.monotonic() < deadline

        there, here = far.link(0, 0, rows[0], check).streams[0], near.link(0, 0, rows[1], check).streams[0]
        there.send(b"hello", b"")
        data, got = bytearray(5), 0
        while got < 5:
            got += here.receive(memoryview(data)[got:])
        assert data == b"hello"
        return type(here), type(there)


def test_peers_of_one_run_come_together(runs: list[Tls]) -> None:
    assert attempt(runs[0], runs[1]) == (TlsStream, TlsStream)
    assert attempt(None, None) == (TcpStream, TcpStream)


@pytest.mark.parametrize(("first", "second"), [(0, 2), (2, 0), (0, None), (None, 0)])
def test_a_certificate_of_another_run_or_none_is_refused(
    runs: list[Tls], first: int | None, second: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LinkBroken) as caught:
        attempt(None if first is None else runs[first], None if second is None else runs[second])
    assert caught.value.evidence == "closed"
    if second is not None:  # somebody who speaks TLS was listening or dialling, and it was noticed at the door
        assert len([record for record in caplog.records if record.name == "collcomm.transport"]) <= 1


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
@pytest.mark.parametrize(
    "data", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", bytes(100), None]
)
def test_a_spoilt_file_is_named(tmp_path: Path, name: str, data: bytes | None) -> None:
    (folder,) = make_keys(tmp_path / "keys", ["peer"])
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    with pytest.raises(AuthenticationFailed, match=r"tls\.crt"):
        tls_of(folder)


def test_the_key_of_another_certificate_is_noticed(tmp_path: Path) -> None:
    ann, bob = make_keys(tmp_path / "keys", ["ann", "bob"])
    with pytest.raises(AuthenticationFailed, match="cannot use"):
        Tls(ann / "ca.crt", ann / "tls.crt", bob / "tls.key")
