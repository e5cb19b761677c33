"""Local-update training: DiLoCo rounds over a group whose members come and go. numpy only; see `rounds`."""

from __future__ import annotations

from .flat import FlatParameters
from .outer import NesterovSGD
from .rounds import DiLoCo, Group, RoundReport

__all__ = ["DiLoCo", "FlatParameters", "Group", "NesterovSGD", "RoundReport"]
