"""Strangers at the coordinator's port, agents that reach no coordinator, and that nothing is left over."""

from __future__ import annotations

import http.server
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from collcomm.bench.launch import free_port
from collcomm.errors import CoordinatorUnavailable, JoinRejected
from collcomm.membership import Coordinator, GroupMachine
from collcomm.membership import coordinator as coordinator_module
from collcomm.membership.effects import Note
from collcomm.membership.messages import MAX_BYTES, VERSION, encode
from collcomm.types import GroupReport
from tests.processes.test_coordinator import (
    JOIN,
    WAIT_SECONDS,
    Reporter,
    agents,
    coordinator_process,
    make_agent,
    soon,
    until,
)


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    with Coordinator("127.0.0.1:0") as coordinator:
        yield coordinator


@pytest.fixture
def port() -> int:
    return free_port()


# ---- strangers at the coordinator's port --------------------------------------------------------------------------


class Stranger:
    """A DEALER that says what it likes; ``ask`` returns the answer's fields."""

    def __init__(self, address: str, identity: bytes | None = None):
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity or b"C" + secrets.token_bytes(16))
        self._socket.connect(f"tcp://{address}")

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=1000)

    def say(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def ask(self, data: bytes) -> dict[str, Any]:
        self.say(data)
        assert self._socket.poll(int(WAIT_SECONDS * 1e3)), "no answer"
        return dict(msgpack.unpackb(self._socket.recv()))


def still_serves(coordinator: Coordinator) -> None:
    with agents(coordinator.address, "after") as (agent,):
        assert agent.wait_admitted(time.monotonic() + 5.0).size == 1


def join_message(**fields: Any) -> dict[str, Any]:
    return {"t": "join", "name": "x", "min_size": 1, **JOIN, "group": "strangers", **fields}


RAW = {
    "random bytes": bytes(range(256)) * 40,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a greeting of ZeroMQ cut short": b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL",
    "nothing": b"",
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
def test_bytes_that_are_not_zeromq(coordinator: Coordinator, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", coordinator.port), 5) as connection:
        connection.sendall(data)
        still_serves(coordinator)


def test_rubbish_in_zeromq_is_counted_and_ignored(coordinator: Coordinator) -> None:
    rubbish = [b"", b"\xc1", b"x" * 1000, msgpack.packb([1, 2]), msgpack.packb({"v": VERSION, "t": "gossip"})]
    with Stranger(coordinator.address) as stranger, Stranger(coordinator.address, b"short") as nobody:
        for data in rubbish:
            stranger.say(data)
        stranger.say(encode({"t": "here"}), b"one frame too many")
        nobody.say(encode({"t": "here"}))
        assert until(lambda: coordinator.rubbish == len(rubbish) + 2), coordinator.rubbish
        still_serves(coordinator)


def test_a_message_longer_than_allowed(coordinator: Coordinator) -> None:
    with Stranger(coordinator.address) as stranger:
        stranger.say(bytes(MAX_BYTES + 1))
        still_serves(coordinator)


def test_messages_of_one_who_never_joined(coordinator: Coordinator) -> None:
    with Stranger(coordinator.address) as stranger:
        assert stranger.ask(encode({"t": "here"}))["t"] == "who"
        assert stranger.ask(encode({"t": "leave"}))["t"] == "left"
        assert stranger.ask(encode({"t": "state", "epoch": 1, "round": 1, "groups": {}}))["t"] == "who"


def test_another_version_is_told_so(coordinator: Coordinator) -> None:
    with Stranger(coordinator.address) as stranger:
        answer = stranger.ask(msgpack.packb({**join_message(), "v": VERSION + 1}))
        assert answer["t"] == "rejected"
        assert "version" in answer["text"] and "install the same collcomm" in answer["text"]
    assert coordinator.snapshot() == {}


def test_a_name_that_is_taken_is_refused(coordinator: Coordinator) -> None:
    with agents(coordinator.address, "a") as (first,):
        first.wait_admitted(soon())
        with agents(coordinator.address, "a") as (second,), pytest.raises(JoinRejected, match="called 'a' is in group"):
            second.wait_welcome(soon())


# ---- strange coordinators -------------------------------------------------------------------------------------------


def reached(address: str) -> str:
    """What an agent that finds no coordinator at ``address`` says, within its deadline."""
    with agents(address, "a") as (agent,):
        began = time.monotonic()
        with pytest.raises(CoordinatorUnavailable) as caught:
            agent.wait_welcome(began + 1.0)
        assert time.monotonic() - began < 3.0
    return str(caught.value)


def test_nothing_listens(port: int) -> None:
    assert "nothing listens there" in reached(f"127.0.0.1:{port}")


def test_something_listens_and_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "says nothing" in reached(f"127.0.0.1:{silent.getsockname()[1]}")


def test_an_http_server_is_not_a_coordinator() -> None:
    """One that answers what it is sent with an error page, as web servers do."""

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # shut down: the test is over
            with connection:
                connection.recv(64)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<h1>Bad Request</h1>\r\n" * 2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            assert "not a collcomm coordinator" in reached(f"127.0.0.1:{listener.getsockname()[1]}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_SECONDS)


def test_pythons_http_server_is_no_coordinator() -> None:
    """It waits for the end of a line that never comes, so all that can be told is that it says nothing."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            text = reached(f"127.0.0.1:{web.server_port}")
            assert "not a collcomm coordinator" in text or "says nothing" in text
        finally:
            web.shutdown()
            thread.join(WAIT_SECONDS)


# ---- nothing left over ----------------------------------------------------------------------------------------


def held() -> tuple[int, int]:
    """Threads of Python, and open descriptors; libzmq's threads hold descriptors."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_agents_and_coordinators_leave_no_thread_and_no_descriptor(port: int) -> None:
    before = held()
    for _ in range(5):
        with Coordinator("127.0.0.1:0") as coordinator, agents(coordinator.address, "a", "b", min_size=2) as both:
            for agent in both:
                agent.wait_admitted(soon())
            both[0].leave(soon())
    with agents(f"127.0.0.1:{port}", "alone") as (alone,), pytest.raises(CoordinatorUnavailable):
        alone.wait_welcome(time.monotonic() + 0.2)
    make_agent(f"127.0.0.1:{port}", "unused", 1, None).close()
    assert until(lambda: held() <= before), (before, held())


def test_close_is_quick_and_harmless_when_done_again(coordinator: Coordinator) -> None:
    with agents(coordinator.address, "a") as (agent,):
        agent.wait_admitted(soon())
        began = time.monotonic()
        agent.close()
        agent.close()
        assert time.monotonic() - began < 2.0


def test_close_is_quick_while_the_coordinator_is_stopped(port: int) -> None:
    with coordinator_process(port) as process, agents(f"127.0.0.1:{port}", "a") as (agent,):
        agent.wait_admitted(soon())
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            agent.ready(1)
            agent.close()
            assert time.monotonic() - began < 2.0
        finally:
            process.send_signal(signal.SIGCONT)


# ---- what has gone wrong once --------------------------------------------------------------------------------


class Unmade(Reporter):
    """A session that has its first view and has not made the world's communicator yet."""

    def halt(self, epoch: int, round: int) -> dict[int, GroupReport]:
        return {}


def test_a_newcomer_that_is_halted_before_it_has_made_the_world(coordinator: Coordinator) -> None:
    """It knows what is consumed from the view that admitted it; the members have done 7 operations."""
    quiet = Reporter(lambda *_, **__: None)
    with agents(coordinator.address, "a", "b", min_size=2, observer=quiet) as (a, b):
        for agent in (a, b):
            agent.wait_admitted(soon())
        quiet.complete = 7
        with agents(coordinator.address, "c", min_size=2, observer=Unmade(lambda *_, **__: None)) as (c,):
            c.wait_welcome(soon())
            a.ready(1)
            b.ready(1)
            c.wait_admitted(soon())
            b.leave(soon())
            assert until(lambda: len(coordinator.snapshot()["run"]["members"]) == 2, 2.0)
            assert quiet.complete == 7


def test_a_version_of_a_thousand_nested_lists(coordinator: Coordinator) -> None:
    with Stranger(coordinator.address) as stranger:
        bomb = b"\x82\xa1t\xa4here\xa1v" + b"\x91" * 1020 + b"\x90"
        stranger.say(bomb)
        still_serves(coordinator)


def test_members_that_contradict_each_other_do_no_harm_to_other_groups(coordinator: Coordinator) -> None:
    with Stranger(coordinator.address) as a, Stranger(coordinator.address) as b:
        a.say(encode(join_message(name="a", min_size=2)))
        b.say(encode(join_message(name="b", min_size=2)))
        assert until(lambda: coordinator.snapshot().get("strangers", {}).get("epoch") == 1)
        for stranger in (a, b):
            stranger.say(encode({"t": "ready", "epoch": 1}))
        assert until(lambda: coordinator.snapshot()["strangers"]["state"] == "changing")
        a.say(encode({"t": "state", "epoch": 1, "round": 1, "groups": {0: [9, 9, [1, 2]]}}))
        b.say(encode({"t": "state", "epoch": 1, "round": 1, "groups": {0: [0, 0, [1, 2]]}}))
        still_serves(coordinator)


def test_those_who_have_left_make_room(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "MAX_PEERS", 2)
    for _ in range(4):
        with Stranger(coordinator.address) as stranger:
            assert stranger.ask(encode(join_message()))["t"] == "welcome"
            stranger.say(encode({"t": "leave"}))
        assert until(lambda: not coordinator.snapshot()["strangers"]["members"])


def test_what_is_told_after_close_goes_nowhere(coordinator: Coordinator) -> None:
    with agents(coordinator.address, "a") as (agent,):
        agent.wait_admitted(soon())
        number = agent._lines._wake_write
        agent.close()
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        spare = os.dup(number) if number in (reader, writer) else os.dup2(writer, number)
        try:
            agent.accuse(2, 1, "closed", "too late")
            with pytest.raises(BlockingIOError):
                os.read(reader, 1)  # nothing has come
        finally:
            for descriptor in {reader, writer, spare}:
                os.close(descriptor)


def test_a_first_tick_that_is_late_evicts_nobody() -> None:
    """An idle coordinator ticks once a second, so the first tick of a new group comes up to that late anyway."""
    group = GroupMachine("run", "incarnation", b"8 bytes!")
    group.receive(0.0, b"a", join_message())
    assert [effect.text for effect in group.tick(3.0) if isinstance(effect, Note)] == []


def test_groups_that_have_ended_make_room(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that serves one run after the other, each under a name of its own."""
    monkeypatch.setattr(coordinator_module, "MAX_GROUPS", 2)
    for number in range(4):
        with Stranger(coordinator.address) as stranger:
            assert stranger.ask(encode(join_message(group=f"run-{number}")))["t"] == "welcome"
            stranger.say(encode({"t": "leave"}))
        assert until(lambda: not any(group["members"] for group in coordinator.snapshot().values()))
