"""One run: peers and a coordinator as processes, faults at their times, and a watch over all of it."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bench.launch import CoordinatorProcess, free_port
from ..membership.links import LINK_FAULTS, LINK_SECONDS
from .peers import Peer
from .record import Record
from .relay import HOST, Relay
from .resources import Resources
from .schedule import RELAYED, Fault

LOOK_SECONDS = 0.02
SAMPLE_SECONDS = 1.0
END_SECONDS = 5.0
HEAL_SECONDS = 10.0  # who was hit has so long, beyond ``stuck``, to go on or to end
WORKLOAD = (sys.executable, "-m", "collcomm.chaos.workload")


@dataclass(frozen=True)
class Settings:
    """``least`` and ``most``: faults leave so many members unhurt, and spawn no more than that; ``pause``: seconds until the
    place of a peer that ended is taken, None: never; ``spare``: so many of the first peers are never hit; ``stuck``: a
    peer that completes nothing for so long has failed; ``start``: all peers have joined by then."""

    directory: Path
    command: Sequence[str] = WORKLOAD
    peers: int = 4
    least: int = 2
    most: int = 10
    pause: float | None = 1.0
    spare: int = 0
    stuck: float = 10.0
    start: float = 60.0
    coordinator: Sequence[str] = ()  # options of its command line

    def __post_init__(self) -> None:
        if not 1 <= self.peers <= self.most <= 256 or self.least < 1:
            raise ValueError("peers: from 1 to the most there may be, which is at most 256; least: at least 1")
        if self.spare > self.peers or self.stuck <= 0 or (self.pause is not None and self.pause < 0):
            raise ValueError("spare peers are some of the peers; times are positive")


@dataclass
class Applied:
    """A fault that was inflicted: ``began`` and ``ended`` by the monotonic clock, on which peer."""

    fault: Fault
    began: float
    ended: float
    peer: str = ""
    member: int | None = None


@dataclass
class Run:
    """`execute` it once; what it found is in the other fields."""

    settings: Settings
    schedule: Sequence[Fault]
    seconds: float
    say: Callable[[str], None] = print
    applied: list[Applied] = field(default_factory=list)
    skipped: list[Fault] = field(default_factory=list)  # too few to be hit
    records: list[Record] = field(default_factory=list)
    resources: Resources = field(default_factory=Resources)
    failures: list[str] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)  # since so many frames on their links were corrupted
    began: float = 0.0  # when all had joined
    ended: float = 0.0

    def execute(self) -> None:
        """Raises KeyboardInterrupt; whatever happens, no process is left."""
        self.settings.directory.mkdir(parents=True, exist_ok=True)
        self._peers: list[Peer] = []
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        self._sampled = 0.0
        self._relay = Relay() if any(fault.kind in RELAYED for fault in self.schedule) else None
        self._address = f"{HOST}:{free_port()}"
        self._coordinator: CoordinatorProcess | None = None
        try:
            self._start_coordinator()
            for _ in range(self.settings.peers):
                self._start_peer(time.monotonic())
            self._await_all_joined()
            self.began = time.monotonic()
            for fault in self.schedule:
                self._at(self.began + fault.at, self._inflicting(fault))
            self._watch_until(self.began + self.seconds)
            self._settle()
        finally:
            self.ended = self.ended or time.monotonic()
            self._clear_up()

    # -- the watch ------------------------------------------------------------------------------------------------------

    def _await_all_joined(self) -> None:
        until = time.monotonic() + self.settings.start
        while not self.failures and not all(peer.joined for peer in self._peers):
            self._look(time.monotonic())
            if time.monotonic() > until:
                missing = ", ".join(peer.name for peer in self._peers if not peer.joined)
                self._fail(f"{missing} did not join within {self.settings.start:.0f} s; does the program call "
                           f"collcomm.join() without an address?", *self._peers)  # fmt: skip
            time.sleep(LOOK_SECONDS)

    def _watch_until(self, until: float) -> None:
        while self._running() and time.monotonic() < until:
            now = time.monotonic()
            for due, number, action in sorted(self._agenda[:], key=lambda entry: entry[:2]):
                if due <= now:
                    self._agenda.remove((due, number, action))
                    action(time.monotonic())
            self._look(now)
            self._check_stuck(now)
            if now - self._sampled >= SAMPLE_SECONDS:
                self._sampled = now
                self._sample(now)
            time.sleep(LOOK_SECONDS)

    def _running(self) -> bool:
        """Whether there is anything to go on with."""
        return not self.failures and (bool(self._peers) or bool(self._agenda))

    def _settle(self) -> None:
        """Faults end, places are taken again, and everybody completes an operation after that."""
        self.ended = time.monotonic()
        last = max([self.ended, *(due for due, *_ in self._agenda), *(peer.busy_until for peer in self._peers)])
        settled_at = last
        deadline = last + self.settings.start + self.settings.stuck

        def unsettled() -> bool:
            live = [peer for peer in self._peers if not peer.excused]
            return bool(self._agenda) or any(peer.record.last_sign <= settled_at for peer in live)

        while self._running() and self._peers and (time.monotonic() < last or unsettled()):
            if time.monotonic() > deadline:
                self._fail("the group has not come to rest after the last fault", *self._peers)
            self._watch_until(time.monotonic() + 2 * LOOK_SECONDS)

    def _look(self, now: float) -> None:
        """Read the logs, notice who has ended."""
        for peer in list(self._peers):
            ended = not peer.alive
            joined = peer.joined
            peer.record.read()
            if peer.joined and not joined and self._relay is not None:
                assert peer.record.member is not None
                self._relay.introduce(peer.record.member, peer.name)
            if peer.excused and peer.busy_until < peer.record.last_sign - self.settings.stuck / 10:
                peer.excused = False  # it has borne it
            if ended:
                self._bury(peer, now)

    def _bury(self, peer: Peer, now: float) -> None:
        self._peers.remove(peer)
        peer.record.ended, peer.record.code = now, peer.process.returncode
        if self._relay is not None:
            self._relay.remove(peer.name)
        if peer.record.code and self._links_were_spoiled(peer, now):
            peer.excused = True
            self.evicted.append(peer.name)
        if not peer.excused:
            if peer.record.code:
                self._fail(f"{peer.name}, which was not hit, ended with code {peer.record.code}", peer)
            return  # its program has come to its end
        if self.settings.pause is not None:
            self._at(now + self.settings.pause, self._start_peer)

    def _links_were_spoiled(self, peer: Peer, now: float) -> bool:
        """Whoever's link breaks again and again is evicted; that is no failure where so many frames were corrupted."""
        recent = [each for each in self.applied if each.fault.kind == "corrupt" and now - each.began < LINK_SECONDS]
        evicted = bool(peer.record.causes) and peer.record.causes[-1].startswith("ViewChanged")
        return evicted and len(recent) >= LINK_FAULTS

    def _check_stuck(self, now: float) -> None:
        patience = self.settings.stuck
        for peer in self._peers:
            if not peer.joined:
                continue  # join() has a timeout of its own
            since = max(peer.record.last_sign, peer.busy_until + (HEAL_SECONDS if peer.excused else 0.0))
            if now - since > patience:
                self._fail(f"{peer.name} has completed nothing for {now - peer.record.last_sign:.1f} s", *self._peers)
                return

    def _sample(self, now: float) -> None:
        if self._coordinator is not None:
            self.resources.take("coordinator", self._coordinator.pid, now)
        for peer in self._peers:
            self.resources.take(peer.name, peer.record.pid or peer.process.pid, now)

    def _fail(self, text: str, *peers: Peer) -> None:
        said = "".join(f"\n--- {peer.name} ---\n{peer.said()}" for peer in peers if peer.said())
        self.failures.append(text + said)

    # -- peers and coordinator --------------------------------------------------------------------------------------------

    def _start_peer(self, now: float) -> None:
        name = f"peer-{self._count}"
        variables = {"COLLCOMM_COORDINATOR": self._address}
        if self._relay is not None:
            listens = (HOST, free_port())
            control = self._relay.open(name, (HOST, int(self._address.rpartition(":")[2])), data=False)
            shown = self._relay.open(name, listens, data=True)
            variables = {
                "COLLCOMM_COORDINATOR": f"{HOST}:{control}",
                "COLLCOMM_ADVERTISE": f"{HOST}:{shown}",
                "COLLCOMM_LISTEN": f"{HOST}:{listens[1]}",
                "COLLCOMM_TRANSPORTS": "tcp",  # what goes through shared memory, nothing can stand between
            }
        peer = Peer.start(name, self.settings.command, self.settings.directory, variables, now)
        peer.spared = self._count < self.settings.spare
        self._count += 1
        self._peers.append(peer)
        self.records.append(peer.record)

    def _start_coordinator(self) -> None:
        coordinator = CoordinatorProcess(self._address, options=self.settings.coordinator)
        self._coordinator = coordinator.__enter__()

    def _clear_up(self) -> None:
        for peer in self._peers:
            peer.signal(signal.SIGCONT)
            peer.signal(signal.SIGTERM)
        until = time.monotonic() + END_SECONDS
        for peer in self._peers:
            with contextlib.suppress(Exception):
                peer.process.wait(max(0.01, until - time.monotonic()))
        for peer in self._peers:
            peer.kill()
            peer.record.read()
            peer.record.ended = time.monotonic()
        if self._relay is not None:
            self._relay.close()
        self._end_coordinator()

    def _end_coordinator(self) -> None:
        if self._coordinator is not None:
            self._coordinator.__exit__(None, None, None)
            with (self.settings.directory / "coordinator.log").open("a") as log:
                log.write(self._coordinator.log)
            self._coordinator = None

    # -- faults ---------------------------------------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[float], None]) -> None:
        self._agenda.append((when, len(self._agenda) + self._count, action))

    def _inflicting(self, fault: Fault) -> Callable[[float], None]:
        return lambda now: self._inflict(fault, now)

    def _candidates(self, now: float) -> Iterator[Peer]:
        """Whom a fault may hit now: nobody twice at a time, and ``least`` members are left in peace."""
        free = [peer for peer in self._peers if peer.alive and not peer.excused and peer.busy_until < now]
        unhurt = sum(peer.joined for peer in free)
        for peer in free:
            if not peer.spared and unhurt - peer.joined >= self.settings.least:
                yield peer

    def _inflict(self, fault: Fault, now: float) -> None:
        if fault.kind == "coordinator":
            self._kill_coordinator(fault)
        elif fault.kind == "spawn":
            if len(self._peers) >= self.settings.most:
                self.skipped.append(fault)
            else:
                self._start_peer(now)
                self.applied.append(Applied(fault, now, now, self._peers[-1].name))
        else:
            candidates = list(self._candidates(now))
            if not candidates:
                self.skipped.append(fault)
                return
            self._hit(candidates[int(fault.victim * len(candidates))], fault)

    def _hit(self, peer: Peer, fault: Fault) -> None:
        now = time.monotonic()
        applied = Applied(fault, now, now + fault.seconds, peer.name, peer.record.member)
        peer.busy_until = now + fault.seconds
        self.say(
            f"{now - self.began:8.3f} s  {fault.kind} {peer.name}" + f" for {fault.seconds} s" * bool(fault.seconds)
        )
        peer.excused = fault.kind in ("kill", "stop", "partition", "cut")
        relay = self._relay
        if fault.kind == "kill":
            peer.signal(signal.SIGKILL)
        elif fault.kind == "stop":
            peer.signal(signal.SIGSTOP)
            self._at(now + fault.seconds, lambda _: peer.signal(signal.SIGCONT))
        else:
            assert relay is not None, "the relay is there when the schedule needs it"
            if fault.kind == "corrupt":
                self._spoil(peer, applied)
                return  # counts when it has happened
            if fault.kind == "slow":
                relay.slow_down(peer.name, fault.delay, fault.rate)
            else:
                relay.hold(peer.name, control=fault.kind == "partition")
            self._at(now + fault.seconds, lambda _: relay.heal(peer.name))
        self.applied.append(applied)

    def _spoil(self, peer: Peer, applied: Applied) -> None:
        def done(at: float) -> None:
            applied.began = applied.ended = at
            self.applied.append(applied)

        assert self._relay is not None
        self._relay.spoil(peer.name, int(applied.fault.victim * 4000), done)

    def _kill_coordinator(self, fault: Fault) -> None:
        if self._coordinator is None:
            self.skipped.append(fault)
            return
        now = time.monotonic()
        self.say(f"{now - self.began:8.3f} s  coordinator dies, for {fault.seconds} s")
        self._coordinator.kill()
        self._end_coordinator()
        applied = Applied(fault, now, now + fault.seconds)
        self.applied.append(applied)

        def restart(_: float) -> None:
            self._start_coordinator()
            applied.ended = time.monotonic()

        self._at(now + fault.seconds, restart)
