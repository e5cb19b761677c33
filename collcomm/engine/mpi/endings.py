"""Failures that cannot be settled, in words: the communicator ends with them."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import CollcommError, CollectiveTimeout, PeerLost


class Expired(Exception):
    """The operation's time is up."""


def ending(text: str, trouble: Exception, survives: bool, slow: Sequence[str]) -> CollcommError:
    """``text``: the call in words; ``slow``: who has not come, as far as is known; ``survives``: under ULFM."""
    if isinstance(trouble, Expired):
        who = f": {', '.join(slow)} had not called it" if slow else ""
        why = "the others did not settle it" if survives else "MPI cannot take back a collective (with ULFM it can)"
        return CollectiveTimeout(f"{text}: not finished in time{who}; {why}: this communicator is closed")
    advice = "" if survives else "; this job does not survive deaths, start it with `mpirun --with-ft ulfm`"
    return PeerLost(f"{text}: {trouble}{advice}; this communicator is closed")
