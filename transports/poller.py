"""Waiting for several streams at once."""

from __future__ import annotations

import os
import select

from .stream import SPINS, WAIT_SECONDS


class Wanted:
    """The descriptors for which a poller without a kernel looks, and the events that are wanted of each."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}

    def want(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] = self._wanted.get(descriptor, 0) | events

    def forget(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] &= ~events
        if not self._wanted[descriptor]:
            del self._wanted[descriptor]


class SocketPoller:
    """poll(2) over descriptors that are wanted for reading, writing, or both."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._wanted: dict[int, int] = {}

    def want(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] = self._wanted.get(descriptor, 0) | events
        self._poll.register(descriptor, self._wanted[descriptor])

    def forget(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] &= ~events
        if self._wanted[descriptor]:
            self._poll.modify(descriptor, self._wanted[descriptor])
        else:
            del self._wanted[descriptor]
            self._poll.unregister(descriptor)

    def poll(self, certain: list[int]) -> list[tuple[int, int]]:
        """Ready descriptors after a few milliseconds at most; ``certain`` ones are readable whatever the kernel says."""
        ready = self._poll.poll(0)
        for _ in range(0 if certain else SPINS):
            if ready:
                return ready
            os.sched_yield()
            ready = self._poll.poll(0)
        if not certain:
            return ready or self._poll.poll(WAIT_SECONDS * 1e3)
        seen = {descriptor for descriptor, _ in ready}
        ready += [(descriptor, select.POLLIN) for descriptor in certain if descriptor not in seen]
        return ready
