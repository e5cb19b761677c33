"""Local-update training: DiLoCo rounds over a group whose members come and go. numpy only; see `rounds` and `uneven`."""

from __future__ import annotations

from .flat import FlatParameters
from .outer import NesterovSGD
from .rounds import DiLoCo, Group, RoundReport
from .uneven import UnevenSteps

__all__ = ["DiLoCo", "FlatParameters", "Group", "NesterovSGD", "RoundReport", "UnevenSteps"]
