"""all_reduce with a codec: few bytes on the wire, and the same bits at all members.

Sums of few bits are never passed on to be added to again, as round a ring: errors would grow with each hop. For each piece of the
array, cut into a shard per member:

    1. every member encodes the others' shards, each once, and they are exchanged directly (an all_to_all of bytes);
    2. the owner of a shard adds what came, decoded, to its own numbers in float32, divides for a mean, and encodes the result
       once;
    3. all gather the encoded results (an all_gather of bytes) and decode them, the owner, too: so all hold the same bits.

While one piece is on its way, a thread encodes the next one and decodes the one before.

Why it is all or nothing. Every step is an operation of the engine, which commits in one view at all survivors, or fails at all of
them with the same error (`engine.progress`). It opens with an all_reduce of one byte that says what is to be done with which
codec: peers who differ find out there, it settles what each of them might decide otherwise (`codedchoice`), and the view in which
it ran is where all begin. From then on everybody compares the view of each operation with that: were all of them run in it,
everybody has everything, and holds the same result; else a member has died, with it its shard, and all survivors, who see the
same at the same operation, begin again in the later view with their original input. Nothing is written over an input before the
last operation has committed; what a codec left out is remembered only then. Who has returned and dies had committed the last
operation, so that every survivor has, too. Who cannot go on by itself (no memory, a payload that is none) raises alone; the
others learn of it by its next call, which is another than theirs, by its end, or by a time-out.

Wire bytes. Of an array of n elements among P members, each sends (P - 1) payloads of a P-th of the array, twice: 2 (P - 1)
codec.encoded_bytes(n / P), as `wire_bytes` has it to the byte, beside frame headers and a few small messages per piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from .codecs import Codec, ErrorFeedback
from .engine import AnyGroup, Operation, request
from .engine.operation import Scratch
from .types import View

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_BYTE = np.dtype(np.uint8)
_LEAST_SECONDS = 1e-3


class Piece(NamedTuple):
    """Elements ``edges[r]`` to ``edges[r + 1]`` are the shard of rank ``r``, of ``shard`` elements at most."""

    shard: int
    edges: tuple[int, ...]


def cut(count: int, size: int, pieces: int, block: int) -> list[Piece]:
    """``count`` elements in about so many ``pieces``, each with a shard for each of ``size`` ranks. Shards are whole blocks,
    where numbers share a scale, as far as they go."""

    def whole_blocks(elements: int) -> int:
        return -(-elements // block) * block

    found, start = [], 0
    usual = max(block, whole_blocks(-(-count // (size * pieces))))
    while start < count:
        shard = min(usual, whole_blocks(-(-(count - start) // size)))
        edges = tuple(min(count, start + rank * shard) for rank in range(size + 1))
        found.append(Piece(shard, edges))
        start = edges[-1]
    return found


def wire_bytes(codec: Codec, count: int, size: int, pieces: int = 1) -> int:
    """Payload that each of ``size`` members sends for an all_reduce of ``count`` elements in so many pieces; headers of frames
    and the messages of commit rounds come on top. float32 without a codec takes 8 (size - 1) / size * count."""
    return 2 * (size - 1) * sum(codec.encoded_bytes(piece.shard) for piece in cut(count, size, pieces, codec.block))


class Job(NamedTuple):
    """What is to be reduced. ``text``: the call, in words. ``out``: where the result goes, ``early``: as soon as parts of it are
    there; otherwise it may lie where the input lies."""

    text: str
    numbers: Floats
    out: Floats
    early: bool
    mean: bool
    codec: Codec
    feedback: ErrorFeedback | None


class Clock(Protocol):
    def monotonic(self) -> float: ...


class CodedReduction:
    """Of one communicator; calls come one after the other, in the communicator's turn. ``seen``: the view of the last
    operation, also of one that failed."""

    def __init__(self, group: AnyGroup, member: int, clock: Clock):
        self.seen = group.view
        self._group = group
        self._member = member
        self._clock = clock
        self._scratch = Scratch()

    def open(self, text: str, proposal: int, base: View, deadline: float) -> tuple[int, View]:
        """All members mean the same ``text``, and begin in this view, by the greatest of their proposals, each a byte. Raises
        CollectiveMismatch and what operations raise."""
        asked = request("all_reduce", _BYTE, size=1, op="max", part_of=text)
        agreed = np.array([proposal], np.uint8)
        self._ran(Operation(asked, base, self._member, agreed, agreed, asked.ufunc), deadline)
        return int(agreed[0]), self.seen

    def run_plain(self, text: str, given: Array, target: Array | None, op: str, view: View, deadline: float) -> Array:
        """As `run`, without a codec: members have found that none would help. Returns ``target``, or a new array."""
        asked = request("all_reduce", given.dtype, given.size, op=op, part_of=text)
        result = self._ran(Operation(asked, view, self._member, given, target, asked.ufunc), deadline)
        assert result is not None
        return result

    def run(self, job: Job, pieces: int, view: View, deadline: float) -> View:
        """Reduce; returns the view of those who contributed. Raises what operations raise, and MalformedPayload."""
        while True:
            residual = np.zeros_like(job.numbers) if job.feedback is not None else None
            found = _Round(self, job, pieces, view, residual, deadline).run()
            if found.epoch == view.epoch:
                break
            view = found
        if job.feedback is not None and residual is not None:
            job.feedback.settle(residual)
        return view

    def room(self, name: str, nbytes: int) -> Bytes:
        """Memory that is kept for the next call."""
        found: Bytes = self._scratch.take(name, nbytes)
        return found

    def exchange(self, given: Bytes, target: Bytes, view: View, text: str, deadline: float) -> View:
        """All members' equal blocks to their ranks; returns the view in which it ran."""
        blocks = (given.size // view.size,) * view.size
        asked = request("all_to_all", _BYTE, size=given.size, sends=blocks, receives=blocks, part_of=text)
        self._ran(Operation(asked, view, self._member, given, target), deadline)
        return self.seen

    def gather(self, given: Bytes, target: Bytes, view: View, text: str, deadline: float) -> View:
        asked = request("all_gather", _BYTE, counts=(given.size,) * view.size, part_of=text)
        self._ran(Operation(asked, view, self._member, given, target), deadline)
        return self.seen

    def _ran(self, operation: Operation, deadline: float) -> Array | None:
        """The flat result."""
        try:
            result: Array | None = self._group.run(operation, max(_LEAST_SECONDS, deadline - self._clock.monotonic()))
        finally:
            self.seen = operation.view
        return result


class _Round:
    """One try in one view."""

    def __init__(
        self, owner: CodedReduction, job: Job, pieces: int, view: View, residual: Floats | None, deadline: float
    ):
        rank = view.rank_of(self_id := owner._member)
        assert rank is not None, f"member {self_id} is not in view {view.epoch}"
        self._owner = owner
        self._job = job
        self._view = view
        self._rank = rank
        self._residual = residual
        self._deadline = deadline
        self._pieces = cut(job.numbers.size, view.size, pieces, job.codec.block)
        slots = [job.codec.encoded_bytes(piece.shard) for piece in self._pieces]
        most = max(slots)
        # two pieces are under way at a time; what was gathered is kept until it may be decoded
        self._given = self._rooms("given", most * view.size, 2)
        self._came = self._rooms("came", most * view.size, 2)
        self._results = self._rooms("results", sum(slots) * view.size, 1)[0]
        self._own = self._rooms("own", most, 2)
        self._total = owner.room("total", 4 * max(piece.shard for piece in self._pieces)).view(np.float32)
        self._slots = slots

    def _rooms(self, name: str, nbytes: int, count: int) -> list[Bytes]:
        count = min(count, len(self._pieces))
        return [self._owner.room(f"{name} {number}", nbytes) for number in range(count)]

    def run(self) -> View:
        """The view of the last operation: if it is a later one, nothing has come of this."""
        last = len(self._pieces) - 1
        with _beside(last > 0) as submit:
            decoding: list[Future[None]] = []
            encoding = {number: submit(self._encode, number) for number in range(min(2, last + 1))}
            reducing: Future[None] | None = None
            for number in range(last + 2):
                upcoming: Future[None] | None = None
                if number <= last:
                    encoding.pop(number).result()
                    found = self._exchange(number)
                    if found.epoch != self._view.epoch:
                        return found
                    upcoming = submit(self._reduce, number)
                    if number + 2 <= last:
                        encoding[number + 2] = submit(self._encode, number + 2)
                if reducing is not None:
                    reducing.result()
                    found = self._gather(number - 1)
                    if found.epoch != self._view.epoch:
                        return found
                    if self._job.early:
                        decoding.append(submit(self._decode, number - 1))
                reducing = upcoming
            for done in decoding:
                done.result()
        if not self._job.early:
            for number in range(last + 1):
                self._decode(number)
        return self._view

    def _exchange(self, number: int) -> View:
        given, came = (rooms[number % 2][: self._whole(number)] for rooms in (self._given, self._came))
        return self._owner.exchange(given, came, self._view, self._text(number), self._deadline)

    def _gather(self, number: int) -> View:
        own = self._own[number % 2][: self._slots[number]]
        return self._owner.gather(own, self._gathered(number), self._view, self._text(number), self._deadline)

    def _text(self, number: int) -> str:
        return f"piece {number + 1} of {len(self._pieces)} of {self._job.text}"

    def _whole(self, number: int) -> int:
        return self._slots[number] * self._view.size

    def _gathered(self, number: int) -> Bytes:
        start = sum(self._slots[:number]) * self._view.size
        return self._results[start : start + self._whole(number)]

    def _payloads(self, number: int, joined: Bytes) -> Iterator[tuple[int, int, Bytes]]:
        """By rank, the elements of a shard, and its payload among ``joined``."""
        slot, codec = self._slots[number], self._job.codec
        for rank, (low, high) in enumerate(pairwise(self._pieces[number].edges)):
            yield low, high, joined[rank * slot : rank * slot + codec.encoded_bytes(high - low)]

    # -- beside the exchanges ---------------------------------------------------------------------------------------------

    def _encode(self, number: int) -> None:
        codec, numbers = self._job.codec, self._job.numbers
        given = self._given[number % 2][: self._whole(number)]
        slot = self._slots[number]
        for rank, (low, high, payload) in enumerate(self._payloads(number, given)):
            given[rank * slot + payload.size : (rank + 1) * slot] = 0  # nobody is sent what this memory held before
            if rank == self._rank:
                payload[:] = 0
                continue
            codec.encode(numbers[low:high], payload)
            if self._residual is not None:
                left = codec.decode(payload, self._residual[low:high])
                with np.errstate(invalid="ignore"):  # infinity less infinity
                    np.subtract(numbers[low:high], left, out=left)

    def _reduce(self, number: int) -> None:
        codec = self._job.codec
        low, high = self._pieces[number].edges[self._rank : self._rank + 2]
        total = self._total[: high - low]
        total[:] = self._job.numbers[low:high]
        came, slot = self._came[number % 2], self._slots[number]
        nbytes = codec.encoded_bytes(high - low)
        for rank in range(self._view.size):
            if rank != self._rank:
                codec.add(came[rank * slot : rank * slot + nbytes], total)
        share = np.float32(self._view.size if self._job.mean else 1)
        if self._job.mean:
            np.divide(total, share, out=total)
        own = self._own[number % 2]
        own[nbytes:slot] = 0
        codec.encode(total, own[:nbytes])
        if self._residual is not None:
            left = codec.decode(own[:nbytes], self._residual[low:high])
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(total, left, out=left)
                np.multiply(left, share, out=left)

    def _decode(self, number: int) -> None:
        for low, high, payload in self._payloads(number, self._gathered(number)):
            self._job.codec.decode(payload, self._job.out[low:high])


Submit = Callable[[Callable[[int], None], int], Future[None]]


@contextmanager
def _beside(threaded: bool) -> Iterator[Submit]:
    """What runs a function beside the caller, one after the other, in a thread that ends with this; or here and now."""
    if not threaded:
        yield _now
        return
    pool = ThreadPoolExecutor(1, "collcomm-codec")
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def _now(function: Callable[[int], None], number: int) -> Future[None]:
    function(number)
    done: Future[None] = Future()
    done.set_result(None)
    return done


__all__ = ["CodedReduction", "Job", "Piece", "cut", "wire_bytes"]
