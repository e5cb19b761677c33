"""Where an operation's arrays lie, and what copies and reduces them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = Any  # flat; sized, sliced, viewed as another dtype like numpy's


class Memory(Protocol):
    """The host's, or a device's: there, what is asked for is done in order, some time later (`transports.device`)."""

    def empty(self, count: int, dtype: np.dtype[Any]) -> Array: ...

    def concatenate(self, parts: Sequence[Array]) -> Array: ...

    def copy(self, target: Array, source: Array) -> None:
        """Bytes to as many bytes."""

    def reduce(self, ufunc: np.ufunc, dtype: np.dtype[Any], parts: Sequence[Array], target: Array) -> None:
        """``parts``, two or more, from left to right into ``target``, which may be one of the first two."""

    def divide(self, target: Array, divisor: int) -> None: ...


class HostMemory:
    """numpy arrays; all is done when the call returns."""

    def empty(self, count: int, dtype: np.dtype[Any]) -> Array:
        return np.empty(count, dtype)

    def concatenate(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts)

    def copy(self, target: Array, source: Array) -> None:
        target[:] = source

    def reduce(self, ufunc: np.ufunc, dtype: np.dtype[Any], parts: Sequence[Array], target: Array) -> None:
        result = target.view(dtype)
        ufunc(parts[0].view(dtype), parts[1].view(dtype), out=result)
        for part in parts[2:]:
            ufunc(result, part.view(dtype), out=result)

    def divide(self, target: Array, divisor: int) -> None:
        np.divide(target, target.dtype.type(divisor), out=target)


HOST = HostMemory()
