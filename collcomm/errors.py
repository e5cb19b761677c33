"""Every error that collcomm raises on purpose: who, what, and what to do next."""

from __future__ import annotations


class CollcommError(Exception):
    """Base class of all errors of this library."""


class PeerLost(CollcommError):
    """A peer that the operation needs has died, was evicted, or left.

    Raised where a retry over the survivors is impossible (the root of a broadcast is gone) or not wanted
    (``on_failure="raise"``). The caller's input is intact.
    """


class ViewChanged(CollcommError):
    """The group went on without this peer, or into a view in which the call has no meaning."""


class CollectiveMismatch(CollcommError):
    """Peers called a collective with different kind, op, dtype or size. Every peer gets it; the odd one is named."""


class EpilogueFailed(CollcommError):
    """The function within a fused all_reduce raised at another rank, which is named; there, its own error is raised. Inputs
    are intact."""


class CollectiveTimeout(CollcommError, TimeoutError):
    """An operation did not finish within its deadline; every peer of the group gets it, inputs are intact."""


class JoinRejected(CollcommError):
    """The coordinator answered, and refused: duplicate name, another version, other group options."""


class AuthenticationFailed(CollcommError):
    """A peer or coordinator could not prove that it belongs to the run."""


class CoordinatorUnavailable(CollcommError):
    """The coordinator did not answer in time, and the operation cannot go on without it."""


class StateDiverged(CollcommError):
    """Shared state differs among peers and no majority holds the same content."""


class UnsupportedTransport(CollcommError):
    """No transport that both ends have can move this data."""


class CommunicatorClosed(CollcommError):
    """The communicator was closed or has left its group."""


class CorruptionDetected(CollcommError):
    """A checked collective has a wrong result: every peer gets this, naming whose memory or arithmetic was wrong.
    ``corruption`` is the same for programs (`collcomm.health.corruption.Corruption`)."""

    def __init__(self, text: str, corruption: object = None):
        super().__init__(text)
        self.corruption = corruption
