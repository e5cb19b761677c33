"""The owner's end of a relay: starts the process in a namespace, tells it what changes, ends it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-I", "-S", str(Path(__file__).with_name("relay.py"))]
ANSWER_SECONDS = 20.0
END_SECONDS = 10.0
HELD_BYTES = 64 << 20  # by default

Rows = Sequence[Sequence[float]]


@dataclass
class RelayProcess:
    """``ports``: names of TAP devices that it makes where it runs; ``delay`` (s) and ``loss`` by [from][to] port; ``held``: bytes
    from one port that may be on their way at a time. `start` raises RuntimeError where the device file of TUN is missing."""

    ports: Sequence[str]
    delay: Rows
    loss: Rows
    seed: int = 1
    held: int = HELD_BYTES
    _process: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, prefix: Sequence[str]) -> None:
        """Behind the command-line ``prefix``; returns when its devices are there."""
        settings = {"ports": self.ports, "delay": self.delay, "loss": self.loss, "seed": self.seed, "held": self.held}
        self._process = subprocess.Popen(
            [*prefix, *PROGRAM, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt at the terminal is for the owner, which ends this
        )
        self._answer()

    def change(self, delay: Rows | None = None, loss: Rows | None = None) -> None:
        """From the next packet on; packets that are on their way keep their delay."""
        order: dict[str, Rows] = {}
        if delay is not None:
            order["delay"] = self.delay = delay
        if loss is not None:
            order["loss"] = self.loss = loss
        self._ask(order)

    def counters(self) -> list[list[dict[str, int]]]:
        """By [from][to] port: "packets" and "bytes" that came in, packets "lost", and packets "overflowed"."""
        found: list[list[dict[str, int]]] = self._ask({"counters": True})["counters"]
        return found

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the relay does not run: enter the laboratory first")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None and self._process.stderr is not None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self._process.kill()
            raise RuntimeError(f"the relay said nothing: {self._process.stderr.read().strip()[-500:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(END_SECONDS)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
