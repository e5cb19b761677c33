"""collcomm: collective communication over a membership that changes.

`join` a group and use its `Communicator`; `Coordinator` is the rendezvous that decides who is in the group.
"""

from __future__ import annotations

# In a source tree transports/ and planner/ stand beside this package; an installed one has them inside. Make
# `collcomm.transports` and `collcomm.planner` importable from an uninstalled checkout as well.
from pathlib import Path as _Path

_package = _Path(__file__).resolve().parent
if not (_package / "transports").is_dir() and (_package.parent / "transports").is_dir():
    __path__.append(str(_package.parent))
del _package

from . import aio, datatypes
from .communicator import Communicator
from .engine import Handle
from .errors import (
    AuthenticationFailed,
    CollcommError,
    CollectiveMismatch,
    CollectiveTimeout,
    CommunicatorClosed,
    CoordinatorUnavailable,
    CorruptionDetected,
    EpilogueFailed,
    JoinRejected,
    PeerLost,
    StateDiverged,
    UnsupportedTransport,
    ViewChanged,
)
from .joining import join
from .preemption import Preemption, on_preemption
from .rendezvous import Coordinator
from .types import Member, View
from .version import __version__ as __version__

__all__ = [
    "AuthenticationFailed",
    "CollcommError",
    "CollectiveMismatch",
    "CollectiveTimeout",
    "Communicator",
    "CommunicatorClosed",
    "Coordinator",
    "CoordinatorUnavailable",
    "CorruptionDetected",
    "EpilogueFailed",
    "Handle",
    "JoinRejected",
    "Member",
    "PeerLost",
    "Preemption",
    "StateDiverged",
    "UnsupportedTransport",
    "View",
    "ViewChanged",
    "aio",
    "datatypes",
    "join",
    "on_preemption",
]
