"""`collcomm status`, `top` and `doctor` as people run them, on real coordinators, with real peers."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.bench.launch import die_with_parent
from collcomm.health.metrics import SnapshotCollector, start_metrics
from collcomm.membership import Coordinator
from tests.processes.test_coordinator import ROOT, WAIT_SECONDS, agents, group_of, port, soon
from tests.support.peers import run_peers_at
from tests.unit.test_metrics import read

__all__ = ["port"]  # a fixture

FINDING = {
    "id": 1,
    "syndrome": "non-communication slow",
    "culprit": "rank",
    "members": [1],
    "names": ["a"],
    "at": 1_700_000_000.0,
    "evidence": "came 41 ms after the others in 12 of 12 operations",
    "confidence": 0.9,
    "action": None,
    "ended": None,
}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("COLLCOMM_")},
    "PYTHONPATH": str(ROOT),
    "TERM": "xterm",
    "COLUMNS": "160",
    "LINES": "50",
}


def command(*arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "collcomm", *arguments],
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=die_with_parent,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    with Coordinator("127.0.0.1:0") as coordinator:
        yield coordinator


@contextmanager
def coordinator_with_finding() -> Iterator[Coordinator]:
    def more(group: str) -> dict[str, Any] | None:
        shown = coordinator.show(group)
        return None if shown is None else {**shown, "findings": [FINDING]}

    with Coordinator("127.0.0.1:0", snapshot=more) as coordinator:
        yield coordinator


# ---- status -------------------------------------------------------------------------------------------------------


def test_status_of_a_group(coordinator: Coordinator) -> None:
    code, said = command("status", coordinator.address)
    assert code == 0 and "nobody has joined" in said
    with group_of(coordinator.address, "ab") as (a, b):
        code, said = command("status", coordinator.address)
        assert code == 0 and "group run: 2 members; view 1" in said and "127.0.0.1" in said
        b.order("leave")
        b.wait("left")
        a.wait("view", names=["a"])
        code, said = command("status", COLLCOMM_COORDINATOR=coordinator.address)
        assert code == 0 and re.search(r"left +b +left", said) and "group run: 1 member;" in said
        code, said = command("status", coordinator.address, "--group", "run", "--json")
        assert json.loads(said)["members"][0]["name"] == "a"
        code, said = command("status", coordinator.address, "--group", "nowhere")
        assert code == 2 and "there is: 'run'" in said


def test_status_with_a_finding_exits_with_one() -> None:
    with coordinator_with_finding() as coordinator, agents(coordinator.address, "a") as (a,):
        a.wait_admitted(soon())
        code, said = command("status", coordinator.address)
        assert code == 1 and "came 41 ms after the others" in said and "1 finding now" in said


def test_status_says_why_there_is_none(port: int, tmp_path: Path) -> None:
    code, said = command("status", f"127.0.0.1:{port}", "--timeout", "0.5")
    assert code == 2 and "nothing listens there" in said
    with Coordinator("127.0.0.1:0", secret="s3cret") as protected:
        code, said = command("status", protected.address)
        assert code == 2 and "wants to know who joins" in said
        secret = tmp_path / "secret"
        secret.write_text("s3cret\n")
        assert command("status", protected.address, "--secret-file", str(secret))[0] == 0
    code, said = command("status")
    assert code == 2 and "COLLCOMM_COORDINATOR" in said


# ---- logs ---------------------------------------------------------------------------------------------------------


def test_the_coordinator_logs_events_as_json(port: int) -> None:
    run = [sys.executable, "-m", "collcomm", "coordinator", "--bind", f"127.0.0.1:{port}", "--log-format", "json"]
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=die_with_parent)
    assert process.stderr is not None
    try:
        assert "listens on" in json.loads(process.stderr.readline())["message"]
        with group_of(f"127.0.0.1:{port}", "ab") as (a, b):
            b.signal(signal.SIGKILL)
            a.wait("view", names=["a"])
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT_SECONDS)
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)
    lines = [json.loads(line) for line in said.splitlines()]
    (death,) = [line for line in lines if line.get("event") == "died" and line["name"] == "b"]
    assert (death["level"], death["group"], death["epoch"]) == ("WARNING", "run", 1)
    assert death["cause"] in ("port gone", "connection closed")
    assert [line["epoch"] for line in lines if line.get("event") == "view"][:2] == [1, 2]


# ---- top ----------------------------------------------------------------------------------------------------------


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *arguments: str):
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (50, 160))
        self.before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "collcomm", *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.seen = ""

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def wait(self, text: str) -> str:
        """Until ``text`` is shown; returns all since the last such call, without the terminal's control sequences."""
        deadline, raw = time.monotonic() + WAIT_SECONDS, b""
        while True:
            clean = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode(errors="replace"))
            if text in clean:
                self.seen += clean
                return clean
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                raise AssertionError(f"no {text!r} in {clean[-2000:]!r}")
            raw += os.read(self._master, 65536)

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def ended(self) -> int:
        """The exit code."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            if select.select([self._master], [], [], 0.05)[0]:
                os.read(self._master, 65536)  # so that it can write
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_SECONDS)
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    shown = Terminal(*arguments)
    try:
        yield shown
    finally:
        shown.close()


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_top_ends_with_a_key_and_restores_the_terminal(coordinator: Coordinator, key: str) -> None:
    with terminal("top", coordinator.address) as shown:
        shown.wait("nobody has joined")
        with agents(coordinator.address, "lab-3") as (a,):
            a.wait_admitted(soon())
            shown.wait("lab-3")
        assert shown.settings != shown.before
        if key == "q":
            shown.press(key)
        else:
            shown.process.send_signal(signal.SIGINT)
        assert shown.ended() == 0
        assert shown.settings == shown.before


def test_top_says_when_the_coordinator_is_gone_and_goes_on_when_it_is_back(port: int) -> None:
    with terminal("top", f"127.0.0.1:{port}") as shown:
        with Coordinator(f"127.0.0.1:{port}"):
            with agents(f"127.0.0.1:{port}", "early") as (a,):
                a.wait_admitted(soon())
                shown.wait("early")
        gone = shown.wait("what is shown is")
        assert "does not answer" in gone
        with Coordinator(f"127.0.0.1:{port}"), agents(f"127.0.0.1:{port}", "later") as (a,):
            a.wait_admitted(soon())
            shown.wait("later")
            shown.process.send_signal(signal.SIGTERM)
            assert shown.ended() == 0
            assert shown.settings == shown.before


def test_top_needs_a_terminal(coordinator: Coordinator) -> None:
    code, said = command("top", coordinator.address)
    assert code == 2 and "collcomm status" in said


# ---- doctor -------------------------------------------------------------------------------------------------------


def doctor(*arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and lines by what they are about."""
    code, said = command("doctor", "--json", *arguments, **variables)
    return code, {line["what"]: line for line in json.loads(said)["lines"]}


def levels(lines: dict[str, dict[str, Any]], names: Sequence[str]) -> list[str]:
    return [lines[name]["level"] for name in names]


def test_doctor_finds_nothing_wrong_here(coordinator: Coordinator) -> None:
    code, lines = doctor(coordinator.address)
    assert code == 0
    looked = ("name", "address", "port", "packets", "coordinator", "versions", "clock", "translation", "relay")
    assert levels(lines, looked) == ["ok"] * len(looked)
    assert lines["address"]["card"] == "lo" and lines["packets"]["mtu"] > 1280
    assert abs(lines["clock"]["offset"]) <= lines["clock"]["error"] * 2  # it is the same clock
    assert lines["dialled back"]["outcome"] == "reached"
    assert lines["rate to it"]["bandwidth"] > 1e6 and lines["rate from it"]["bandwidth"] > 1e6
    assert lines["open files"]["soft"] > 0 and lines["congestion"]["algorithm"]
    code, said = command("doctor", coordinator.address)
    assert code == 0 and "the coordinator reached port" in said


def test_doctor_tells_a_closed_port_and_goes_on_with_this_host(port: int) -> None:
    code, lines = doctor(f"127.0.0.1:{port}")
    assert code == 1
    assert lines["port"]["outcome"] == "refused" and "coordinator running" in lines["port"]["advice"]
    assert "coordinator" not in lines and "open files" in lines


def test_doctor_tells_wrong_credentials(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("guess")
    with Coordinator("127.0.0.1:0", secret="s3cret") as protected:
        for arguments in ([], ["--secret-file", str(secret)]):
            code, lines = doctor(protected.address, *arguments)
            assert (
                code == 1 and lines["credentials"]["level"] == "problem" and "--keys" in lines["credentials"]["advice"]
            )
        code, lines = doctor(protected.address, COLLCOMM_SECRET="s3cret")
        assert code == 0 and lines["coordinator"]["level"] == "ok" and lines["rate to it"]["bandwidth"] > 1e5


def test_doctor_tells_that_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, lines = doctor(f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "3")
        assert code == 1 and lines["port"]["level"] == "ok"
        assert "says nothing" in lines["coordinator"]["text"] and "48148" in lines["coordinator"]["advice"]


def test_doctor_takes_no_longer_than_it_may() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        command("doctor", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "1")
        assert time.monotonic() - began < 10.0  # of which Python's start is a part


def test_doctor_says_that_a_chosen_port_is_taken(coordinator: Coordinator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, lines = doctor(coordinator.address, "--port", str(taken.getsockname()[1]))
    assert code == 1 and "another program" in lines["dialled back"]["advice"]


# ---- metrics ------------------------------------------------------------------------------------------------------


def test_a_real_peer_serves_its_metrics(coordinator: Coordinator) -> None:
    def body(comm: collcomm.Communicator) -> dict[tuple[str, ...], float]:
        comm.all_reduce(np.ones(1000))
        with start_metrics(comm) as server:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=WAIT_SECONDS) as answer:
                found = read(answer.read().decode())
        comm.barrier()
        return found

    for number, found in enumerate(run_peers_at(coordinator.address, 2, body)):
        (name,) = {key[1] for key in found}
        assert found["collcomm_members", name] == 2 and found["collcomm_operations_total", name] >= 1, number
        assert found["collcomm_sent_bytes_total", name] > 0
    shown = SnapshotCollector(lambda: [found for found in map(coordinator.show, coordinator.groups) if found])
    assert read(shown.exposition().decode())["collcomm_exits_total", "left", "default", "left"] == 2
