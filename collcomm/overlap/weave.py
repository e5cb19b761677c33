"""Two halves of a batch, one of which computes while the other communicates (TokenWeave: Gond et al., 2025).

    def block(tokens):                                           # a generator that yields whatever it waits for
        partial = attention(tokens)
        full = yield comm.all_reduce(partial, async_op=True)     # and is given the result
        return mlp(full)

    out = weave(block, batch)

The halves take turns at fixed points, where they yield; so operations are called in the same order at all members.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

Steps = Generator[Any, Any, Any]


class _Half:
    """``waits``: the handle that it has yielded."""

    def __init__(self, steps: Steps):
        self._steps = steps
        self.waits: Any = None
        self.ended = False
        self.result: Any = None

    def advance(self, given: Any = None) -> None:
        """To its next wait, or its end."""
        try:
            self.waits = self._steps.send(given)
        except StopIteration as end:
            self.ended, self.result = True, end.value

    def go_on(self) -> None:
        """With the result that it waits for, or with its error, which it may handle."""
        try:
            result = self.waits.result()
        except Exception as error:
            self._fail(error)
        else:
            self.advance(result)

    def _fail(self, error: Exception) -> None:
        try:
            self.waits = self._steps.throw(error)
        except StopIteration as end:
            self.ended, self.result = True, end.value

    def close(self) -> None:
        self._steps.close()


def weave(block: Callable[[Any], Steps], batch: Any, join: Callable[[list[Any]], Any] = np.concatenate) -> Any:
    """What ``block`` returns for the two halves of ``batch``, cut along its first axis and put together again by ``join``: for
    tensors, ``torch.cat``.

    ``block(half)``: a generator function, as above; what it yields are handles (``async_op=True``). All members call this with
    batches whose halves make ``block`` yield equally often. ``batch``: an array of numpy or a tensor, of at least two rows;
    with one row, there is nothing to weave, and ``block`` runs on it alone. Raises what ``block`` raises; the other half is
    closed, and its operation under way is waited for.
    """
    rows = len(batch)
    if rows == 0:
        raise ValueError("the batch is empty")
    middle = (rows + 1) // 2
    parts = [batch[:middle], batch[middle:]] if rows > 1 else [batch]
    halves = [_Half(block(part)) for part in parts]
    try:
        for half in halves:
            half.advance()
        while not all(half.ended for half in halves):
            for half in halves:
                if not half.ended:
                    half.go_on()
    except BaseException:
        for half in halves:
            half.close()
            if not half.ended and half.waits is not None:
                half.waits.wait()  # it may still write into what belongs to the caller
        raise
    return join([half.result for half in halves]) if rows > 1 else halves[0].result
