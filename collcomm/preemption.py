"""Going in good order when the machine is taken away: a signal becomes a flag, which the training loop reads at its safe point.

    with collcomm.on_preemption() as leaving, collcomm.join("host:48148") as comm:
        while training:
            ...                                  # compute, reduce
            if leaving.step(comm):               # a safe point; true once this peer has left
                break

Kubernetes sends SIGTERM, and SIGKILL when the grace period is over; Slurm the signal of ``--signal``, and SIGTERM at the end
of the time; agents of spot instances, torchrun and mpirun SIGTERM. The other members hear of it at the same safe point, so that
nothing is run again. ``if leaving: comm.leave(); break`` is graceful, too, and costs them one operation that is run again.

With asyncio: ``async for view in comm.steps(leaving): ...`` ends when this peer has left.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Protocol, Self

from .communicator import Communicator

REPEAT_SECONDS = (
    1.0  # launchers hand on what their process group has got already: within this, signals are one and the same
)
RESIGN_SECONDS = 2.0
MOST_GRACE_SECONDS = 86_400.0


class Guarded(Protocol):
    """What is left when time is over: a `Communicator`."""

    def resign(self, timeout: float) -> None: ...


class Preemption:
    """What `on_preemption` gives: true once this process has been told to go. A context manager.

    ``signal``: the number that has come; None if none has, or if `ask` was called. May be read in any thread.
    """

    def __init__(self, signals: tuple[int, ...], grace: float | None, chain: bool):
        self.signal: int | None = None
        self._signals = signals
        self._grace = grace
        self._chain = chain
        self._process = os.getpid()
        self._asked_at: float | None = None
        self._previous: dict[int, Any] = {}
        self._guarded: list[Guarded] = []
        self._word: queue.SimpleQueue[bool] = queue.SimpleQueue()  # the one that may be put into in a signal handler
        self._watcher: threading.Thread | None = None

    def __bool__(self) -> bool:
        return self._asked_at is not None

    @property
    def seconds_left(self) -> float | None:
        """Of the grace period; None without one, or as long as nobody has asked this process to go."""
        if self._grace is None or self._asked_at is None:
            return None
        return max(0.0, self._asked_at + self._grace - time.monotonic())

    def ask(self) -> None:
        """As if the signal had come. From any thread: for launchers that tell otherwise, say by a call or a notice to poll."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._word.put(True)

    def step(self, comm: Communicator, timeout: float | None = None) -> bool:
        """``comm.step()``; and if this process is to go, it leaves there. Returns whether it has left. Every member calls it, or
        ``comm.step()``. Raises what that raises."""
        comm.step(timeout, leaving=bool(self))
        return comm.closed

    def guard(self, comm: Guarded) -> None:
        """``comm`` is told that this peer goes if the grace period ends before the loop has come to its safe point."""
        self._guarded.append(comm)

    # -- as a context -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._signals and threading.current_thread() is not threading.main_thread():
            raise ValueError(
                "signals come to the main thread only: call on_preemption() there and hand on what it gives, or use "
                "on_preemption(signals=()) here, and its ask()"
            )
        if self._grace is not None:
            self._watcher = threading.Thread(target=self._watch, name="collcomm-preemption", daemon=True)
            self._watcher.start()
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._heard)
        _armed.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self in _armed:
            _armed.remove(self)
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._heard:  # else somebody has put another one in its place
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()
        if self._watcher is not None:
            self._word.put(False)
            self._watcher.join()
            self._watcher = None

    def disarm(self) -> None:
        """In a process that was forked off, say to load data: whoever sends it a signal means it."""
        for number in self._previous:
            if signal.getsignal(number) == self._heard:
                signal.signal(number, signal.SIG_DFL)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child so young that `disarm` has not come yet
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self._asked_at is None:
            self.signal = number
            self.ask()
        elif time.monotonic() - self._asked_at > REPEAT_SECONDS:
            raise SystemExit(128 + number)
        previous: Callable[[int, FrameType | None], Any] | int | None = self._previous.get(number)
        if self._chain and callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    # -- when time is over --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """False is the word that the context has ended; True, that somebody has asked."""
        try:
            while self._word.get(timeout=self.seconds_left):
                pass
        except queue.Empty:
            self._go()

    def _go(self) -> None:
        """End the process here, whatever the main thread is in: nothing of it may run on, and tell others something else, after
        they have been told that it is gone."""
        try:
            os.write(
                2, f"collcomm: no safe point came within the {self._grace:g} s of grace; this peer goes now\n".encode()
            )
            for comm in self._guarded:
                comm.resign(RESIGN_SECONDS)
        finally:
            os._exit(128 + (self.signal or signal.SIGTERM))


_armed: list[Preemption] = []  # contexts that have been entered


def _disarm_child() -> None:
    for one in _armed:
        one.disarm()
    _armed.clear()


os.register_at_fork(after_in_child=_disarm_child)


def on_preemption(
    signals: Iterable[int] = (signal.SIGTERM,), *, grace: float | None = None, chain: bool = True
) -> Preemption:
    """From entering the context until it ends, ``signals`` make the `Preemption` true, and do nothing else.

    A signal that comes again, a second or more after the first, ends the process as ``sys.exit(128 + number)`` does: the
    communicator is closed on the way, the others find this peer dead.

    :param signals: those that stand for "go": SIGTERM; what ``--signal`` of Slurm names. (): none, `Preemption.ask` tells.
    :param grace: seconds from the signal to the end. When they are over, and the context has not ended, guarded communicators
        (`Preemption.guard`) leave in the middle of what they do, and the process ends with status 128 + signal. Give less than
        the launcher's grace period, by some seconds. None: no such end.
    :param chain: call the handlers that were there before, too; not those of Python itself.
    :raises ValueError: not in the main thread; an unknown signal, or one that cannot be caught.
    """
    numbers = tuple(dict.fromkeys(signals))
    for number in numbers:
        if number not in signal.valid_signals() or number in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"signals: {number!r} is not a signal that can be caught")
    if grace is not None and not 0 < grace <= MOST_GRACE_SECONDS:
        raise ValueError(f"grace must be a positive number of seconds, at most {MOST_GRACE_SECONDS:.0f}, not {grace!r}")
    return Preemption(numbers, grace, chain)


__all__ = ["Preemption", "on_preemption"]
