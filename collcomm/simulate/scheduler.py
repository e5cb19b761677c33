"""One seeded scheduler with virtual time. Tasks are greenlets: ordinary blocking code, of which one piece runs at a time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import greenlet

MAX_EXITS = 4
SWITCH_SECONDS = 0.001  # a task that is woken runs within that, at a time that chance decides


class Waiter:
    """Wakes a parked task, once."""

    __slots__ = ("_host", "_scheduler", "_task", "done")

    def __init__(self, scheduler: Scheduler, task: greenlet.greenlet, host: Any):
        self._scheduler = scheduler
        self._task = task
        self._host = host
        self.done = False

    def wake(self) -> None:
        if not self.done:
            self.done = True
            self._scheduler.after(self._scheduler.random.random() * SWITCH_SECONDS, self._resume)

    def _resume(self) -> None:
        self._host.when_running(self._task.switch)


class Scheduler:
    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._count = 0
        self._hub = greenlet.getcurrent()
        self._hosts: dict[greenlet.greenlet, Any] = {}

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, action))

    def run_until(self, end: float, enough: Callable[[], bool] = lambda: False) -> bool:
        """Let events happen; True as soon as it is ``enough``."""
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            if enough():
                return True
        self.now = end
        return enough()

    # -- tasks ---------------------------------------------------------------------------------------------------

    def spawn(self, host: Any, body: Callable[[], None]) -> None:
        """Run ``body`` as a task of ``host``, from now on."""
        task = greenlet.greenlet(body, parent=self._hub)
        self._hosts[task] = host
        self.after(0.0, lambda: host.when_running(task.switch))

    def waiter(self) -> Waiter:
        task = greenlet.getcurrent()
        return Waiter(self, task, self._hosts[task])

    def park(self, waiter: Waiter, seconds: float) -> None:
        self.after(seconds, waiter.wake)
        self._hub.switch()

    def sleep(self, seconds: float) -> None:
        self.park(self.waiter(), seconds)

    def end(self) -> None:
        """Forget all events and end all tasks: the stack of a parked one is out of the garbage collector's reach."""
        for task in self._hosts:
            for _ in range(MAX_EXITS):  # its way out may park once more
                if task:
                    task.throw(greenlet.GreenletExit)
        self._events.clear()
        self._hosts.clear()


class SimClock:
    """A host's clock, which need not run as fast as another's, nor show the same."""

    def __init__(self, scheduler: Scheduler, offset: float = 0.0, rate: float = 1.0):
        self._scheduler = scheduler
        self._offset = offset
        self._rate = rate

    def monotonic(self) -> float:
        return self._offset + self._scheduler.now * self._rate

    def condition(self, lock: Any) -> SimCondition:
        return SimCondition(self._scheduler, lock)


class SimCondition:
    """One task runs at a time, and none is parked but in `wait`: so the lock is nobody's concern."""

    def __init__(self, scheduler: Scheduler, lock: Any):
        self._scheduler = scheduler
        self._lock = lock
        self._waiting: list[Waiter] = []

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *details: Any) -> Any:
        return self._lock.__exit__(*details)

    def wait(self, timeout: float | None = None) -> bool:
        waiter = self._scheduler.waiter()
        self._waiting.append(waiter)
        self._scheduler.park(waiter, 3600.0 if timeout is None else timeout)
        return True

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()
