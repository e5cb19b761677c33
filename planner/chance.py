"""Numbers that look random and are the same on every machine: the generator SplitMix64 (Steele, Lea and Flood 2014).

What ranks compute for themselves and must agree on is drawn from here, by a seed that all have.
"""

from __future__ import annotations

_WORD = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


class SplitMix64:
    """``seed``: any integer."""

    def __init__(self, seed: int):
        self._state = seed & _WORD

    def below(self, limit: int) -> int:
        """An integer from 0 to ``limit - 1``."""
        self._state = (self._state + _STEP) & _WORD
        return (mixed(self._state) * limit) >> 64

    def shuffled(self, n: int) -> list[int]:
        """The numbers from 0 to ``n - 1``, in any order."""
        order = list(range(n))
        for last in range(n - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def mixed(word: int) -> int:
    """64 bits that depend on all of the lower 64 of ``word``, one to one."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def chance(seed: int, number: int) -> float:
    """Draw ``number`` of ``seed``: at least 0 and less than 1, the same everywhere for the same arguments."""
    return (mixed(seed * _STEP + (number + 1) * 0xD1342543DE82EF95) >> 11) / (1 << 53)
