"""Groups behind a secret or keys: what works there, and who is kept out while the members go on undisturbed."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collcomm.transports import parse_address
from collcomm.transports.frames import HEADER, MAGIC, Kind
from collcomm.transports.tls import TlsStream

import collcomm
from collcomm.keys import make_keys
from collcomm.membership import strangers
from tests.support.churn import Churn, one_turn
from tests.support.peers import run_peers_at

pytestmark = pytest.mark.usefixtures("over_tcp")

WAIT_SECONDS = 20.0
CROWD = 1000
CROWD_DESCRIPTORS = 4 * CROWD + 500  # both ends of two crowds are in this process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("keys") / "run"
    make_keys(made, ["peer"])
    return made


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("keys") / "another"
    make_keys(made, ["peer"])
    return made


@pytest.fixture(params=["secret", "keys"])
def protection(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    return {"secret": "correct horse battery staple"} if request.param == "secret" else {"keys": folder}


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged about strangers."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    collector = Collector(logging.WARNING)
    loggers = [logging.getLogger("collcomm.coordinator"), logging.getLogger("collcomm.transport")]
    for logger in loggers:
        logger.addHandler(collector)
    yield found
    for logger in loggers:
        logger.removeHandler(collector)


class Working:
    """Two members that reduce without pause until told to stop. ``turns``: how often; ``error``: what went wrong."""

    def __init__(self, address: str, **options: Any):
        self.turns = 0
        self.error: BaseException | None = None
        self.sizes: set[int] = set()
        self._stop = threading.Event()
        self._arguments = (address, options)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        address, options = self._arguments

        def body(comm: collcomm.Communicator) -> None:
            going = True
            while going:
                last = comm.all_reduce(np.array([0.0, self._stop.is_set()]), op="max")
                going = not last[1]
                total = comm.all_reduce(np.ones(50_000, np.float32))
                assert (total == comm.size).all()
                self.sizes.add(comm.size)
                comm.step()
                self.turns += comm.rank == 0

        try:
            run_peers_at(address, 2, body, **options)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Working:
        self._thread.start()
        self.goes_on()
        return self

    def goes_on(self, turns: int = 5) -> None:
        """Wait for some more turns."""
        wanted, deadline = self.turns + turns, time.monotonic() + WAIT_SECONDS
        while self.turns < wanted:
            assert self.error is None and time.monotonic() < deadline, self.error
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        if self.error is not None:
            raise self.error


@pytest.fixture
def group(protection: dict[str, Any]) -> Iterator[tuple[collcomm.Coordinator, Working]]:
    """A protected coordinator with two members at work, who must not notice what a test does."""
    with collcomm.Coordinator("127.0.0.1:0", **protection) as coordinator:
        with Working(coordinator.address, **protection) as working:
            yield coordinator, working
            assert coordinator.snapshot()["default"]["epoch"] == 1
            working.goes_on()


# ---- members -----------------------------------------------------------------------------------------------------------


def test_collectives_run_behind_the_door(protection: dict[str, Any]) -> None:
    def body(comm: collcomm.Communicator) -> set[type]:
        for turn in range(40):
            one_turn(comm, turn)
        peer = (comm.rank + 1) % comm.size
        sent = comm.send(np.arange(300_000), peer, async_op=True)
        got = comm.recv(np.empty(300_000, np.int64), (comm.rank - 1) % comm.size)
        sent.result(WAIT_SECONDS)
        assert got[-1] == 299_999
        report = comm.sync({"w": np.full(500_000, comm.rank, np.float32)}, revision=comm.rank)
        assert report is not None
        kinds = {type(stream) for link in comm._session.transport._links.values() for stream in link.streams}
        comm.barrier()  # when somebody leaves, links are closed
        return kinds

    with collcomm.Coordinator("127.0.0.1:0", **protection) as coordinator:
        for kinds in run_peers_at(coordinator.address, 3, body, streams=2, **protection):
            assert ("keys" in protection) == (kinds == {TlsStream})


def test_members_die_and_come_behind_the_door(protection: dict[str, Any], tmp_path: Path) -> None:
    churn = Churn(seed=5, stop=tmp_path / "stop", protection=protection)
    churn.run(events=8, deadline=60)


# ---- at the coordinator's port -------------------------------------------------------------------------------------------


def refused(address: str, **options: Any) -> str:
    """The text of the AuthenticationFailed that joining raises, long before its time is up."""
    began = time.monotonic()
    with pytest.raises(collcomm.AuthenticationFailed) as caught:
        collcomm.join(address, timeout=WAIT_SECONDS, **options)
    assert time.monotonic() - began < WAIT_SECONDS / 2
    return str(caught.value)


def test_who_does_not_know_the_secret_is_told_what_to_check(
    group: tuple[collcomm.Coordinator, Working], foreign: Path, said: list[str]
) -> None:
    coordinator, _ = group
    assert "give the secret=" in refused(coordinator.address)
    for _ in range(3):
        assert "another secret or other keys" in refused(coordinator.address, secret="wrong")
        assert "another secret or other keys" in refused(coordinator.address, keys=foreign)
    assert len(said) <= 2 and all("said once per address" in line for line in said)  # "an unknown address" is another


def test_a_key_that_the_coordinator_does_not_know(tmp_path: Path) -> None:
    ann, bob = make_keys(tmp_path / "run", ["ann", "bob"], tls=False)
    with collcomm.Coordinator("127.0.0.1:0", keys=tmp_path / "run") as coordinator:
        with collcomm.join(coordinator.address, keys=bob, timeout=WAIT_SECONDS):
            pass
        (tmp_path / "run/coordinator/peers/bob.pub").unlink()
        time.sleep(1.1)  # files are read again once a second
        assert "not among those that the coordinator knows" in refused(coordinator.address, keys=bob)
        with collcomm.join(coordinator.address, keys=ann, timeout=WAIT_SECONDS):
            pass
        (eve,) = make_keys(tmp_path / "run", ["eve"], tls=False)
        time.sleep(1.1)
        with collcomm.join(coordinator.address, keys=eve, timeout=WAIT_SECONDS):
            pass


def test_a_coordinator_without_protection_is_not_trusted(folder: Path) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        for options in ({"secret": "some"}, {"keys": folder}):
            text = refused(coordinator.address, **options)
            assert "has no protection" in text or "or is none" in text


def test_the_variables_serve_both_sides(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("COLLCOMM_KEYS", str(folder))
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        assert coordinator.protection == str(folder / "coordinator")
        with collcomm.join(coordinator.address, timeout=WAIT_SECONDS) as comm:
            assert comm.size == 1
        monkeypatch.delenv("COLLCOMM_KEYS")
        refused(coordinator.address)


def test_a_message_of_2_to_the_63_bytes() -> None:
    """In ZeroMQ's own framing, from somebody who has got through a handshake without keys."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Working(coordinator.address) as working:
        for size in (2**63, 2**63 - 1, 2**64 - 1, 1 << 40):
            with socket.create_connection(("127.0.0.1", coordinator.port), WAIT_SECONDS) as sock:
                sock.settimeout(WAIT_SECONDS)
                sock.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready + b"\x02" + struct.pack(">Q", size))
                with contextlib.suppress(ConnectionError):
                    while sock.recv(1000):
                        pass
        working.goes_on()


# ---- at a member's port ---------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_run_does_not_get_far(folder: Path, foreign: Path, tmp_path: Path) -> None:
    """Its keys let it join, and its data connections fail, so the others go on without it."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()

    def come(address: str) -> None:
        comm = collcomm.join(address, keys=mixed, min_size=2, name="mixed", timeout=WAIT_SECONDS)
        with contextlib.closing(comm):
            comm.all_reduce(np.zeros(2), op="max", timeout=WAIT_SECONDS)

    for name in ("curve.key", "coordinator.pub"):
        (mixed / name).write_bytes((folder / "peer" / name).read_bytes())
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (mixed / name).write_bytes((foreign / "peer" / name).read_bytes())
    with collcomm.Coordinator("127.0.0.1:0", keys=folder) as coordinator:
        with Working(coordinator.address, keys=folder) as working:
            with pytest.raises((collcomm.ViewChanged, collcomm.JoinRejected)):
                come(coordinator.address)
            working.goes_on()
            causes = [cause for _, _, name, cause in coordinator.snapshot()["default"]["history"] if name == "mixed"]
            assert "keeps breaking" in causes[-1]


@pytest.mark.parametrize("length", [2**32 - 1, (1 << 24) + 1])
def test_a_member_that_announces_a_giant_frame_is_out(length: int) -> None:
    """Nothing is allocated for it; the link is given up, made anew, and works."""
    giant = HEADER.pack(MAGIC, Kind.DATA, 0, 1, 1, 0, 2**63, length, 0)

    def body(comm: collcomm.Communicator) -> float:
        comm.all_reduce(np.ones(1))
        if comm.rank == 1:
            (link,) = comm._session.transport._links.values()
            link.streams[0].send(giant, b"")
        return float(comm.all_reduce(np.ones(1))[0])

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        assert run_peers_at(coordinator.address, 2, body) == [2.0, 2.0]


def test_a_message_of_2_to_the_63_bytes_between_members() -> None:
    def body(comm: collcomm.Communicator) -> str:
        if comm.rank == 1:
            comm.send(np.ones(1), 0)
            links = comm._session.transport._links
            (link,) = [link for (_, purpose, _), link in links.items() if purpose == 1]
            link.streams[0].send(HEADER.pack(MAGIC, Kind.DATA, 0, 0, 7, 0, 2**63, 1 << 20, 0), b"")
            comm.barrier()
            return ""
        comm.recv(np.ones(1), 1)
        with pytest.raises(collcomm.CollectiveMismatch) as caught:
            comm.recv(np.ones(1), 1, timeout=WAIT_SECONDS)
        comm.barrier()
        return str(caught.value)

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        assert "more than 64 MiB" in run_peers_at(coordinator.address, 2, body)[0]


# ---- crowds ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def crowd(port: int) -> Iterator[list[socket.socket]]:
    """A thousand connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)) for _ in range(CROWD)]


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] < CROWD_DESCRIPTORS, reason="too few descriptors (ulimit -n)"
)
def test_a_thousand_that_never_speak(
    protection: dict[str, Any], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "HANDSHAKE_SECONDS", 1.0)
    before = len(os.listdir("/proc/self/fd"))
    with collcomm.Coordinator("127.0.0.1:0", **protection) as coordinator:
        with Working(coordinator.address, **protection) as working:
            member = coordinator.snapshot()["default"]["members"][0]
            _, port = parse_address(member[member.index("(") + 1 : -1])
            with crowd(coordinator.port), crowd(port):
                working.goes_on()
                comm = collcomm.join(coordinator.address, group="late", timeout=WAIT_SECONDS, **protection)
                assert comm.all_reduce(np.ones(1))[0] == 1
                comm.leave()
                working.goes_on()
            assert coordinator.snapshot()["default"]["epoch"] == 1 and working.sizes == {2}
            assert len(said) <= 2, said
    deadline = time.monotonic() + WAIT_SECONDS
    while len(os.listdir("/proc/self/fd")) > before + 5:
        assert time.monotonic() < deadline, "descriptors are left over"
        time.sleep(0.05)
