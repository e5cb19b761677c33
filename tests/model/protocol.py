"""The protocol of `docs/protocol.md` as a list of actions, each of which may happen whenever it is possible.

What is left out, and why nothing is lost by it:

- Frames between peers are no queue but the set of what the sender has sent: a reader skips what it does not wait for, so
  it can go on exactly when the awaited frame has been sent. Frames that a crash destroys are frames that are never read.
- A peer enters its next operation in the moment in which it may. Entering makes a contribution available and does nothing
  else, so "has not entered yet" looks like "nobody has read it yet".
- The commit round is complete knowledge in one step: the dissemination barrier only delays that knowledge.
- A restarted coordinator's `who` and the peer's `report` are one action: until it has reported, a coordinator without memory
  sends a peer nothing else. Messages on their way to a coordinator die with it: if they were delivered to the next
  one, it would find them before the sender's report, and answer with another `who`.
- Silence, a cut connection and accusations are all one thing: a coordinator that knows of a crash, or errs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from .state import Known, Life, Message, Peer, Peers, Phase, Say, State, World, forget, members

JUMP = 8  # stands for 2**16: more than the views that any run of the model can have


class Broken(Exception):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Protocol:
    """``faults``: crashes of peers and of the coordinator, and live peers removed, in all.

    ``record``: the coordinator writes each view down before it announces it. ``standby``: a coordinator that loses its
    place may go on for a while, beside the next. ``heirs``: each halt names those who are to go on, and a recovery
    listens to those only. ``impatient``: the grace time of a recovery may end at any moment, as no fault.
    ``newcomer``: the last peer has yet to join. ``mutant``: a rule that is left out.
    """

    peers: int = 3
    operations: int = 2
    faults: int = 2
    record: bool = False
    standby: bool = False
    heirs: bool = False
    impatient: bool = False
    newcomer: bool = False
    mutant: str = ""

    def first(self) -> State:
        peers = [Peer() for _ in range(self.peers)]
        if self.newcomer:
            peers[-1] = Peer(epoch=0, views=0, known=Known.NOTHING)
        world = World(faults=self.faults, record=int(self.record), returned=(0,) * self.operations, decided=((1, 0),))
        return forget(world, peers, self.mutant == "no epoch check")

    def steps(self, state: State) -> Iterator[tuple[str, bool, State | Broken]]:
        """What may happen next, whether it is a fault, and what comes of it."""
        for label, fault, act, *arguments in self._enabled(*state):
            draft = Draft(self, state[0], list(state[1]))
            try:
                act(draft, *arguments)
            except Broken as broken:
                yield label, fault, broken
            else:
                yield label, fault, forget(draft.world, draft.peers, self.mutant == "no epoch check")

    def _enabled(self, world: World, peers: Peers) -> Iterator[tuple]:
        act = Draft
        for i, p in enumerate(peers):
            if p.life == Life.ALIVE:
                if p.inbox:
                    yield f"{i} reads {show(p.inbox[0])}", False, act.read, i, False
                elif p.known == Known.NOTHING and not p.outbox:
                    yield f"{i} reports", False, act.report, i
                if p.stale:
                    yield f"{i} reads {show(p.stale[0])} of the former leader", False, act.read, i, True
                if p.epoch and not p.halted:
                    if p.complete > p.committed:
                        if self.may_commit(peers, p):
                            yield f"{i} returns {p.complete}", False, act.commit, i
                    elif p.committed < self.operations and self.may_finish(peers, p):
                        yield f"{i} completes {p.complete + 1}", False, act.finish, i
                if world.faults:
                    yield f"{i} crashes", True, act.crash, i
            if p.outbox:
                yield f"coordinator reads {show(p.outbox[0])} of {i}", False, act.hear, i
            if p.known == Known.MEMBER and world.phase in (Phase.STEADY, Phase.CHANGING):
                if p.life != Life.ALIVE:
                    yield f"coordinator finds {i} dead", False, act.remove, i
                elif world.faults:
                    yield f"coordinator takes {i} for dead", True, act.suspect, i
        if world.phase == Phase.STEADY and any(p.known == Known.WAITING for p in peers):
            yield "coordinator halts to admit", False, act.change
        if world.phase == Phase.RECOVERING:
            recovery = Recovery(self, world, peers)
            cost = not self.impatient and recovery.missing_live()
            if recovery.may_give_up() and (not cost or world.faults):
                yield "coordinator waits no longer", cost, act.give_up, int(cost)
        if world.faults and (world.phase != Phase.RECOVERING or any(p.known for p in peers)):
            lengths = [range(len(p.inbox) + 1) for p in peers]
            for kept in itertools.product(*lengths):
                yield f"coordinator crashes, {list(kept)} of its messages arrive", True, act.lose, kept
            if self.standby:
                for words in self.last_words(world, peers):
                    yield f"coordinator is replaced, and says {words}", True, act.replace, words

    # -- frames -----------------------------------------------------------------------------------------------------

    def may_finish(self, peers: Peers, p: Peer) -> bool:
        seq = p.complete + 1
        return all(seq <= entered for q in peers if q.views >> p.epoch & 1 for entered in [self._sent(q, p.epoch, 1)])

    def may_commit(self, peers: Peers, p: Peer) -> bool:
        if self.mutant == "no commit round":
            return True
        return all(self._sent(q, p.epoch, 2) >= p.complete for q in peers if q.views >> p.epoch & 1)

    def _sent(self, q: Peer, epoch: int, what: int) -> int:
        """The highest operation of which ``q`` has sent its contribution (1) or that it is complete (2)."""
        now = (q.epoch, q.committed + 1, q.complete)
        unchecked = self.mutant == "no epoch check" and what == 2
        return max((sent[what] for sent in (now, *q.left) if sent[0] == epoch or unchecked), default=0)

    def last_words(self, world: World, peers: Peers) -> Iterator[tuple[tuple[int, Message], ...]]:
        """What a leader that has been replaced may still say, not knowing it."""
        yield ()
        chosen = [i for i, p in enumerate(peers) if p.known == Known.MEMBER and p.life == Life.ALIVE]
        if world.phase == Phase.STEADY:
            yield tuple((i, (Say.HALT, world.epoch, world.epoch + 1)) for i in chosen)
        if world.faults > 1:
            for i in chosen:
                yield ((i, (Say.EVICTED,)),)


class Recovery:
    """What a coordinator without memory makes of the reports that it has."""

    def __init__(self, protocol: Protocol, world: World, peers: Peers):
        self.protocol, self.peers = protocol, peers
        reports = [p.told for p in peers if p.known == Known.REPORTED]
        epochs = [epoch for epoch, _ in reports if epoch] + [world.record] * (world.record > 0)
        self.best = min(epochs, default=0) if protocol.mutant == "a lower view" else max(epochs, default=0)
        self.next = max((n for _, n in reports), default=0)
        self.of_best = members(peers, self.best) if self.best else []
        later = [n for epoch, n in reports if epoch == self.best and n > self.best]
        self.expected = self.of_best
        if protocol.heirs and later:
            self.expected = [i for i in self.of_best if peers[i].heirs >> max(later) & 1]
        self.heard = [i for i in self.expected if peers[i].known == Known.REPORTED]
        self.missing = [i for i in self.expected if i not in self.heard]

    @property
    def complete(self) -> bool:
        return bool(self.heard) and not self.missing

    def missing_live(self) -> bool:
        return any(self.peers[i].life == Life.ALIVE for i in self.missing)

    def may_give_up(self) -> bool:
        if not self.missing:
            return False
        if self.protocol.record:
            return True  # also when nobody of the recorded view has reported: then the group has ended
        if not self.heard:
            return False
        if self.protocol.mutant == "no majority":
            return True
        return 2 * len(self.heard) > len(self.of_best) or not self.missing_live()

    def epoch(self) -> int:
        """For the view that comes of it."""
        if self.protocol.mutant == "an epoch again":
            return self.best + 1
        incomplete = any(self.peers[i].known != Known.REPORTED for i in self.of_best)
        return max(self.best, self.next) + 1 + (JUMP if incomplete and not self.protocol.record else 0)


@dataclass
class Draft:
    """A state while an action changes it."""

    protocol: Protocol
    world: World
    peers: Peers
    at: dict[str, int] = field(default_factory=dict)

    def put(self, i: int, **changes: object) -> None:
        self.peers[i] = self.peers[i]._replace(**changes)  # type: ignore[arg-type]

    def set(self, **changes: object) -> None:
        self.world = self.world._replace(**changes)  # type: ignore[arg-type]

    def tell(self, i: int, *message: int) -> None:
        if self.peers[i].life == Life.ALIVE:
            self.put(i, inbox=(*self.peers[i].inbox, message))

    # -- peers ------------------------------------------------------------------------------------------------------

    def finish(self, i: int) -> None:
        self.put(i, complete=self.peers[i].complete + 1)

    def commit(self, i: int) -> None:
        p = self.peers[i]
        self.returns(p.complete, p.epoch)
        self.put(i, committed=p.complete)

    def returns(self, seq: int, epoch: int) -> None:
        """The result of ``seq``, which stands for the contributions of the members of ``epoch``, goes to the user."""
        known = self.world.returned[seq - 1]
        if known not in (0, epoch):
            raise Broken(f"operation {seq} was returned from view {known}, now from view {epoch}")
        if known == 0:
            returned = list(self.world.returned)
            returned[seq - 1] = epoch
            self.set(returned=tuple(returned))

    def read(self, i: int, stale: bool) -> None:
        p = self.peers[i]
        message = (p.stale if stale else p.inbox)[0]
        if stale:
            self.put(i, stale=p.stale[1:])
        else:
            self.put(i, inbox=p.inbox[1:])
        if message[0] == Say.EVICTED:
            self.put(i, life=Life.GONE)
        elif message[0] == Say.HALT and message[1] == p.epoch:
            self.put(i, halted=1, next=max(p.next, message[2]))
            if not stale:  # what the former leader is told has no effect: it cannot announce any more
                self.put(i, outbox=(*p.outbox, (Say.STATE, message[2], p.complete)))
        elif message[0] == Say.VIEW and message[1] > p.epoch:
            self.adopt(i, message[1])

    def adopt(self, i: int, epoch: int) -> None:
        p = self.peers[i]
        decided = dict(self.world.decided)[epoch]
        if not p.views >> epoch & 1:
            return
        left = p.left
        if p.epoch:
            if not p.committed <= decided <= p.complete:
                raise Broken(f"{i} has returned {p.committed} and completed {p.complete}, view {epoch} says {decided}")
            if not p.halted:
                raise Broken(f"{i} adopts view {epoch} without having been halted")
            for seq in range(p.committed + 1, decided + 1):
                self.returns(seq, p.epoch)
            left = (*left, (p.epoch, p.committed + 1, p.complete))
        self.put(i, epoch=epoch, halted=0, complete=decided, committed=decided, left=left)

    def report(self, i: int) -> None:
        p = self.peers[i]
        self.put(i, outbox=((Say.REPORT, p.epoch, p.next),))

    def crash(self, i: int) -> None:
        self.set(faults=self.world.faults - 1)
        self.put(i, life=Life.CRASHED)

    # -- the coordinator --------------------------------------------------------------------------------------------

    def hear(self, i: int) -> None:
        p = self.peers[i]
        message = p.outbox[0]
        self.put(i, outbox=p.outbox[1:])
        phase = self.world.phase
        if message[0] == Say.STATE:
            if phase == Phase.CHANGING and p.known == Known.MEMBER and message[1] == self.world.next:
                self.put(i, told=(message[2],))
                self.conclude()
        elif p.known != Known.NOTHING:
            pass
        elif phase == Phase.RECOVERING:
            self.put(i, known=Known.REPORTED, told=message[1:])
            if self.protocol.mutant == "told at once":
                self.tell_best()
            if Recovery(self.protocol, self.world, self.peers).complete:
                self.resume()
        elif message[1] == 0:
            self.put(i, known=Known.WAITING)
        else:
            self.put(i, known=Known.REMOVED)
            self.tell(i, Say.EVICTED)

    def remove(self, i: int) -> None:
        self.put(i, known=Known.REMOVED, told=())
        self.tell(i, Say.EVICTED)
        if self.world.phase == Phase.STEADY or self.protocol.heirs:
            self.change()
        else:
            self.conclude()

    def suspect(self, i: int) -> None:
        self.set(faults=self.world.faults - 1)
        self.remove(i)

    def change(self) -> None:
        """Halt everybody: a new round, or the round again with fewer."""
        running = self.world.phase == Phase.CHANGING
        self.halt((self.world.next if running else self.world.epoch) + 1)

    def halt(self, number: int) -> None:
        self.set(phase=Phase.CHANGING, next=number)
        for i, p in enumerate(self.peers):
            if p.known == Known.MEMBER:
                self.put(i, told=(), heirs=p.heirs | (1 << number if self.protocol.heirs else 0))
                self.tell(i, Say.HALT, self.world.epoch, number)
        self.conclude()

    def conclude(self) -> None:
        """Decide, once all survivors have answered."""
        survivors = [p for p in self.peers if p.known == Known.MEMBER]
        if not survivors:
            self.set(phase=Phase.EMPTY, epoch=0, next=0)
            return
        if not all(p.told for p in survivors):
            return
        choose = max if self.protocol.mutant == "max" else min
        decided = choose(p.told[0] for p in survivors)
        for seq in range(decided + 1, self.protocol.operations + 1):
            if self.world.returned[seq - 1] > 0:
                raise Broken(f"operation {seq} was returned, the survivors decide {decided}")
        self.announce(self.world.next, decided)

    def announce(self, epoch: int, decided: int) -> None:
        if self.world.used >> epoch & 1:
            raise Broken(f"epoch {epoch} is used twice")
        self.set(
            phase=Phase.STEADY,
            epoch=epoch,
            next=0,
            used=self.world.used | 1 << epoch,
            decided=(*self.world.decided, (epoch, decided)),
            record=epoch if self.protocol.record else 0,
        )
        for i, p in enumerate(self.peers):
            if p.known in (Known.MEMBER, Known.WAITING):
                self.put(i, known=Known.MEMBER, told=(), views=p.views | 1 << epoch)
                self.tell(i, Say.VIEW, epoch)

    # -- loss of the coordinator ------------------------------------------------------------------------------------

    def lose(self, kept: tuple[int, ...]) -> None:
        for i, p in enumerate(self.peers):
            self.put(i, inbox=p.inbox[: kept[i]])
        self.blank()

    def replace(self, words: tuple[tuple[int, Message], ...]) -> None:
        """The old leader's line stays, and what it said or says arrives whenever it likes."""
        for i, p in enumerate(self.peers):
            self.put(i, stale=p.stale + p.inbox, inbox=())
        for i, message in words:
            self.put(i, stale=(*self.peers[i].stale, message))
            if message[0] == Say.EVICTED:
                self.set(faults=self.world.faults - 1)
        if self.protocol.mutant == "no fencing":
            self.announce_late()
        self.blank()

    def announce_late(self) -> None:
        """A leader that was replaced hears the last answers, and ends its round all the same."""
        world, survivors = self.world, [i for i, p in enumerate(self.peers) if p.known == Known.MEMBER]
        if world.phase != Phase.CHANGING:
            return
        answers: dict[int, int] = {}
        for i in survivors:
            p = self.peers[i]
            under_way = [complete for kind, number, complete in p.outbox if (kind, number) == (Say.STATE, world.next)]
            if p.told or under_way:
                answers[i] = [*p.told, *under_way][-1]
        if len(answers) < len(survivors):
            return
        self.set(used=world.used | 1 << world.next, decided=(*world.decided, (world.next, min(answers.values()))))
        for i in survivors:
            p = self.peers[i]
            self.put(i, views=p.views | 1 << world.next, stale=(*p.stale, (Say.VIEW, world.next)))

    def blank(self) -> None:
        self.set(phase=Phase.RECOVERING, epoch=0, next=0, faults=self.world.faults - 1)
        for i in range(len(self.peers)):
            self.put(i, outbox=(), known=Known.NOTHING, told=())

    def tell_best(self) -> None:
        """Tell those who are behind before it is known that no higher view will be reported."""
        recovery = Recovery(self.protocol, self.world, self.peers)
        for i in recovery.heard:
            if self.peers[i].told[0] < recovery.best:
                self.put(i, told=(recovery.best, self.peers[i].told[1]))
                self.tell(i, Say.VIEW, recovery.best)

    def give_up(self, cost: int) -> None:
        self.set(faults=self.world.faults - cost)
        self.resume()

    def resume(self) -> None:
        """The view change that ends a recovery, over those who have reported."""
        recovery = Recovery(self.protocol, self.world, self.peers)
        number = recovery.epoch()
        self.set(epoch=recovery.best)
        for i, p in enumerate(self.peers):
            if p.known != Known.REPORTED:
                continue
            if i in recovery.heard:
                self.put(i, known=Known.MEMBER, told=())
                if p.told[0] < recovery.best:
                    self.tell(i, Say.VIEW, recovery.best)
            elif p.told[0] == 0 and i not in recovery.of_best:
                self.put(i, known=Known.WAITING, told=())
            else:
                self.put(i, known=Known.REMOVED, told=())
                self.tell(i, Say.EVICTED)
        self.halt(number)


def show(message: Message) -> str:
    return " ".join([Say(message[0]).name.lower(), *map(str, message[1:])])
