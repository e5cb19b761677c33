"""Bodies written for numpy, run on arrays of a device: what goes in is put there, what comes out is taken from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from collcomm.datatypes import TypedBuffer

from .lazydevice import lazy

COLLECTIVES = (
    *("all_reduce", "reduce", "reduce_scatter", "all_gather", "gather", "scatter", "all_to_all", "broadcast"),
    *("send", "recv"),
)


class OnDevice:
    """A communicator whose collectives get arrays on the device. Others than numpy's go through as they are.

    ``put``: numpy's array as the device's, or as it is where the device has none like it; ``take``: the other way round.
    """

    def __init__(self, comm: Any, put: Callable[[Any], Any] = lazy, take: Callable[[Any], Any] = np.asarray):
        self._comm, self._put, self._take = comm, put, take

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name not in COLLECTIVES:
            return found

        def call(*args: Any, **options: Any) -> Any:
            there: dict[int, tuple[Any, Any]] = {}

            def put(value: Any) -> Any:
                if type(value) is TypedBuffer:
                    return value.datatype.over(put(value.buffer), value.count, value.offset)
                if type(value) is list:
                    return [put(part) for part in value]
                if type(value) is not np.ndarray:
                    return value
                return there.setdefault(id(value), (value, self._put(value)))[1]

            result = found(*map(put, args), **{key: put(value) for key, value in options.items()})
            if options.get("async_op"):
                return result
            if type(options.get("out")) is list:
                for part in options["out"]:
                    if type(part) is np.ndarray:
                        part[...] = self._take(put(part))
                return options["out"]
            for given, array in there.values():
                if result is array and array is not given:
                    given[...] = self._take(array)
                    return given
            out = options.get("out")
            whole = out.buffer if type(out) is TypedBuffer else out
            if type(whole) is np.ndarray and put(whole) is not whole:
                whole[...] = self._take(put(whole))  # the result is a part of it, or at other ranks
            if type(result) is TypedBuffer:
                return out
            return self._take(result) if hasattr(result, "__cuda_array_interface__") else result

        return call

    def split(self, ranks: Any) -> Any:
        part = self._comm.split(ranks)
        return None if part is None else OnDevice(part, self._put, self._take)
