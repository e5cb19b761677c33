"""Whoever watches a coordinator and is no member: asks, and waits for the answer. One thread; no two at a time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import CollcommError, CoordinatorUnavailable
from ..transports.addresses import format_address, parse_addresses
from .credentials import peer_credentials
from .lines import Line
from .messages import BadMessage, Message, decode
from .server import CONTROL_PREFIX

ANSWER_SECONDS = 5.0
MOST_IN_TRAIN = 64  # fewer than a line queues
REPEAT_SECONDS = 1.0  # what has got no answer is asked again


@dataclass(frozen=True)
class Hail:
    """``offset``: seconds by which the coordinator's wall clock is ahead of ours, give or take half of ``trip``. ``seen``: the
    address from which we come, for the coordinator. ``facts``: versions there."""

    trip: float
    offset: float
    seen: str
    leads: bool
    relay_port: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class GroupLine:
    name: str
    state: str
    epoch: int
    members: int
    pending: int


class Watch:
    """A context. ``address``: "host:port", or several with commas between, of which the one that leads answers; with the same
    ``secret`` or ``keys`` as a peer. Nothing is connected before something is asked.

    Whatever asks raises CoordinatorUnavailable when no answer comes within ``timeout`` seconds, AuthenticationFailed when it is
    plain that none will, and CollcommError when the coordinator says no.
    """

    def __init__(self, address: str, secret: str | None = None, keys: str | os.PathLike[str] | None = None):
        self.address = address
        credentials = peer_credentials(secret, keys)
        self._lines = [Line(format_address(*place), credentials) for place in parse_addresses(address)]
        self._context: zmq.Context[Any] | None = None
        self._poller = zmq.Poller()
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Harmless when done twice."""
        context, self._context = self._context, None
        if context is not None:
            for line in self._lines:
                line.close(0)
            context.term()

    # -- questions ---------------------------------------------------------------------------------------------------

    def look(self, group: str = "", timeout: float = ANSWER_SECONDS) -> dict[str, Any] | list[GroupLine]:
        """The snapshot of a group (see `collcomm.health.snapshot`); without a name of the only one, or the list of groups when
        there is not exactly one."""
        answer = self._ask({"t": "watch", "group": group}, timeout, ("snapshot", "groups"))
        if answer["t"] == "groups":
            return [GroupLine(*row) for row in answer["rows"]]
        try:
            found = json.loads(answer["body"])
        except (ValueError, RecursionError) as error:
            raise CollcommError(f"the coordinator at {self.address} sent a snapshot that is none: {error}") from None
        if not isinstance(found, dict):
            raise CollcommError(f"the coordinator at {self.address} sent a snapshot that is none")
        return found

    def snapshot(self, group: str = "", timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
        """As `look`, of one group. Raises CollcommError when none is named and there is not exactly one."""
        found = self.look(group, timeout)
        if isinstance(found, dict):
            return found
        there = ", ".join(repr(line.name) for line in found[:20])
        raise CollcommError(
            f"the coordinator at {self.address} has several groups, name one of them: {there}"
            if found
            else f"the coordinator at {self.address} has no group yet: nobody has joined"
        )

    def hail(self, timeout: float = ANSWER_SECONDS) -> Hail:
        """Who is there, and what time it is."""
        sent: list[tuple[float, int]] = []
        answer = self._ask({"t": "hail"}, timeout, ("hailed",), lambda: sent.append((time.monotonic(), time.time_ns())))
        trip = time.monotonic() - sent[-1][0]
        offset = (answer["wall"] - sent[-1][1]) / 1e9 - trip / 2
        return Hail(trip, offset, answer["seen"], answer["leads"], answer["relay_port"], answer["facts"])

    def dialled(self, port: int, token: bytes, timeout: float = ANSWER_SECONDS) -> tuple[str, str]:
        """Have the coordinator dial ``port`` (1024 or more) of the address from which we come, where ``token`` (16 bytes) is said
        to it. Returns the outcome (see `collcomm.membership.dialling`) and its reason in words."""
        answer = self._ask({"t": "dial", "port": port, "token": token}, timeout, ("dialled",))
        return answer["outcome"], answer["text"]

    def train(self, count: int, load: int, back: int, timeout: float = ANSWER_SECONDS) -> tuple[int, float]:
        """Send ``count`` messages (at most 64) of ``load`` bytes at once, each answered by one of ``back``. Returns how many
        answers came within ``timeout``, and the seconds from the first to the last of them; of a single one, from the
        beginning. Raises CollcommError if the coordinator would rather not."""
        if not 1 <= count <= MOST_IN_TRAIN:
            raise ValueError(f"a train has 1 to {MOST_IN_TRAIN} messages, not {count}")
        self._open()
        payload, numbers = bytes(load), set()
        began = time.monotonic()
        for _ in range(count):
            self._number += 1
            numbers.add(self._number)
            self._lines[0].post({"t": "train", "number": self._number, "load": payload, "back": back})
        came: list[float] = []
        while numbers and (left := began + timeout - time.monotonic()) > 0:
            for answer in self._heard(left):
                if answer.get("number") in numbers and answer["t"] in ("trained", "unseen"):
                    if answer["t"] == "unseen":
                        raise CollcommError(f"the coordinator at {self.address} said: {answer['text']}")
                    numbers.discard(answer["number"])
                    came.append(time.monotonic())
        return len(came), 0.0 if not came else came[-1] - (came[0] if len(came) > 1 else began)

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(
        self, message: Message, timeout: float, kinds: Sequence[str], said: Callable[[], None] = lambda: None
    ) -> Message:
        self._open()
        deadline, repeat = time.monotonic() + timeout, 0.0
        numbers: set[int] = set()
        while (now := time.monotonic()) < deadline:
            if now >= repeat:
                repeat = now + REPEAT_SECONDS
                self._number += 1
                numbers.add(self._number)
                said()
                for line in self._lines:
                    line.post({**message, "number": self._number})
            for answer in self._heard(min(deadline, repeat) - now):
                if answer.get("number") not in numbers:
                    continue  # to what was asked before
                if answer["t"] in kinds:
                    return answer
                if answer["t"] == "unseen":
                    raise CollcommError(f"the coordinator at {self.address} said: {answer['text']}")
        raise CoordinatorUnavailable(f"the coordinator at {self.address} does not answer: {self._in_words()}")

    def _heard(self, seconds: float) -> list[Message]:
        """What comes within that time; as soon as something does. Raises AuthenticationFailed."""
        ready = dict(self._poller.poll(max(0, int(seconds * 1e3 + 0.999))))
        found: list[Message] = []
        for line in self._lines:
            if line.monitor in ready:
                self._follow(line)
            if line.dealer in ready:
                found += self._read(line)
        return found

    def _follow(self, line: Line) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                error = line.watch.heard(recv_monitor_message(line.monitor, zmq.NOBLOCK))
                line.shut = line.shut or error
                if error is not None and all(other.shut for other in self._lines):
                    raise error

    def _read(self, line: Line) -> list[Message]:
        found = []
        with contextlib.suppress(zmq.Again):
            while True:
                data = line.dealer.recv(zmq.NOBLOCK)
                try:
                    message = decode(data, watching=True)
                except BadMessage as error:
                    line.watch.met = f"what answers there is not a coordinator of this version: {error}"
                    continue
                if message["t"] == "standby":
                    line.watch.stands_by(message["leader"])
                elif message["t"] == "rejected":
                    line.watch.met = message["text"]
                else:
                    found.append(message)
        return found

    def _open(self) -> None:
        if self._context is None:
            self._context = zmq.Context()
            identity = CONTROL_PREFIX + secrets.token_bytes(16)
            for line in self._lines:
                line.open(self._context, identity, self._poller)

    def _in_words(self) -> str:
        if len(self._lines) == 1:
            return self._lines[0].watch.met
        return "; ".join(f"{line.address}: {line.watch.met}" for line in self._lines)
