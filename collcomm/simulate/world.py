"""A group of simulated peers with their coordinators, and all that may happen to them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ..membership import LAN
from ..membership.messages import decode
from ..transports.simnet import Network
from .coordinator import Records, SimCoordinator
from .host import SimLines, SimPeer
from .ledger import Ledger
from .scheduler import Scheduler
from .workload import program

STORES = ("memory", "journal", "lease")


@dataclass(frozen=True)
class Options:
    """What a history is made of; together with the seed it determines all that happens."""

    seed: int
    peers: int = 4  # at the beginning, at most
    store: str = ""  # one of STORES; "": chance decides
    faults: int = 8  # at most
    fault_seconds: float = 5.0

    def __str__(self) -> str:
        store = f" --store {self.store}" if self.store else ""
        return f"--seed {self.seed} --peers {self.peers} --faults {self.faults}{store}"


class World:
    """``log_lines`` tells what has happened; ``ledger`` holds what must not be contradicted."""

    def __init__(self, options: Options):
        self.options = options
        self.seed = options.seed
        self.scheduler = Scheduler(options.seed)
        self.random: random.Random = self.scheduler.random
        self.log_lines: list[str] = []
        self.odd = False  # some peer calls something else than the others
        self.lines: dict[bytes, SimLines] = {}
        self.peers: list[SimPeer] = []
        self.op_timeout = 30.0
        self.slow = self.random.choice((0.0005, 0.005, 0.05))  # seconds, the usual delay of a packet
        self.network = Network(self.scheduler, self.delay, self.random.choice((1 << 17, 1 << 20)))
        self.store = options.store or self.random.choice(STORES)
        self.ledger = Ledger(recorded=self.store != "memory")
        self.away: dict[tuple[bytes, int], float] = {}  # a line to a coordinator is down until then
        self._welcomed: dict[bytes, str] = {}  # incarnation of the run that a peer was taken into last
        self._line: Counter[tuple[bytes, int]] = Counter()  # how often it was lost; what was on it is gone
        self._order: dict[tuple[bytes, int, bool], float] = {}
        records = None if self.store == "memory" else Records()
        count = 3 if self.store == "lease" else 1
        self.coordinators: list[SimCoordinator] = []
        for number in range(count):
            self.coordinators.append(SimCoordinator(self, number, records, self.store == "lease", LAN))
        self.records = records
        self.min_size = self.random.randint(1, options.peers)
        self.hosts = self.random.choice((0, 0, 1, 1, 2))  # 0: one for each peer
        on_failure = self.random.choice(("retry", "retry", "raise"))
        self._join_options = {"min_size": self.min_size, "on_failure": on_failure}
        self.log(f"store {self.store}, min_size {self.min_size}, on_failure {on_failure}, delay {self.slow} s")
        self.log(f"hosts: {self.hosts or 'one for each peer'}")
        for _ in range(max(self.min_size, self.random.randint(1, options.peers))):
            self.spawn()

    @property
    def now(self) -> float:
        return self.scheduler.now

    def delay(self) -> float:
        return self.random.expovariate(1 / self.slow)

    def log(self, text: str) -> None:
        self.log_lines.append(f"{self.now:8.3f}  {text}")

    def close(self) -> None:
        """Let go of all tasks."""
        for peer in self.peers:
            peer.crashed = True
        self.scheduler.end()

    # -- peers -----------------------------------------------------------------------------------------------------

    def host_of(self, port: int) -> str:
        """What the peers of one host have in common; "" for none."""
        return f"host {port % self.hosts}" if self.hosts else ""

    def spawn(self) -> SimPeer:
        peer = SimPeer(self, f"p{len(self.peers)}", self._join_options)
        self.peers.append(peer)
        peer.start(program)
        return peer

    def crash(self, peer: SimPeer) -> None:
        """SIGKILL: what it had sent to a coordinator arrives before the end of its connection."""
        if not peer.crashed:
            self.log(f"crash {peer.name}")
            peer.crashed = True
            self.network.crash(peer, lambda: self.random.random() < 0.5)
            self.connections_closed(peer)

    def connections_closed(self, peer: SimPeer) -> None:
        for coordinator in self.coordinators:
            self._tell_disconnected(peer.key, coordinator, self._arrival(peer.key, coordinator.number, True))

    def by_key(self, key: bytes) -> SimPeer:
        return self.peers[int(key[1:])]

    # -- lines -----------------------------------------------------------------------------------------------------

    def _arrival(self, key: bytes, number: int, to_coordinator: bool) -> float:
        """Seconds from now when a message sent now arrives: later than all before it on this line."""
        place = (key, number, to_coordinator)
        at = max(self.now + self.delay(), self._order.get(place, 0.0)) + 1e-9
        self._order[place] = at
        return at - self.now

    def to_coordinator(self, peer: SimPeer, number: int, data: bytes) -> None:
        """Waits at the peer while the line is down, is lost when it breaks meanwhile."""
        place = (peer.key, number)
        line, coordinator = self._line[place], self.coordinators[number]
        wait = max(self.away.get(place, 0.0) - self.now, 0.0)

        def arrive() -> None:
            if line != self._line[place]:
                return
            if coordinator.crashed or self.now < self.away.get(place, 0.0):
                return  # nobody there to take it; queued messages of that kind are said again
            message = decode(data)
            coordinator.when_running(lambda: coordinator.machine.receive(self.now, peer.key, message))

        self.scheduler.after(wait + self._arrival(peer.key, number, True), arrive)

    def to_peer(self, coordinator: SimCoordinator, key: bytes, data: bytes) -> None:
        """Is lost while the line is down (a ROUTER drops it), or when it breaks meanwhile."""
        message = decode(data)
        peer, place = self.by_key(key), (key, coordinator.number)
        if message["t"] == "view":
            self.ledger.announced(self._welcomed[key], message)
        elif message["t"] == "welcome":
            self._welcomed[key] = message["incarnation"]
        line = self._line[place]

        def hear() -> None:
            before = peer.epoch
            self.lines[key].arrive(coordinator.number, data)
            if peer.epoch != before:
                self.ledger.adopted(peer.name, peer.epoch)

        def arrive() -> None:
            if line == self._line[place] and not peer.crashed:
                peer.when_running(hear)

        if self.now >= self.away.get(place, 0.0) and not peer.crashed:
            self.scheduler.after(self._arrival(key, coordinator.number, False), arrive)

    def pulse(self, coordinator: SimCoordinator, key: bytes, number: int) -> None:
        peer, place = self.by_key(key), (key, coordinator.number)

        def echo() -> None:
            if self.now >= self.away.get(place, 0.0):
                event = lambda: coordinator.machine.echo(self.now, key, number)  # noqa: E731
                self.scheduler.after(self.delay(), lambda: coordinator.when_running(event))

        def arrive() -> None:
            if peer.paused == "stopped":
                peer.when_running(echo)
            elif not peer.crashed:
                echo()

        if self.now >= self.away.get(place, 0.0):
            self.scheduler.after(self.delay(), arrive)

    def lose_line(self, peer: SimPeer, coordinator: SimCoordinator, seconds: float) -> None:
        """What is on its way is gone; ZeroMQ makes the connection anew by itself when it can."""
        place = (peer.key, coordinator.number)
        self._line[place] += 1
        self.away[place] = max(self.away.get(place, 0.0), self.now + seconds)
        if not coordinator.crashed:
            self._tell_disconnected(peer.key, coordinator, 0.0)

    def _tell_disconnected(self, key: bytes, coordinator: SimCoordinator, seconds: float) -> None:
        event = lambda: coordinator.machine.disconnected(self.now, key)  # noqa: E731
        self.scheduler.after(seconds, lambda: coordinator.when_running(event))

    def unreachable(self, key: bytes, coordinator: SimCoordinator) -> bool:
        return self.now < self.away.get((key, coordinator.number), 0.0)

    # -- coordinators ----------------------------------------------------------------------------------------------

    def crash_coordinator(self, coordinator: SimCoordinator, seconds: float) -> None:
        """It is gone, and a fresh process is at its address after a while."""
        if coordinator.crashed:
            return
        self.log(f"crash coordinator {coordinator.number} for {seconds:.1f} s")
        coordinator.crash()
        for peer in self.peers:
            self._line[peer.key, coordinator.number] += 1

        def restart() -> None:
            self.log(f"coordinator {coordinator.number} is started again")
            coordinator.start()

        self.scheduler.after(seconds, restart)

    # -- the end ---------------------------------------------------------------------------------------------------

    def settled(self, turns: dict[str, int]) -> bool:
        """All who live are in one view (or the group forms), and have done what was asked of them."""
        living = [peer for peer in self.peers if not peer.crashed]
        if len(living) < self.min_size and all(peer.epoch < 0 for peer in living):
            return True  # they wait for more
        if any(peer.turns < turns[peer.name] for peer in living):
            return False
        members = {peer.session.member for peer in living}
        return all(set(peer.session.view.ids) == members for peer in living)

    def stuck(self, turns: dict[str, int]) -> str:
        lines = ["nothing moves:"]
        for peer in self.peers:
            if peer.running:
                group = peer.session.groups.get(0)
                progress = group.progress if group is not None else "not admitted"
                lines.append(
                    f"  {peer.name} (member {peer.session.member}): {progress}, {peer.turns} of {turns[peer.name]}"
                )
        for coordinator in self.coordinators:
            lines.append(f"  coordinator {coordinator.number}: {coordinator.machine.snapshot(self.scheduler.now)}")
        return "\n".join(lines)

    def run(self, cause_faults: Callable[[World], None], settle_seconds: float = 60.0, turns: int = 2) -> None:
        """The whole history. Raises AssertionError."""
        cause_faults(self)
        self.scheduler.run_until(self.options.fault_seconds)
        asked = {peer.name: peer.turns + turns for peer in self.peers}
        done = self.scheduler.run_until(self.now + settle_seconds, lambda: self.settled(asked))
        assert done, self.stuck(asked)
