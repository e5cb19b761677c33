"""A process that tells, in lines of JSON with an "event" in each, what it does."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from typing import Any


class Telling:
    """``process``: its standard output is a pipe. ``heard``: what was read of it, for those who wait in vain."""

    def __init__(self, name: str, process: subprocess.Popen[str], seconds: float):
        self.name = name
        self.process = process
        self.heard: list[dict[str, Any]] = []
        self._seconds = seconds
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of that kind with those fields; others are kept in ``heard``. Raises AssertionError when none comes in
        time."""
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                found = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name}: no {event} {fields}; heard {self.heard[-5:]}") from None
            self.heard.append(found)
            self.look_at(found, event)
            if found["event"] == event and all(found[key] == value for key, value in fields.items()):
                return found

    def look_at(self, found: dict[str, Any], event: str) -> None:
        """At each that comes while ``event`` is waited for."""
