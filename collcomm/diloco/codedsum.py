"""Sums of gradients that nobody waits for stragglers for: gradient coding over messages between peers.

    summed = CodedSum(comm, Cyclic(comm.size, 1), elements)
    for step in range(steps):
        total = summed.ready()           # a straggler finds the sum that the others have made without it
        if total is None:
            total = summed.add({part: gradient_of(part) for part in summed.parts})
        ...                              # one optimizer step with total / n, the same at all

One peer, the root, collects: it adds up as soon as the combinations that have come suffice, and sends the sum to all, so that all
have the same bits. A peer that is late finds the sums waiting and skips the work that was done without it. A peer that
dies is one that is late for ever.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CollectiveTimeout, PeerLost
from .coding import GradientCode
from .flat import Array
from .gossip import PairFace

TAG = 3 << 30  # of messages, beside those of programs and of gossip
MOST_BEHIND = 64  # sums on their way to one straggler; then the root waits for it
AHEAD = 8  # sums that a straggler has received before it looks at the first of them
UNTIL_GONE = 1e9  # seconds: what is listened for comes some time, or its sender goes
END = -1


class _Message:
    """A number and a vector in one row of bytes."""

    def __init__(self, size: int, dtype: np.dtype[Any]):
        self.bytes: Array = np.zeros(8 + size * dtype.itemsize, np.uint8)
        self._number = self.bytes[:8].view(np.int64)
        self.vector: Array = self.bytes[8:].view(dtype)

    @property
    def number(self) -> int:
        return int(self._number[0])

    def fill(self, number: int, vector: Array | None = None) -> _Message:
        self._number[0] = number
        if vector is not None:
            np.copyto(self.vector, vector)
        return self


class CodedSum:
    """Sums over the members that are here now; make a new one after `step` has admitted somebody.

    :param comm: the communicator; all members make this object at the same point, with the same arguments.
    :param code: of as many workers as there are members; worker i is rank i.
    :param size: elements of a gradient, which is one vector.
    :param root: rank of the peer that collects. It should be a fast one: for it all wait.
    :param timeout: seconds for one sum.
    :raises ValueError: a code for another number of workers, a root that is no rank.
    """

    def __init__(
        self,
        comm: PairFace,
        code: GradientCode,
        size: int,
        dtype: Any = np.float32,
        root: int = 0,
        timeout: float = 60.0,
    ):
        if code.n != comm.size:
            raise ValueError(f"the code is for {code.n} workers, the group has {comm.size} members")
        if not 0 <= root < comm.size:
            raise ValueError(f"root must be a rank from 0 to {comm.size - 1}, not {root!r}")
        if size < 1:
            raise ValueError(f"a gradient has 1 element or more, not {size!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
        self.code = code
        self.worker = comm.rank
        self.root = root
        self.number = 0  # of the next sum
        self.late: set[int] = set()  # workers without whom the last sum was made; the root knows
        self.gone: set[int] = set()
        self._comm = comm
        self._ids = list(comm.view.ids)
        self._size, self._dtype, self._timeout = size, np.dtype(dtype), timeout
        self._closed = False
        self._results: deque[tuple[_Message, Any]] = deque()  # the next sums, as they come to a worker
        self._sent: Any = None  # a worker's last combination
        self._from: dict[int, tuple[_Message, Any]] = {}
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._to: dict[int, deque[Any]] = {worker: deque() for worker in range(code.n) if worker != root}
        if self.worker != root:
            for _ in range(AHEAD):
                self._expect()
        else:
            for worker in self._to:
                self._listen(worker)

    @property
    def parts(self) -> list[int]:
        """Of the batch, cut into as many as there are members, whose gradients this peer computes."""
        return self.code.parts(self.worker)

    def ready(self, seconds: float = 0.0) -> Array | None:
        """The next sum, if the others have made it without this peer's part, or do so in ``seconds``. None at the root."""
        if not self._results or not self._results[0][1].wait(seconds):
            return None
        return self._take()

    def add(self, gradients: Mapping[int, Array]) -> Array:
        """The sum of all parts' gradients; this peer gives those of `parts`.

        :raises PeerLost: the root is gone, or more peers than the code bears.
        :raises CollectiveTimeout: too few combinations came in time.
        """
        if self._closed:
            raise ValueError("this CodedSum was closed")
        for part, gradient in gradients.items():
            if gradient.shape != (self._size,):
                raise ValueError(f"the gradient of part {part} has shape {gradient.shape}, not {(self._size,)}")
        mine = self.code.encode(self.worker, gradients)
        if self.worker == self.root:
            return self._collect(mine)
        self._tell_root(_Message(self._size, mine.dtype).fill(self.number, mine))
        return self._take()

    async def add_async(self, gradients: Mapping[int, Array]) -> Array:
        """As `add`, while the event loop runs on."""
        return await asyncio.to_thread(self.add, gradients)

    def close(self) -> None:
        """All members call it, after as many sums. A straggler is waited for, as long as for a sum: afterwards nothing is on its
        way, and another CodedSum may be made."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.worker == self.root:
                self._dismiss()
            else:
                self._tell_root(_Message(self._size, np.dtype(np.float64)).fill(END))
                self._sent.result(self._timeout)
                while self._results:
                    self._take()
        except PeerLost:
            pass  # the root is gone, and nothing comes any more

    # -- a worker ------------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        message = _Message(self._size, self._dtype)
        rank = self._rank(self.root)
        handle = self._comm.recv(message.bytes, rank, TAG + 1, async_op=True, timeout=UNTIL_GONE)
        self._results.append((message, handle))

    def _take(self) -> Array:
        message, handle = self._results[0]
        handle.result(self._timeout)
        self._results.popleft()
        if message.number != END:
            self.number += 1
            self._expect()
        return message.vector

    def _tell_root(self, message: _Message) -> None:
        if self._sent is not None:
            self._sent.result(self._timeout)
        self._sent = self._comm.send(
            message.bytes, self._rank(self.root), TAG, async_op=True, timeout=self._timeout * MOST_BEHIND
        )

    # -- the root ------------------------------------------------------------------------------------------------------

    def _listen(self, worker: int) -> None:
        message = _Message(self._size, np.dtype(np.float64))
        handle = self._comm.recv(message.bytes, self._rank(worker), TAG, async_op=True, timeout=UNTIL_GONE)
        self._from[worker] = message, handle
        handle.add_done_callback(lambda _: self._arrived.put(worker))

    def _collect(self, mine: Array) -> Array:
        given = {self.root: mine}
        deadline = time.monotonic() + self._timeout
        while not self.code.decodes(given):
            self._require_enough()
            message = self._next(deadline)
            if message is not None and message[1].number == self.number:  # else of a sum that was made without it
                given[message[0]] = message[1].vector
        weights = self.code.weights(given)
        total = np.zeros(self._size)
        for worker in sorted(weights):
            total += weights[worker] * given[worker]
        self.late = set(range(self.code.n)) - set(given)
        told = _Message(self._size, self._dtype).fill(self.number, total.astype(self._dtype))
        self._spread(told)
        self.number += 1
        return told.vector.copy()

    def _next(self, deadline: float) -> tuple[int, _Message] | None:
        """What has come next, and from whom; None where that says that it is gone."""
        try:
            worker = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise CollectiveTimeout(
                f"sum {self.number}: nothing more has come from workers {sorted(self._from)} for {self._timeout:.3g} s, and the "
                f"code bears {self.code.s} that are late"
            ) from None
        message, handle = self._from.pop(worker)
        try:
            handle.result()
            if message.number != END:
                self._listen(worker)
        except PeerLost:
            self.gone.add(worker)
            return None
        return worker, message

    def _require_enough(self) -> None:
        here = set(range(self.code.n)) - self.gone
        if not self.code.decodes(here):
            raise PeerLost(
                f"workers {sorted(self.gone)} are gone, which is more than the code for {self.code.s} of {self.code.n} bears; "
                "call step(), and make a CodedSum of those who are left"
            )

    def _spread(self, message: _Message) -> None:
        for worker, under_way in self._to.items():
            try:
                while under_way and (under_way[0].done() or len(under_way) >= MOST_BEHIND):
                    under_way.popleft().result()
                if worker not in self.gone:
                    seconds = self._timeout * MOST_BEHIND
                    rank = self._rank(worker)
                    under_way.append(self._comm.send(message.bytes, rank, TAG + 1, async_op=True, timeout=seconds))
            except PeerLost:
                self.gone.add(worker)

    def _dismiss(self) -> None:
        """Tell all that this is the end, and hear the same of all."""
        for _ in range(AHEAD):  # as many as each listens for
            self._spread(_Message(self._size, self._dtype).fill(END))
        deadline = time.monotonic() + self._timeout
        while self._from:
            self._next(deadline)
        for worker, under_way in self._to.items():
            while under_way and worker not in self.gone:
                try:
                    under_way.popleft().result(self._timeout)
                except PeerLost:
                    self.gone.add(worker)

    def _rank(self, worker: int) -> int:
        rank = self._comm.view.rank_of(self._ids[worker])
        if rank is None:
            raise PeerLost(f"worker {worker} is no longer in the group")
        return rank
