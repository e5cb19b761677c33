"""A simulated peer: the real communicator, engine, streams and state machines, over a simulated network and simulated lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..communicator import Communicator
from ..engine import Session
from ..errors import CollcommError
from ..membership import Agent
from ..membership.messages import Message, decode, encode
from ..membership.peer import HERE_SECONDS
from ..transports.sim import SimTransport
from .ledger import Fate
from .plans import any_rows
from .scheduler import SimClock

if TYPE_CHECKING:
    from .world import World

MEASURES = 0.1  # of its turns: it has measured a link
JOIN_SECONDS = 600.0  # simulated; a group may need long to be ready for newcomers


class Crashed(BaseException):
    """The process died in the middle of a call."""


class Left(Exception):
    """The user's program has come to its end."""


class SimPeer:
    """One process. ``key`` names its control connections; ``body(peer, comm)`` is the user's program."""

    def __init__(self, world: World, name: str, options: Mapping[str, Any]):
        self.world = world
        self.name = name
        self.key = name.encode()
        self.crashed = False
        self.paused = ""  # "stopped": nothing runs; "stalled": only the pulse answers
        self.dismissed: BaseException | None = None
        self.comm: Communicator | None = None
        self.turns = 0  # of the program that it has completed
        self.think = 0.0  # seconds that it idles before its next call
        self.odd = False  # calls something else than the others next time
        self.leaving = False
        self.crash_after: int | None = None  # dies in the middle: after so many more system calls
        self.clock = SimClock(world.scheduler, world.random.uniform(0, 1000), world.random.uniform(0.98, 1.02))
        self._inbox: list[Callable[[], None]] = []  # what came while it was paused
        self.transport = SimTransport(world.network, self)
        self.session = Session(self.transport, self.clock)  # type: ignore[arg-type]
        self._options = options

    def start(self, body: Callable[[SimPeer, Communicator], None]) -> None:
        self.world.scheduler.spawn(self, lambda: self._live(body))

    def _live(self, body: Callable[[SimPeer, Communicator], None]) -> None:
        host_id = self.world.host_of(self.transport.port)
        place = {"host": "10.0.0.1", "port": self.transport.port, "host_id": host_id, "offers": "shm", "site": ""}
        request = {"t": "join", "group": "run", "name": self.name, **place, **self._options}
        agent = Agent(SimLines(self.world, self), request, self.session, self.clock)
        try:
            self.session.enter(agent, self.clock.monotonic() + JOIN_SECONDS)
            self.comm = Communicator(self.session, self.session.world(), self.name, self.world.op_timeout)
            body(self, self.comm)
        except Crashed:
            return
        except CollcommError as error:
            self.dismissed = error
        except Left:
            assert self.comm is not None
            self.comm.leave()
        if not self.crashed:
            self.session.close()
            self.crashed = True  # the process has ended
            self.world.connections_closed(self)

    @property
    def running(self) -> bool:
        return not self.crashed

    @property
    def epoch(self) -> int:
        return self.session.view.epoch

    @property
    def run(self) -> str:
        """Which run of the group it belongs to; "" until it is welcomed."""
        welcome = self.session.agent.welcome if hasattr(self.session, "agent") else None
        return "" if welcome is None else welcome.incarnation

    # -- for the program -----------------------------------------------------------------------------------------

    def idle(self) -> None:
        """Compute for a while. Raises Left when the user has had enough."""
        if self.leaving:
            raise Left
        if self.world.random.random() < MEASURES:
            view = self.session.view
            self.session.measured(any_rows(self.world.random, self.session.member, view.ids))
        think, self.think = self.think, 0.0
        self.world.scheduler.sleep(think + self.world.random.uniform(0.02, 0.3))

    def ended(self, turn: int, part: int, fate: Fate) -> None:
        self.world.ledger.ended(self.run, turn, part, fate, self.name)

    def synced(self, revision: int, state: Any) -> None:
        self.world.ledger.synced(self.run, revision, state.tobytes(), self.name)

    # -- what the network asks of a host -------------------------------------------------------------------------

    def when_running(self, action: Callable[[], None]) -> None:
        if self.crashed:
            return
        if self.paused:
            self._inbox.append(action)
        else:
            action()

    def step(self) -> None:
        if self.crash_after is not None and not self.crashed:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.world.crash(self)
        if self.crashed:
            raise Crashed

    def leave(self) -> None:
        """Its user has had enough: it tells the coordinator, between two turns."""
        self.leaving = True

    def resume(self) -> None:
        self.paused = ""
        waiting, self._inbox = self._inbox, []
        for action in waiting:
            self.when_running(action)


class SimLines:
    """A peer's lines to the world's coordinators."""

    def __init__(self, world: World, peer: SimPeer):
        self.count = len(world.coordinators)
        self.where = "simulated"
        self._world = world
        self._peer = peer
        self._turn: Callable[[], None] = _nothing
        self._hear: Callable[[int, Message], None] = _ignore
        self._closed = False
        world.lines[peer.key] = self

    def start(
        self,
        turn: Callable[[], None],
        hear: Callable[[int, Message], None],
        refused: Callable[[CollcommError], None],
    ) -> None:
        self._turn, self._hear = turn, hear
        self._run()

    def _run(self) -> None:
        if not self._closed and not self._peer.crashed:
            self._turn()
            self._world.scheduler.after(HERE_SECONDS, lambda: self._peer.when_running(self._run))

    def post(self, line: int, message: Mapping[str, Any]) -> None:
        self._world.to_coordinator(self._peer, line, encode(message))

    def arrive(self, line: int, data: bytes) -> None:
        if not self._closed:
            self._hear(line, decode(data))

    def wake(self) -> None:
        if not self._closed:
            self._world.scheduler.after(0.0, lambda: self._peer.when_running(self._turn))

    def in_words(self) -> str:
        return "simulated"

    def close(self) -> None:
        self._closed = True


def _nothing() -> None: ...


def _ignore(line: int, message: Message) -> None: ...
