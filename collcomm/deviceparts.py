"""As `parts`, for arrays on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .devicearrays import DeviceArray, array_of
from .transports.device import Device

_BYTE = np.dtype(np.uint8)


class DeviceParts(DeviceArray):
    """As `HostParts`. ``gives``: it is an input, so that the arrays are gathered in one row when this is made."""

    def __init__(self, values: Sequence[Any], what: str, size: int, device: Device | None, gives: bool):
        if len(values) != size:
            raise ValueError(f"{what} has {len(values)} arrays; give one for each of the {size} ranks, or None")
        self.value: Any = values
        self.original = None
        self.dtype, self.is_copy = _BYTE, True
        self._arrays = [self._array(value, f"{what}[{rank}]", device) for rank, value in enumerate(values)]
        self.device = next(array.device for array in self._arrays if array is not None)
        self.sizes = tuple(0 if array is None else array.flat.nbytes for array in self._arrays)
        self.flat = self._memory = self.device.empty(sum(self.sizes), _BYTE)
        self.shape = self.flat.shape
        if gives:
            for rank, place in self._places(range(size)):
                array = self._arrays[rank]
                assert array is not None
                self.device.follow(array.ready)
                self.device.copy(place, array.flat.view(_BYTE))
        self.ready = self.device.mark()

    @staticmethod
    def _array(value: Any, what: str, device: Device | None) -> DeviceArray | None:
        if value is None:
            return None
        array = array_of(value, what, device)
        if not isinstance(array, DeviceArray):
            raise TypeError(f"{what} lies in host memory, others of the list on the device: give arrays of one kind")
        return array

    def _places(self, ranks: Sequence[int]) -> list[tuple[int, Any]]:
        """Where the bytes of these ranks lie, one behind the other; of those who have any."""
        places, start = [], 0
        for rank in ranks:
            if self.sizes[rank]:
                places.append((rank, self._memory[start : start + self.sizes[rank]]))
                start += self.sizes[rank]
        return places

    def require_writable(self, what: str) -> None:
        for array in self._arrays:
            if array is not None:
                array.require_writable(what)

    def part_from(self, target: DeviceArray) -> None:
        """The input was copied when this was made."""

    def write_back(self, ranks: Sequence[int]) -> None:
        for rank, place in self._places(ranks):
            array = self._arrays[rank]
            assert array is not None
            self.device.copy(array.flat.view(_BYTE), place)
            array.write_back(ranks)
        self.device.finish()

    def like(self, flat: Any, shape: tuple[int, ...]) -> Any:
        return self.value
