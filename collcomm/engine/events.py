"""A log of what happens to one peer, as JSON lines, for whoever watches from outside (`collcomm chaos`).

Each line has ``time`` (the monotonic clock, which all processes of a machine share), ``pid``, ``name`` and ``event``:

    joined    member, epoch, members         the first view that has this peer
    view      epoch, members, halted         a later view; halted: when this peer froze for it, null if it did not
    first     epoch                          the first operation completed in a view
    progress  gap, gap_end                   operations are completing; the longest pause between two since the last such line
    ended     cause                          this communicator can do nothing any more

and ``operations``, ``steps`` and ``seconds_lost``: totals since joining.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from ..types import View

PROGRESS_SECONDS = 0.1  # between two lines of progress


class EventLog:
    """Appends to the file at ``path``; ``totals`` tells the sums. May be used from any thread.

    What cannot be written (a full disk) is dropped: the log is no reason for a peer to fail.
    """

    def __init__(self, path: str, name: str, totals: Callable[[], dict[str, float]]):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._name = name
        self._totals = totals
        self._lock = threading.Lock()
        self._joined = False
        self._halted: float | None = None
        self._fresh_epoch: int | None = None  # no operation has completed in it yet
        self._completed = time.monotonic()  # when the last operation did
        self._gap = self._gap_end = 0.0
        self._next_progress = 0.0
        self._closed = False

    def halted(self) -> None:
        with self._lock:
            if self._halted is None:
                self._halted = time.monotonic()

    def adopted(self, member: int, view: View) -> None:
        with self._lock:
            event = {"halted": self._halted} if self._joined else {"member": member}
            self._write("view" if self._joined else "joined", epoch=view.epoch, members=list(view.ids), **event)
            self._joined, self._halted, self._fresh_epoch = True, None, view.epoch

    def completed(self) -> None:
        """An operation has."""
        now = time.monotonic()
        with self._lock:
            gap, self._completed = now - self._completed, now
            if gap > self._gap:
                self._gap, self._gap_end = gap, now
            if self._fresh_epoch is not None:
                self._write("first", now, epoch=self._fresh_epoch)
                self._fresh_epoch = None
            if now >= self._next_progress:
                self._progress(now)

    def _progress(self, now: float) -> None:
        self._next_progress = now + PROGRESS_SECONDS
        self._write("progress", now, gap=self._gap, gap_end=self._gap_end)
        self._gap = 0.0

    def ended(self, cause: BaseException) -> None:
        with self._lock:
            self._write("ended", cause=f"{type(cause).__name__}: {cause}")

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._file)

    def _write(self, event: str, at: float | None = None, **facts: Any) -> None:
        if self._closed:
            return
        line = {"time": time.monotonic() if at is None else at, "pid": os.getpid(), "name": self._name, "event": event}
        try:
            os.write(self._file, (json.dumps({**line, **facts, **self._totals()}) + "\n").encode())
        except OSError:
            pass
