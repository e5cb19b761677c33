"""One snapshot a second of one group, asked for and encoded once for all who listen. A listener that is slow misses some.

Of a very large group they are rarer: making them shall not keep the process, which has other things to do, from doing these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL_SECONDS = 1.0
LOAD = 0.1  # of one core, at most, that goes into snapshots of a group
SILENCE_SECONDS = 5.0  # after which a listener that got nothing hears that we are here
HEARTBEAT = b": still here\n\n"


class Feed:
    """``make`` gives the next event, encoded. It runs while somebody listens."""

    def __init__(self, make: Callable[[], bytes]):
        self._make = make
        self._listeners = 0
        self._number = 0
        self._event = b""
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._listeners == 0

    def enter(self) -> None:
        self._listeners += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def leave(self) -> None:
        self._listeners -= 1
        if self.idle and self._task is not None:
            self._task.cancel()
            self._task = None

    async def next(self, seen: int) -> tuple[int, bytes]:
        """The newest event after number ``seen``, and its number; a heartbeat, if there is none for `SILENCE_SECONDS`."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                async with self._news:
                    await self._news.wait_for(lambda: self._number > seen)
                    return self._number, self._event
        except TimeoutError:
            return seen, HEARTBEAT

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            began = loop.time()
            event = self._make()
            took = loop.time() - began
            async with self._news:
                self._event = event
                self._number += 1
                self._news.notify_all()
            due = max(due + INTERVAL_SECONDS, began + took / LOAD)  # what took too long is not made up for
            await asyncio.sleep(max(0.0, due - loop.time()))


class Encoded:
    """Snapshots as text, by group: whoever asks without a stream, however often, gets what is not older than a stream's."""

    def __init__(self, make: Callable[[str | None], bytes | None]):
        self._make = make
        self._known: dict[str | None, tuple[float, bytes]] = {}  # until when it is good enough

    def get(self, group: str | None) -> bytes | None:
        """None: there is no such group."""
        now = asyncio.get_running_loop().time()
        until, text = self._known.get(group, (0.0, b""))
        if now < until:
            return text
        return self.fresh(group)

    def fresh(self, group: str | None) -> bytes | None:
        clock = asyncio.get_running_loop().time
        began = clock()
        text = self._make(group)
        ended = clock()
        self._known = {name: known for name, known in self._known.items() if known[0] > ended}
        if text is not None:
            self._known[group] = began + max(INTERVAL_SECONDS, (ended - began) / LOAD), text
        return text


def event(name: str, data: bytes) -> bytes:
    """A server-sent event; ``data`` is one line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
