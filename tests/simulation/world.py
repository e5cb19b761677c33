"""A seeded world around one `GroupMachine`: time, a network with delays, and faults. Equal seeds give equal histories.

What the real network promises is promised here and no more: messages of one connection keep their order; those of
different connections do not; what a dead process had sent may arrive or not.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from collcomm.membership import GroupMachine
from collcomm.membership.effects import Adopt, CoordinatorEffect, Ping, Send
from collcomm.membership.group import State as GroupState
from collcomm.membership.messages import decode, encode
from collcomm.types import Member
from tests.simulation.peer import SimPeer, Value


class Ledger:
    """What all peers have ever been told, and the promises checked against it at every entry."""

    def __init__(self) -> None:
        self.views: dict[int, tuple[tuple[Member, ...], tuple[Any, ...]]] = {}
        self.admitted: dict[int, bool] = {}
        self.runs: dict[int, int] = {}  # epoch -> epoch of the first view of its run (numbering starts anew with a run)
        self.fates: dict[tuple[int, int], tuple[Value | str, str]] = {}  # (run, seq) -> fate, first seen at
        self._newest: dict[str, int] = {}

    def adopted(self, peer: SimPeer, effect: Adopt) -> None:
        epoch = effect.view.epoch
        told = (effect.view.members, tuple(sorted((gid, str(outcome)) for gid, outcome in effect.outcomes.items())))
        known = self.views.setdefault(epoch, told)
        assert known == told, f"two views of epoch {epoch}: {known} and {told}"
        assert self.admitted.setdefault(epoch, effect.admitted) == effect.admitted
        assert epoch > self._newest.get(peer.name, 0), f"{peer.name} goes back to epoch {epoch}"
        assert peer.member in effect.view.ids, f"{peer.name} is told a view without it"
        self._newest[peer.name] = epoch

    def returned(self, peer: SimPeer, seq: int, fate: Value | str) -> None:
        """Uniform agreement: of one operation all who return return the same, dead by now or not."""
        run = self.runs[peer.view.epoch]
        known, by = self.fates.setdefault((run, seq), (fate, peer.name))
        assert known == fate, f"operation {seq}: {by} returned {known}, {peer.name} {fate}"


class World:
    """``settle`` after ``cause_faults``: no more faults, everybody alive must get on."""

    def __init__(self, seed: int, faults: tuple[str, ...] = ()):
        self.random = random.Random(seed)
        self._faults = faults or FAULTS
        self.now = 0.0
        self.ledger = Ledger()
        self.group = GroupMachine("run", "incarnation", b"8 bytes!")
        self.peers: list[SimPeer] = []
        self._members: dict[int, SimPeer] = {}
        self.busy_until = 0.0  # the coordinator is held up until then
        self.log: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._order: dict[tuple[bytes, bytes], float] = {}
        self._reset: dict[frozenset[int], int] = {}  # pair of members -> newest epoch whose frames are lost
        self._cut: set[frozenset[int]] = set()
        self._line: Counter[bytes] = Counter()  # how often a control connection was lost; what was in flight is gone
        self._away: dict[bytes, float] = {}  # ... and when it is back
        self._min_size = self.random.randint(1, 4)
        self._on_failure = self.random.choice(("retry", "retry", "raise"))
        self._slow = self.random.choice((0.002, 0.02, 0.1))  # seconds, the usual delay of a message
        self._epoch = 0
        self._ids: tuple[int, ...] = ()
        for _ in range(self._min_size + self.random.randint(0, 2)):
            self.spawn()
        self._tick()

    # -- time ------------------------------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, action))

    def run_until(self, end: float, enough: Callable[[], bool] = lambda: False) -> bool:
        """Let events happen; True as soon as it is ``enough``."""
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._check_group()
            if enough():
                return True
        self.now = end
        return enough()

    def shuffled(self, members: Iterable[int]) -> list[int]:
        order = list(members)
        self.random.shuffle(order)
        return order

    def _delay(self) -> float:
        return self.random.expovariate(1 / self._slow)

    def _arrival(self, source: bytes, target: bytes) -> float:
        """Seconds from now when a message sent now arrives: later than all before it on this connection."""
        at = max(self.now + self._delay(), self._order.get((source, target), 0.0)) + 1e-9
        self._order[source, target] = at
        return at - self.now

    # -- the coordinator -------------------------------------------------------------------------------------

    def join_message(self, name: str) -> dict[str, Any]:
        where = {"host": "10.0.0.1", "port": 4711, "host_id": ""}
        return {
            "t": "join",
            "group": "run",
            "name": name,
            **where,
            "min_size": self._min_size,
            "on_failure": self._on_failure,
        }

    def to_coordinator(self, peer: SimPeer, message: dict[str, Any]) -> None:
        """Waits at the peer while the connection is away, is lost when it breaks meanwhile."""
        data, key = encode(message), peer.key
        line = self._line[key]
        wait = max(self._away.get(key, 0.0) - self.now, 0.0)

        def arrive() -> list[CoordinatorEffect]:
            return self.group.receive(self.now, key, decode(data)) if line == self._line[key] else []

        self._at_coordinator(wait + self._arrival(key, b""), arrive)

    def _at_coordinator(self, seconds: float, event: Callable[[], list[CoordinatorEffect]]) -> None:
        """An event arrives there, and is looked at once the coordinator runs."""

        def arrive() -> None:
            if self.now < self.busy_until:
                self.after(self.busy_until - self.now, arrive)
            else:
                self._carry_out(event())

        self.after(seconds, arrive)

    def _tick(self) -> None:
        if self.now < self.busy_until:
            self.after(self.busy_until - self.now + 1e-6, self._tick)  # after what has arrived meanwhile
            return
        self._carry_out(self.group.tick(self.now))
        self.after(self.group.tick_seconds, self._tick)

    def _carry_out(self, effects: list[CoordinatorEffect]) -> None:
        if self.group.view.epoch > self._epoch:
            self._note_run()
        for effect in effects:
            if isinstance(effect, Send):
                if effect.message["t"] == "welcome":
                    self._members[effect.message["member"]] = self._named(effect.key)
                self._to_peer_machine(self._named(effect.key), encode(effect.message))
            elif isinstance(effect, Ping):
                self._pulse(self._named(effect.key), effect.number)
            else:
                self.log.append(f"{self.now:8.3f}  {effect.text}")

    def _note_run(self) -> None:
        """A run of the group lasts as long as some member of a view is in the next one too."""
        old, new = self._epoch, self.group.view.epoch
        goes_on = new == old + 1 and bool(set(self._ids) & set(self.group.view.ids))
        self.ledger.runs[new] = self.ledger.runs[old] if goes_on else new
        self._epoch, self._ids = new, self.group.view.ids

    def _to_peer_machine(self, peer: SimPeer, data: bytes) -> None:
        """Is lost while the connection is away (a ROUTER drops it), or when it breaks meanwhile."""
        line = self._line[peer.key]

        def arrive() -> None:
            if line == self._line[peer.key]:
                peer.when_running(lambda: peer.receive(decode(data)))

        if self.now >= self._away.get(peer.key, 0.0):
            self.after(self._arrival(b"", peer.key), arrive)

    def _pulse(self, peer: SimPeer, number: int) -> None:
        def echo() -> None:
            self._at_coordinator(self._delay(), lambda: self.group.echo(self.now, peer.key, number))

        def arrive() -> None:
            if peer.paused == "stopped":
                peer.when_running(echo)
            elif peer.running:
                echo()

        self.after(self._delay(), arrive)

    def _check_group(self) -> None:
        group = self.group
        ids = group.view.ids
        assert list(ids) == sorted(set(ids))
        if group.state is GroupState.FORMING:
            assert not ids and len(group.waiting) < self._min_size

    # -- peers -----------------------------------------------------------------------------------------------

    def _named(self, key: bytes) -> SimPeer:
        return self.peers[int(key[1:])]

    def spawn(self) -> SimPeer:
        peer = SimPeer(self, f"p{len(self.peers)}")
        self.peers.append(peer)
        peer.start()
        return peer

    def to_peer(self, source: SimPeer, member: int, frame: tuple[str, int, int, int, Any]) -> None:
        target = self._members[member]
        pair = frozenset((source.member, member))
        lost_at_crash = self.random.random() < 0.5  # a reset throws away what was not read yet

        def arrive() -> None:
            lost = pair in self._cut or frame[2] <= self._reset.get(pair, -1)
            if not lost and not (source.crashed and lost_at_crash):
                target.frame(*frame)

        if target.gone or target.crashed:
            self.after(self._delay(), lambda: source.when_running(lambda: source.link_closed(member)))
            return
        self.after(self._arrival(source.key, target.key), lambda: target.when_running(arrive))

    def _close_links(self, dead: SimPeer) -> None:
        for other in self.peers:
            if other is not dead and dead.member in other.view.ids:
                self._notice(other, dead.member)

    def _notice(self, peer: SimPeer, member: int) -> None:
        self.after(self._delay(), lambda: peer.when_running(lambda: peer.link_closed(member)))

    # -- faults ----------------------------------------------------------------------------------------------

    def crash(self, peer: SimPeer) -> None:
        """The process is gone; what it had sent to the coordinator arrives before the end of its connection."""
        if not peer.running:
            return
        self.log.append(f"{self.now:8.3f}  crash {peer.name}")
        peer.crashed = True
        self._at_coordinator(self._arrival(peer.key, b""), lambda: self.group.disconnected(self.now, peer.key))
        self._close_links(peer)

    def _pause(self, peer: SimPeer, how: str) -> None:
        seconds = self.random.choice((0.1, 0.5, 1.0, 2.0, 4.0))
        self.log.append(f"{self.now:8.3f}  {peer.name} is {how} for {seconds} s")
        peer.paused = how
        self.after(seconds, peer.resume)

    def _break_link(self, peer: SimPeer, other: SimPeer, for_good: bool) -> None:
        pair = frozenset((peer.member, other.member))
        self.log.append(f"{self.now:8.3f}  link {peer.name}-{other.name} {'cut' if for_good else 'reset'}")
        if for_good:
            self._cut.add(pair)
            self._nag(peer, other)
        self._reset[pair] = max(peer.view.epoch, other.view.epoch)
        self._notice(peer, other.member)
        if self.random.random() < 0.7:
            self._notice(other, peer.member)

    def _nag(self, peer: SimPeer, other: SimPeer) -> None:
        """A cut link cannot be dialled in any later view either."""
        if peer.running and other.running:
            self._notice(peer, other.member)
            self.after(0.2, lambda: self._nag(peer, other))

    def _lose_line(self, peer: SimPeer) -> None:
        """The control connection breaks and is back soon, as ZeroMQ makes it anew by itself."""
        seconds = self.random.uniform(0.05, 0.3)
        self.log.append(f"{self.now:8.3f}  {peer.name} loses its line to the coordinator for {seconds:.2f} s")
        self._line[peer.key] += 1
        self._away[peer.key] = self.now + seconds
        self._at_coordinator(0.0, lambda: self.group.disconnected(self.now, peer.key))

    def _fault(self) -> None:
        running = [peer for peer in self.peers if peer.running]
        members = [peer for peer in running if peer.progress is not None and not peer.paused]
        kind = self.random.choice(self._faults)
        if kind == "join":
            self.spawn()
        elif kind == "coordinator":
            self.busy_until = self.now + self.random.choice((0.1, 0.4, 2.0, 5.0))
            self.log.append(f"{self.now:8.3f}  the coordinator is held up until {self.busy_until:.3f}")
        elif kind == "crash" and running:
            self.crash(self.random.choice(running))
        elif len(members) >= 2 and kind in ("reset", "cut"):
            self._break_link(*self.random.sample(members, 2), for_good=kind == "cut")
        elif members:
            self._upset(kind, self.random.choice(members))

    def _upset(self, kind: str, peer: SimPeer) -> None:
        assert peer.progress is not None
        if kind == "crash midway":
            peer.crash_after = self.random.randint(0, 8)
        elif kind in ("stopped", "stalled"):
            self._pause(peer, kind)
        elif kind == "leave":
            self.log.append(f"{self.now:8.3f}  {peer.name} leaves")
            peer.leave()
        elif kind == "blip":
            self._lose_line(peer)
        elif kind == "odd":
            peer.odd_seq = peer.progress.called + 1
        elif kind == "slow":
            peer.think = 2 * self.random.random() * 4.0

    def cause_faults(self, seconds: float) -> None:
        for _ in range(self.random.randint(1, 12)):
            self.after(self.random.uniform(0.0, seconds), self._fault)
        self.run_until(seconds)

    def settle(self, seconds: float, operations: int) -> None:
        """All pauses are over: whoever is alive is in the view and ends ``operations`` more, or the group forms."""
        for peer in self.peers:
            peer.crash_after = None
        self.run_until(self.now + 6.0)
        before = {peer.name: peer.resolved for peer in self.peers}

        def enough() -> bool:
            living = [peer for peer in self.peers if peer.running]
            if self.group.state is GroupState.FORMING:
                return len(living) == len(self.group.waiting)
            return {peer.member for peer in living} == set(self.group.view.ids) and all(
                peer.view.epoch == self.group.view.epoch and peer.resolved >= before[peer.name] + operations
                for peer in living
            )

        assert self.run_until(self.now + seconds, enough), self._stuck(before)

    def _stuck(self, before: dict[str, int]) -> str:
        lines = [f"nothing moves: group {self.group.state.value}, view {self.group.view.epoch} {self.group.view.ids}"]
        lines += [
            f"  {peer.name} (member {peer.member}): {peer.machine.state.value}, {peer.progress}, in step: "
            f"{peer.admission is not None}, {peer.resolved - before[peer.name]} operations since"
            for peer in self.peers
            if peer.running
        ]
        return "\n".join(lines)


FAULTS = (
    *("crash", "crash", "crash midway", "crash midway", "crash midway", "stopped", "stopped", "stalled"),
    *("reset", "reset", "cut", "join", "join", "join", "leave", "odd", "slow", "coordinator"),
)
BLIPS = (*FAULTS, *("blip",) * 8)
