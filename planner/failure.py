"""What fails while a collective is simulated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """At ``at`` seconds all ``resources`` (by number) stop carrying bytes and all ``ranks`` stop; ``what``: in words."""

    at: float
    what: str
    resources: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
