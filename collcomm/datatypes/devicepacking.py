"""Packing wherever a device's memory is: by kernels on a GPU, by numpy for a device whose memory is the host's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .cuda import Packer
from .layout import Layout
from .packing import HostPacking


class HostPacker:
    """As `Packer`, with arrays of numpy; done when a call returns."""

    def pack(self, layout: Layout, strided: Any, packed: Any, origin: int = 0) -> None:
        HostPacking(layout, strided, origin).pack(packed)

    def unpack(self, layout: Layout, packed: Any, strided: Any, origin: int = 0) -> None:
        HostPacking(layout, strided, origin).unpack(packed)


@lru_cache(maxsize=64)
def packer_for(module: Any, stream: Any) -> Packer | HostPacker:
    """For arrays of ``module``, in the order of ``stream``."""
    return HostPacker() if module is np else Packer(module, stream)
