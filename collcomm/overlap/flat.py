"""An array or tensor in one row."""

from __future__ import annotations

from typing import Any


def in_a_row(x: Any) -> Any:
    """All of ``x``, without a copy. Raises ValueError when it is not contiguous."""
    flags = getattr(x, "flags", None)
    contiguous = x.is_contiguous() if hasattr(x, "is_contiguous") else bool(flags is not None and flags.c_contiguous)
    if not contiguous:
        raise ValueError("x must be a contiguous array or tensor: chunks of it are filled, and reduced in place")
    return x.reshape(-1)


def itemsize_of(x: Any) -> int:
    """Bytes of an element."""
    return int(x.element_size() if hasattr(x, "element_size") else x.itemsize)
