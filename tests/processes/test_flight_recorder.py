"""Real peers dump on a signal, on a failure, when they are set aside and on request; what they leave is read, traced, reported
and diagnosed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import collcomm
from collcomm.cli import main
from collcomm.health.clocks import clocks_of
from collcomm.health.dump import Dump
from collcomm.health.dumpfiles import SUFFIX, find_dumps, newest, read_dump
from collcomm.health.finding import Culprit, CulpritKind, Finding, Syndrome
from collcomm.health.recorder import DIRECTORY_VARIABLE
from collcomm.health.replay import diagnose
from tests.support.peers import run_peers

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02
PEERS = 3

pytestmark = pytest.mark.usefixtures("over_tcp")


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {WAIT_SECONDS:.0f} s"
        time.sleep(POLL_SECONDS)


class Peers:
    """``dumps``: the directory in which they leave them. ``idles``: the one that comes to no more operations."""

    def __init__(self, folder: Path, address: str, idles: str):
        self.dumps = folder / "dumps"
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for number in range(PEERS):
            name = f"lab-{number}"
            ready = folder / f"{name}.ready"
            variables = {DIRECTORY_VARIABLE: str(self.dumps), "FLYING_READY": str(ready), "COLLCOMM_PROBE": "0"}
            variables |= {"FLYING_IDLES": "1"} if name == idles else {}
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.support.flying", address, name, str(PEERS)],
                cwd=ROOT,
                env={**os.environ, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        until("work", lambda: all((folder / f"{name}.ready").exists() for name in self.processes))

    def finish(self) -> dict[str, str]:
        """What each of those that still run has said, after they were told to stop."""
        return {name: one.communicate(timeout=WAIT_SECONDS)[0] for name, one in self.processes.items()}

    def made(self) -> list[Dump]:
        return newest([read_dump(path) for path in find_dumps([self.dumps])])

    def end(self) -> None:
        for one in self.processes.values():
            one.kill()
            one.communicate()


@contextmanager
def working(folder: Path, idles: str = "") -> Iterator[Peers]:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        peers = Peers(folder, coordinator.address, idles)
        try:
            if idles:
                until("waiting", lambda: _others_wait(coordinator, idles))
            yield peers
        finally:
            peers.end()


def _others_wait(coordinator: collcomm.Coordinator, idles: str) -> bool:
    """They are inside of an operation, and tell so."""
    shown = coordinator.show("default")
    others = [] if shown is None else [one for one in shown["members"] if one["name"] != idles]
    return bool(others) and all(((one["operation"] or {}).get("age") or 0.0) > 0.2 for one in others)


def _dumps_of(peers: Peers, count: int) -> bool:
    return peers.dumps.is_dir() and len(list(peers.dumps.glob(f"*{SUFFIX}"))) == count


def test_peers_dump_on_a_signal_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with working(tmp_path) as peers:
        for process in peers.processes.values():
            process.send_signal(signal.SIGUSR1)
        until("dumps", lambda: _dumps_of(peers, PEERS))
        said = peers.finish()
    assert all("the user's handler has heard 1 signals" in text for text in said.values()), said
    dumps = peers.made()
    assert sorted(dump.header.name for dump in dumps) == sorted(peers.processes)
    assert {dump.reason for dump in dumps} == {f"signal {int(signal.SIGUSR1)}"}
    for dump in dumps:
        assert dump.pid == peers.processes[dump.header.name].pid
        assert [one.id for one in dump.header.members] == [other.header.member for other in dumps]
        done = [one for one in dump.operations if one.gid == 0 and not one.outcome]
        assert [one.seq for one in done] == list(range(done[0].seq, done[0].seq + len(done)))
        assert all(one.enter <= one.commit <= one.exit <= dump.monotonic for one in done)
        assert {one.member for one in dump.transfers} <= {one.id for one in dump.header.members}
    _one_machine_has_one_clock(dumps)
    _tools_read_them(peers.dumps, tmp_path, capsys)


def _one_machine_has_one_clock(dumps: list[Dump]) -> None:
    """All processes of a machine share the monotonic clock, so that the truth is known."""
    shifts = [clock.shift for clock in clocks_of(dumps)]
    assert sum(1 for clock in clocks_of(dumps) if clock.common >= 20) == len(dumps) - 1
    assert (
        max(shifts) - min(shifts) < 0.02
    )  # this machine is busy with other tests; idle ones are a hundred times better


def _tools_read_them(dumps: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(dumps), "-o", str(folder / "trace.json")]) == 0
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert len({one["pid"] for one in events if one["ph"] == "X"}) == PEERS
    assert any(one["ph"] == "s" for one in events)
    assert main(["report", str(dumps), "-o", str(folder / "report.html")]) == 0
    assert f"{PEERS} peers of group 'default'" in capsys.readouterr().out
    assert "all_reduce" in (folder / "report.html").read_text()


def test_whoever_fails_writes_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "dumps"))

    def body(comm: collcomm.Communicator) -> None:
        comm.all_reduce(np.ones(10))
        with pytest.raises(collcomm.CollectiveMismatch):
            comm.all_reduce(np.ones(10 + comm.rank))
        comm.barrier()  # nobody leaves while the other still writes

    run_peers(2, body)
    dumps = [read_dump(path) for path in find_dumps([tmp_path / "dumps"])]
    assert {dump.header.rank for dump in dumps} == {0, 1}
    for dump in dumps:
        assert dump.reason == "CollectiveMismatch" and dump.operations[-1].outcome == "CollectiveMismatch"
    assert main(["report", str(tmp_path / "dumps"), "-o", str(tmp_path / "report.html")]) == 0
    assert "CollectiveMismatch" in (tmp_path / "report.html").read_text()


def test_whoever_loses_a_peer_writes_it_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with working(tmp_path, idles="lab-1") as peers:
        peers.processes["lab-1"].kill()
        until("dumps", lambda: _dumps_of(peers, PEERS - 1))
        said = peers.finish()
    assert all("has heard 0 signals" in text for name, text in said.items() if name != "lab-1"), said
    dumps = peers.made()
    assert {dump.header.name for dump in dumps} == {"lab-0", "lab-2"}
    for dump in dumps:
        assert dump.reason == "PeerLost" and dump.operations[-1].outcome == "PeerLost"
        summary = json.loads(Path(dump.source.replace(SUFFIX, ".dump.json")).read_text())
        assert (summary["name"], summary["last"][-1]["outcome"]) == (dump.header.name, "PeerLost")
    assert diagnose(dumps) == []  # a death is the membership's to tell
    assert main(["trace", str(peers.dumps), "-o", str(tmp_path / "trace.json")]) == 0
    assert main(["report", str(peers.dumps), "-o", str(tmp_path / "report.html")]) == 0
    assert "2 peers of group 'default'" in capsys.readouterr().out
    assert "PeerLost" in (tmp_path / "report.html").read_text()


IDLE = "import sys, collcomm; comm = collcomm.join(sys.argv[1]); print(flush=True); sys.stdin.read(); comm.close()"


def test_who_is_set_aside_between_operations_writes_it_down(tmp_path: Path) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        idle = subprocess.Popen(
            [sys.executable, "-c", IDLE, coordinator.address],
            cwd=ROOT,
            env={**os.environ, DIRECTORY_VARIABLE: str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert idle.stdout is not None and idle.stdout.readline() == "\n"
            idle.send_signal(signal.SIGSTOP)
            until("eviction", lambda: not coordinator.snapshot()["default"]["members"])
            idle.send_signal(signal.SIGCONT)
            until("dump", lambda: bool(list(tmp_path.glob(f"*{SUFFIX}"))))
            idle.communicate(timeout=WAIT_SECONDS)
        finally:
            idle.kill()
            idle.communicate()
    (dump,) = (read_dump(path) for path in find_dumps([tmp_path]))
    assert (dump.reason, dump.header.open) == ("ViewChanged", ())


def test_who_closes_or_leaves_writes_nothing_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "dumps"))

    def body(comm: collcomm.Communicator) -> None:
        comm.all_reduce(np.ones(10))
        if comm.rank == 0:  # the others never come to this one
            handle = comm.all_reduce(np.ones(10), async_op=True)
            comm.close()
            assert isinstance(handle.exception() if handle.wait(WAIT_SECONDS) else None, collcomm.CommunicatorClosed)

    run_peers(2, body)
    assert not (tmp_path / "dumps").exists()


def test_a_hang_is_diagnosed_from_dumps(tmp_path: Path) -> None:
    """From records alone: one member computes on and on, and the others wait for it."""
    found: list[Finding] = []
    comms: list[collcomm.Communicator] = []

    def look() -> bool:
        for path in tmp_path.rglob(f"*{SUFFIX}"):
            path.unlink()
        for number, each in enumerate(comms):
            each.dump(tmp_path / str(number))
        found.extend(diagnose([read_dump(path) for path in find_dumps([tmp_path])]))
        return bool(found)

    def body(comm: collcomm.Communicator) -> int:
        for _ in range(20):
            comm.all_reduce(np.ones(1000))
        comms.append(comm)
        comm.barrier()
        if comm.rank == 1:
            until("finding", look)
        comm.all_reduce(np.ones(1000))
        return comm.view.ids[1]

    member = run_peers(PEERS, body)[0]
    assert {(one.syndrome, one.culprit) for one in found} == {
        (Syndrome.NON_COMMUNICATION_HANG, Culprit(CulpritKind.RANK, (member,)))
    }


def test_on_request(tmp_path: Path) -> None:
    def body(comm: collcomm.Communicator) -> Path:
        for _ in range(3):
            comm.all_reduce(np.ones(10))
        path = comm.dump(tmp_path / "here")
        comm.barrier()  # who leaves early changes the ranks of the others
        return path

    dumps = [read_dump(path) for path in run_peers(2, body)]
    assert {dump.header.rank for dump in dumps} == {0, 1}
    assert all(sum(one.kind == "all_reduce" for one in dump.operations) >= 3 for dump in dumps)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def body(comm: collcomm.Communicator) -> str:
        with pytest.raises(OSError, match="no dump was written"):
            comm.dump(tmp_path / "file")
        return str(comm.all_reduce(np.ones(1))[0])

    assert run_peers(2, body) == ["2.0", "2.0"]
