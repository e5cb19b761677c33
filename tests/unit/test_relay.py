"""The pipe between two lines: all bytes in order, nothing held without end, nothing left over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from collcomm.transports import relay as module
from collcomm.transports.frames import NONCE_BYTES, Greeting
from collcomm.transports.relay import CHUNK_BYTES, READY, Relay

WAIT_SECONDS = 10.0


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A relay; when the test ends it leaves no thread and no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    made = Relay()
    yield made
    made.close()
    made.close()
    assert "collcomm-relay" not in [thread.name for thread in threading.enumerate()]
    assert len(os.listdir("/proc/self/fd")) <= before


def dial(relay: Relay, caller: int, onward: int, stream: int = 0, said: bytes = READY) -> socket.socket:
    """The line of ``caller`` who looks for ``onward``."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    relay.take(Greeting(1, 0, caller, 9, stream, 2, 0, bytes(NONCE_BYTES), way=2, onward=onward), far)
    near.sendall(said)
    near.settimeout(WAIT_SECONDS)
    return near


def until(condition: object) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_all(sock: socket.socket) -> bytes:
    found = bytearray()
    while part := sock.recv(1 << 16):
        found += part
    return bytes(found)


def test_what_goes_in_at_one_end_comes_out_at_the_other(relay: Relay) -> None:
    with dial(relay, 1, 2) as one, dial(relay, 2, 1) as other:
        data = {one: os.urandom(5 << 20), other: os.urandom(3 << 20)}
        heard: dict[socket.socket, str] = {}

        def listen(sock: socket.socket, count: int) -> None:
            digest = hashlib.sha256()
            while count:
                part = sock.recv(min(count, 1 << 16))
                digest.update(part)
                count -= len(part)
            heard[sock] = digest.hexdigest()

        threads = [
            threading.Thread(target=listen, args=(sock, len(data[far]))) for sock, far in ((one, other), (other, one))
        ]
        threads += [threading.Thread(target=sock.sendall, args=(sent,)) for sock, sent in data.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        assert heard == {one: hashlib.sha256(data[other]).hexdigest(), other: hashlib.sha256(data[one]).hexdigest()}


def test_what_was_sent_before_the_other_came_is_not_lost(relay: Relay) -> None:
    with dial(relay, 1, 2, said=READY + b"early") as one:
        time.sleep(0.05)
        with dial(relay, 2, 1) as other:
            assert other.recv(5) == b"early"
            other.sendall(b"late")
            assert one.recv(4) == b"late"


def test_streams_and_pairs_are_kept_apart(relay: Relay) -> None:
    lines = [
        dial(relay, 1, 2, 0),
        dial(relay, 1, 2, 1),
        dial(relay, 1, 3),
        dial(relay, 3, 1),
        dial(relay, 2, 1, 1),
        dial(relay, 2, 1, 0),
    ]
    for number, line in enumerate(lines[:3]):
        line.sendall(b"%d" % number)
    assert [line.recv(1) for line in lines[3:]] == [b"2", b"1", b"0"]
    for line in lines:
        line.close()
    until(lambda: relay.pairs == 0)


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_who_closes_has_its_last_bytes_delivered_and_both_lines_close(relay: Relay, size: int) -> None:
    one, other = dial(relay, 1, 2), dial(relay, 2, 1)
    until(lambda: relay.pairs == 1)
    threading.Thread(target=lambda: (one.sendall(b"x" * size), one.close()), daemon=True).start()
    assert len(read_all(other)) == size
    until(lambda: relay.pairs == 0)
    other.close()


def test_a_slow_reader_stops_its_writer(relay: Relay) -> None:
    with dial(relay, 1, 2) as one, dial(relay, 2, 1) as other:
        one.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += one.send(bytes(1 << 16))
        assert relay.bytes_forwarded < sent
        until(lambda: relay.pairs == 1)
        left = sent
        while left:
            left -= len(other.recv(1 << 16))
        assert relay.bytes_forwarded == sent and sent > CHUNK_BYTES


def test_who_comes_twice_counts_once_and_who_hung_up_not_at_all(relay: Relay) -> None:
    with dial(relay, 1, 2) as first, dial(relay, 1, 2) as second:
        assert first.recv(1) == b""
        with dial(relay, 2, 1) as other:
            other.sendall(b"y")
            assert second.recv(1) == b"y"
    until(lambda: relay.pairs == 0)
    dial(relay, 1, 2).close()
    until(lambda: not relay._waiting)


def test_nobody_waits_for_ever(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEETING_SECONDS", 0.1)
    with dial(relay, 1, 2) as alone, dial(relay, 3, 4, said=b"") as silent:
        assert alone.recv(1) == silent.recv(1) == b""


def test_rubbish_and_one_pair_too_many_are_turned_away(monkeypatch: pytest.MonkeyPatch, relay: Relay) -> None:
    monkeypatch.setattr(relay, "_most_pairs", 1)
    with dial(relay, 1, 2) as one, dial(relay, 2, 1) as other, dial(relay, 5, 6, said=b"GET /") as rubbish:
        one.sendall(b"z")
        assert other.recv(1) == b"z"
        with dial(relay, 3, 4) as third:
            assert third.recv(1) == b""
        with contextlib.suppress(ConnectionResetError):
            assert rubbish.recv(1) == b""
        one.sendall(b"z")
        assert other.recv(1) == b"z"


def test_lines_of_those_who_have_left_are_closed(relay: Relay) -> None:
    with dial(relay, 1, 2) as one, dial(relay, 2, 1) as other, dial(relay, 1, 3) as third, dial(relay, 3, 1) as fourth:
        third.sendall(b"a")
        assert fourth.recv(1) == b"a"
        relay.keep_only((1, 3))
        assert one.recv(1) == other.recv(1) == b""
        third.sendall(b"b")
        assert fourth.recv(1) == b"b"
