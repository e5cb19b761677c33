"""Low-communication training over a group whose members come and go. numpy only.

`DiLoCo` is the outer half of a loop that its user writes, round by round (`rounds`, `uneven`). `Training` and `AsyncTraining`
drive any of the methods step by step: `LocalSGD`, `SynchronousDiLoCo`, `OneStepDelayedDiLoCo`, `EagerDiLoCo`, `CO2`,
`StreamingDiLoCo`. `Gossip` averages in pairs, and `CodedSum` adds gradients without waiting for stragglers.
"""

from __future__ import annotations

from .co2 import CO2
from .codedsum import CodedSum
from .coding import Cyclic, FractionalRepetition, GradientCode
from .course import OutOfStep
from .flat import FlatParameters
from .fragments import strided_fragments
from .gossip import AsyncGossip, Gossip
from .loops import TrainingReport
from .method import Await, Launch, Method
from .outer import NesterovSGD
from .pairs import complete, ring
from .rounds import DiLoCo, Group, RoundReport
from .streaming import StreamingDiLoCo
from .training import AsyncTraining, Training
from .uneven import UnevenSteps
from .whole import EagerDiLoCo, LocalSGD, OneStepDelayedDiLoCo, SynchronousDiLoCo

__all__ = [
    "CO2",
    "AsyncGossip",
    "AsyncTraining",
    "Await",
    "CodedSum",
    "Cyclic",
    "DiLoCo",
    "EagerDiLoCo",
    "FlatParameters",
    "FractionalRepetition",
    "Gossip",
    "GradientCode",
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
    "complete",
    "ring",
    "strided_fragments",
]
