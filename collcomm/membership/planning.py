"""Runs planners for a coordinator: one process at a time, in the background, with a deadline."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from .effects import Replan
from .messages import BadMessage, Message, checked_plan

log = logging.getLogger("collcomm.coordinator")
PLANNER = "collcomm.replanning"  # the module that the process runs
PLAN_SECONDS = 120.0  # on a busy machine
MAX_ANSWER = 1 << 20
MAX_WAITING = 64
_ROOT = Path(__file__).resolve().parents[2]  # from where the process imports the same package as this one


class Planners:
    """``poller`` hears of what they say."""

    def __init__(self, poller: zmq.Poller):
        self._poller = poller
        self._waiting: dict[str, Replan] = {}  # by group
        self._process: subprocess.Popen[bytes] | None = None
        self._replan: Replan | None = None
        self._deadline = 0.0
        self._answer = b""
        self._refused: list[Replan] = []  # that no process works on

    def start(self, replan: Replan, now: float) -> None:
        if replan.group in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[replan.group] = replan
        else:
            self._refused.append(replan)
        self._next(now)

    def _next(self, now: float) -> None:
        while self._process is None and self._waiting:
            replan = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._begin(replan, now)
            except OSError as error:  # no more processes, or descriptors
                log.warning("no planner can be started: %s", error)
                self._refused.append(replan)

    def _begin(self, replan: Replan, now: float) -> None:
        """What is asked goes in a file without a name: a pipe would hold up the coordinator until the process reads. Raises
        OSError."""
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        asked = {
            "epoch": replan.view.epoch,
            "members": [member.row for member in replan.view.members],
            "rows": replan.rows,
            "order": replan.order,
            "effort": replan.effort,
        }
        with tempfile.TemporaryFile() as question:
            question.write(json.dumps(asked).encode())
            question.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", PLANNER, str(question.fileno())],
                stdin=subprocess.PIPE,  # its other end tells the process that its owner lives
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[question.fileno()],
                env=environment,
            )
        self._replan, self._deadline, self._answer = replan, now + PLAN_SECONDS, b""
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._poller.register(self._process.stdout.fileno(), zmq.POLLIN)

    def ended(self, ready: dict[Any, int], now: float) -> Iterator[tuple[Replan, Message | None]]:
        """Those that have come to an end, with the plan they found, if they did."""
        refused, self._refused = self._refused, []
        yield from ((one, None) for one in refused)
        process, replan = self._process, self._replan
        if process is None or replan is None:
            return
        assert process.stdout is not None
        if process.stdout.fileno() in ready:
            part = process.stdout.read(MAX_ANSWER)
            self._answer += part or b""
            if part and not self._answer.endswith(b"\n") and len(self._answer) <= MAX_ANSWER:
                return
        elif now <= self._deadline:
            return
        self._end()
        yield replan, self._plan(replan)
        self._next(now)

    def _plan(self, replan: Replan) -> Message | None:
        try:
            found = json.loads(self._answer)
            if isinstance(found, dict) and "error" in found:
                raise BadMessage(str(found["error"]))
            return checked_plan(found)
        except (ValueError, BadMessage) as error:
            log.warning("group %r has no new plan, its planner failed: %s", replan.group, error)
            return None

    def _end(self) -> None:
        process, self._process, self._replan = self._process, None, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            self._poller.unregister(process.stdout.fileno())
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.stdin.close()

    def close(self) -> None:
        self._waiting.clear()
        self._end()
