"""The coordinator as a server: drives a `CoordinatorMachine` on a ZeroMQ ROUTER socket.

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
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import CollcommError
from ..transports.addresses import format_address, parse_address
from . import strangers
from .attendance import Attendant
from .booth import RelayBooth
from .chronicle import GRAVE
from .coordinator import IDLE_SECONDS, CoordinatorMachine
from .credentials import CoordinatorCredentials, coordinator_credentials
from .effects import CoordinatorEffect, Heard, Note, Ping, Probe, Remember, Replan, Send
from .group import GroupMachine
from .inquiries import Inquiries, Shown, address_of
from .messages import MAX_REPORT_BYTES, WATCHING, BadMessage, Message, decode, encode, is_other_version
from .planning import Planners
from .presets import LAN, Limits
from .probing import Probes
from .showing import Snapshot
from .store import Deposed, MemoryStore, Store
from .strangers import Strangers, check_exposure, make_room

log = logging.getLogger("collcomm.coordinator")
PULSE = struct.Struct("<cQ")
CONTROL_PREFIX, PULSE_PREFIX = b"C", b"P"
IDENTITY_BYTES = 17
STANDBY_SECONDS = 0.1  # how late a standby notices that it leads
CLOSE_SECONDS = 5.0
ATTEND_SECONDS = 0.5  # between two looks at the health of groups
LINGER_MILLISECONDS = 200
ANYWHERE, LOOPBACK = "0.0.0.0:48148", "127.0.0.1:48148"


class Coordinator:
    """Rendezvous and referee of groups; runs on a thread of its own until `close`.

    :param bind: "host:port" to listen on; port 0 takes a free one, see ``address``. None: port 48148, of all interfaces when
        protected or ``insecure``, else of the loopback one.
    :param limits: how long silence may last, see `collcomm.membership.presets`.
    :param secret: what peers have to know to join (their ``secret=``); the variable COLLCOMM_SECRET if not given.
    :param keys: the directory of this coordinator's keys, made by ``collcomm keys``; or the variable COLLCOMM_KEYS.
    :param insecure: listen on an address that others can reach although there is neither.
    :param store: what outlives this coordinator, and decides whether it leads; see `collcomm.membership.store`. Closed with it.
    :param relay_port: where this process joins peers that nobody else can; 0 takes a free one, None: it does not.
    :param attendant: who watches over the health of groups, if anybody does.
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
        store: Store | None = None,
        relay_port: int | None = 0,
        attendant: Attendant | None = None,
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
        self._store = store if store is not None else MemoryStore()
        known = store is not None or port == 0
        self._machine = CoordinatorMachine(limits, secrets.token_bytes, self._load, known)
        self._descriptors: dict[int, bytes] = {}
        self._poller = zmq.Poller()
        self._probes = Probes(self._poller)
        self._planners = Planners(self._poller)
        self._lock = threading.RLock()  # what is shown may be asked for while a message is answered
        self._attendant = attendant
        self._attend_at = 0.0
        shown = Shown(self._machine, self.show)
        self._inquiries = Inquiries(shown, self._send_frames, self._poller)
        self.rubbish = 0  # messages that were none
        self._wake_read, self._wake_write = os.pipe()
        self._closing = False
        self._booth = self._open_booth(host, relay_port)
        self._thread = threading.Thread(target=self._serve, name="collcomm-coordinator", daemon=True)
        self._thread.start()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def leads(self) -> bool:
        """Whether this coordinator decides at present; a standby does not."""
        return self._machine.leads

    @property
    def page(self) -> str:
        """The address of a page that shows the groups; empty where there is none."""
        return ""

    @property
    def relay_port(self) -> int | None:
        """Where this process relays, if it does."""
        return None if self._booth is None else self._booth.port

    @property
    def empty(self) -> bool:
        """Whether nobody is in any group, or waits to be."""
        with self._lock:
            return all(group.empty for group in self._machine.groups.values())

    def close(self) -> None:
        """Stop. Peers go on in their views; nobody joins or is missed until a coordinator is back."""
        if self._closing:
            return
        self._closing = True
        os.write(self._wake_write, b"x")
        self._thread.join(CLOSE_SECONDS)
        if self._booth is not None:
            self._booth.close()
        self._context.term()
        self._store.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def snapshot(self) -> dict[str, Any]:
        """Groups, members and history as plain values, for people and tests."""
        with self._lock:
            return self._machine.snapshot(time.monotonic())

    def show(self, group: str) -> Snapshot | None:
        """What is known here of a group, by the schema of `collcomm.health.snapshot`; None if there is none of that name. From
        any thread."""
        with self._lock:
            now, wall = time.monotonic(), time.time()
            shown = self._machine.shown(group, now, wall)
            if shown is None or self._attendant is None:
                return shown
            return self._attendant.show(shown, now, wall)

    def record(self, group: str, kind: str, text: str, member: int = 0, cause: str = "") -> None:
        """Add an event to what is shown of a group, and to the log: a "finding", "recovered", an "action". From any thread."""
        with self._lock:
            self._carry_out(self._machine.happened(time.monotonic(), group, kind, text, member, cause))

    @property
    def groups(self) -> list[str]:
        """Their names. From any thread."""
        with self._lock:
            return list(self._machine.groups)

    # -- the relay ---------------------------------------------------------------------------------------------------

    def _open_booth(self, host: str, port: int | None) -> RelayBooth | None:
        if port is None:
            return None

        def keys(number: int, members: Iterable[int]) -> dict[int, bytes]:
            with self._lock:
                return self._machine.booth_keys(number, members)

        try:
            booth = RelayBooth(host, port, keys)
        except (OSError, OverflowError) as error:
            log.warning("this coordinator does not relay, it cannot listen on port %d: %s", port, error)
            return None
        self._machine.booth_port = booth.port
        return booth

    # -- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        for source in (self._router, self._monitor, self._wake_read):
            self._poller.register(source, zmq.POLLIN)
        next_tick = time.monotonic()
        try:
            while not self._closing:
                pause = max(0.0, next_tick - time.monotonic())
                ready = dict(self._poller.poll(int(pause * 1e3 + 0.999)))
                with self._lock:
                    self._follow_store(time.monotonic())
                    if self._router in ready:
                        self._read_messages()
                    if self._monitor in ready:
                        self._read_monitor()
                    now = time.monotonic()
                    for probe, refused in self._probes.ended(ready, now):
                        self._carry_out(self._machine.probed(now, probe, refused))
                    for replan, plan in self._planners.ended(ready, now):
                        self._carry_out(self._machine.planned(now, replan, plan))
                    self._inquiries.ended(ready, now)
                    if now >= next_tick:
                        next_tick = now + self._tick(now)
        finally:
            self._probes.close()
            self._planners.close()
            self._inquiries.close()
            self._router.disable_monitor()
            self._monitor.close(0)
            self._router.close(LINGER_MILLISECONDS)  # who has just left should hear that

    def _follow_store(self, now: float) -> None:
        """Lead when the store says so, and only then."""
        leads = self._store.leads()
        self._machine.leader = self._store.leader
        if leads and not self._machine.leads:
            self._carry_out(self._machine.lead(now))
            if not isinstance(self._store, MemoryStore):
                log.info("this coordinator leads")
        elif not leads and self._machine.leads:
            self._step_down()

    def _step_down(self) -> None:
        self._machine.step_down()
        log.warning("this coordinator does not lead any more")

    def _tick(self, now: float) -> float:
        """Let time pass in all groups; returns when to do so again."""
        for name in list(self._machine.groups):
            self._carry_out(self._machine.tick(now, name))
        if self._attendant is not None and now >= self._attend_at:
            self._attend_at = now + ATTEND_SECONDS
            with _excused("the health of groups was not looked at"):
                self._attend(now, self._attendant)
        return min(self._machine.tick_seconds, IDLE_SECONDS if self._machine.leads else STANDBY_SECONDS)

    def _attend(self, now: float, attendant: Attendant) -> None:
        groups = {name: one for name, one in self._machine.groups.items() if isinstance(one, GroupMachine)}
        attendant.keep_only(list(groups))
        for name, group in groups.items():
            for order in attendant.tick(now, name, group.view, group.measured(now), group.ways):
                self._carry_out(self._machine.ordered(now, name, order))

    def _read_monitor(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
                self._strangers.heard(event)
                if event["event"] != zmq.EVENT_DISCONNECTED:
                    continue
                key = self._descriptors.pop(int(event["value"]), None)
                if key is not None:
                    self._inquiries.disconnected(key)
                    self._carry_out(self._machine.disconnected(time.monotonic(), key))

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
                    self._read_message(identity, data, frames[1])
                else:
                    self.rubbish += 1

    def _read_pulse(self, key: bytes, data: bytes) -> None:
        if len(data) == PULSE.size and data[:1] == b"p":
            self._carry_out(self._machine.echo(time.monotonic(), key, PULSE.unpack(data)[1]))

    def _read_message(self, key: bytes, data: bytes, frame: zmq.Frame) -> None:
        try:
            message = decode(data)
        except BadMessage as error:
            self.rubbish += 1
            if is_other_version(data):
                self._carry_out(
                    [Send(key, {"t": "rejected", "text": f"{error}; install the same collcomm everywhere"})]
                )
            return
        if message["t"] in WATCHING:
            self._inquiries.asked(time.monotonic(), key, message, address_of(frame))
            return
        try:
            self._carry_out(self._machine.receive(time.monotonic(), key, message))
        except CollcommError as error:  # a record cannot be read: better no answer than one without knowledge
            log.warning("%s", error)
            self._step_down()

    # -- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[CoordinatorEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Note):
                _note(effect)
            elif isinstance(effect, Heard):
                if self._attendant is not None:
                    with _excused("what a member told of its health was not heard"):
                        self._attendant.heard(time.monotonic(), effect.group, effect.member, effect.message)
            elif isinstance(effect, Remember):
                if not self._save(effect):
                    return  # nobody hears of what was not written down
            elif isinstance(effect, Probe):
                self._probes.start(effect, time.monotonic())
            elif isinstance(effect, Replan):
                self._planners.start(effect, time.monotonic())
            else:
                self._post(effect)

    def _post(self, effect: Send | Ping) -> None:
        try:
            if isinstance(effect, Ping):
                self._send_frames([PULSE_PREFIX + effect.key[1:], PULSE.pack(b"p", effect.number)])
            else:
                self._send_frames([effect.key, encode(effect.message)])
        except BadMessage:
            log.exception("a message was not sent")

    def _send_frames(self, frames: list[Any]) -> None:
        try:
            self._router.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # the peer is gone, or its queue is full: it will be missed

    def _save(self, effect: Remember) -> bool:
        try:
            self._store.save(effect.group, encode({"t": "record", **effect.record}))
        except Deposed as error:
            log.warning("%s", error)
            self._step_down()
        except Exception as error:
            log.error("group %r stands still, its record cannot be written: %s", effect.group, error)
            self._machine.forget(effect.group)  # it is rebuilt from its peers' reports, which tries again
        else:
            return True
        return False

    def _load(self, group: str) -> Message | None:
        data = self._store.load(group)
        try:
            message = decode(data) if data is not None else None
        except BadMessage as error:
            log.error("the record of group %r is unreadable and not used: %s", group, error)
            return None
        return message if message is not None and message["t"] == "record" else None


@contextlib.contextmanager
def _excused(what: str) -> Iterator[None]:
    """Whoever watches over health is no reason for a coordinator to end."""
    try:
        yield
    except Exception:
        log.exception("%s", what)


def _note(effect: Note) -> None:
    """To the log: the text for people, and for programs the facts of the event."""
    event = effect.event
    level = logging.WARNING if event is not None and event.kind in GRAVE else logging.INFO
    log.log(level, "%s", effect.text, extra={} if event is None else {"facts": event.facts})


def _listen(
    context: zmq.Context[Any], host: str, port: int, credentials: CoordinatorCredentials | None
) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
    router.setsockopt(zmq.MAXMSGSIZE, MAX_REPORT_BYTES)
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


def serve(coordinator: Callable[[], Coordinator]) -> None:
    """Until SIGINT or SIGTERM; views and losses go to the log. For the command line."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    make_room()
    with coordinator() as serving:
        log.info("coordinator listens on %s, protected by %s", serving.address, serving.protection)
        if serving.page:
            log.info("it shows its groups at http://%s", serving.page)
        if serving.relay_port is not None:
            log.info("it relays for peers that cannot dial each other on port %d", serving.relay_port)
        stopped.wait()
    log.info("coordinator stopped")
