"""numpy's arrays on a real GPU, and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from collcomm.transports.cuda_ipc import find_device

from .ondevice import OnDevice

UNKNOWN = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))  # to cupy


def why_no_gpu() -> str:
    """Why there is no GPU to test on; "" when there is."""
    try:
        find_device()
    except Exception as error:
        return str(error)
    return ""


def on_gpu(comm: Any) -> OnDevice:
    import cupy

    def put(array: Any) -> Any:
        if array.dtype in UNKNOWN or not array.flags.writeable:
            return array
        return cupy.asarray(array)

    return OnDevice(comm, put, cupy.asnumpy)
