"""Low-communication training over a group whose members come and go. numpy only.

`DiLoCo` is the outer half of a loop that its user writes, round by round (`rounds`, `uneven`). `Training` and `AsyncTraining`
drive any of the methods step by step: `LocalSGD`, `SynchronousDiLoCo`, `OneStepDelayedDiLoCo`, `EagerDiLoCo`, `CO2`,
`StreamingDiLoCo`. `Gossip` averages in pairs, and `CodedSum` adds gradients without waiting for stragglers.
"""

from __future__ import annotations

from .co2 import CO2
from .course import OutOfStep
from .flat import FlatParameters
from .fragments import strided_fragments
from .loops import TrainingReport
from .method import Await, Launch, Method
from .outer import NesterovSGD
from .rounds import DiLoCo, Group, RoundReport
from .streaming import StreamingDiLoCo
from .training import AsyncTraining, Training
from .uneven import UnevenSteps
from .whole import EagerDiLoCo, LocalSGD, OneStepDelayedDiLoCo, SynchronousDiLoCo

__all__ = [
    "CO2",
    "AsyncTraining",
    "Await",
    "DiLoCo",
    "EagerDiLoCo",
    "FlatParameters",
    "Group",
    "Launch",
    "LocalSGD",
    "Method",
    "NesterovSGD",
    "OneStepDelayedDiLoCo",
    "OutOfStep",
    "RoundReport",
    "StreamingDiLoCo",
    "SynchronousDiLoCo",
    "Training",
    "TrainingReport",
    "UnevenSteps",
    "strided_fragments",
]
