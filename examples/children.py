"""Peer processes of a job on this machine: started, listened to, killed, and never left behind."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

Event = dict[str, Any]

QUIET_SECONDS = 0.2
MAX_LINE_BYTES = 65_536
MAX_QUEUED_EVENTS = 10_000
PR_SET_PDEATHSIG = 1
LAST_WORDS_LINES = 12


class Children:
    """The peer processes. Each writes one JSON object per line to its standard output; they come out of `next_event`
    with the child's name in "peer", and a last {"event": "exit", "code": ...} when the process has ended.

    Standard error goes to ``logs``/NAME.log. Each child is the leader of a session of its own, which `close` kills.
    Start children from the main thread: on Linux they die with the thread that started them.
    """

    def __init__(self, logs: Path):
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._events: queue.Queue[Event] = queue.Queue(MAX_QUEUED_EVENTS)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._ended: set[str] = set()
        self._closing = False

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> list[str]:
        """Names of children whose last event has not been taken yet."""
        return [name for name in self._processes if name not in self._ended]

    def start(self, name: str, command: list[str]) -> None:
        environment = dict(os.environ, OMP_NUM_THREADS="1", COLLCOMM_EXAMPLE_OWNER=str(os.getpid()))
        with open(self._logs / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._processes[name] = process
        reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
        self._readers.append(reader)
        reader.start()

    def kill(self, name: str) -> float:
        """SIGKILL. Returns the time of it on the clock of the events."""
        self._processes[name].kill()
        return time.monotonic()

    def next_event(self, seconds: float) -> Event | None:
        """The next event; None when nothing came for ``seconds``."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        if event["event"] == "exit":
            self._ended.add(event["peer"])
        return event

    def until_ended(self, silence: float) -> Iterator[Event | None]:
        """Events until all children have ended, and None in between whenever none came for a moment. Raises TimeoutError when
        none comes for ``silence`` seconds."""
        heard = time.monotonic()
        while self.running:
            event = self.next_event(QUIET_SECONDS)
            if event is not None:
                heard = time.monotonic()
            elif time.monotonic() - heard > silence:
                raise TimeoutError(f"no peer has said anything for {silence:.0f} s; see {self._logs}")
            yield event

    def last_words(self, name: str) -> str:
        """The end of what a child wrote to standard error."""
        lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LAST_WORDS_LINES:])

    def close(self) -> None:
        """Kill what still runs, with everything in its session, and reap it."""
        self._closing = True
        for process in self._processes.values():
            if process.poll() is None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    process.kill()
            process.wait()
        for reader in self._readers:
            reader.join(5.0)

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                event = _parse(line)
                if event is not None:
                    self._put({**event, "peer": name})
        self._put({"event": "exit", "peer": name, "code": process.wait(), "at": time.monotonic()})

    def _put(self, event: Event) -> None:
        while not self._closing:  # a full queue holds the child back, not this thread for ever
            try:
                self._events.put(event, timeout=0.2)
                return
            except queue.Full:
                continue


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


class EventStream:
    """The child's end: ``emit("step", loss=2.5)`` writes one line to standard output.

    Whatever else prints to standard output from now on goes to standard error.
    """

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __call__(self, event: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": event, "at": time.monotonic(), **fields}) + "\n")
        self._out.flush()


def die_with_owner() -> None:
    """Called first in a child: end with the process that started it, even if that is killed without a word."""
    owner = os.environ.get("COLLCOMM_EXAMPLE_OWNER")
    if owner is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(owner):  # it died before the line above
        sys.exit(1)
