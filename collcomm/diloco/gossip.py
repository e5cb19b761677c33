"""Gossip averaging over a group whose members come and go: in pairs, without a collective, until all meet again.

    gossip = Gossip(comm, params, every=200)
    gossip.sync()
    while gossip.steps < total:
        ...                              # one inner step on the parameters
        gossip.step()                    # exchanges with whom this peer meets by then; every 200 steps with all
    gossip.finish()                      # all members hold the same bits

Every ``every`` inner steps all members average exactly, whoever waits is admitted, and the meetings of the next span are
drawn. In between a peer that dies is left out by those who would have met it; nobody else is held up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import PeerLost
from ..types import View
from .course import Agree, Face, Meet, OutOfStep, Request, Wait, Work
from .flat import Array, FlatParameters
from .loops import AsyncFace, AwaitingLoop, BlockingLoop, SyncFace
from .method import checked_every
from .pairs import Edge, Meeting, Mixed, Mixing, accelerated, complete, meetings

FIRST_TAG = 1 << 31  # of messages, above those that programs number from 0
Graph = Callable[[int], Sequence[Edge]]


class PairFace(Face, Protocol):
    """What is needed of a `collcomm.Communicator` beside collectives."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    def all_gather(self, x: Any, *, async_op: bool = False) -> Any: ...

    def send(self, x: Any, dst: int, tag: int = 0, *, async_op: bool = False, timeout: float | None = None) -> Any: ...

    def recv(
        self, out: Any, src: int, tag: int = 0, *, async_op: bool = False, timeout: float | None = None
    ) -> Any: ...


class GossipCourse:
    """One peer's part, as work for each event. See `Gossip` for the arguments."""

    def __init__(
        self,
        face: PairFace,
        params: Mapping[str, Array],
        every: int,
        rate: float,
        seed: int,
        graph: Graph,
        accelerate: bool,
        timeout: float | None,
    ):
        self.repeated = 0
        self.admissions = 0
        self.launched_bytes = 0
        self._face = face
        self._parameters = FlatParameters(params)
        self._every = checked_every(every)
        meetings(1, [], 1, rate, [seed])
        self._rate, self._seed, self._graph, self._accelerate, self._timeout = rate, seed, graph, accelerate, timeout
        self._common: Array = np.empty(self._parameters.size, self._parameters.dtype)
        self._parameters.read(self._common)
        self._clock = np.zeros(1, np.int64)
        chosen = f"gossip {[self._every, rate, seed, accelerate]} {self._parameters.fingerprint}"
        self._fingerprint = int.from_bytes(hashlib.sha256(chosen.encode()).digest()[:8], "little") >> 1
        self._layout = np.array([self._fingerprint], np.int64)
        self._state = {"clock": self._clock, "layout": self._layout, "common": self._common}
        self._began = 0
        self._ids: list[int] = []
        self._ahead: list[tuple[int, Meeting]] = []  # this peer's own, with their number
        self._mixed = Mixed(self._common, Mixing())

    @property
    def steps(self) -> int:
        return int(self._clock[0])

    def sync(self) -> Work:
        yield Agree(self._state, self.steps)
        if self._layout[0] != self._fingerprint:
            self._layout[0] = self._fingerprint
            raise ValueError(
                "the group gossips with other settings, or trains a model of other names, shapes or dtypes"
            )
        yield from self._draw()

    def step(self) -> Work:
        self._clock += 1
        at = self.steps - self._began
        meets = bool(self._ahead) and self._ahead[0][1].at <= at
        if not (meets or at == self._every or self._mixed.mixing.flow):
            return  # x alone needs no look in between
        self._look()
        while self._ahead and self._ahead[0][1].at <= at:
            number, meeting = self._ahead.pop(0)
            yield from self._meet(number, meeting)
        self._parameters.write(self._mixed.x)
        if at == self._every:
            if (yield from self._average()):
                self.admissions += 1
                yield Meet()
                yield from self.sync()
            else:
                yield from self._draw()

    def finish(self) -> Work:
        self._look()
        yield from self._average()

    def _look(self) -> None:
        """Where the user's inner steps have led."""
        own = np.empty_like(self._common)
        self._parameters.read(own)
        self._mixed.moved_to(own)

    def _draw(self) -> Work:
        """The meetings of the span that begins: of those, by id, who are here now, as all of them agree."""
        me = self._face.view[self._face.rank].id
        while True:
            try:
                told = yield Wait(self._face.all_gather(np.array([me], np.int64), async_op=True))
                break
            except PeerLost:  # at all survivors alike
                self.repeated += 1
        self._ids = sorted(int(member) for member in told)
        self._began = self.steps
        n, place = len(self._ids), self._ids.index(me)
        edges = self._graph(n)
        drawn = meetings(n, edges, self._every, self._rate, [self._seed, self.steps, *self._ids])
        self._ahead = [(number, meeting) for number, meeting in enumerate(drawn) if meeting.partner(place) is not None]
        mixing = accelerated(n, edges, self._rate) if self._accelerate else Mixing()
        self._parameters.write(self._common)
        self._mixed = Mixed(self._common, mixing)

    def _meet(self, number: int, meeting: Meeting) -> Work:
        """Exchange with the other; where it is gone, this peer keeps what it has."""
        me = self._ids.index(self._face.view[self._face.rank].id)
        partner = meeting.partner(me)
        assert partner is not None
        rank = self._face.view.rank_of(self._ids[partner])
        self._mixed.flow_to(meeting.at)
        if rank is None:
            self.repeated += 1
            return
        tag = FIRST_TAG + number % FIRST_TAG
        self.launched_bytes += self._common.nbytes
        theirs, mine = np.empty_like(self._common), self._mixed.x.copy()
        try:
            came = self._face.recv(theirs, rank, tag, async_op=True, timeout=self._timeout)
            yield Wait(self._face.send(mine, rank, tag, async_op=True, timeout=self._timeout))
            yield Wait(came)
        except PeerLost:
            self.repeated += 1
            return
        self._mixed.meet(theirs)

    def _average(self) -> Generator[Request, Any, bool]:
        """Over all members, exactly. Returns whether somebody waits to be admitted."""
        while True:
            np.copyto(self._common, self._mixed.x)
            self.launched_bytes += self._common.nbytes
            step = self.steps
            told = np.array([self._face.pending > 0, step, -step], np.int64)
            moves = self._face.all_reduce(self._common, "avg", self._common, async_op=True, timeout=self._timeout)
            words = self._face.all_reduce(told, "max", told, async_op=True, timeout=self._timeout)
            lost = 0
            for handle in (moves, words):
                try:
                    yield Wait(handle)
                except PeerLost:  # at all survivors alike
                    lost += 1
            if not lost:
                break
            self.repeated += 1
        if told[1] != -told[2]:
            raise OutOfStep(f"members met after inner steps {-told[2]} to {told[1]}; all must take as many")
        self._parameters.write(self._common)
        self._mixed.moved_to(self._common)
        return bool(told[0])


class Gossip(BlockingLoop):
    """Gossip averaging (DADAO, arXiv 2208.00779) over ``comm``. A step waits for those alone whom this peer meets in it.

    :param params: name -> writable numpy array of a real floating dtype, read and written where they are.
    :param every: inner steps of a span, at whose end all members average exactly and newcomers are admitted.
    :param rate: meetings of a peer in an inner step, on average.
    :param seed: of the meetings; the same at all members.
    :param graph: makes the edges among n members: `complete`, `ring`, or one's own. The same at all members.
    :param accelerate: mix with a mirror, which needs fewer meetings on graphs with a long way round.
    :param timeout: seconds for each exchange; the communicator's ``op_timeout`` if None.
    """

    def __init__(
        self,
        comm: SyncFace,
        params: Mapping[str, Array],
        every: int = 200,
        rate: float = 0.2,
        seed: int = 0,
        graph: Graph = complete,
        accelerate: bool = True,
        timeout: float | None = None,
    ):
        face: Any = comm
        super().__init__(GossipCourse(face, params, every, rate, seed, graph, accelerate, timeout), comm)


class AsyncGossip(AwaitingLoop):
    """As `Gossip`, over a `collcomm.aio.AsyncCommunicator`."""

    def __init__(
        self,
        comm: AsyncFace,
        params: Mapping[str, Array],
        every: int = 200,
        rate: float = 0.2,
        seed: int = 0,
        graph: Graph = complete,
        accelerate: bool = True,
        timeout: float | None = None,
    ):
        super().__init__(GossipCourse(comm.sync_face, params, every, rate, seed, graph, accelerate, timeout), comm)
