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

from .communicator import Communicator  # noqa: E402
from .engine import Handle  # noqa: E402
from .errors import (  # noqa: E402
    AuthenticationFailed,
    CollcommError,
    CollectiveMismatch,
    CollectiveTimeout,
    CommunicatorClosed,
    CoordinatorUnavailable,
    JoinRejected,
    PeerLost,
    StateDiverged,
    UnsupportedTransport,
    ViewChanged,
)
from .joining import join  # noqa: E402
from .membership import Coordinator  # noqa: E402
from .types import Member, View  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "AuthenticationFailed",
    "CollcommError",
    "CollectiveMismatch",
    "CollectiveTimeout",
    "Communicator",
    "CommunicatorClosed",
    "Coordinator",
    "CoordinatorUnavailable",
    "Handle",
    "JoinRejected",
    "Member",
    "PeerLost",
    "StateDiverged",
    "UnsupportedTransport",
    "View",
    "ViewChanged",
    "join",
]
