"""The relay of `collcomm chaos` on real sockets, alone and between peers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import collcomm
from collcomm.bench.launch import free_port
from collcomm.chaos.relay import Relay

pytestmark = pytest.mark.usefixtures("over_tcp")

PAYLOAD = os.urandom(3 << 20)
SECONDS = 20.0


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    acceptor.join(SECONDS)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def _receive(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = sock.recv(1 << 16)
        assert part, f"the connection ended after {len(got)} of {size} bytes"
        got += part
    return bytes(got)


def _exchange(sock: socket.socket, data: bytes) -> bytes:
    sender = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
    sender.start()
    got = _receive(sock, len(data))
    sender.join(SECONDS)
    return got


def test_it_closes_once_and_whoever_calls_late_finds_it_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collcomm.chaos.relay.POLL_SECONDS", 0.02)
    relay = Relay()
    wake = relay._wake

    def slowly() -> None:
        relay._thread.join(0.3)  # whatever the thread does by itself, it does now
        wake()

    monkeypatch.setattr(relay, "_wake", slowly)
    relay.close()
    assert not relay._thread.is_alive()
    relay.heal("a")
    relay.close()


def test_bytes_pass_unchanged_and_an_end_is_passed_on(relay: Relay, echo: int) -> None:
    with _connect(relay.open("a", ("127.0.0.1", echo), data=True)) as sock:
        assert _exchange(sock, PAYLOAD) == PAYLOAD
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_what_is_held_comes_afterwards_and_complete(relay: Relay, echo: int) -> None:
    port = relay.open("a", ("127.0.0.1", echo), data=True)
    with _connect(port) as sock:
        assert _exchange(sock, b"before") == b"before"
        relay.hold("a", control=False)
        sock.sendall(b"meanwhile")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        with _connect(port) as late:  # a new connection is held as well
            late.sendall(b"new")
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.recv(1)
            relay.heal("a")
            for each, said in ((sock, b"meanwhile"), (late, b"new")):
                each.settimeout(SECONDS)
                assert _receive(each, len(said)) == said


def test_the_line_to_the_coordinator_is_held_only_in_a_partition(relay: Relay, echo: int) -> None:
    with _connect(relay.open("a", ("127.0.0.1", echo), data=False)) as sock:
        relay.hold("a", control=False)
        assert _exchange(sock, b"x") == b"x"
        relay.hold("a", control=True)
        sock.sendall(b"y")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_a_slow_link_takes_its_time_and_loses_nothing(relay: Relay, echo: int) -> None:
    port = relay.open("a", ("127.0.0.1", echo), data=True)
    with _connect(port) as sock, _connect(relay.open("b", ("127.0.0.1", echo), data=True)) as other:
        relay.slow_down("a", 0.05, 2e6)
        began = time.monotonic()
        assert _exchange(sock, PAYLOAD[: 1 << 20]) == PAYLOAD[: 1 << 20]
        assert time.monotonic() - began > 0.05 * 2 + (1 << 20) / 2e6
        relay.heal("a")
        began = time.monotonic()
        assert _exchange(other, PAYLOAD) == PAYLOAD
        assert _exchange(sock, PAYLOAD) == PAYLOAD


def test_who_is_gone_is_refused_and_its_connections_end(relay: Relay, echo: int) -> None:
    port = relay.open("a", ("127.0.0.1", echo), data=True)
    with _connect(port) as sock:
        assert _exchange(sock, b"x") == b"x"
        relay.remove("a")
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass
    with pytest.raises(ConnectionRefusedError):
        _connect(port)


def test_nothing_listens_behind_it(relay: Relay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    port = relay.open("a", ("127.0.0.1", closed), data=True)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError), _connect(port) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b""


# -- between peers ----------------------------------------------------------------------------------------------------


def _through(relay: Relay, n: int, body: Callable[[collcomm.Communicator], None]) -> None:
    """Run ``body`` at ``n`` peers, all of whose connections pass the relay. Peer k is called "k"."""
    errors: list[BaseException] = []
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:

        def peer(name: str) -> None:
            try:
                port = free_port()
                shown = relay.open(name, ("127.0.0.1", port), data=True)
                control = relay.open(name, ("127.0.0.1", coordinator.port), data=False)
                with collcomm.join(
                    f"127.0.0.1:{control}",
                    name=name,
                    min_size=n,
                    timeout=SECONDS,
                    advertise=f"127.0.0.1:{shown}",
                    listen=f"127.0.0.1:{port}",
                ) as comm:
                    relay.introduce(comm.view.ids[comm.rank], name)
                    body(comm)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=peer, args=(str(number),), daemon=True) for number in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a peer hangs"
    if errors:
        raise errors[0]


def test_a_spoiled_header_is_noticed_and_the_result_is_right(relay: Relay) -> None:
    spoiled: list[float] = []

    def body(comm: collcomm.Communicator) -> None:
        x = np.arange(50_000, dtype=np.float32)
        comm.all_reduce(x)
        if comm.name == "0":
            relay.spoil("0", 1, spoiled.append)
        before = comm.view.epoch
        for _ in range(20):
            np.testing.assert_array_equal(comm.all_reduce(x), 3 * x)
        assert comm.view.epoch > before
        assert comm.size == 3
        assert comm.stats()["retries"] >= 1

    _through(relay, 3, body)
    assert len(spoiled) == 1


def test_a_slow_peer_slows_the_others_and_is_not_lost(relay: Relay) -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.ones(100_000, np.float32)
        comm.all_reduce(x)
        relay.slow_down("1", 0.03, 1e7)
        began = time.monotonic()
        for _ in range(3):
            np.testing.assert_array_equal(comm.all_reduce(x), 3 * x)
        assert time.monotonic() - began > 0.06
        assert comm.size == 3
        relay.heal("1")

    _through(relay, 3, body)
