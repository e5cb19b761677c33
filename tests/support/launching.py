"""A launch file of the examples at work: what its peers say, which processes they are, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "examples" / "launch"
END_SECONDS = 20.0
SAID = re.compile(r"(\S+), process (\d+): (joined|round (\d+) with (\d+) peers)")


class Launched:
    """``rounds``: by process of a peer, the last one that it has ended. A context: whatever still runs at its end is killed."""

    def __init__(self, command: Sequence[str], **environment: str):
        self.results: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.rounds: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self._changed = threading.Condition()
        own = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLCOMM")}
        self.process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**clean, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.family():
            process.kill()
        self.process.kill()
        self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.said.append(line.rstrip())
                begins = line.find('{"peer"')
                if begins >= 0:
                    self.results.append(json.loads(line[begins:]))
                elif (found := SAID.search(line)) is not None:
                    process = int(found[2])
                    self.rounds[process] = int(found[4] or 0)
                    self.sizes[process] = int(found[5] or 0)
                self._changed.notify_all()

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Raises AssertionError, with what was said, when it does not come to that."""
        with self._changed:
            if not self._changed.wait_for(condition, seconds):
                raise AssertionError("it did not come to that:\n" + "\n".join(self.said[-60:]))

    def training(self, peers: int) -> list[int]:
        """The processes of so many peers, once all of them train together."""
        self.until(lambda: sum(size == peers for size in self.sizes.values()) >= peers)
        with self._changed:
            return sorted(process for process, size in self.sizes.items() if size == peers)

    def signal(self, process: int, number: signal.Signals) -> None:
        os.kill(process, number)

    def wait(self, seconds: float = 90.0) -> int:
        """The exit status. Raises AssertionError, with what was said."""
        deadline = time.monotonic() + seconds
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError("it did not end:\n" + "\n".join(self.said[-60:])) from None
        self._reader.join(max(0.1, deadline - time.monotonic()))
        return status


def ended_alike(launched: Launched) -> list[dict[str, Any]]:
    """The results of those that have come to the end; all hold the same bits."""
    finished = [result for result in launched.results if result["end"] == "finished"]
    assert finished, "\n".join(launched.said[-60:])
    assert all(result["identical"] for result in finished) and len({result["digest"] for result in finished}) == 1
    return finished
