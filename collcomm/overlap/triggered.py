"""All_reduce in chunks that the producer of the numbers sets off, one by one, as it makes them (T3: Pati et al., 2024)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import CollectiveTimeout
from .flat import in_a_row

MOST_CHUNKS = 4096


class Pending(Protocol):
    """A handle of the engine."""

    def result(self, timeout: float | None = None) -> Any: ...


class Reduces(Protocol):
    """What is needed of a `Communicator` that reduces in the background."""

    def all_reduce(
        self,
        x: Any,
        op: str = ...,
        *,
        out: Any = ...,
        codec: Any = ...,
        async_op: bool = ...,
        timeout: float | None = ...,
    ) -> Any: ...


class TriggeredAllReduce:
    """Made by `Communicator.triggered_all_reduce`. The producer fills ``chunks[i]``, a slice of ``x``, and calls ``ready(i)``; in
    any order, from any thread, each once. Chunk i is reduced in place as soon as it is ready and all before it have been set off:
    that order is the same at all members, whatever the order in which theirs get ready.

    Each chunk is an operation of its own: if a member dies in between, its numbers are in the chunks that had committed, and not
    in the others; every survivor holds the same bits.
    """

    def __init__(self, comm: Reduces, x: Any, op: str, number: int, codec: Any, timeout: float | None):
        flat = in_a_row(x)
        if not 1 <= number <= MOST_CHUNKS:
            raise ValueError(f"chunks must be from 1 to {MOST_CHUNKS}, not {number!r}")
        edges = [len(flat) * index // number for index in range(number + 1)]
        self.chunks: Sequence[Any] = [flat[edges[index] : edges[index + 1]] for index in range(number)]
        self._comm = comm
        self._x = x
        self._options = {"op": op, "codec": codec, "timeout": timeout}
        self._changed = threading.Condition()
        self._marked = [False] * number
        self._handles: list[Pending] = []

    def ready(self, chunk: int) -> None:
        """``chunk`` holds what is to be reduced; hands off until `result`. Raises IndexError, ValueError when it was marked
        before, and what the communicator raises when it is closed."""
        if not 0 <= chunk < len(self.chunks):
            raise IndexError(f"there are {len(self.chunks)} chunks, from 0 on, and no {chunk}")
        with self._changed:
            if self._marked[chunk]:
                raise ValueError(f"chunk {chunk} was marked ready before")
            self._marked[chunk] = True
            while len(self._handles) < len(self.chunks) and self._marked[len(self._handles)]:
                part = self.chunks[len(self._handles)]
                self._handles.append(self._comm.all_reduce(part, out=part, async_op=True, **self._options))
            self._changed.notify_all()

    def result(self, timeout: float | None = None) -> Any:
        """``x``, reduced. ``timeout``: seconds until all have been marked and have gone. Raises CollectiveTimeout, which names
        chunks that nobody has marked, or the first error of a chunk, when all have ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._handles) == len(self.chunks), timeout):
                missing = [index for index, marked in enumerate(self._marked) if not marked]
                raise CollectiveTimeout(
                    f"of {len(self.chunks)} chunks {missing[:8]}{' and more' if len(missing) > 8 else ''} were not marked ready "
                    f"within {timeout:.3g} s; the others wait for them, here and at all members"
                )
        errors: list[BaseException] = []
        for handle in self._handles:
            try:
                handle.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except CollectiveTimeout:
                raise
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return self._x
