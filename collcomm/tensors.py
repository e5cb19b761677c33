"""torch's tensors as others see them. torch itself is never imported: a tensor brings its module with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

_HIDDEN = {  # dtypes that torch shows to nobody: what it shows of their bits, and what they are
    "torch.bfloat16": ("int16", np.dtype(ml_dtypes.bfloat16)),
    "torch.float8_e4m3fn": ("uint8", np.dtype(ml_dtypes.float8_e4m3fn)),
    "torch.float8_e5m2": ("uint8", np.dtype(ml_dtypes.float8_e5m2)),
}


def is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "data_ptr")


@lru_cache(maxsize=64)
def bits_of(dtype: Any) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """What numpy takes the bits of torch's ``dtype`` for, and what they are. Raises TypeError."""
    name = str(dtype)
    if name in _HIDDEN:
        bits, real = _HIDDEN[name]
        return np.dtype(bits), real
    try:
        plain = np.dtype(name.removeprefix("torch."))
    except TypeError:
        raise TypeError(f"tensors of {name} cannot be sent; view them as another dtype first") from None
    return plain, plain


def visible(tensor: Any) -> tuple[Any, np.dtype[Any] | None]:
    """The same memory as a tensor that others understand, and what its bits are if not what they then seem."""
    tensor = tensor.detach()
    hidden = _HIDDEN.get(str(tensor.dtype))
    if hidden is None:
        return tensor, None
    bits, dtype = hidden
    return tensor.view(getattr(sys.modules["torch"], bits)), dtype


def tensor_like(template: Any, array: Any, make: Callable[[Any], Any]) -> Any:
    """``array`` as a tensor of ``template``'s dtype; ``make`` makes one of an array of a dtype that others share."""
    hidden = _HIDDEN.get(str(template.dtype))
    return make(array) if hidden is None else make(array.view(hidden[0])).view(template.dtype)


def tensor_of(array: np.ndarray[Any, Any]) -> Any:
    """A tensor over the memory of ``array``; torch has been imported by somebody."""
    torch = sys.modules["torch"]
    for name, (bits, dtype) in _HIDDEN.items():
        if array.dtype == dtype:
            return torch.from_numpy(array.view(bits)).view(getattr(torch, name.removeprefix("torch.")))
    return torch.from_numpy(array)
