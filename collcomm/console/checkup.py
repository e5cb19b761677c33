"""What an examination finds, line by line, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from . import units


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  # could not be looked at, or is of interest only
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Line:
    """``advice``: what to do next, if anything; ``facts``: the figures, for programs: seconds, bytes, bytes per second."""

    what: str
    level: Level
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "what": self.what,
            "level": self.level.value,
            "text": self.text,
            "advice": self.advice or None,
            **self.facts,
        }


class Deadline:
    """Of a whole examination, ``seconds`` from now."""

    def __init__(self, seconds: float):
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._at - time.monotonic())

    @property
    def over(self) -> bool:
        return self.left <= 0.0

    def within(self, most: float) -> float:
        """What a step may take that would take ``most`` seconds; never nothing, so that a step says itself that it failed."""
        return max(0.05, min(most, self.left))


def worst(lines: Iterable[Line]) -> Level:
    order = list(Level)
    return max((line.level for line in lines), key=order.index, default=Level.OK)


def in_words(lines: Sequence[Line]) -> str:
    width = max((len(line.what) for line in lines), default=0)
    said = []
    for line in lines:
        said.append(f"{line.level.value:>7}  {line.what.ljust(width)}  {units.printable(line.text, 600)}")
        if line.advice:
            said.append(f"{'':7}  {'':{width}}  -> {line.advice}")
    return "\n".join(said)
