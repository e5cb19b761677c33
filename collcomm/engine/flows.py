"""All that one attempt moves over its links, each with one or more streams that come and go meanwhile.

No deadlock by several streams. To one peer, frames start in program order, whichever stream takes them. Consider the earliest
of them that the other end has not done, f. All frames before it are done, so they are off their streams, and whatever is
ahead of f on its stream was before it. If f has been given to a stream, it stands at that stream's head, and is taken as soon
as its memory is free, or at once if it is to be reduced (each stream has a bounce buffer of its own). If it has not, no later
frame has been given to any stream, all streams are empty, and f starts as soon as what it depends on is done. So f waits for
exactly what it would wait for on a single stream, and what a single stream carries, several do.

A frame that goes again breaks this: it may stand behind later ones that wait for it. So a receiver that has moved nothing for a
while takes what waits at the heads of its streams into memory of its own; at most what the sockets hold comes behind. Words on
streams (GOT, GONE) get through in the same way.

When a stream dies (it ended, was reset, or the other host acknowledges nothing on it while it answers on another), the end that
notices closes it and says on all others how many frames it had taken from it (GONE), before anything else. Both ends then
send again what the other has not taken. Whatever was needed again comes behind that word, so who needs it has read the word.
A stream is known by its serial number, since a new one may have its place by then. The last stream's death is the link's.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..transports.base import Link, LinkBroken, Poller, Stream
from ..transports.frames import Header, Kind
from .attempt import PATH_DEAD_SECONDS, Attempt, unacknowledged
from .cutting import FrameOrder
from .incoming import TAKEN_BYTES, Incoming, Receiver
from .outgoing import Outgoing, Sender
from .work import Work

DEAD_SECONDS = 0.25  # without an acknowledgement, while another stream of the link moves on
DEAD_RTTS = 8.0  # and so many round trips
LOOK_SECONDS = 0.05  # between looks at what the kernel says
PARK_SECONDS = 0.02  # nothing has moved for that long: what waits is taken out of the way
SHORT_BYTES = 512 << 10  # to others and from them: such operations take some tens of microseconds ...
QUICK_SECONDS = 2e-3  # ... unless something is wrong ...
RECORDED = 8  # ... of which a record of each stream would take two, so one in so many has them


@dataclass
class Lane:
    """One stream of a flow."""

    sender: Sender
    receiver: Receiver
    descriptor: int


class Flow:
    """What goes between this rank and one other. ``several``: its link has, or had, several streams."""

    def __init__(self, work: Work, peer: int, link: Link, order: FrameOrder):
        self.peer = peer
        self.link = link
        self.outgoing = Outgoing(work, peer, order.sends.get(peer, []))
        self.incoming = Incoming(work, peer, order.receives.get(peer, []))
        self.seen: object = None  # the link's streams when they were looked at last
        self.lanes: dict[Stream, Lane] = {}
        self.several = False
        self.gone: list[bytes] = []  # what was said of streams that died
        self.ahead = False  # the other end has begun a later operation, so this one is committed

    @property
    def done(self) -> bool:
        return not self.incoming.left and all(lane.sender.finished for lane in self.lanes.values())


class Flows:
    """``partners``: ranks of the commit round, whose streams are looked after as well. ``complete``: all frames are there, and
    all have been handed over; some may have to go again."""

    def __init__(self, work: Work, order: FrameOrder, attempt: Attempt, partners: Sequence[int] = ()):
        self.attempt = attempt
        self.poller: Poller = attempt.poller()
        self.listening: dict[int, Receiver] = {}
        self.waiting: dict[int, Sender] = {}
        self.held: list[int] = []  # descriptors whose frames are there, or not, and may not be taken yet
        self.senders: list[Sender] = []
        self.several = False
        self.complete = False
        self.moved_at = 0.0
        self._looked_at = 0.0
        self._began = attempt.now()
        self._short = order.nbytes <= SHORT_BYTES
        self._work = work
        self._by_peer: dict[int, Flow] = {}
        for peer in dict.fromkeys((*order.sends, *order.receives, *partners)):
            self._by_peer[peer] = Flow(work, peer, attempt.link(peer), order)
        self.all = tuple(self._by_peer.values())
        for flow in self.all:
            self.refresh(flow)

    # -- streams come and go ------------------------------------------------------------------------------------------

    def refresh(self, flow: Flow) -> None:
        """The link's streams are others than before. Raises LinkBroken when none is left."""
        streams = flow.seen = flow.link.streams
        for stream in [one for one in flow.lanes if one not in streams]:
            self.lose(flow, stream, LinkBroken(flow.link.member, "closed", "the other end has replaced a connection"))
        living = [stream for stream in streams if not stream.retired]
        if not living:
            raise LinkBroken(flow.link.member, "closed", "all its connections have died")
        for stream in living:
            if stream not in flow.lanes:
                lane = Lane(Sender(flow.outgoing, stream), Receiver(flow.incoming, stream), stream.fileno())
                flow.lanes[stream] = lane
        if len(flow.lanes) > 1 and not flow.several:
            flow.several = flow.outgoing.several = flow.incoming.several = self.several = True
            self.attempt.flows = self
        for lane in flow.lanes.values():
            if lane.sender not in self.senders and (flow.several or flow.outgoing.frames):
                self.senders.append(lane.sender)
            if lane.descriptor not in self.listening and (flow.several or flow.incoming.left):
                self.listening[lane.descriptor] = lane.receiver
                self.poller.want(lane.descriptor, select.POLLIN)

    def lose(self, flow: Flow, stream: Stream, broken: LinkBroken, taken: int = 0) -> None:
        """A stream has died, from which the other end had taken so many frames, or more. Raises ``broken`` if it was the
        link's last, or it is not known what was on it."""
        lane = flow.lanes[stream]
        lane.sender.taken(taken)
        if len(flow.lanes) == 1 or lane.sender.blind or _closed_here(stream):
            raise broken
        del flow.lanes[stream]
        self._forget(lane)
        self.senders.remove(lane.sender)
        flow.outgoing.lose(lane.sender)
        lane.receiver.drop()
        self.attempt.retire(stream)
        flow.gone.append(self._work.word(Kind.GONE, stream.serial, lane.receiver.count))
        words = list(flow.gone)
        if flow.peer in self.attempt.said:
            words.append(self.attempt.said[flow.peer])
        for other in flow.lanes.values():
            other.sender.words += words

    def _forget(self, lane: Lane) -> None:
        number = lane.descriptor
        if self.listening.pop(number, None) is not None and number not in self.held:
            self.poller.forget(number, select.POLLIN)
        if number in self.held:
            self.held.remove(number)
        if self.waiting.pop(number, None) is not None:
            self.poller.forget(number, select.POLLOUT)

    def give_up(self, stream: Stream) -> bool:
        """The other end has given up a stream. False when it is none of these."""
        for flow in self.all:
            if stream in flow.lanes:
                self.lose(flow, stream, _given_up(flow))
                return True
        return False

    # -- moving -------------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """What may start, on whatever has room. Raises LinkBroken."""
        for sender in list(self.senders) if self.several else self.senders:
            if not sender.blocked:
                try:
                    sender.pump()
                except LinkBroken as broken:
                    self.lose(self._by_peer[sender.peer], sender.stream, broken)
                    continue
                if sender.blocked:
                    descriptor = self._by_peer[sender.peer].lanes[sender.stream].descriptor
                    self.waiting[descriptor] = sender
                    self.poller.want(descriptor, select.POLLOUT)

    def writable(self, descriptor: int) -> None:
        self.waiting.pop(descriptor).blocked = False
        self.poller.forget(descriptor, select.POLLOUT)

    def receive(self, descriptor: int) -> bool:
        """Take what has come, at most one frame. True when something moved. Raises LinkBroken, Mismatch, Halted."""
        receiver = self.listening[descriptor]
        flow = self._by_peer[receiver.peer]
        try:
            if not receiver.ready:
                if descriptor not in self.held:
                    self.held.append(descriptor)
                    self.poller.forget(descriptor, select.POLLIN)
                return False
            moved = receiver.pump()
        except LinkBroken as broken:
            self.lose(flow, receiver.stream, broken)
            return True
        if moved:
            self._heard(receiver)
        if flow.several:
            if receiver.untold >= TAKEN_BYTES and flow.incoming.left:
                self.tell_taken(flow, receiver)
        elif not flow.incoming.left:
            del self.listening[descriptor]
            self.poller.forget(descriptor, select.POLLIN)
        if flow.incoming.words:
            self.heed(flow)
        return moved

    def _heard(self, receiver: Receiver) -> None:
        now = receiver.heard_at = self.attempt.now()
        if not receiver.first_at:
            receiver.first_at = now
            marks = self.attempt.marks
            marks.first = marks.first or now

    def tell_taken(self, flow: Flow, receiver: Receiver) -> None:
        """Say how much was taken from a stream, in place of what was to be said of it before."""
        receiver.untold = 0
        sender = flow.lanes[receiver.stream].sender
        if not sender.words:
            sender.words.append(self._work.word(Kind.GOT, receiver.stream.serial, receiver.count))

    def heed(self, flow: Flow) -> None:
        """What the other end has said of streams. Raises LinkBroken."""
        words, flow.incoming.words = flow.incoming.words, []
        for word in words:
            for stream, lane in list(flow.lanes.items()):
                if stream.serial != word.message:
                    continue
                count = word.offset if self._is_ours(word) else 0
                if word.kind == Kind.GONE:
                    self.lose(flow, stream, _given_up(flow), count)
                else:
                    lane.sender.taken(count)

    def _is_ours(self, word: Header) -> bool:
        attempt = self.attempt
        return (word.epoch, word.seq, word.fingerprint) == (attempt.epoch, attempt.seq, attempt.fingerprint)

    def listen_again(self) -> None:
        """Listen to those whose next frame may be taken by now."""
        later = []
        for descriptor in self.held:
            if self.listening[descriptor].ready:
                self.poller.want(descriptor, select.POLLIN)
            else:
                later.append(descriptor)
        self.held = later

    def certain(self) -> list[int]:
        """Descriptors that a receiver gets on with although the kernel may have nothing for it."""
        return [
            number
            for number, receiver in self.listening.items()
            if (receiver.stream.has_unread or receiver.has_whole_frame) and receiver.ready
        ]

    def park(self) -> bool:
        """Nothing has moved for a while: take frames that wait for their turn out of the way. True when any was."""
        moved = False
        for flow in self.all:
            if flow.incoming.may_park:
                for lane in flow.lanes.values():
                    moved |= lane.receiver.park()
        return moved

    def finish_parked(self) -> bool:
        return any([flow.incoming.finish_parked() for flow in self.all if flow.incoming.parked])

    @property
    def awaited(self) -> list[int]:
        """Ranks from which something is to come, or that are to take something."""
        ranks = {receiver.peer for receiver in self.listening.values() if receiver.incoming.left}
        return sorted(ranks | {sender.peer for sender in self.waiting.values()})

    # -- what the kernel says -----------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Give up streams on which the other host has stopped to answer. Raises LinkBroken."""
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            for flow in self.all:
                if flow.several:
                    self._look_at(flow, now)

    def examine(self, link: Link) -> bool:
        """As `look`, at one link; False when it is none of these."""
        for flow in self.all:
            if flow.link is link and flow.several:
                self._look_at(flow, self.attempt.now())
                return True
        return False

    def _look_at(self, flow: Flow, now: float) -> None:
        for stream, lane in list(flow.lanes.items()):
            if not lane.sender.waits_for_answer:
                continue
            silent = min(stream.unacknowledged_for(), now - lane.sender.busy_since)
            report = stream.path_report()
            bound = max(DEAD_SECONDS, DEAD_RTTS * report.rtt if report is not None else 0.0)
            if silent <= min(bound, PATH_DEAD_SECONDS):
                continue
            others = [(one, other) for one, other in flow.lanes.items() if one is not stream]
            broken = unacknowledged(flow.link.member, silent)
            if any(other.receiver.heard_at > now - silent for _, other in others):
                self.lose(flow, stream, broken)
            elif (
                silent > PATH_DEAD_SECONDS
            ):  # with no other to compare: if the host is dead, they will not answer either
                if all(one.unacknowledged_for() for one, _ in others):
                    raise broken
                self.lose(flow, stream, broken)

    # -- the commit round ---------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """In the commit round, now and again: hear what is said of streams, look after them, send again what was lost. Raises
        LinkBroken."""
        for flow in self.all:
            if not flow.several:
                continue
            if flow.link.streams is not flow.seen:
                self.refresh(flow)
            for stream, lane in list(flow.lanes.items()):
                try:
                    if lane.descriptor in self.listening and not lane.receiver.overhear():
                        self._forget(lane)
                        flow.ahead |= lane.receiver.is_ahead
                        lane.receiver.abandon()
                except LinkBroken as broken:
                    self.lose(flow, stream, broken)
            if flow.incoming.words:
                self.heed(flow)
        self.look(self.attempt.now())
        for descriptor in list(self.waiting):
            self.writable(descriptor)
        self.send()

    def say(self, rank: int, frame: bytes) -> bool:
        """A frame of the commit round. False when no flow with several streams goes there."""
        flow = self._by_peer.get(rank)
        if flow is None or not flow.several:
            return False
        self.attempt.said[rank] = frame
        next(self._usual(flow)).sender.words.append(frame)
        self.send()
        return True

    def finish(self) -> None:
        """All ranks have all. What they wait for yet is this rank's last word."""
        said = self.attempt.said
        while any(said.get(sender.peer) in sender.words for sender in self.senders):
            self.serve()
            if not self.poller.poll([]):
                self.attempt.idle(self.awaited)
            self.attempt.check()

    def hear(self, rank: int, frame: bytes) -> bool:
        """Wait for it. False when no flow with several streams comes from there."""
        flow = self._by_peer.get(rank)
        if flow is None or not flow.several:
            return False
        while True:
            self.serve()
            if flow.ahead or self.attempt.early.get(rank) == frame:
                return True
            if self.poller.poll([]):
                self.attempt.check()
            else:
                self.attempt.idle((rank,))

    def _usual(self, flow: Flow) -> Iterator[Lane]:
        """In the order of the link's streams."""
        return (flow.lanes[stream] for stream in flow.link.streams if stream in flow.lanes)

    def record(self) -> None:
        """Tell what each stream has moved; of operations that were short and quick, only for one in a few."""
        attempt = self.attempt
        if attempt.recorder is None:
            return
        if self.complete and self._short and attempt.seq % RECORDED and attempt.now() - self._began < QUICK_SECONDS:
            return
        tell = attempt.recorder.transfer
        for flow in self.all:
            place = attempt.progress.gid, attempt.epoch, attempt.seq, flow.link.member
            for number, lane in enumerate(flow.lanes.values()):
                sender, receiver = lane.sender, lane.receiver
                if sender.first_at:
                    tell(*place, number, False, self._began, sender.first_at, sender.done_at, sender.nbytes)
                if receiver.first_at:
                    tell(*place, number, True, self._began, receiver.first_at, receiver.heard_at, receiver.nbytes)

    def abandon(self) -> None:
        """Leave all streams so that they can be used by others."""
        for flow in self.all:
            for lane in flow.lanes.values():
                lane.sender.abandon()
                if flow.several or not self.complete:
                    lane.receiver.abandon()


def _given_up(flow: Flow) -> LinkBroken:
    return LinkBroken(flow.link.member, "closed", "it has given up a connection")


def _closed_here(stream: Stream) -> bool:
    """By the thread that hears that the member has gone."""
    try:
        stream.fileno()
    except LinkBroken:
        return not stream.retired
    return False
