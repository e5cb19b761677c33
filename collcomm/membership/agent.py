"""A peer's line to the coordinator: drives `PeerMachine` on a ZeroMQ DEALER socket, and keeps the pulse echo."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import CollcommError, CoordinatorUnavailable, JoinRejected, ViewChanged
from ..transports.addresses import format_address, parse_address
from ..types import Call, GroupReport, Outcome, View
from .credentials import PeerCredentials
from .effects import Adopt, Dismissed, Halt, Inquire, Left, PeerEffect, Pending, Rejected, Send, Welcomed
from .linewatch import LineWatch
from .messages import MAX_VIEW_BYTES, BadMessage, Message, decode, encode
from .peer import PeerMachine, State
from .server import CLOSE_SECONDS, CONTROL_PREFIX, PULSE, PULSE_PREFIX

HERE_SECONDS = 0.5
REPEAT_SECONDS = 0.9
MAX_TEXT = 1000


class Observer(Protocol):
    """Hears what the coordinator decides, on the agent's thread; each call returns quickly."""

    def halt(self, epoch: int, round: int) -> dict[int, GroupReport]:
        """Freeze all communicators and report how far each has got."""

    def adopt(
        self,
        view: View,
        outcomes: dict[int, Outcome],
        admitted: bool,
        broken: Sequence[tuple[int, int]],
        keys: Mapping[int, bytes],
    ) -> None:
        """A new view. ``broken``: pairs of members whose links are to be made anew. ``keys``: by member, for those links."""

    def dismissed(self, error: CollcommError) -> None:
        """This peer is out of the group."""

    def inquire(self, epoch: int, gid: int, seq: int) -> Call | None:
        """What operation ``seq`` is here; None when it has not been entered, `Agent.entered` tells later."""


@dataclass(frozen=True)
class Welcome:
    """``token`` names the group's run on data connections."""

    member_id: int
    incarnation: str
    token: bytes


class Agent:
    """All methods may be called from any thread; those that only tell something never wait."""

    def __init__(
        self,
        coordinator: str,
        *,
        group: str,
        name: str,
        host: str,
        port: int,
        host_id: str,
        min_size: int,
        on_failure: str,
        observer: Observer,
        credentials: PeerCredentials | None = None,
    ):
        self._where = coordinator
        self._endpoint = "tcp://" + format_address(*parse_address(coordinator))
        self._join_message: Message = {
            "t": "join",
            "group": group,
            "name": name,
            "host": host,
            "port": port,
            "host_id": host_id,
            "min_size": min_size,
            "on_failure": on_failure,
        }
        self._observer = observer
        self._credentials = credentials
        self._line_watch = LineWatch(coordinator, credentials)
        self._identity = secrets.token_bytes(16)
        self._machine = PeerMachine()
        self._outbox: deque[Message] = deque()
        self._changed = threading.Condition()
        self._welcome: Welcome | None = None
        self._view: View | None = None
        self._error: CollcommError | None = None
        self._left = False
        self._accused: dict[tuple[int, int], float] = {}  # when last said
        self._heard_at = time.monotonic()
        self._closing = False
        self.pending = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._context: zmq.Context[Any] | None = None
        self._pulse_context: zmq.Context[Any] | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._context, self._pulse_context = zmq.Context(), zmq.Context()
        self._threads = [
            threading.Thread(target=self._serve, name="collcomm-agent", daemon=True),
            threading.Thread(target=self._echo, name="collcomm-pulse", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait_welcome(self, deadline: float) -> Welcome:
        """Until the coordinator has taken us in. Raises JoinRejected, CoordinatorUnavailable."""
        with self._changed:
            while self._welcome is None:
                self._wait(deadline, f"the coordinator at {self._where} does not answer: {self._line_watch.met}")
            return self._welcome

    def wait_admitted(self, deadline: float) -> View:
        """Until the first view that has us. Raises JoinRejected, CoordinatorUnavailable."""
        with self._changed:
            while self._view is None:
                self._wait(
                    deadline,
                    f"joined group {self._join_message['group']!r} at {self._where}, but was not admitted in time: "
                    f"{self._join_message['min_size']} peers make the first view, and members of a running group admit "
                    f"newcomers in step()",
                )
            return self._view

    def _wait(self, deadline: float, otherwise: str) -> None:
        if self._error is not None:
            raise self._error
        left = deadline - time.monotonic()
        if left <= 0:
            raise CoordinatorUnavailable(otherwise)
        self._changed.wait(min(left, 0.1))

    @property
    def coordinator_silent_for(self) -> float:
        """Seconds since anything came from the coordinator."""
        return time.monotonic() - self._heard_at

    # -- telling ----------------------------------------------------------------------------------------------------

    def ready(self, epoch: int) -> None:
        """This peer is at a safe point of view ``epoch`` and would have newcomers."""
        self._tell({"t": "ready", "epoch": epoch})

    def accuse(self, member: int, epoch: int, evidence: str, text: str) -> None:
        """The link to ``member`` has failed. Repeated by whoever waits for a view change; said once in a while."""
        now = time.monotonic()
        if now - self._accused.get((epoch, member), 0.0) > REPEAT_SECONDS:
            self._accused[epoch, member] = now
            self._tell({"t": "accuse", "epoch": epoch, "member": member, "evidence": evidence, "text": text[:MAX_TEXT]})

    def stalled(
        self, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int], waiting_on: Sequence[int]
    ) -> None:
        """Operation ``seq`` has not moved for a while."""
        self._tell({**_operation("stalled", epoch, gid, seq, call, members), "waiting_on": list(waiting_on)})

    def expired(
        self, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int], waiting_on: Sequence[int]
    ) -> None:
        """The deadline of operation ``seq`` has passed."""
        self._tell({**_operation("expired", epoch, gid, seq, call, members), "waiting_on": list(waiting_on)})

    def mismatch(self, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int]) -> None:
        """A frame of operation ``seq`` belongs to another call than ours."""
        self._tell(_operation("mismatch", epoch, gid, seq, call, members))

    def entered(self, epoch: int, gid: int, seq: int, call: Call) -> None:
        """The operation that was inquired about has been entered."""
        self._tell(_called(epoch, gid, seq, call))

    def leave(self, deadline: float) -> None:
        """Leave, and wait until the coordinator knows or ``deadline`` has passed."""
        self._tell({"t": "leave"})
        with self._changed:
            while not self._left and self._error is None and time.monotonic() < deadline:
                self._changed.wait(min(0.1, max(0.0, deadline - time.monotonic())))

    def _tell(self, message: Message) -> None:
        self._outbox.append(message)
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            if not self._closing:  # after that the number may be somebody else's
                with contextlib.suppress(BlockingIOError):  # full of wake-ups: one more makes no difference
                    os.write(self._wake_write, b"x")

    def close(self) -> None:
        """End both threads and connections. Bounded, and harmless when done twice."""
        with self._changed:
            if self._closing:
                return
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"x")
            self._closing = True
        closer = threading.current_thread()
        if self._pulse_context is not None:
            self._pulse_context.term()
        for thread in self._threads:
            if thread is not closer:
                thread.join(CLOSE_SECONDS)
        if self._context is not None and closer not in self._threads:
            self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # -- the agent's thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        assert self._context is not None
        dealer = _dealer(
            self._context, CONTROL_PREFIX + self._identity, self._endpoint, self._credentials, connect=False
        )
        monitor = dealer.get_monitor_socket(LineWatch.EVENTS)
        dealer.connect(self._endpoint)
        poller = zmq.Poller()
        for source in (dealer, monitor, self._wake_read):
            poller.register(source, zmq.POLLIN)
        said_at = 0.0
        try:
            while not self._closing:
                now = time.monotonic()
                if now - said_at >= HERE_SECONDS:
                    said_at = now
                    joining = self._machine.state is State.JOINING
                    self._post(dealer, self._join_message if joining else {"t": "here"})
                ready = dict(poller.poll(int(HERE_SECONDS * 1e3)))
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                while self._outbox:
                    self._post(dealer, self._outbox.popleft())
                if dealer in ready:
                    self._read(dealer)
                if monitor in ready:
                    self._watch_line(monitor)
        finally:
            dealer.disable_monitor()
            monitor.close(0)
            dealer.close(200)

    def _post(self, dealer: zmq.Socket[bytes], message: Message) -> None:
        with contextlib.suppress(zmq.Again):  # the queue is full: the coordinator has been away for long
            dealer.send(encode(message), zmq.NOBLOCK)

    def _read(self, dealer: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                data = dealer.recv(zmq.NOBLOCK)
                try:
                    message = decode(data, MAX_VIEW_BYTES)
                except BadMessage as error:
                    self._line_watch.met = f"what answers there is not a coordinator of this version: {error}"
                    continue
                self._heard_at = time.monotonic()
                for effect in self._machine.receive(message):
                    self._carry_out(dealer, effect)

    def _carry_out(self, dealer: zmq.Socket[bytes], effect: PeerEffect) -> None:
        if isinstance(effect, Halt):
            reports = self._observer.halt(effect.epoch, effect.round)
            groups = {gid: [r.complete, r.entered, list(r.members)] for gid, r in reports.items()}
            self._post(dealer, {"t": "state", "epoch": effect.epoch, "round": effect.round, "groups": groups})
        elif isinstance(effect, Adopt):
            self._accused.clear()
            self._observer.adopt(effect.view, dict(effect.outcomes), effect.admitted, effect.broken, effect.keys)
            self._set(view=effect.view)
        elif isinstance(effect, Inquire):
            call = self._observer.inquire(effect.epoch, effect.gid, effect.seq)
            if call is not None:
                self._post(dealer, _called(effect.epoch, effect.gid, effect.seq, call))
        elif isinstance(effect, Pending):
            self.pending = effect.count
        elif isinstance(effect, Welcomed):
            self._set(welcome=Welcome(effect.member, effect.incarnation, effect.token))
        elif isinstance(effect, Rejected):
            self._set(error=JoinRejected(f"the coordinator at {self._where} refused: {effect.text}"))
        elif isinstance(effect, Dismissed):
            self._dismiss(effect)
        elif isinstance(effect, Left):
            self._set(left=True)
        else:
            assert isinstance(effect, Send)
            self._post(dealer, dict(effect.message))

    def _dismiss(self, effect: Dismissed) -> None:
        error: CollcommError
        if effect.unknown:
            error = CoordinatorUnavailable(f"{effect.cause}: all peers must join again")
        else:
            error = ViewChanged(f"this peer was {effect.cause}; call join again")
        self._set(error=error)
        self._observer.dismissed(error)

    def _set(
        self,
        welcome: Welcome | None = None,
        view: View | None = None,
        error: CollcommError | None = None,
        left: bool = False,
    ) -> None:
        with self._changed:
            self._welcome = welcome or self._welcome
            self._view = self._view or view
            self._error = self._error or error
            self._left = self._left or left
            self._changed.notify_all()

    def _watch_line(self, monitor: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                refused = self._line_watch.heard(recv_monitor_message(monitor, zmq.NOBLOCK))
                if refused is not None and self._welcome is None:
                    self._set(error=refused)

    # -- the pulse ---------------------------------------------------------------------------------------------------

    def _echo(self) -> None:
        """Send back every pulse. libzmq's proxy runs in C and needs no GIL, so a live peer always answers."""
        assert self._pulse_context is not None
        socket = _dealer(self._pulse_context, PULSE_PREFIX + self._identity, self._endpoint, self._credentials)
        try:
            socket.send(PULSE.pack(b"p", 0))
            zmq.proxy(socket, socket)
        except zmq.ZMQError:
            pass  # the context was terminated: we are closing
        finally:
            socket.close(0)


def _dealer(
    context: zmq.Context[Any],
    identity: bytes,
    endpoint: str,
    credentials: PeerCredentials | None,
    connect: bool = True,
) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, identity)
    dealer.setsockopt(zmq.LINGER, 200)
    dealer.setsockopt(zmq.MAXMSGSIZE, MAX_VIEW_BYTES)
    dealer.setsockopt(zmq.SNDHWM, 1000)
    dealer.setsockopt(zmq.RCVHWM, 10_000)
    dealer.setsockopt(zmq.RECONNECT_IVL, 50)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    dealer.setsockopt(zmq.IPV6, 1 if "[" in endpoint else 0)
    if credentials is not None:
        credentials.protect(dealer)
    if connect:
        dealer.connect(endpoint)
    return dealer


def _operation(kind: str, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int]) -> Message:
    return {**_called(epoch, gid, seq, call), "t": kind, "members": list(members)}


def _called(epoch: int, gid: int, seq: int, call: Call) -> Message:
    return {"t": "call", "epoch": epoch, "gid": gid, "seq": seq, "call": [call.fingerprint, call.text[:MAX_TEXT]]}
