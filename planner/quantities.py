"""Rates and times as people write them: "1 Gbit/s", "40 Mbit/s", "20 ms"."""

from __future__ import annotations

import re

_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*"
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
MOST_RATE = 1e15  # bytes/s
MOST_SECONDS = 1e6


def parse_rate(text: object) -> float:
    """Bytes/s. Raises ValueError."""
    match = re.fullmatch(_NUMBER + r"(Ki|Mi|Gi|k|M|G|T|)(bit|B)/s\s*", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a rate; write it like '1 Gbit/s', '40 Mbit/s' or '8 GB/s'")
    rate = float(match[1]) * _SCALES[match[2]] / (8 if match[3] == "bit" else 1)
    if not 0 < rate <= MOST_RATE:
        raise ValueError(f"a rate is above 0 and at most {MOST_RATE:g} bytes/s, not {text!r}")
    return rate


def parse_time(text: object) -> float:
    """Seconds. Raises ValueError."""
    match = re.fullmatch(_NUMBER + r"(s|ms|us|µs|ns)\s*", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a time; write it like '20 ms', '50 us' or '1.5 s'")
    seconds = float(match[1]) * _TIMES[match[2]]
    if not seconds <= MOST_SECONDS:
        raise ValueError(f"a time is at most {MOST_SECONDS:g} s, not {text!r}")
    return seconds


def format_rate(rate: float) -> str:
    """In bits, as networks are sold."""
    bits = rate * 8
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if bits >= scale:
            return f"{bits / scale:.3g} {letter}bit/s"
    return f"{bits:.3g} bit/s"
