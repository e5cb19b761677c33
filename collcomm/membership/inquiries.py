"""Answers those who only ask: `collcomm status`, `top`, `doctor`. They are no members, and in no view.

They come by the same door as peers, so they need the same credentials. What they may cost is bounded: how many are served at a
time, how much each may ask for in a second, one snapshot on its way to each (whoever does not read gets no further one), and
what trains that measure may carry altogether. A group's snapshot is made at most every quarter of a second, however many ask.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import zmq

from ..errors import CollcommError
from ..version import __version__
from .coordinator import CoordinatorMachine
from .dialling import Dial, Dials
from .messages import MAX_LISTED, MAX_LOAD_BYTES, VERSION, BadMessage, Message, encode
from .showing import Snapshot, encoded, row_of

log = logging.getLogger("collcomm.coordinator")
MOST_WATCHERS = 64
IDLE_SECONDS = 5.0  # who has not asked for so long makes room for others
FRESH_SECONDS = 0.25
COSTS = {"watch": 12.0, "hail": 1.0, "train": 1.0, "dial": 60.0}
PURSE, INCOME = 320.0, 60.0  # of each watcher, in the same coin: what it may spend at once, and gets every second
TRAIN_BYTES, TRAIN_RATE = 32 << 20, 8 << 20  # of all together: at once, and bytes per second


class Shown:
    """What a coordinator has to tell. ``show``: of a group."""

    def __init__(self, machine: CoordinatorMachine, show: Callable[[str], Snapshot | None]):
        self._machine = machine
        self.show = show

    @property
    def leads(self) -> bool:
        return self._machine.leads

    @property
    def leader(self) -> str:
        """Who leads, if it is known to be another one."""
        return self._machine.leader

    @property
    def relay_port(self) -> int | None:
        return self._machine.booth_port

    def rows(self) -> list[list[Any]]:
        """Of the groups: name, state, epoch, members, pending."""
        return [row_of(group) for group in self._machine.groups.values()]


class Purse:
    """A token bucket."""

    def __init__(self, most: float, income: float, now: float):
        self._most, self._income = most, income
        self._held, self._at = most, now

    def spend(self, cost: float, now: float) -> bool:
        """Whether there was enough."""
        self._held = min(self._most, self._held + (now - self._at) * self._income)
        self._at = now
        if cost > self._held:
            return False
        self._held -= cost
        return True


@dataclass
class _Watcher:
    purse: Purse
    asked_at: float
    on_its_way: zmq.MessageTracker | None = None  # the last snapshot


class Inquiries:
    """``send(frames)``: to the connection that the first of them names."""

    def __init__(self, shown: Shown, send: Callable[[list[Any]], None], poller: zmq.Poller):
        self._shown = shown
        self._send = send
        self._dials = Dials(poller)
        self._watchers: dict[bytes, _Watcher] = {}
        self._trains = Purse(TRAIN_BYTES, TRAIN_RATE, time.monotonic())
        self._fresh: dict[str, tuple[float, bytes]] = {}  # encoded snapshots, and when each was made

    def asked(self, now: float, key: bytes, message: Message, address: str) -> None:
        """``address``: from which the connection ``key`` comes."""
        watcher = self._watcher(now, key)
        if watcher is None:
            self._refuse(key, message, f"{MOST_WATCHERS} others ask this coordinator just now; try again in a moment")
        elif not watcher.purse.spend(COSTS[message["t"]], now):
            self._refuse(key, message, "asked too often; once a second is enough")
        elif message["t"] == "watch":
            self._watch(now, key, watcher, message)
        elif message["t"] == "hail":
            self._say(key, {"t": "hailed", "number": message["number"], **self._greeting(address)})
        elif message["t"] == "train":
            self._train(now, key, message)
        else:
            self._dial(now, key, message, address)

    def ended(self, ready: dict[object, int], now: float) -> None:
        """Look after the connections that were asked for."""
        for dial, outcome, text in self._dials.ended(ready, now):
            self._dialled(dial, outcome, text)

    def disconnected(self, key: bytes) -> None:
        self._watchers.pop(key, None)

    def close(self) -> None:
        self._dials.close()

    # -- answers -----------------------------------------------------------------------------------------------------

    def _watch(self, now: float, key: bytes, watcher: _Watcher, message: Message) -> None:
        if not self._shown.leads:
            self._say(key, {"t": "standby", "leader": self._shown.leader})
            return
        rows, name, number = self._shown.rows(), message["group"], message["number"]
        if not name and len(rows) != 1:
            self._say(key, {"t": "groups", "number": number, "rows": rows[:MAX_LISTED]})
            return
        if watcher.on_its_way is not None and not watcher.on_its_way.done:
            self._refuse(key, message, "the last snapshot is still on its way: the connection is slow")
            return
        try:
            data = self._snapshot(now, name or rows[0][0])
        except (CollcommError, ValueError, TypeError) as error:
            log.exception("no snapshot could be made")
            self._refuse(key, message, f"no snapshot could be made: {error}")
            return
        if data is None:
            there = ", ".join(repr(row[0]) for row in rows[:20]) or "none at all"
            self._refuse(key, message, f"there is no group {name!r} here; there is: {there}")
            return
        answer = encode({"t": "snapshot", "number": number, "body": data})
        frame = zmq.Frame(answer, copy=False, track=True, copy_threshold=0)
        watcher.on_its_way = frame.tracker  # done when libzmq has written it out, or given it up
        self._send([key, frame])

    def _snapshot(self, now: float, name: str) -> bytes | None:
        self._fresh = {group: made for group, made in self._fresh.items() if now - made[0] < FRESH_SECONDS}
        if name not in self._fresh:
            shown = self._shown.show(name)
            if shown is None:
                return None
            self._fresh[name] = now, encoded(shown)
        return self._fresh[name][1]

    def _greeting(self, address: str) -> Message:
        return {
            "wall": time.time_ns(),
            "seen": address,
            "leads": self._shown.leads,
            "relay_port": self._shown.relay_port or 0,
            "facts": versions(),
        }

    def _train(self, now: float, key: bytes, message: Message) -> None:
        if not self._trains.spend(len(message["load"]) + message["back"], now):
            self._refuse(key, message, "others measure just now; try again in a moment")
            return
        load = bytes(min(message["back"], MAX_LOAD_BYTES))
        self._say(key, {"t": "trained", "number": message["number"], "load": load})

    def _dial(self, now: float, key: bytes, message: Message, address: str) -> None:
        dial = Dial(key, message["number"], address, message["port"], message["token"])
        end = self._dials.start(dial, now)
        if end is not None:
            self._dialled(dial, *end)

    def _dialled(self, dial: Dial, outcome: str, text: str) -> None:
        self._say(dial.key, {"t": "dialled", "number": dial.number, "outcome": outcome, "text": text[:200]})

    # -- bounds ------------------------------------------------------------------------------------------------------

    def _watcher(self, now: float, key: bytes) -> _Watcher | None:
        watcher = self._watchers.get(key)
        if watcher is None:
            if len(self._watchers) >= MOST_WATCHERS:
                self._watchers = {k: w for k, w in self._watchers.items() if now - w.asked_at < IDLE_SECONDS}
            if len(self._watchers) >= MOST_WATCHERS:
                return None
            watcher = self._watchers[key] = _Watcher(Purse(PURSE, INCOME, now), now)
        watcher.asked_at = now
        return watcher

    def _refuse(self, key: bytes, message: Message, text: str) -> None:
        self._say(key, {"t": "unseen", "number": message["number"], "text": text})

    def _say(self, key: bytes, message: Message) -> None:
        try:
            self._send([key, encode(message)])
        except BadMessage:
            log.exception("an answer was not sent")


def address_of(frame: zmq.Frame) -> str:
    """From which the connection comes that brought ``frame``."""
    try:
        return str(frame.get("Peer-Address")).removeprefix("::ffff:")
    except zmq.ZMQError:
        return ""


def versions() -> dict[str, str]:
    """Of what both sides of a connection should have alike."""
    return {
        "collcomm": __version__,
        "protocol": str(VERSION),
        "python": platform.python_version(),
        **{name: _installed(name) for name in ("numpy", "pyzmq", "msgpack")},
        "libzmq": zmq.zmq_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}"[:200],
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
