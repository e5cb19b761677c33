"""Runs a plan of large messages: all streams at once, frame by frame, reducing while more arrives.

One loop, one thread, no queue: each stream works off its frames in order as its socket allows; a frame starts when the
frames that it depends on are done. A frame that was just received and reduced is sent on while it is still in cache.
"""

from __future__ import annotations

import select
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ..collectives import Action
from ..transports.base import Poller, Stream
from ..transports.frames import HEADER_BYTES, Kind, pack
from .attempt import Attempt
from .original import Original
from .plan import FRAME_BYTES, Frame, Plan
from .reduction import combine
from .undo import UndoLog

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def run_streaming(
    plan: Plan,
    buffers: Mapping[str, Bytes],
    dtype: np.dtype[Any],
    ufunc: np.ufunc | None,
    attempt: Attempt,
    streams: int,
    undo: UndoLog | None = None,
    incoming: Mapping[str, Original] = MappingProxyType({}),
    outgoing: Original | None = None,
) -> None:
    """``buffers``: flat bytes by name; ``streams``: per link; ``undo``: hears of what is overwritten in "out"; ``incoming``:
    by buffer, what is to be asked for it before it is touched; ``outgoing``: hears of what is final in "out".

    Raises Halted, Mismatch, LinkBroken.
    """
    order = plan.frames(streams)
    work = _Work(buffers, dtype, ufunc, attempt, order.count, undo if plan.saves else None, incoming, outgoing)
    senders = [_Sender(work, peer, number, frames) for (peer, number), frames in order.sends.items()]
    receivers = [_Receiver(work, peer, number, frames) for (peer, number), frames in order.receives.items()]
    try:
        _loop(work, senders, receivers, list(order.local))
    except BaseException:
        for sender in senders:
            sender.abandon()
        for receiver in receivers:
            receiver.abandon()
        raise


class _Work:
    """What the frames of one attempt share: memory, and which frames are done."""

    def __init__(
        self,
        buffers: Mapping[str, Bytes],
        dtype: np.dtype[Any],
        ufunc: np.ufunc | None,
        attempt: Attempt,
        count: int,
        undo: UndoLog | None,
        incoming: Mapping[str, Original],
        outgoing: Original | None,
    ):
        self.undo = undo
        self._incoming = incoming
        self._outgoing = outgoing
        self.buffers = buffers
        self.dtype = dtype
        self.ufunc = ufunc
        self.attempt = attempt
        self.done = bytearray(count)

    def ready(self, frame: Frame) -> bool:
        done = self.done
        for earlier in frame.after:  # noqa: SIM110 - all() with a generator costs three times as much
            if not done[earlier]:
                return False
        return True

    def source(self, frame: Frame) -> Bytes:
        if frame.source in self._incoming:
            self._incoming[frame.source].fetch(frame.source_from, frame.nbytes)
        return self.buffers[frame.source][frame.source_from : frame.source_from + frame.nbytes]

    def target(self, frame: Frame) -> Bytes:
        """Memory that the frame is about to overwrite."""
        if frame.target in self._incoming:
            self._incoming[frame.target].fetch(frame.target_from, frame.nbytes)
        if self.undo is not None and frame.fresh and frame.target == "out":
            self.undo.save(frame.target_from, frame.nbytes)
        return self.buffers[frame.target][frame.target_from : frame.target_from + frame.nbytes]

    def end(self, frame: Frame) -> None:
        """The frame is done."""
        self.done[frame.index] = 1
        if self._outgoing is not None and frame.final and frame.target == "out":
            self._outgoing.store(frame.target_from, frame.nbytes)

    def header(self, frame: Frame) -> bytes:
        attempt = self.attempt
        return pack(
            Kind.DATA,
            attempt.epoch,
            attempt.seq,
            attempt.fingerprint,
            frame.offset,
            frame.nbytes,
            frame.ordinal,
        )

    def reduce(self, frame: Frame, received: Bytes) -> None:
        assert self.ufunc is not None
        mine, theirs = self.source(frame).view(self.dtype), received.view(self.dtype)
        left, right = (theirs, mine) if frame.received_first else (mine, theirs)
        combine(self.ufunc, left, right, self.target(frame).view(self.dtype))


class _Sender:
    """Works off the frames that go out on one stream."""

    def __init__(self, work: _Work, peer: int, number: int, frames: list[Frame]):
        self.peer = peer
        self.stream: Stream = work.attempt.link(peer).streams[number]
        self.blocked = False
        self._work = work
        self._frames = frames
        self._next = 0
        self._sent = 0
        self._header = b""

    @property
    def finished(self) -> bool:
        return self._next == len(self._frames)

    def pump(self) -> None:
        """Send until a frame is not ready yet (the caller tries again) or the socket is full (``blocked``)."""
        work = self._work
        while self._next < len(self._frames):
            frame = self._frames[self._next]
            if not self._sent:
                if not work.ready(frame):
                    return
                self._header = work.header(frame)
            sent = self._sent
            payload = work.source(frame)
            if sent < HEADER_BYTES:
                taken = self.stream.try_send(self._header[sent:] if sent else self._header, payload)
            else:
                taken = self.stream.try_send(b"", payload[sent - HEADER_BYTES :])
            sent += taken
            if sent < HEADER_BYTES + frame.nbytes:
                self._sent = sent
                self.blocked = True
                return
            work.end(frame)
            self._next += 1
            self._sent = 0

    def abandon(self) -> None:
        if self._sent:
            self.stream.owe(HEADER_BYTES + self._frames[self._next].nbytes - self._sent)


class _Receiver:
    """Works off the frames that come in on one stream."""

    def __init__(self, work: _Work, peer: int, number: int, frames: list[Frame]):
        self.peer = peer
        self.stream: Stream = work.attempt.link(peer).streams[number]
        self._work = work
        self._frames = frames
        self._next = 0
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._expected = b""
        self._got = 0
        self._target: Bytes | None = None
        reduces = any(frame.action is Action.RECV_REDUCE for frame in frames)
        largest = max(frame.nbytes for frame in frames)
        self._bounce = np.empty(min(largest, FRAME_BYTES) if reduces else 0, np.uint8)

    @property
    def finished(self) -> bool:
        return self._next == len(self._frames)

    @property
    def ready(self) -> bool:
        """Whether `pump` may be called; until then, what has come stays where it is.

        A frame that is to be reduced is taken into the bounce buffer in any case, and waits there: so two ranks that send
        each other what they are about to overwrite need no room for it between them.
        """
        frame = self._frames[self._next]
        if frame.action is Action.RECV_REDUCE:
            return not self.has_whole_frame or self._work.ready(frame)
        return self._got > 0 or self._work.ready(frame)

    @property
    def has_whole_frame(self) -> bool:
        return self._got == HEADER_BYTES + self._frames[self._next].nbytes

    def pump(self) -> bool:
        """Take what is there, at most one frame. True when something came."""
        work, frame = self._work, self._frames[self._next]
        if self._got < HEADER_BYTES:
            count = self.stream.try_receive(self._header[self._got :])
            self._got += count
            if self._got < HEADER_BYTES:
                return count > 0
            self._begin(frame)
            if self._target is None:
                return True
        position = self._got - HEADER_BYTES
        if position < frame.nbytes:
            assert self._target is not None
            count = self.stream.try_receive(self._target.data[position:])
            self._got += count
            if position + count < frame.nbytes:
                return count > 0
        if frame.action is Action.RECV_REDUCE:
            if not work.ready(frame):
                return True
            work.reduce(frame, self._bounce[: frame.nbytes])
        work.end(frame)
        self._next += 1
        self._got = 0
        self._target = None
        return True

    def _begin(self, frame: Frame) -> None:
        if self._header != self._work.header(frame):
            stale = self._work.attempt.judge(self.stream.member, self._header)
            self.stream.skip(stale.length)
            self._got = 0
        elif frame.action is Action.RECV_REDUCE:
            self._target = self._bounce[: frame.nbytes]
        else:
            self._target = self._work.target(frame)

    def abandon(self) -> None:
        if self._target is None:
            self.stream.unread(self._header[: self._got])
        elif not self.finished:
            self.stream.skip(HEADER_BYTES + self._frames[self._next].nbytes - self._got)


def _loop(work: _Work, senders: list[_Sender], receivers: list[_Receiver], copies: list[Frame]) -> None:
    attempt = work.attempt
    poller = attempt.poller()
    listening = {receiver.stream.fileno(): receiver for receiver in receivers}
    waiting: dict[int, _Sender] = {}
    held: list[int] = []  # descriptors whose frames are there, or not, and may not be taken yet
    for descriptor in listening:
        poller.want(descriptor, select.POLLIN)
    while True:
        if copies:
            copies = _copy_ready(work, copies)
        for sender in senders:
            if not sender.blocked:
                sender.pump()
                if sender.blocked:
                    descriptor = sender.stream.fileno()
                    waiting[descriptor] = sender
                    poller.want(descriptor, select.POLLOUT)
        if held:
            held = _listen_again(poller, listening, held)
        if not listening and not copies and all(sender.finished for sender in senders):
            return
        attempt.check()
        moved = False
        for descriptor, events in poller.poll(_certain(listening)):
            if events & ~select.POLLIN and descriptor in waiting:
                waiting.pop(descriptor).blocked = False
                poller.forget(descriptor, select.POLLOUT)
                moved = True
            if events & ~select.POLLOUT and descriptor in listening:
                receiver = listening[descriptor]
                if not receiver.ready:
                    if descriptor not in held:
                        held.append(descriptor)
                        poller.forget(descriptor, select.POLLIN)
                    continue
                moved |= receiver.pump()
                if receiver.finished:
                    del listening[descriptor]
                    poller.forget(descriptor, select.POLLIN)
        if moved:
            attempt.moved()
        else:
            ranks = {receiver.peer for receiver in listening.values()}
            attempt.idle(sorted(ranks | {sender.peer for sender in waiting.values()}))


def _listen_again(poller: Poller, listening: Mapping[int, _Receiver], held: list[int]) -> list[int]:
    """Listen to those whose next frame may be taken by now; returns the others."""
    later = []
    for descriptor in held:
        if listening[descriptor].ready:
            poller.want(descriptor, select.POLLIN)
        else:
            later.append(descriptor)
    return later


def _certain(listening: Mapping[int, _Receiver]) -> list[int]:
    """Descriptors that `pump` gets on with although the kernel may have nothing for it."""
    return [
        number
        for number, receiver in listening.items()
        if (receiver.stream.has_unread or receiver.has_whole_frame) and receiver.ready
    ]


def _copy_ready(work: _Work, copies: list[Frame]) -> list[Frame]:
    """Do the local copies whose turn has come; returns the others."""
    later = []
    for frame in copies:
        if work.ready(frame):
            work.target(frame)[:] = work.source(frame)
            work.end(frame)
        else:
            later.append(frame)
    return later
