"""send and recv: messages between two members, on links of their own, so that they never queue behind a collective."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import xxhash

from .arriving import FRAME_BYTES, Arriving, Check
from .carriage import Carriage, Copied, Packed, Row, Runs
from .datatypes.model import Direction, Method
from .datatypes.packing import HostPacking
from .devicearrays import AnyArray, DeviceArray
from .engine import AnyGroup, AnySession
from .engine.handle import Conclusion
from .engine.queue import OperationQueue
from .errors import CollectiveMismatch, CollectiveTimeout, CommunicatorClosed, PeerLost
from .hostviews import Array
from .transports.base import MESSAGES, Link, LinkBroken, Poller, Stream
from .transports.frames import HEADER_BYTES, Kind, pack
from .tuning import Choose, method
from .types import Member

MAX_STASHED = 64 << 20  # bytes that came with another tag than was asked for


class PointToPoint:
    """Messages carry their tag, dtype and length; those with the same tag arrive in the order in which they were sent.

    ``choose``: how what does not lie in one row is sent or received.
    """

    def __init__(self, session: AnySession, group: AnyGroup):
        self._session = session
        self._group = group
        self.choose: Choose = method
        self._lanes: dict[tuple[str, int], OperationQueue] = {}
        self._stashed: dict[int, deque[tuple[int, int, Array]]] = {}  # tag, dtype, data
        self._half: dict[int, tuple[Arriving, Array]] = {}  # what is being stashed
        self._streams: dict[int, Stream] = {}  # last used, by member
        self._lock = threading.Lock()
        self._closed = False

    def send(self, array: AnyArray, dst: int, tag: int, async_op: bool, timeout: float) -> Any:
        """``array``: staged, if it lies on a device."""
        member = self._member(dst, tag)
        deadline = time.monotonic() + timeout
        return self._go("send", member, async_op, lambda: self._send(array, member, tag, deadline), None)

    def receive(self, array: AnyArray, src: int, tag: int, async_op: bool, timeout: float, arrived: Conclusion) -> Any:
        """As `send`. ``arrived``: makes the call's result; it brings what is staged to the device."""
        member = self._member(src, tag)
        deadline = time.monotonic() + timeout
        return self._go("recv", member, async_op, lambda: self._receive(array, member, tag, deadline), arrived)

    def receive_any(self, array: AnyArray, tag: int, async_op: bool, timeout: float, arrived: Conclusion) -> Any:
        """As `receive`, from whoever sends first; ``arrived`` is given the rank."""
        view, own = self._group.view, self._session.member
        self.check_open()
        _check_tag(tag)
        senders = {rank: member for rank, member in enumerate(view.members) if member.id != own}
        if not senders:
            raise ValueError("there is nobody here to receive from")
        deadline = time.monotonic() + timeout
        lane = self._lane("recv", -1)
        work = partial(self._receive_any, array, senders, tag, deadline)
        return _through(lane, "recv from anybody", async_op, work, arrived)

    def close(self) -> None:
        """What waits fails: bounded by how often a wait looks."""
        self._closed = True
        with self._lock:
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close()

    def check_open(self) -> None:
        """Raises why no more messages go here."""
        if self._session.failure is not None:
            raise self._session.failure
        if self._closed:
            raise CommunicatorClosed("this communicator was closed, and its messages with it")

    def _member(self, rank: int, tag: int) -> Member:
        view = self._group.view
        self.check_open()
        if not isinstance(rank, int | np.integer) or not 0 <= rank < view.size:
            raise ValueError(f"rank must be from 0 to {view.size - 1}, not {rank!r}")
        if view.ids[rank] == self._session.member:
            raise ValueError(f"rank {rank} is this peer itself")
        _check_tag(tag)
        return view[int(rank)]

    def _go(
        self,
        direction: str,
        member: Member,
        async_op: bool,
        work: Callable[[], Any],
        arrived: Conclusion | None,
    ) -> Any:
        return _through(self._lane(direction, member.id), f"{direction} with {member.name}", async_op, work, arrived)

    def _lane(self, direction: str, member: int) -> OperationQueue:
        with self._lock:
            lane = self._lanes.get((direction, member))
            if lane is None:
                lane = self._lanes[direction, member] = OperationQueue(f"collcomm-{direction}-{member}")
            return lane

    # -- on the lane's thread ------------------------------------------------------------------------------------------

    def _send(self, array: AnyArray, member: Member, tag: int, deadline: float) -> None:
        size, kind = array.flat.nbytes, _dtype_code(array.dtype)
        check = _Watch(self, self._group, member, "send to", deadline).check
        begun = False
        check()
        try:
            stream = self._stream(member, check)
            source = self._carriage(array, stream, Direction.SEND)
            for offset in range(0, max(1, size), FRAME_BYTES):
                length = min(FRAME_BYTES, size - offset)
                header = pack(Kind.DATA, 0, tag, kind, size, length, offset // FRAME_BYTES)
                sent = -HEADER_BYTES  # of the payload
                while sent < length:
                    part = max(0, sent)
                    views = source.outgoing(offset + part, length - part)
                    taken = stream.send_several((header[sent:], *views) if sent < 0 else views)
                    sent += taken
                    begun = begun or taken > 0
                    if not taken:
                        check()
        except LinkBroken as broken:
            raise self._lost(member, broken) from None
        except BaseException:
            if begun:  # what came next would be taken for the rest of this message
                self._session.transport.drop_link(self._group.gid, MESSAGES, member.id)
            raise

    def _receive(self, array: AnyArray, member: Member, tag: int, deadline: float) -> None:
        check = _Watch(self, self._group, member, "recv from", deadline).check
        try:
            while not self._receive_next(array, member, tag, check):
                pass
        except LinkBroken as broken:
            raise self._lost(member, broken) from None

    def _receive_next(self, array: AnyArray, member: Member, tag: int, check: Check) -> bool:
        """Take the next message of ``member``; whether it was the one that is asked for. Raises LinkBroken."""
        size, kind = array.flat.nbytes, _dtype_code(array.dtype)
        if self._unstash(member, tag, array, kind):
            return True
        stream = self._stream(member, check)
        if self._stash_rest(member, stream, check):
            return False
        message = Arriving(stream, check)
        if message.tag != tag:
            self._stash(member, message)
            return False
        try:
            _fits(member, size, kind, message.size, message.kind)
            message.fill(self._carriage(array, stream, Direction.RECEIVE), check)
        except CollectiveMismatch:
            message.discard(check)
            raise
        except BaseException:
            message.give_up()
            raise
        return True

    def _receive_any(self, array: AnyArray, senders: dict[int, Member], tag: int, deadline: float) -> int:
        transport = self._session.transport
        watches = {rank: _Watch(self, self._group, m, "recv from", deadline) for rank, m in senders.items()}
        while True:
            poller = transport.poller()
            for rank, member in list(senders.items()):
                lane = self._lane("recv", member.id)
                if lane.begin(lambda: 1) is None:
                    continue  # somebody receives from it alone, and comes first
                try:
                    if not self._begun(member, tag, watches[rank].check, poller):
                        continue
                    while not self._receive_next(array, member, tag, watches[rank].check):
                        if not self._begun(member, tag, watches[rank].check, poller):
                            break
                    else:
                        return rank
                except LinkBroken as broken:
                    lost = self._lost(
                        member, broken
                    )  # the next message comes over another connection, if it is still here
                    if member.id not in self._group.progress.view.ids:
                        _strike(senders, rank, lost)
                except PeerLost as lost:
                    _strike(senders, rank, lost)
                finally:
                    lane.end()
            self.check_open()
            if time.monotonic() > deadline:
                raise CollectiveTimeout("recv from anybody: nothing came in time")
            poller.poll([])

    def _begun(self, member: Member, tag: int, check: Check, poller: Poller) -> bool:
        """Whether a message of ``member`` is here, or begins; else ``poller`` waits for one. Raises LinkBroken, PeerLost."""
        transport, gid = self._session.transport, self._group.gid
        if any(found == tag for found, _, _ in self._stashed.get(member.id, ())):
            return True
        got = 0
        if transport.links_at_once(gid, MESSAGES, member.id):
            stream = self._stream(member, check)
            if member.id in self._half:
                return True
            head = memoryview(bytearray(HEADER_BYTES))
            while got < HEADER_BYTES and (more := stream.try_receive(head[got:])):
                got += more
            stream.unread(head[:got])
            if got < HEADER_BYTES:
                poller.want(stream.fileno(), select.POLLIN)
        if got < HEADER_BYTES and member.id not in self._group.progress.view.ids:
            raise PeerLost(f"{member} is no longer in the group")
        return got == HEADER_BYTES

    # -- messages with another tag than was asked for ------------------------------------------------------------------

    def _unstash(self, member: Member, tag: int, array: AnyArray, kind: int) -> bool:
        for index, (found, found_kind, data) in enumerate(self._stashed.get(member.id, ())):
            if found == tag:
                del self._stashed[member.id][index]
                _fits(member, array.flat.nbytes, kind, data.size, found_kind)
                self._carriage(array, None, Direction.RECEIVE).put(data)
                return True
        return False

    def _stash(self, member: Member, message: Arriving) -> None:
        """Make room for it; `_stash_rest` reads it."""
        stashed = self._stashed.setdefault(member.id, deque())
        if message.size + sum(data.size for _, _, data in stashed) > MAX_STASHED:
            message.put_back()
            raise CollectiveMismatch(
                f"{member.name} has sent more than {MAX_STASHED >> 20} MiB with tags that nobody here asks for "
                f"(tag {message.tag})"
            )
        self._half[member.id] = (message, np.empty(message.size, np.uint8))

    def _stash_rest(self, member: Member, stream: Stream, check: Check) -> bool:
        """Read what was begun to be stashed, if anything; a receive may have ended in the middle of it."""
        message, data = self._half.get(member.id, (None, None))
        if message is None or data is None:
            return False
        if message.stream is stream:  # else its connection has closed
            message.fill(Row(data), check)
            self._stashed[member.id].append((message.tag, message.kind, data))
        del self._half[member.id]
        return True

    def _stream(self, member: Member, check: Check) -> Stream:
        link: Link = self._session.transport.link(self._group.gid, MESSAGES, member, check)
        stream = self._streams[member.id] = link.streams[0]
        return stream

    def _carriage(self, array: AnyArray, stream: Stream | None, direction: Direction) -> Carriage:
        """How the bytes of ``array`` go to or come from ``stream``."""
        if array.original is None:
            return Row(array.flat)
        if isinstance(array, DeviceArray):
            return Copied(array.flat, array.original)
        packing = array.packing
        if stream is None or not stream.gathers or not isinstance(packing, HostPacking):
            return Packed(packing)
        if self.choose(packing.nbytes, packing.layout.runs, direction) is Method.GATHER:
            return Runs(packing)
        return Packed(packing)

    def _lost(self, member: Member, broken: LinkBroken) -> PeerLost:
        """Raises CommunicatorClosed, or why the session failed, where this end has closed the link itself."""
        self.check_open()
        stream = self._streams.pop(member.id, None)  # a newer connection may have taken its place
        self._session.transport.drop_link(self._group.gid, MESSAGES, member.id, stream)
        gone = member.id not in self._group.progress.view.ids
        why = "it is no longer in the group" if gone else broken.text
        return PeerLost(f"the message with {member} was lost: {why}; look at comm.view before sending it again")


class _Watch:
    """Ends a wait when the peer has gone or time is up."""

    def __init__(self, point: PointToPoint, group: AnyGroup, member: Member, what: str, deadline: float):
        self._point, self._group, self._member = point, group, member
        self._what, self._deadline = what, deadline

    def check(self) -> None:
        self._point.check_open()
        if self._member.id not in self._group.progress.view.ids:
            raise PeerLost(f"{self._what} {self._member}: it is no longer in the group")
        if time.monotonic() > self._deadline:
            raise CollectiveTimeout(f"{self._what} {self._member} did not finish in time")


def _through(
    lane: OperationQueue, text: str, async_op: bool, work: Callable[[], Any], arrived: Conclusion | None
) -> Any:
    if async_op:
        return lane.submit(lambda: work, text, arrived)
    value = lane.run(lambda: work, text)
    return value if arrived is None else arrived(value, None)


def _check_tag(tag: int) -> None:
    if not isinstance(tag, int) or not 0 <= tag < 2**32:
        raise ValueError(f"tag must be from 0 to 4294967295, not {tag!r}")


def _strike(senders: dict[int, Member], rank: int, lost: PeerLost) -> None:
    del senders[rank]
    if not senders:
        raise PeerLost(f"recv from anybody: nobody is left who could send ({lost})") from None


@lru_cache(maxsize=64)
def _dtype_code(dtype: np.dtype[Any]) -> int:
    return xxhash.xxh32_intdigest(dtype.name.encode())


def _fits(member: Member, size: int, kind: int, found_size: int, found_kind: int) -> None:
    if size != found_size or kind != found_kind:
        dtype = "" if kind == found_kind else " of another dtype"
        raise CollectiveMismatch(f"{member.name} sent {found_size} bytes{dtype}, recv expects {size}")
