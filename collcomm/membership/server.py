"""The coordinator as a server: drives one `GroupMachine` per group on a ZeroMQ ROUTER socket.

Two connections per peer. On the control connection travel the messages. The pulse connection carries nine bytes that the peer's
libzmq thread sends back by itself, without Python: a peer that holds its GIL for seconds still echoes, a stopped
or cut-off one does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import CollcommError
from ..transports.addresses import format_address, parse_address
from . import strangers
from .credentials import CoordinatorCredentials, coordinator_credentials
from .effects import CoordinatorEffect, Note, Ping, Send
from .group import GroupMachine
from .messages import MAX_BYTES, BadMessage, decode, encode, is_other_version
from .presets import LAN, Limits
from .strangers import Strangers, check_exposure, make_room

log = logging.getLogger("collcomm.coordinator")
PULSE = struct.Struct("<cQ")
CONTROL_PREFIX, PULSE_PREFIX = b"C", b"P"
IDENTITY_BYTES = 17
MAX_GROUPS = 1000
MAX_PEERS = 20_000
IDLE_SECONDS = 1.0
CLOSE_SECONDS = 5.0
ANYWHERE, LOOPBACK = "0.0.0.0:48148", "127.0.0.1:48148"


class Coordinator:
    """Rendezvous and referee of groups; runs on a thread of its own until `close`.

    :param bind: "host:port" to listen on; port 0 takes a free one, see ``address``. None: port 48148, of all interfaces when
        protected or ``insecure``, else of the loopback one.
    :param limits: how long silence may last, see `collcomm.membership.presets`.
    :param secret: what peers have to know to join (their ``secret=``); the variable COLLCOMM_SECRET if not given.
    :param keys: the directory of this coordinator's keys, made by ``collcomm keys``; or the variable COLLCOMM_KEYS.
    :param insecure: listen on an address that others can reach although there is neither.
    :raises CollcommError: the address cannot be bound, or is open to others without protection.
    :raises AuthenticationFailed: ``keys`` is not what ``collcomm keys`` makes.
    """

    def __init__(
        self,
        bind: str | None = None,
        *,
        limits: Limits = LAN,
        secret: str | None = None,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
    ):
        credentials = coordinator_credentials(secret, keys)
        self.protection = "nothing" if credentials is None else credentials.source
        if bind is None:
            bind = ANYWHERE if credentials is not None or insecure else LOOPBACK
        host, port = parse_address(bind)
        check_exposure(host, credentials is not None, insecure)
        self._context = zmq.Context()
        self._router = _listen(self._context, host, port, credentials)
        endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(endpoint.rpartition(":")[2])
        self.address = format_address(host if host not in ("0.0.0.0", "::", "*") else "127.0.0.1", self.port)
        self._monitor = self._router.get_monitor_socket(Strangers.EVENTS)
        self._strangers = Strangers()
        self._limits = limits
        self._incarnation = secrets.token_hex(8)
        self._groups: dict[str, GroupMachine] = {}
        self._home: dict[bytes, str] = {}  # connection -> group
        self._descriptors: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self.rubbish = 0  # messages that were none
        self._wake_read, self._wake_write = os.pipe()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="collcomm-coordinator", daemon=True)
        self._thread.start()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop. Peers go on in their views; nobody joins or is missed until a coordinator is back."""
        if self._closing:
            return
        self._closing = True
        os.write(self._wake_write, b"x")
        self._thread.join(CLOSE_SECONDS)
        self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def snapshot(self) -> dict[str, Any]:
        """Groups, members and history as plain values, for people and tests."""
        with self._lock:
            return {
                name: {
                    "state": group.state.value,
                    "epoch": group.view.epoch,
                    "members": [str(member) for member in group.view.members],
                    "waiting": [str(peer.member) for peer in group.waiting],
                    "history": list(group.history),
                }
                for name, group in self._groups.items()
            }

    # -- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = zmq.Poller()
        for source in (self._router, self._monitor, self._wake_read):
            poller.register(source, zmq.POLLIN)
        next_tick = time.monotonic()
        try:
            while not self._closing:
                pause = max(0.0, next_tick - time.monotonic())
                ready = dict(poller.poll(int(pause * 1e3 + 0.999)))
                with self._lock:
                    if self._router in ready:
                        self._read_messages()
                    if self._monitor in ready:
                        self._read_monitor()
                    now = time.monotonic()
                    if now >= next_tick:
                        next_tick = now + self._tick(now)
        finally:
            self._router.disable_monitor()
            self._monitor.close(0)
            self._router.close(0)

    def _tick(self, now: float) -> float:
        """Let time pass in all groups; returns when to do so again."""
        for name in list(self._groups):
            self._step(name, lambda group: group.tick(now))
        return min((group.tick_seconds for group in self._groups.values() if not group.empty), default=IDLE_SECONDS)

    def _read_monitor(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
                self._strangers.heard(event)
                if event["event"] != zmq.EVENT_DISCONNECTED:
                    continue
                key = self._descriptors.pop(int(event["value"]), None)
                if key is not None:
                    self._step(self._home.get(key), partial(_drop, key))

    def _read_messages(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(1000):  # then look at the clock again
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
                if len(frames) != 2 or len(frames[0]) != IDENTITY_BYTES:
                    self.rubbish += 1
                    continue
                identity, data = frames[0].bytes, frames[1].bytes
                if identity[:1] == PULSE_PREFIX:
                    self._read_pulse(CONTROL_PREFIX + identity[1:], data)
                elif identity[:1] == CONTROL_PREFIX:
                    self._descriptors[int(frames[1].get(zmq.SRCFD))] = identity
                    self._read_message(identity, data)
                else:
                    self.rubbish += 1

    def _read_pulse(self, key: bytes, data: bytes) -> None:
        if len(data) == PULSE.size and data[:1] == b"p":
            number = PULSE.unpack(data)[1]
            self._step(self._home.get(key), lambda group: group.echo(time.monotonic(), key, number))

    def _read_message(self, key: bytes, data: bytes) -> None:
        now = time.monotonic()
        try:
            message = decode(data)
        except BadMessage as error:
            self.rubbish += 1
            if is_other_version(data):
                self._carry_out(
                    [Send(key, {"t": "rejected", "text": f"{error}; install the same collcomm everywhere"})]
                )
            return
        name = self._home.get(key)
        if message["t"] == "join" and name is None:
            name = message["group"]
            if len(self._groups) >= MAX_GROUPS:
                self._groups = {n: group for n, group in self._groups.items() if not group.empty}
                self._home = {k: home for k, home in self._home.items() if home in self._groups}
            if len(self._home) >= MAX_PEERS:
                self._home = {k: home for k, home in self._home.items() if self._groups[home].knows(k)}
            if (name not in self._groups and len(self._groups) >= MAX_GROUPS) or len(self._home) >= MAX_PEERS:
                self._carry_out([Send(key, {"t": "rejected", "text": "this coordinator is full"})])
                return
            self._home[key] = name
            if name not in self._groups:
                token, secret = secrets.token_bytes(8), secrets.token_bytes(32)
                self._groups[name] = GroupMachine(name, self._incarnation, token, self._limits, secret)
        group = self._groups.get(name or "")
        if group is None:
            self._carry_out([Send(key, {"t": "left"} if message["t"] == "leave" else {"t": "unknown"})])
            return
        self._step(name, lambda group: group.receive(now, key, message))

    def _step(self, name: str | None, event: Callable[[GroupMachine], list[CoordinatorEffect]]) -> None:
        """Let an event happen to a group. A broken invariant ends that group, whose peers learn that it is unknown; the
        other groups go on."""
        group = self._groups.get(name or "")
        if group is None:
            return
        try:
            effects = event(group)
        except Exception:
            log.exception("group %r has broken an invariant and is given up", name)
            del self._groups[group.name]
            self._home = {key: home for key, home in self._home.items() if home != group.name}
            return
        self._carry_out(effects)

    def _carry_out(self, effects: list[CoordinatorEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Note):
                log.info("%s", effect.text)
                continue
            try:
                if isinstance(effect, Ping):
                    frames = [PULSE_PREFIX + effect.key[1:], PULSE.pack(b"p", effect.number)]
                else:
                    frames = [effect.key, encode(effect.message)]
                self._router.send_multipart(frames, zmq.NOBLOCK)
            except zmq.ZMQError:
                pass  # the peer is gone, or its queue is full: it will be missed
            except BadMessage:
                log.exception("a message was not sent")


def _drop(key: bytes, group: GroupMachine) -> list[CoordinatorEffect]:
    return group.disconnected(time.monotonic(), key)


def _listen(
    context: zmq.Context[Any], host: str, port: int, credentials: CoordinatorCredentials | None
) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 200)
    router.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.setsockopt(zmq.SNDHWM, 10_000)
    router.setsockopt(zmq.RCVHWM, 10_000)
    router.setsockopt(zmq.BACKLOG, 1024)
    router.setsockopt(zmq.HANDSHAKE_IVL, int(strangers.HANDSHAKE_SECONDS * 1e3))
    router.setsockopt(zmq.IPV6, 1 if ":" in host else 0)
    if credentials is not None:
        credentials.protect(context, router)
    try:
        router.bind(f"tcp://{format_address(host, port)}")
    except zmq.ZMQError as error:
        router.close(0)
        context.term()
        raise CollcommError(f"the coordinator cannot listen on {format_address(host, port)}: {error}") from None
    return router


def run_coordinator(bind: str | None = None, limits: Limits = LAN, **protection: Any) -> None:
    """Serve until SIGINT or SIGTERM; views and losses go to the log. For the command line. ``protection``: see `Coordinator`."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    make_room()
    with Coordinator(bind, limits=limits, **protection) as coordinator:
        log.info("coordinator listens on %s, protected by %s", coordinator.address, coordinator.protection)
        stopped.wait()
    log.info("coordinator stopped")
