"""Coordinator and agents as real processes on loopback: deaths, stops, stalls, strangers, and nothing left over.

Run as a script, this file is such a peer: it tells what its agent hears as lines of JSON, and takes orders on stdin.
"""

from __future__ import annotations

import ctypes
import http.server
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from collcomm.errors import CollcommError, CoordinatorUnavailable, JoinRejected
from collcomm.membership import Agent, Coordinator
from collcomm.membership import server as server_module
from collcomm.membership.messages import MAX_BYTES, VERSION, encode
from collcomm.types import Call, GroupReport, Outcome, View

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 20.0  # how long anything may take before a test gives up
QUICK_SECONDS = 0.5  # a hundred times what it takes on an idle machine
JOIN = {"group": "run", "host": "127.0.0.1", "port": 4711, "host_id": "", "on_failure": "retry"}


# ---- the peer: what an agent hears, on stdout ---------------------------------------------------------------------


class Reporter:
    """An observer of one world communicator that has done ``complete`` operations; ``tell`` gets every event."""

    def __init__(self, tell: Callable[..., None]):
        self.tell = tell
        self.complete = 0
        self.members: tuple[int, ...] = ()

    def halt(self, epoch: int, round: int) -> dict[int, GroupReport]:
        self.tell("halt", epoch=epoch)
        return {0: GroupReport(self.complete, self.complete, self.members)}

    def adopt(
        self, view: View, outcomes: dict[int, Outcome], admitted: bool, broken: Sequence[tuple[int, int]]
    ) -> None:
        self.members = view.ids
        self.complete = outcomes[0].consumed
        self.tell("view", epoch=view.epoch, names=[member.name for member in view.members], ids=list(view.ids))

    def dismissed(self, error: CollcommError) -> None:
        self.tell("dismissed", error=type(error).__name__, text=str(error))

    def inquire(self, epoch: int, gid: int, seq: int) -> Call | None:
        return None


def make_agent(address: str, name: str, min_size: int, observer: Any) -> Agent:
    return Agent(address, name=name, min_size=min_size, observer=observer, **JOIN)


def be_a_peer(address: str, name: str, min_size: int) -> None:
    lock = threading.Lock()

    def tell(event: str, **fields: Any) -> None:
        with lock:
            print(json.dumps({"event": event, "at": time.monotonic(), **fields}), flush=True)

    agent = make_agent(address, name, min_size, Reporter(tell))
    agent.start()
    try:
        agent.wait_admitted(time.monotonic() + WAIT_SECONDS)
    except CollcommError as error:
        tell("failed", error=type(error).__name__, text=str(error))
    for line in sys.stdin:
        order, *rest = line.split()
        if order == "accuse":
            agent.accuse(int(rest[0]), int(rest[1]), "closed", "connection reset")
        elif order == "ready":
            agent.ready(int(rest[0]))
        elif order == "stall":
            ctypes.PyDLL(None).sleep(int(rest[0]))  # PyDLL keeps the GIL
            tell("stalled")
        elif order == "leave":
            agent.leave(time.monotonic() + WAIT_SECONDS)
            tell("left")
    agent.close()


class Peer:
    """A process of `be_a_peer`; ``wait`` reads what it tells."""

    def __init__(self, address: str, name: str, min_size: int):
        command = [sys.executable, __file__, address, name, str(min_size)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.name = name
        self.heard: list[dict[str, Any]] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of that kind with those fields; others are kept in ``heard``."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                found = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name}: no {event} {fields}; heard {self.heard}") from None
            self.heard.append(found)
            if found["event"] == event and all(found[key] == value for key, value in fields.items()):
                return found

    def order(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> float:
        """Returns when it was sent."""
        self._process.send_signal(number)
        return time.monotonic()

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # an order that it did not live to read
        self._process.stdout.close()


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    with Coordinator("127.0.0.1:0") as coordinator:
        yield coordinator


@contextmanager
def group_of(address: str, names: str) -> Iterator[list[Peer]]:
    """Processes called by the letters of ``names``, all in view 1."""
    with ExitStack() as stack:
        peers = []
        for name in names:
            peers.append(Peer(address, name, len(names)))
            stack.callback(peers[-1].end)
        for peer in peers:
            assert sorted(peer.wait("view")["names"]) == sorted(names)
        yield peers


def id_of(peer: Peer) -> int:
    view = next(event for event in reversed(peer.heard) if event["event"] == "view")
    return int(view["ids"][view["names"].index(peer.name)])


def causes(coordinator: Coordinator) -> dict[str, str]:
    """Why each of those who are out is out."""
    history = coordinator.snapshot()["run"]["history"]
    return {name: cause for _, _, name, cause in history if cause != "joined"}


# ---- life and death -----------------------------------------------------------------------------------------------


def test_three_join_and_see_the_same_view(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "abc") as peers:
        views = [peer.heard[-1] for peer in peers]
        assert len({(view["epoch"], *view["names"], *view["ids"]) for view in views}) == 1
        assert coordinator.snapshot()["run"]["epoch"] == views[0]["epoch"] == 1


def test_a_later_one_is_admitted_when_all_are_ready(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        late = Peer(coordinator.address, "c", 2)
        try:
            a.order("ready 1")
            b.order("ready 1")
            for peer in (a, b, late):
                while "c" not in (view := peer.wait("view"))["names"]:
                    peer.order(f"ready {view['epoch']}")  # ready had come before c
                assert set(view["names"]) == {"a", "b", "c"}
        finally:
            late.end()


def test_a_killed_peer_whose_link_closed_is_out_at_once(
    coordinator: Coordinator, record_property: Callable[[str, object], None]
) -> None:
    with group_of(coordinator.address, "abc") as (a, b, c):
        killed_at = c.signal(signal.SIGKILL)
        a.order(f"accuse {id_of(c)} 1")
        halts = [peer.wait("halt")["at"] - killed_at for peer in (a, b)]
        views = [peer.wait("view", epoch=2) for peer in (a, b)]
        assert all(set(view["names"]) == {"a", "b"} for view in views)
        taken = max(view["at"] for view in views) - killed_at
        record_property("halt_ms", round(max(halts) * 1e3, 2))
        record_property("view_ms", round(taken * 1e3, 2))
        print(f"SIGKILL to halt {max(halts) * 1e3:.2f} ms, to view {taken * 1e3:.2f} ms")
        assert taken < QUICK_SECONDS
        assert "a reports: connection reset" in causes(coordinator)["c"]


def test_a_killed_peer_of_which_nobody_complains_is_out_after_a_second(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        killed_at = b.signal(signal.SIGKILL)
        taken = a.wait("view", names=["a"])["at"] - killed_at
        assert 0.9 < taken < 2.0
        assert "did not come back" in causes(coordinator)["b"]


def test_a_stopped_peer_is_evicted_within_two_seconds_and_learns_why(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        stopped_at = b.signal(signal.SIGSTOP)
        try:
            taken = a.wait("view", names=["a"])["at"] - stopped_at
        finally:
            b.signal(signal.SIGCONT)
        print(f"SIGSTOP to view {taken:.2f} s")
        assert taken <= 2.0
        told = b.wait("dismissed")
        assert told["error"] == "ViewChanged"
        assert "evicted from view 1: silent for 1." in told["text"] and "join again" in told["text"]


def test_a_peer_that_holds_its_gil_for_five_seconds_stays(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        began = time.monotonic()
        b.order("stall 5")
        assert b.wait("stalled")["at"] - began > 4.5
        assert causes(coordinator) == {}
        a.order("leave")  # and it still takes part
        a.wait("left")
        b.wait("view", names=["b"])


def test_an_accused_peer_that_lives_stays_and_the_links_are_made_anew(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        a.order(f"accuse {id_of(b)} 1")
        for peer in (a, b):
            assert len(peer.wait("view", epoch=2)["names"]) == 2
        assert causes(coordinator) == {}


def test_leaving(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "abc") as (a, b, c):
        b.order("leave")
        b.wait("left")
        for peer in (a, c):
            assert set(peer.wait("view", epoch=2)["names"]) == {"a", "c"}
        assert causes(coordinator) == {"b": "left"}


# ---- the coordinator's own troubles -------------------------------------------------------------------------------


@contextmanager
def coordinator_process(port: int) -> Iterator[subprocess.Popen[str]]:
    """`collcomm coordinator` on its own; it listens when this is entered."""
    command = [sys.executable, "-m", "collcomm", "coordinator", "--bind", f"127.0.0.1:{port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        assert "listens on" in process.stderr.readline()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_SECONDS)
        process.stderr.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_cleanly(port: int, number: signal.Signals) -> None:
    with coordinator_process(port) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0
        assert "coordinator stopped" in said


def test_a_coordinator_that_was_stopped_for_seconds_evicts_nobody(port: int) -> None:
    with coordinator_process(port) as process, group_of(f"127.0.0.1:{port}", "ab") as (a, b):
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(3.0)  # what is tested is that this passes
        process.send_signal(signal.SIGCONT)
        b.order("leave")  # still a member, in the same view
        b.wait("left")
        a.wait("view", epoch=2, names=["a"])
        assert [event["event"] for event in a.heard] == ["view", "halt", "view"]


def test_a_restarted_coordinator_does_not_know_the_old_group(port: int) -> None:
    with coordinator_process(port) as process, group_of(f"127.0.0.1:{port}", "ab") as peers:
        process.kill()
        process.wait(WAIT_SECONDS)
        with coordinator_process(port):
            for peer in peers:
                told = peer.wait("dismissed")
                assert told["error"] == "CoordinatorUnavailable" and "join again" in told["text"]
                assert [event["event"] for event in peer.heard] == ["view", "dismissed"]


def test_a_taken_port_is_told(coordinator: Coordinator) -> None:
    with pytest.raises(CollcommError, match="cannot listen on"):
        Coordinator(coordinator.address)


def test_ipv6() -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with Coordinator("[::1]:0") as coordinator, agents(coordinator.address, "a") as (a,):
        assert coordinator.address.startswith("[::1]:")
        assert a.wait_admitted(soon()).size == 1


# ---- strangers at the coordinator's port --------------------------------------------------------------------------


def soon() -> float:
    return time.monotonic() + WAIT_SECONDS


@contextmanager
def agents(address: str, *names: str, min_size: int = 1) -> Iterator[list[Agent]]:
    """Agents in this process, started."""
    with ExitStack() as stack:
        started = []
        for name in names:
            agent = make_agent(address, name, min_size, Reporter(lambda *_, **__: None))
            stack.callback(agent.close)
            agent.start()
            started.append(agent)
        yield started


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
        assert self._socket.poll(WAIT_SECONDS * 1e3), "no answer"
        return dict(msgpack.unpackb(self._socket.recv()))


def still_serves(coordinator: Coordinator) -> None:
    with agents(coordinator.address, "after") as (agent,):
        assert agent.wait_admitted(time.monotonic() + 5.0).size == 1


def join_message(**fields: Any) -> dict[str, Any]:
    return {"t": "join", "name": "x", "min_size": 1, **JOIN, "group": "strangers", **fields}


def until(condition: Callable[[], bool]) -> bool:
    deadline = soon()
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


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
        assert stranger.ask(encode({"t": "here"}))["t"] == "unknown"
        assert stranger.ask(encode({"t": "leave"}))["t"] == "left"
        assert stranger.ask(encode({"t": "state", "epoch": 1, "round": 1, "groups": {}}))["t"] == "unknown"


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


# ---- nothing left over ------------------------------------------------------------------------------------------------


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


if __name__ == "__main__":
    be_a_peer(sys.argv[1], sys.argv[2], int(sys.argv[3]))
