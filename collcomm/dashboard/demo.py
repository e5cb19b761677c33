"""`python -m collcomm.dashboard.demo`: the page over a synthetic group, in which something goes wrong now and then."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..health.finding import CulpritKind, Syndrome
from ..health.snapshot import MOST_HISTORY
from .scene import Scene
from .server import Dashboard

PORT = "48149"


def story(scene: Scene) -> Iterator[None]:
    """One fault after the other, for ever; each step is a second. Needs three members or more to find a culprit among."""
    while True:
        yield from _pause(25)
        if len(scene.members) < 3:
            continue
        for fault in (_slow_link, _straggler, _hang, _death):
            yield from fault(scene)
            yield from _pause(40)


def _pause(seconds: int) -> Iterator[None]:
    for _ in range(seconds):
        yield


def _slow_link(scene: Scene) -> Iterator[None]:
    one, two = scene.members[1].id, scene.members[2].id
    evidence = "12.9 MB/s where 118 MB/s are usual, over 23 operations; all other links as usual"
    number = scene.find(
        Syndrome.COMMUNICATION_SLOW, CulpritKind.LINK, (one, two), evidence, "the ring is led around it"
    )
    yield from _pause(45)
    scene.end(number)


def _straggler(scene: Scene) -> Iterator[None]:
    late = scene.members[-1].id
    evidence = "it waits 3 ms an operation while all others wait for it, 0.9 s in the median"
    number = scene.find(
        Syndrome.NON_COMMUNICATION_SLOW, CulpritKind.RANK, (late,), evidence, factor=2.6, confidence=0.88
    )
    yield from _pause(35)
    scene.end(number)


def _hang(scene: Scene) -> Iterator[None]:
    lost = scene.members[0].id
    evidence = f"it has not entered operation {scene.operation}; all others have waited for it for 4.1 s"
    number = scene.find(Syndrome.NON_COMMUNICATION_HANG, CulpritKind.RANK, (lost,), evidence, None, 0.0, 0.99)
    scene.member(lost).state = "silent"
    yield from _pause(6)
    scene.end(number)
    scene.part(lost, "evicted", "it hung for 10 s")
    scene.pending = 1
    yield from _pause(8)
    scene.pending = 0
    scene.join()


def _death(scene: Scene) -> Iterator[None]:
    scene.part(scene.members[3 % len(scene.members)].id)
    yield from _pause(12)
    scene.join()


class Show:
    """A scene that goes on by itself, as seconds pass; it begins with ten minutes behind it."""

    def __init__(self, clock: Callable[[], float] = time.time, **arguments: Any):
        self._clock = clock
        self._lock = threading.Lock()
        self.scene = Scene(at=clock() - MOST_HISTORY, **arguments)
        self._story = story(self.scene)

    def snapshot(self, group: str | None) -> dict[str, Any] | None:
        with self._lock:
            while self.scene.at + 1.0 <= self._clock():
                next(self._story)
                self.scene.advance()
            return self.scene.snapshot() if group in (None, self.scene.group) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="collcomm.dashboard.demo", description=__doc__)
    parser.add_argument(
        "--bind", default=PORT, metavar="[HOST:]PORT", help="default: %(default)s of the loopback interface"
    )
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--per-host", type=int, default=1, help="members that share a host")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.members < 0 or options.sites < 0 or options.per_host < 1:
        parser.error("members and sites are 0 or more, members per host 1 or more")
    shows = {
        "demo": Show(members=options.members, sites=options.sites, per_host=options.per_host),
        "another": Show(members=3, sites=1, group="another"),
    }

    def snapshot(group: str | None) -> dict[str, Any] | None:
        show = shows.get(group or "demo")
        return None if show is None else show.snapshot(group)

    with Dashboard(options.bind, snapshot, lambda: list(shows)):
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
