"""One peer's place in a group: who is here, what was done, and leaving."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from typing import Any, Self

import numpy as np

from .engine import AnyGroup, AnySession
from .pointtopoint import PointToPoint
from .types import View

LEAVE_SECONDS = 5.0
HEARING_SECONDS = 0.001  # between two looks whether a view has come; it takes about one on a LAN


class Participant:
    """What a communicator is besides its collectives."""

    def __init__(self, session: AnySession, group: AnyGroup, name: str, op_timeout: float):
        self._session = session
        self._group = group
        self._timeout = op_timeout
        self._point = PointToPoint(session, group)
        self.name = name

    @property
    def view(self) -> View:
        """The membership in which the last call ran."""
        return self._group.view

    @property
    def latest(self) -> View:
        """The membership as this peer has last heard of it: the next call runs in it, or in a later one."""
        return self._group.progress.view

    @property
    def rank(self) -> int:
        """This peer's position in ``view``, 0 to size - 1."""
        rank = self._group.view.rank_of(self._session.member)
        assert rank is not None
        return rank

    @property
    def size(self) -> int:
        return self._group.view.size

    @property
    def gid(self) -> int:
        """The number of this communicator, in records: 0 for that of the whole group."""
        return self._group.gid

    @property
    def called(self) -> int:
        """The number of this communicator's last operation: the same at all members, at the same point of their programs."""
        return self._group.progress.called

    @property
    def pending(self) -> int:
        """Peers that wait to be admitted at the next ``step()``."""
        return self._session.agent.pending

    @property
    def closed(self) -> bool:
        return self._session.failure is not None

    def stats(self) -> dict[str, float]:
        """Since joining: bytes_sent and bytes_received (with headers, all communicators of this peer, over connections and
        through shared memory), operations, retries, seconds_lost (from the moment a failure was noticed to the end of
        the operation it hit)."""
        sent, received = self._session.traffic()
        group = self._group
        return {
            "bytes_sent": sent,
            "bytes_received": received,
            "operations": group.operations,
            "retries": group.retries,
            "seconds_lost": group.seconds_lost,
        }

    def compose(self, work: Callable[[], Any], text: str = "a call", async_op: bool = False) -> Any:
        """Run ``work()``, which makes any calls of this communicator, as one: nothing of another comes between them. Here and
        now where nothing is before it; with ``async_op`` behind a handle. ``text``: what errors call it."""
        return self._group.call(work, text, async_op)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.leave()
        else:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"rank {self.rank} of {self.size}, view {self.view.epoch}"
        return f"<{type(self).__name__} {self.name}: {state}>"

    def leave(self, timeout: float = LEAVE_SECONDS) -> None:
        """Leave the group in good order: the others go on without this peer, and know that it meant to go.

        Others who are in an operation meanwhile, or begin one before they hear of it, run it again over those who are left
        (``on_failure="raise"``: PeerLost). ``step(leaving=True)`` spares them that.
        """
        if self._group.gid:
            return
        if self._session.failure is None:
            self._session.agent.leave(self._session.clock.monotonic() + timeout)
        self.close()

    def resign(self, timeout: float = LEAVE_SECONDS) -> None:
        """Tell the coordinator that this peer goes: from any thread, whatever another thread is doing in the group. Nothing is
        closed; end the process next. For the others it is as if `leave` came in the middle of their operation. Ranks of an
        MPI job have nobody to tell: nothing happens."""
        if self._session.failure is None:
            self._session.agent.leave(self._session.clock.monotonic() + timeout)

    def await_without(self, members: Container[int], until: float) -> None:
        """Wait until this peer has heard of a view in which none of ``members`` (ids) is, or until ``until``, on the clock of
        the session. Ranks of an MPI job hear of views in operations only: they don't wait."""
        quiet = self._session.clock.condition(threading.Lock())
        while any(member in members for member in self.latest.ids) and self._session.clock.monotonic() < until:
            if self._session.failure is not None:
                raise self._session.failure
            with quiet:
                quiet.wait(HEARING_SECONDS)

    def close(self) -> None:
        """Close at once. The others will find out by themselves; prefer ``leave()``."""
        if self._group.gid == 0:
            self._session.close()
            self._point.close()
        else:
            self._point.close()  # a call of several operations may wait for a message
            self._session.release(self._group)

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self._timeout
        if not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
        return timeout

    def _root(self, root: int) -> int:
        if not isinstance(root, int | np.integer) or not 0 <= root < self.size:
            raise ValueError(f"root must be a rank from 0 to {self.size - 1}, not {root!r}")
        return int(root)
