"""The flight recorder: it writes down what a peer remembers when an operation of it fails, when its membership ends otherwise
than by its own will, when a signal asks for it, or when its user does.

Training is never disturbed by it: whatever goes wrong while a dump is written is logged and goes no further.
"""

from __future__ import annotations

import itertools
import logging
import os
import platform
import queue
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..version import __version__
from .dump import MOST_OBSERVATIONS, Dump, Header
from .dumpfiles import SUFFIX, summary_of, write_dump
from .observation import Observation
from .records import Recorder
from .signals import listen, unlisten

log = logging.getLogger("collcomm.health")
DIRECTORY_VARIABLE = "COLLCOMM_DUMP_DIR"
KEPT = 8  # dumps of one recorder
PAUSE_SECONDS = 10.0  # between two dumps for the same reason
MOST_REASONS = 64
CLOSE_SECONDS = 10.0  # for a dump that is being written
_numbers = itertools.count(1)  # of the dumps of this process


class FlightRecorder:
    """Writes dumps of ``recorder`` into ``directory``, which is made when it is needed. ``describe()`` tells who this peer is and
    where it stands; it is called by whoever asks for a dump, and must not wait for anything that a hanging operation holds.
    ``keep``: of its dumps the oldest are removed. ``pause``: seconds between two dumps for the same reason. ``observations``:
    what this peer has told of itself, oldest first; dumps have it as it is then."""

    def __init__(
        self,
        recorder: Recorder,
        directory: str | os.PathLike[str],
        describe: Callable[[], Header],
        keep: int = KEPT,
        pause: float = PAUSE_SECONDS,
        observations: deque[Observation] | None = None,
    ):
        if keep < 1:
            raise ValueError(f"a flight recorder keeps one dump or more, not {keep}")
        self.directory = Path(directory)
        self._recorder = recorder
        self._describe = describe
        self._keep, self._pause = keep, pause
        self.observations = deque[Observation](maxlen=MOST_OBSERVATIONS) if observations is None else observations
        self._lock = threading.RLock()  # a handler of the user's may ask for a dump in the middle of one
        self._written: deque[Path] = deque()
        self._last: dict[str, float] = {}  # by reason
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._signal = 0

    @classmethod
    def from_environment(cls, recorder: Recorder, describe: Callable[[], Header]) -> FlightRecorder | None:
        """One that writes into COLLCOMM_DUMP_DIR, may be asked, and listens to SIGUSR1; None where the variable is not set."""
        directory = os.environ.get(DIRECTORY_VARIABLE)
        if not directory:
            return None
        flight = cls(recorder, directory, describe)
        flight.start()
        flight.listen()
        return flight

    def observed(self, observation: Observation) -> None:
        """What this peer has told of itself: dumps have the last ten minutes of that."""
        self.observations.append(observation)

    def dump(self, reason: str) -> Path | None:
        """Write a dump, and return its file. None, with the reason in the log, where that fails; None, too, when there was one
        for the same reason a moment ago."""
        with self._lock:
            now = time.monotonic()
            if now - self._last.get(reason, -self._pause) < self._pause:
                return None
            self._note(reason, now)
            try:
                return self._write(reason)
            except OSError as error:
                why = error.strerror or str(error)
                log.error("no dump (%s) in %s: %s; make room, or choose another directory", reason, self.directory, why)
            except Exception:
                log.exception("no dump (%s) in %s", reason, self.directory)
            return None

    def start(self) -> None:
        """From now on `ask` is heard."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="collcomm-flight", daemon=True)
            self._thread.start()

    def ask(self, reason: str) -> None:
        """Have a dump written by a thread of its own. Does not wait, takes no lock, and raises nothing."""
        self._asked.put(reason)

    def listen(self, number: int = signal.SIGUSR1) -> bool:
        """Dump when this signal comes, beside what the user's handler does. To be called in the main thread; returns whether
        that was possible."""
        if self._signal:
            return self._signal == number
        self._signal = number
        if not listen(number, self._signalled):
            self._signal = 0
            return False
        self.start()
        return True

    def close(self) -> None:
        """Listen no more. A dump that was asked for before is finished."""
        if self._signal:
            unlisten(self._signal, self._signalled)
            self._signal = 0
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def _signalled(self) -> None:
        """Runs inside of a signal handler: this queue may be written to there, whatever was interrupted."""
        self.ask(f"signal {self._signal}")

    def _serve(self) -> None:
        while (reason := self._asked.get()) is not None:
            self.dump(reason)

    def _note(self, reason: str, now: float) -> None:
        self._last.pop(reason, None)
        self._last[reason] = now
        if len(self._last) > MOST_REASONS:
            del self._last[next(iter(self._last))]

    def _write(self, reason: str) -> Path:
        header = self._describe()
        monotonic, wall = time.monotonic(), time.time()
        dump = Dump(
            header,
            monotonic,
            wall,
            reason,
            __version__,
            platform.python_version(),
            socket.gethostname(),
            os.getpid(),
            [one for one in self._recorder.operations() if one.exit <= monotonic],  # others go on meanwhile
            [one for one in self._recorder.transfers() if one.done <= monotonic],
            [one for one in list(self.observations) if one.at <= monotonic],
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(dump.wall))
        name = f"{_file_name(header.name)}-{header.member}-{stamp}-{dump.pid}-{next(_numbers)}{SUFFIX}"
        path = self.directory / name
        write_dump(path, dump)
        self._written.append(path)
        while len(self._written) > self._keep:
            old = self._written.popleft()
            old.unlink(missing_ok=True)
            summary_of(old).unlink(missing_ok=True)
        log.warning("dump of %s (%s): %s", header.name, reason, path)
        return path


def _file_name(name: str) -> str:
    """As much of ``name`` as any file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:64].lstrip(".") or "peer"
