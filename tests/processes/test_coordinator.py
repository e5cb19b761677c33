"""Coordinator and agents as real processes on loopback: deaths, stops, stalls, strangers, and nothing left over.

Run as a script, this file is such a peer: it tells what its agent hears as lines of JSON, and takes orders on stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from collcomm.bench.launch import free_port
from collcomm.errors import CollcommError
from collcomm.membership import Agent, Coordinator, Welcome, ZmqLines
from collcomm.types import Booth, Call, GroupReport, Outcome, View, Way
from tests.support.telling import Telling

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 20.0  # how long anything may take before a test gives up
JUMPED = 2 + (1 << 16)  # a coordinator that has no record, and misses a member, skips epochs that it may not know
QUICK_SECONDS = 0.5  # a hundred times what it takes on an idle machine
JOIN: dict[str, Any] = {
    "t": "join",
    "group": "run",
    "host": "127.0.0.1",
    "port": 4711,
    "host_id": "",
    "offers": "",
    "site": "",
    "on_failure": "retry",
}


# ---- the peer: what an agent hears, on stdout ---------------------------------------------------------------------


class Reporter:
    """An observer of one world communicator that has done ``complete`` operations; ``tell`` gets every event."""

    def __init__(self, tell: Callable[..., None]):
        self.tell = tell
        self.complete = 0
        self.members: tuple[int, ...] = ()

    def welcomed(self, welcome: Welcome) -> None:
        pass

    def halt(self, epoch: int, round: int) -> dict[int, GroupReport]:
        self.tell("halt", epoch=epoch)
        return {0: GroupReport(self.complete, self.complete, self.members)}

    def adopt(
        self,
        view: View,
        outcomes: dict[int, Outcome],
        admitted: bool,
        broken: Sequence[tuple[int, int]],
        keys: Mapping[int, bytes],
        ways: Sequence[Way],
        booth: Booth | None,
    ) -> None:
        self.members = view.ids
        self.complete = outcomes[0].consumed
        self.tell("view", epoch=view.epoch, names=[member.name for member in view.members], ids=list(view.ids))

    def rerouted(self, way: Way) -> None: ...

    def called(self, member: int, gid: int, purpose: int, stream: int, streams: int) -> None: ...

    def dismissed(self, error: CollcommError) -> None:
        self.tell("dismissed", error=type(error).__name__, text=str(error))

    def inquire(self, epoch: int, gid: int, seq: int) -> Call | None:
        return None


def make_agent(address: str, name: str, min_size: int, observer: Any) -> Agent:
    return Agent(ZmqLines(address), {**JOIN, "name": name, "min_size": min_size}, observer)


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


class Peer(Telling):
    """A process of `be_a_peer`; ``wait`` reads what it tells."""

    def __init__(self, address: str, name: str, min_size: int):
        command = [sys.executable, __file__, address, name, str(min_size)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        super().__init__(name, process, WAIT_SECONDS)

    def kill(self) -> None:
        self.process.kill()

    def order(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> float:
        """Returns when it was sent."""
        self.process.send_signal(number)
        return time.monotonic()

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_SECONDS)
        self.reader.join(WAIT_SECONDS)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # an order that it did not live to read
        self.process.stdout.close()


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


def soon() -> float:
    return time.monotonic() + WAIT_SECONDS


@contextmanager
def agents(address: str, *names: str, min_size: int = 1, observer: Reporter | None = None) -> Iterator[list[Agent]]:
    """Agents in this process, started."""
    with ExitStack() as stack:
        started = []
        for name in names:
            agent = make_agent(address, name, min_size, observer or Reporter(lambda *_, **__: None))
            stack.callback(agent.close)
            agent.start()
            started.append(agent)
        yield started


def until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> bool:
    """Whether ``condition`` comes true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


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
            assert until(lambda: bool(coordinator.snapshot()["run"]["waiting"]))
            a.order("ready 1")
            b.order("ready 1")
            for peer in (a, b, late):
                assert set(peer.wait("view", epoch=2)["names"]) == {"a", "b", "c"}
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
        cause = causes(coordinator)["c"]
        assert "a reports: connection reset" in cause or "data port is gone" in cause  # whichever was heard first


def test_a_killed_peer_of_which_nobody_complains_is_out_at_once_since_its_port_is_gone(
    coordinator: Coordinator,
) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        killed_at = b.signal(signal.SIGKILL)
        taken = a.wait("view", names=["a"])["at"] - killed_at
        assert taken < QUICK_SECONDS
        assert "data port is gone" in causes(coordinator)["b"]


def test_a_stopped_peer_is_evicted_within_seconds_and_learns_why(coordinator: Coordinator) -> None:
    with group_of(coordinator.address, "ab") as (a, b):
        stopped_at = b.signal(signal.SIGSTOP)
        try:
            taken = a.wait("view", names=["a"])["at"] - stopped_at
        finally:
            b.signal(signal.SIGCONT)
        print(f"SIGSTOP to view {taken:.2f} s")
        assert taken <= 5.0  # 1.3 s on a machine with nothing else to do
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
    return free_port()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_cleanly(port: int, number: signal.Signals) -> None:
    with coordinator_process(port) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0
        assert "coordinator stopped" in said


@pytest.mark.slow
def test_a_coordinator_that_was_stopped_for_seconds_evicts_nobody(port: int) -> None:
    with coordinator_process(port) as process, group_of(f"127.0.0.1:{port}", "ab") as (a, b):
        threading.Event().wait(1.5)  # an idle coordinator looks at its clock once a second: it must know the group
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(3.0)  # what is tested is that this passes
        process.send_signal(signal.SIGCONT)
        b.order("leave")  # still a member, in the same view
        b.wait("left")
        a.wait("view", epoch=2, names=["a"])
        assert [event["event"] for event in a.heard] == ["view", "halt", "view"]


def test_a_restarted_coordinator_takes_the_group_over(port: int) -> None:
    with coordinator_process(port) as process, group_of(f"127.0.0.1:{port}", "ab") as peers:
        process.kill()
        process.wait(WAIT_SECONDS)
        with coordinator_process(port):
            for peer in peers:
                assert sorted(peer.wait("view", epoch=2, ids=[1, 2])["names"]) == ["a", "b"]
                assert [event["event"] for event in peer.heard] == ["view", "halt", "view"]


def test_who_died_while_the_coordinator_was_away_is_out(port: int) -> None:
    with coordinator_process(port) as process, group_of(f"127.0.0.1:{port}", "abc") as (a, b, c):
        process.kill()
        process.wait(WAIT_SECONDS)
        b.kill()
        with coordinator_process(port):
            for peer in (a, c):
                assert sorted(peer.wait("view", epoch=JUMPED)["names"]) == ["a", "c"]


def test_a_taken_port_is_told(coordinator: Coordinator) -> None:
    with pytest.raises(CollcommError, match="cannot listen on"):
        Coordinator(coordinator.address)


def test_ipv6() -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with Coordinator("[::1]:0") as coordinator, agents(coordinator.address, "a") as (a,):
        assert coordinator.address.startswith("[::1]:")
        assert a.wait_admitted(soon()).size == 1


if __name__ == "__main__":
    be_a_peer(sys.argv[1], sys.argv[2], int(sys.argv[3]))
