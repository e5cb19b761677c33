"""Many parameter arrays seen as one vector, so that a round needs one collective and one hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class FlatParameters:
    """The layout of named arrays in one vector: sorted by name, each in C order.

    The arrays stay where they are and keep their dtypes; the vector has ``dtype``, float32 or wider, so that
    half-precision parameters have their exact values in it.

    :raises ValueError: no parameters, or one that is read-only.
    :raises TypeError: one that is no numpy array (a CPU torch tensor is ``tensor.detach().numpy()``, which shares its
        memory) or not of a real floating dtype.
    """

    def __init__(self, arrays: Mapping[str, Array]):
        if not arrays:
            raise ValueError("there are no parameters")
        for name, array in arrays.items():
            _check(name, array)
        self._arrays = {name: arrays[name] for name in sorted(arrays)}
        self.size = sum(array.size for array in self._arrays.values())
        self.dtype: np.dtype[Any] = np.result_type(np.float32, *(array.dtype for array in self._arrays.values()))

    @property
    def fingerprint(self) -> int:
        """63 bits of a hash over names, shapes and dtypes: equal for peers whose vectors mean the same."""
        layout = ";".join(f"{name}:{array.dtype}{array.shape}" for name, array in self._arrays.items())
        return int.from_bytes(hashlib.sha256(layout.encode()).digest()[:8], "little") >> 1

    def read(self, out: Array) -> None:
        """Copy the parameters into the vector ``out``."""
        for array, part in self._parts(out):
            np.copyto(part, array)

    def write(self, vector: Array) -> None:
        """Copy ``vector`` into the parameters."""
        for array, part in self._parts(vector):
            np.copyto(array, part, casting="same_kind")

    def drift_from(self, anchor: Array, out: Array) -> None:
        """``out = anchor - parameters``: the pseudo-gradient of the steps that led from ``anchor`` to here."""
        for (array, part), (_, base) in zip(self._parts(out), self._parts(anchor), strict=True):
            np.subtract(base, array, out=part, dtype=self.dtype)

    def _parts(self, vector: Array) -> Iterator[tuple[Array, Array]]:
        """Each array with the piece of ``vector`` that stands for it, in its shape."""
        first = 0
        for array in self._arrays.values():
            yield array, vector[first : first + array.size].reshape(array.shape)
            first += array.size


def _check(name: str, array: Array) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"parameter {name!r} is a {type(array).__name__}, not a numpy array; "
            "a CPU torch tensor is tensor.detach().numpy(), over the same memory"
        )
    real = np.can_cast(array.dtype, np.float64, "safe") and not np.can_cast(array.dtype, np.int64, "same_kind")
    if not real or np.dtype(array.dtype).itemsize > 8:
        raise TypeError(f"parameter {name!r} has dtype {array.dtype}; an outer step needs a real floating dtype")
    if not array.flags.writeable:
        raise ValueError(f"parameter {name!r} is read-only; rounds write the result back into it")
