"""Starts peers and coordinators as processes of their own, hears what they print, and leaves none behind."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

import collcomm

from ..errors import CollcommError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
END_SECONDS = 10.0
START_SECONDS = 30.0
FREE_PORTS = (10_000, 32_768)
FREE_PORT_TRIES = 100
BENCH_PEER = ("-m", "collcomm.bench.peer")


def die_with_parent() -> None:
    """In a child, before exec: SIGKILL it when its parent dies, however that happens."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def child_environment() -> dict[str, str]:
    """Children find this very package, installed or not."""
    here = str(Path(collcomm.__file__).resolve().parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at this moment, and that no outgoing connection is given before it is used.

    The kernel takes ports of outgoing connections from its ephemeral range (32768 and up where nobody changed it); a
    port from there can be gone a moment later. So this one lies below, and is drawn by chance: two who ask at the same
    time hardly ever get the same.
    """
    for _ in range(FREE_PORT_TRIES):
        port = random.SystemRandom().randrange(*FREE_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise CollcommError(f"none of {FREE_PORT_TRIES} ports tried below {FREE_PORTS[1]} of {host} is free")


class Peers:
    """A context in which peers run; ``events`` are the JSON lines that they print, with "peer" added.

    ``prefix`` gives the start of a peer's command line, by index; ``program`` is what Python runs.
    """

    def __init__(self, prefix: Callable[[int], Sequence[str]] = lambda index: (), program: Sequence[str] = BENCH_PEER):
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self._prefix = prefix
        self._program = tuple(program)
        self._events: Queue[dict[str, Any]] = Queue()
        self._readers: list[threading.Thread] = []
        self._excused: set[int] = set()

    def start(self, index: int, case: dict[str, Any]) -> subprocess.Popen[str]:
        command = [*self._prefix(index), sys.executable, *self._program, json.dumps(case)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent, env=child_environment()
        )
        self.processes[index] = process
        reader = threading.Thread(target=self._read, args=(index, process), daemon=True)
        reader.start()
        self._readers.append(reader)
        return process

    def kill(self, index: int) -> float:
        """SIGKILL; returns when, by the monotonic clock that all processes of the machine share."""
        self.excuse(index)
        killed = time.monotonic()
        self.processes[index].send_signal(signal.SIGKILL)
        return killed

    def excuse(self, index: int) -> None:
        """That this peer fails is no failure of the whole."""
        self._excused.add(index)

    def _read(self, index: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                self._events.put({"peer": index, **json.loads(line)})
        self._events.put({"peer": index, "event": "exit", "code": process.wait()})

    def events(self, timeout: float) -> Iterator[dict[str, Any]]:
        """Events as they come, for ``timeout`` seconds from now. Raises TimeoutError when the caller still
        wants one then, RuntimeError when a peer fails that was not meant to."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"the peers have not got there within {timeout:.0f} s") from None
            if event["peer"] not in self._excused:
                if event["event"] == "error":
                    raise RuntimeError(f"peer {event['peer']}: {event['text']}")
                if event["event"] == "exit" and event["code"]:
                    raise RuntimeError(f"peer {event['peer']} ended with code {event['code']}")
            yield event

    def times(self, number: int, timeout: float, end: float = START_SECONDS) -> list[dict[str, Any]]:
        """The first ``number`` events "times", after which the peers end within ``end`` seconds. Raises as `events` and `wait`
        do."""
        found = []
        for event in self.events(timeout):
            if event["event"] == "times":
                found.append(event)
            if len(found) == number:
                break
        self.wait(end)
        return found

    def wait(self, timeout: float) -> None:
        """Until all have ended. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        for process in self.processes.values():
            process.wait(max(0.01, deadline - time.monotonic()))

    def __enter__(self) -> Peers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
        for process in self.processes.values():
            process.wait()
        for reader in self._readers:
            reader.join(END_SECONDS)
        for process in self.processes.values():
            if process.stdout is not None:
                process.stdout.close()


class CoordinatorProcess:
    """A context in which ``collcomm coordinator`` runs as a process, behind the command-line ``prefix``. ``module``: what
    takes the place of `collcomm`."""

    def __init__(self, address: str, prefix: Sequence[str] = (), options: Sequence[str] = (), module: str = "collcomm"):
        self.address = address
        fixed = ["-m", module, "coordinator", "--bind", address, "--insecure"]
        self._command = [*prefix, sys.executable, *fixed, *options]
        self._said: list[str] = []
        self._listens = threading.Event()

    @property
    def log(self) -> str:
        """What it has said so far."""
        return "".join(self._said)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def __enter__(self) -> CoordinatorProcess:
        self._process = subprocess.Popen(
            self._command, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent, env=child_environment()
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listens.wait(START_SECONDS) or self._process.poll() is not None:
            self._end()
            raise RuntimeError(f"the coordinator did not start: {self.log}")
        return self

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if "listens on" in line:
                self._listens.set()
        self._listens.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()
