"""Gradients packed into buckets, each of which is reduced as soon as it is full, while the rest is still computed (PyTorch DDP:
Li et al., 2020). What is computed last, and so needed first in the next step, goes first (P3: Jayarajan et al., 2019)."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..errors import CollcommError, CollectiveTimeout
from ..tensors import is_tensor
from .flat import itemsize_of
from .priorities import PriorityHandle, PriorityScheduler, Whole

BUCKET_BYTES = 4 << 20
PATIENCE_SECONDS = 5.0
MOST_NAMED = 8  # in an error


class Members(Whole, Protocol):
    """What this needs of a `Communicator`."""

    def broadcast_object(self, value: Any = ..., root: int = ...) -> Any: ...


class _Bucket:
    """``flat``: the gradients ``names``, one behind the other; ``missing``: those of them that are not ready."""

    def __init__(self, flat: Any, names: list[str]):
        self.flat, self.names = flat, names
        self.missing = set(names)
        self.handle: PriorityHandle | None = None


class Buckets:
    """``gradients``: by name, arrays or tensors of the shapes and dtypes of the gradients (parameters will do); the same at all
    members. A gradient is written into ``buckets[name]``, and told to be `ready`; at the end of a step all call `finish`. In the
    first step buckets are filled from the last name to the first; then in the order in which gradients got ready at rank 0.

    ``op``, ``codec``: of all_reduce. ``patience``: seconds for which `finish` waits for gradients that are not ready.
    ``unused``: what is not ready by then is an "error", or, at once, "zero", as it is in the buckets. ``scheduler``: reduces;
    by default one of its own. All members make these at the same point. Raises ValueError.
    """

    def __init__(
        self,
        comm: Members,
        gradients: Mapping[str, Any],
        *,
        bucket_bytes: int = BUCKET_BYTES,
        op: str = "avg",
        codec: Any = None,
        patience: float = PATIENCE_SECONDS,
        unused: str = "error",
        scheduler: PriorityScheduler | None = None,
    ):
        if not gradients:
            raise ValueError("there are no gradients")
        if bucket_bytes < 1 or not patience >= 0:
            raise ValueError("bucket_bytes must be positive, and patience a number of seconds")
        if unused not in ("error", "zero"):
            raise ValueError(f'unused is "error" or "zero", not {unused!r}')
        self._comm = comm
        self._like = dict(gradients)
        self._bucket_bytes = bucket_bytes
        self._options = {"op": op, "codec": codec}
        self._patience, self._unused = patience, unused
        self._changed = threading.Condition()
        self._order: list[str] = []  # in which gradients got ready, in this step
        self._next = 0  # bucket, to be reduced
        self._pack(list(reversed(self._like)))
        self._settled = False  # whether buckets are in the order in which they get ready
        self._owned = scheduler is None
        self._scheduler = scheduler or PriorityScheduler(comm)

    def __getitem__(self, name: str) -> Any:
        """Where the gradient of that name is to be written: a view of its bucket. After the first `finish`, it is another."""
        return self._views[name]

    def zero(self) -> None:
        """All gradients are 0 from now on, in place."""
        for bucket in self._buckets:
            bucket.flat[:] = 0

    def ready(self, name: str) -> None:
        """The gradient is there; hands off until `finish`. From any thread. Raises KeyError, and ValueError when it was ready
        before in this step, and what the scheduler raises."""
        place = self._places[name]
        with self._changed:
            bucket = self._buckets[place]
            if name not in bucket.missing:
                raise ValueError(f"the gradient of {name!r} was ready before in this step")
            bucket.missing.remove(name)
            self._order.append(name)
            self._launch()
            self._changed.notify_all()

    def wait(self, name: str, timeout: float | None = None) -> None:
        """Until the gradient of that name, which is ready, has been reduced. Raises what `PriorityHandle.result` raises."""
        place = self._places[name]
        with self._changed:
            launched = self._changed.wait_for(lambda: self._buckets[place].handle is not None, timeout)
            handle = self._buckets[place].handle
        if not launched or handle is None:
            raise CollectiveTimeout(f"the bucket of {name!r} was not full, or one before it, within {timeout} s")
        handle.result(timeout)

    def finish(self, timeout: float | None = None) -> dict[str, Any]:
        """All gradients, reduced; a new step begins. Every member calls it.

        Raises CollectiveTimeout when gradients have not come within the patience, which it names; the others then get a
        CollcommError that says so. Then, as when an operation fails, what is in the buckets is not to be used; a later step goes
        on with whoever is there."""
        missing = self._await_gradients()
        if self._unused == "zero":
            for name in missing:
                self.ready(name)
        elif missing:
            self._give_up()
        order = self._order
        try:
            for bucket in self._buckets:
                assert bucket.handle is not None
                bucket.handle.result(timeout)
        except CancelledError:
            if missing and self._unused == "error":
                raise CollectiveTimeout(self._lost(missing)) from None
            raise CollcommError(
                f"a member has given up the bucket of {_some(bucket.names)}: a gradient did not come there, which its error names"
            ) from None
        finally:
            self._begin()
        if not self._settled:
            self._settle(order)
        return dict(self._views)

    def close(self) -> None:
        """End the scheduler, if it is its own. Close it before ``comm``."""
        if self._owned:
            self._scheduler.close()

    def __enter__(self) -> Buckets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- steps ----------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Reduce what is full, in the order that is the same at all members."""
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            bucket = self._buckets[self._next]
            bucket.handle = self._scheduler.all_reduce(bucket.flat, priority=-self._next, **self._options)
            self._next += 1

    def _await_gradients(self) -> list[str]:
        """Those that have not come, in the order of the buckets."""

        def missing() -> list[str]:
            return [name for bucket in self._buckets for name in bucket.names if name in bucket.missing]

        with self._changed:
            if self._unused == "error":
                self._changed.wait_for(lambda: not missing(), self._patience)
            return missing()

    def _give_up(self) -> None:
        """Of the buckets that lack something, and those behind, members know that nothing comes of them."""
        with self._changed:
            first = self._next
            for bucket in self._buckets[first:]:
                bucket.missing.clear()
            self._launch()
            for bucket in self._buckets[first:]:
                assert bucket.handle is not None
                bucket.handle.cancel()

    def _lost(self, missing: list[str]) -> str:
        bucket = self._places[missing[0]]
        return (
            f"no gradient of {_some(missing)} within {self._patience:g} s, so bucket {bucket} was not full; where a step does "
            f'not use all parameters, pass unused="zero"'
        )

    def _begin(self) -> None:
        """A new step."""
        with self._changed:
            self._next = 0
            self._order = []
            for bucket in self._buckets:
                if bucket.handle is not None:
                    bucket.handle.wait()  # it may still write
                bucket.missing, bucket.handle = set(bucket.names), None

    # -- layout ---------------------------------------------------------------------------------------------------------

    def _settle(self, order: list[str]) -> None:
        """Buckets in the ``order`` in which gradients got ready, as rank 0 has it."""
        order = self._comm.broadcast_object(order)
        if sorted(order) != sorted(self._like):
            raise ValueError(f"rank 0 has other gradients than this member, like {_some(set(order) ^ set(self._like))}")
        before = self._views
        self._pack(order)
        for name, view in self._views.items():
            view[...] = before[name]
        self._settled = True

    def _pack(self, order: list[str]) -> None:
        """As many, in ``order``, as are of one dtype and fit into a bucket; at least one."""
        self._buckets: list[_Bucket] = []
        self._places: dict[str, int] = {}  # in which bucket a gradient is
        self._views: dict[str, Any] = {}
        names: list[str] = []
        elements = 0  # of these
        for name in order:
            like = self._like[name]
            more = elements + _elements(like)
            if names and (self._like[names[0]].dtype != like.dtype or more * itemsize_of(like) > self._bucket_bytes):
                self._add(names, elements)
                names, more = [], _elements(like)
            names.append(name)
            elements = more
        self._add(names, elements)

    def _add(self, names: list[str], elements: int) -> None:
        flat, start = _zeros(self._like[names[0]], elements), 0
        for name in names:
            like, stop = self._like[name], start + _elements(self._like[name])
            self._places[name] = len(self._buckets)
            self._views[name] = flat[start:stop].reshape(tuple(like.shape))
            start = stop
        self._buckets.append(_Bucket(flat, names))


def _elements(like: Any) -> int:
    return math.prod(like.shape)


def _zeros(like: Any, elements: int) -> Any:
    """A row of zeros where ``like`` lies."""
    return like.detach().new_zeros(elements) if is_tensor(like) else np.zeros(elements, like.dtype)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(map(repr, listed[:MOST_NAMED])) + more
