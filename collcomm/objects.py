"""Objects as bytes: msgpack, or pickle where the caller asks for it."""

from __future__ import annotations

import pickle as pickling
from typing import Any

import msgpack
import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def encode(value: Any, pickle: bool) -> Bytes:
    """``value`` as an array of bytes. Raises TypeError for what msgpack cannot hold."""
    if pickle:
        return np.frombuffer(pickling.dumps(value), np.uint8)
    try:
        return np.frombuffer(msgpack.packb(value), np.uint8)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{error}; msgpack cannot hold this object, pickle=True can") from None


def decode(data: Bytes, pickle: bool) -> Any:
    if pickle:
        return pickling.loads(data.tobytes())
    return msgpack.unpackb(data.tobytes(), strict_map_key=False)
