"""Low-communication training over a group whose members come and go, blocking or in asyncio.

    comm = collcomm.join("host:48148", min_size=4)
    method = CO2({name: p.detach().numpy() for name, p in model.named_parameters()}, every=48)
    training = Training(comm, method)
    training.sync()                      # founders and newcomers alike; a newcomer gets the group's state here
    while training.steps < total:
        ...                              # one inner step on the parameters
        training.step()                  # launches and applies what is due; admits newcomers
    training.finish()                    # what is in flight is applied; all members hold the same bits

`AsyncTraining` is the same with ``await`` before each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .course import Course
from .flat import Array
from .loops import AsyncFace, AwaitingLoop, BlockingLoop, SyncFace
from .method import Method


class Training(BlockingLoop):
    """Drives ``method`` over ``comm``.

    A peer that dies is dropped: what was in flight is averaged over the survivors, at all of them alike. After an error
    that `step` or `finish` raises, this peer cannot go on; it leaves and joins anew.

    :param comm: the communicator. All members make the same calls of it; between two steps others may be added (an
        evaluation), but they wait for what is in flight.
    :param codec: of the buckets, as ``comm.all_reduce`` takes it; None sends them as they are.
    :param extra: more arrays that newcomers get from the group in `sync`, written in place.
    :param timeout: seconds for each reduction, from its launch; the communicator's ``op_timeout`` if None.
    :param meet_every: inner steps after which the members call ``comm.step()`` and sync although nobody waits, which takes a
        better plan of the traffic into use; what is in flight is waited for there. All members give the same. None: when
        somebody waits only. ``comm.step()`` is not to be called beside it.
    """

    def __init__(
        self,
        comm: SyncFace,
        method: Method,
        codec: Any = None,
        extra: Mapping[str, Array] | None = None,
        timeout: float | None = None,
        meet_every: int | None = None,
    ):
        super().__init__(Course(comm, method, codec, extra, timeout, meet_every), comm)
        self.method = method


class AsyncTraining(AwaitingLoop):
    """As `Training`, over a `collcomm.aio.AsyncCommunicator`."""

    def __init__(
        self,
        comm: AsyncFace,
        method: Method,
        codec: Any = None,
        extra: Mapping[str, Array] | None = None,
        timeout: float | None = None,
        meet_every: int | None = None,
    ):
        super().__init__(Course(comm.sync_face, method, codec, extra, timeout, meet_every), comm)
        self.method = method
