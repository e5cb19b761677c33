"""Seconds, bytes and rates as people read them; "-" for what is not known."""

from __future__ import annotations

import time

UNKNOWN = "-"


def seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size < 1e-3:
        return f"{value * 1e6:.0f} us"
    if size < 1:
        return f"{value * 1e3:.3g} ms"
    if size < 60:
        return f"{value:.3g} s"
    if size < 3600:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if size < 48 * 3600 else f"{value / 86400:.1f} d"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def rate(value: float | None) -> str:
    """Bytes per second, in powers of ten as networks are sold."""
    if value is None:
        return UNKNOWN
    for unit in ("B/s", "kB/s", "MB/s"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB/s"


def number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def clock(at: float) -> str:
    """Local time of day, of seconds since 1970."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def printable(text: str, most: int = 200) -> str:
    """``text`` from somebody else, fit for a terminal: no control characters, and not too long."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return clean if len(clean) <= most else clean[: most - 3] + "..."
