"""Starts bench peers as processes of their own, hears their results, and leaves none behind."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, Queue
from types import TracebackType
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child, before exec: SIGKILL it when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Peers:
    """A context in which peers run; ``events`` are the JSON lines that they print, with "peer" added."""

    def __init__(self, prefix: Callable[[int], Sequence[str]] = lambda index: ()):
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self._prefix = prefix
        self._events: Queue[dict[str, Any]] = Queue()
        self._readers: list[threading.Thread] = []

    def start(self, index: int, case: dict[str, Any]) -> subprocess.Popen[str]:
        command = [*self._prefix(index), sys.executable, "-m", "collcomm.bench.peer", json.dumps(case)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        self.processes[index] = process
        reader = threading.Thread(target=self._read, args=(index, process), daemon=True)
        reader.start()
        self._readers.append(reader)
        return process

    def _read(self, index: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                self._events.put({"peer": index, **json.loads(line)})
        self._events.put({"peer": index, "event": "exit"})

    def events(self, timeout: float) -> Iterator[dict[str, Any]]:
        """Events as they come. Raises TimeoutError after ``timeout`` seconds without the caller having had enough,
        RuntimeError when a peer fails."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"the bench peers have not finished within {timeout:.0f} s") from None
            if event.get("event") == "error":
                raise RuntimeError(f"bench peer {event['peer']}: {event['text']}")
            yield event

    def wait(self, timeout: float) -> None:
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
            reader.join(5)
        for process in self.processes.values():
            if process.stdout is not None:
                process.stdout.close()
