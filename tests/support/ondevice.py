"""Bodies written for numpy, run on arrays of a `LazyDevice`: what goes in is put there, what comes out is taken from there."""

from __future__ import annotations

from typing import Any

import numpy as np

from .lazydevice import LazyArray, lazy

COLLECTIVES = (
    "all_reduce",
    "reduce",
    "reduce_scatter",
    "all_gather",
    "gather",
    "scatter",
    "all_to_all",
    "broadcast",
    "send",
    "recv",
)


class OnDevice:
    """A communicator whose collectives get arrays on the device. Others than numpy's go through as they are."""

    def __init__(self, comm: Any):
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        if name not in COLLECTIVES:
            return getattr(self._comm, name)

        def call(*args: Any, **options: Any) -> Any:
            there: dict[int, tuple[Any, LazyArray]] = {}
            put = [_put(value, there) for value in args]
            put_options = {key: _put(value, there) for key, value in options.items() if key in ("x", "out")}
            result = getattr(self._comm, name)(*put, **{**options, **put_options})
            if options.get("async_op"):
                return result
            for given, array in there.values():
                if result is array:
                    given[...] = np.asarray(array)
                    return given
            _take(name, put_options, there)
            return np.asarray(result) if isinstance(result, LazyArray) else result

        return call

    def split(self, ranks: Any) -> Any:
        part = self._comm.split(ranks)
        return None if part is None else OnDevice(part)


def _put(value: Any, there: dict[int, tuple[Any, LazyArray]]) -> Any:
    if type(value) is not np.ndarray:
        return value
    if id(value) not in there:
        there[id(value)] = value, lazy(value)
    return there[id(value)][1]


def _take(name: str, options: dict[str, Any], there: dict[int, tuple[Any, LazyArray]]) -> None:
    """A result that filled only a part of ``out``, or that other ranks got."""
    for given, array in there.values():
        if array is options.get("out"):
            given[...] = np.asarray(array)
