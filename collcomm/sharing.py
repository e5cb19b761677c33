"""sync: shared state, on a communicator of its own so that it neither waits for other collectives nor holds them up.

A sync begins with one dataless operation among the other collectives: it is their order that makes all members mean the same
sync, and the view in which that operation ran is where all of them begin. Everything after it (hashes, the vote, the
state itself) runs over the state's own communicator, with connections and a thread of its own. Whether a peer waits for it
or takes a handle is that peer's business alone.

The view may shrink meanwhile: the survivors go on with what they have. It does not grow: `step()` admits nobody while the
sync of any member still runs, since a newcomer could not say where in it to begin; its turn comes at the first step()
afterwards. ``comm.view`` stays what it was; the next collective or step() shows what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

from .engine import STATE_GID, WORLD_GID, AnyGroup, AnySession, Handle, Operation, request
from .state import Content, Standing, Synchroniser, SyncReport, as_revision
from .state.synchronise import Group as Members
from .types import View

POLL_SECONDS = 0.1


class Sharing:
    """``members(group)`` makes the communicator over a group."""

    def __init__(self, session: AnySession, group: AnyGroup, members: Callable[[AnyGroup], Members]):
        self._session = session
        self._group = group
        self._members = members
        self._standing = Standing()
        self._lane: AnyGroup | None = None
        self._comm: Members | None = None

    @property
    def busy(self) -> bool:
        """Whether a sync of this peer has not ended yet."""
        return self._lane is not None and not self._lane.queue.idle

    def sync(self, state: Mapping[str, Any], revision: int | None, async_op: bool, timeout: float) -> Any:
        content, number = Content(state), as_revision(revision)
        if self._session.failure is not None:
            raise self._session.failure
        group, session, lane = self._group, self._session, self._own_lane()  # there before anybody can use it
        begin = Operation(request("sync", np.dtype(np.uint8)), group.view, session.member, None, None)
        if async_op:
            begun = group.submit(begin, timeout, _conclude)
        else:
            group.run(begin, timeout)
            begun = None

        def work() -> SyncReport:
            if begun is not None:
                self._await(begun)
            return self._run(content, number, begin.view)

        return lane.call(work, "sync", async_op)

    def _await(self, begun: Handle) -> None:
        while not begun.wait(POLL_SECONDS):
            if self._session.failure is not None:
                raise self._session.failure
        begun.result()

    def _run(self, content: Content, revision: int, view: View) -> SyncReport:
        lane = self._own_lane()
        if self._comm is None:
            self._comm = self._members(lane)
        lane.show(view)
        return Synchroniser(self._comm, content, revision, self._standing).run()

    def _own_lane(self) -> AnyGroup:
        if self._lane is None:
            gid = self._group.gid
            if gid == WORLD_GID:
                self._lane = self._session.groups[STATE_GID]
            else:
                view = self._group.view
                self._lane = self._session.make_group(derived_gid(f"{gid}/state"), view.ids, view)
        return self._lane


def _conclude(_: Any, error: BaseException | None) -> None:
    """The view is not shown: the user has not taken any result."""
    if error is not None:
        raise error


def derived_gid(text: str) -> int:
    """The number of a communicator that all its members derive from ``text``."""
    number: int = xxhash.xxh32_intdigest(text.encode())
    return number if number > STATE_GID else number + 2
