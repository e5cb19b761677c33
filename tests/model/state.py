"""What the model remembers: peers, the coordinator, channels; and which of it can still matter.

A state is a `World` (the coordinator and what is global) and one `Peer` per peer. All that ties two peers together (who is
in which view, who was named in which halt) is kept as a bit at each of them, so a state means the same whatever the
order of its peers, and `key` may sort them: of up to six states that differ in names only, one is explored.

Numbers stand for what they stand for in the protocol: epochs, ``next`` of a halt, counts of operations. 0: none.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

Message = tuple[int, ...]


class Life(IntEnum):
    CRASHED = 0
    ALIVE = 1
    GONE = 2  # it was told that it is evicted, and has closed everything


class Known(IntEnum):
    """What the coordinator holds of a peer."""

    NOTHING = 0
    MEMBER = 1
    REMOVED = 2
    WAITING = 3  # a newcomer
    REPORTED = 4  # during recovery


class Phase(IntEnum):
    STEADY = 1
    CHANGING = 2
    RECOVERING = 3  # started without memory; also stands for a coordinator that is down, which does as little
    EMPTY = 4  # nobody is left


class Say(IntEnum):
    HALT = 1  # epoch, next
    VIEW = 2  # epoch
    EVICTED = 3
    STATE = 4  # next, complete
    REPORT = 5  # epoch, next


class Peer(NamedTuple):
    life: int = Life.ALIVE
    epoch: int = 1  # of its view; 0: it has not been in any
    halted: int = 0
    complete: int = 0
    committed: int = 0
    next: int = 0  # the highest `next` of a halt that it has answered
    views: int = 2  # bit e: it is a member of view e
    heirs: int = 0  # bit n: the halt with next = n names it among those who are to go on
    left: tuple[tuple[int, int, int], ...] = ()  # (epoch, entered, complete) of views behind it: frames it has sent
    inbox: tuple[Message, ...] = ()  # from the coordinator
    stale: tuple[Message, ...] = ()  # from a former leader, on a line of its own
    outbox: tuple[Message, ...] = ()  # to the coordinator
    known: int = Known.MEMBER
    told: Message = ()  # what it has told the coordinator: (complete) in a round, (epoch, next) in recovery


class World(NamedTuple):
    phase: int = Phase.STEADY
    epoch: int = 1  # of the coordinator's view
    next: int = 0  # of the round under way
    record: int = 0  # the epoch of the durable record
    faults: int = 0  # how many may still happen
    used: int = 2  # bit e: view e was announced
    returned: tuple[
        int, ...
    ] = ()  # per operation, the epoch of the attempt whose result was returned; -1: past dispute
    decided: tuple[tuple[int, int], ...] = ()  # (epoch, operations that were decided when it was announced)


Peers = list[Peer]
State = tuple[World, Peers]


def members(peers: Iterable[Peer], epoch: int) -> list[int]:
    return [i for i, peer in enumerate(peers) if peer.views >> epoch & 1]


def forget(world: World, peers: Peers, every_frame: bool) -> State:
    """The state without what nobody can ever look at again. ``every_frame``: frames of old views are read too."""
    reading = {p.epoch for p in peers if p.life == Life.ALIVE and not p.halted}
    views, halts = 0, 0
    if world.phase != Phase.EMPTY:
        views |= 1 << world.epoch
    if world.phase == Phase.CHANGING:
        halts |= 1 << world.next
    safe = world.faults == 0 and world.phase != Phase.RECOVERING  # there will be no recovery
    record = 0 if safe else world.record
    views |= 1 << record
    for p in peers:
        if p.life == Life.ALIVE or p.epoch in reading:
            views |= 1 << p.epoch
        if p.life == Life.ALIVE:
            halts |= 1 << p.next
        if p.known == Known.REPORTED:
            views |= 1 << p.told[0]
            halts |= 1 << p.told[1]
        for message in (*p.inbox, *p.stale):
            if message[0] == Say.VIEW:
                views |= 1 << message[1]
            elif message[0] == Say.HALT:
                halts |= 1 << message[2]
        for message in p.outbox:
            if message[0] == Say.REPORT:
                views |= 1 << message[1]
                halts |= 1 << message[2]
    if safe:
        halts = 0
    views &= ~1
    out: Peers = []
    for p in peers:
        left = p.left
        if left and not every_frame:
            left = tuple(sent for sent in left if sent[0] in reading)
        kept, named = p.views & views, p.heirs & halts
        if p.life == Life.ALIVE:
            answered = 0 if safe else p.next
            if (kept, named, answered, left) != (p.views, p.heirs, p.next, p.left):
                p = p._replace(next=answered, views=kept, heirs=named, left=left)
        else:
            sent = every_frame or p.epoch in reading
            p = Peer(
                life=p.life,
                epoch=p.epoch if sent else 0,
                halted=1,
                complete=p.complete if sent else 0,
                committed=p.committed if sent else 0,
                views=kept,
                heirs=named,
                left=left,
                outbox=() if p.known == Known.REMOVED else p.outbox,
                known=p.known,
                told=p.told,
            )
        out.append(p)
    floor = min((p.committed for p in out if p.life == Life.ALIVE), default=len(world.returned))
    returned = tuple(-1 if s < floor else value for s, value in enumerate(world.returned))
    decided = tuple(pair for pair in world.decided if views >> pair[0] & 1)
    return world._replace(record=record, returned=returned, decided=decided), out
