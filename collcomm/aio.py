"""The asyncio face: the same communicator, awaitable, without ever blocking the event loop.

    comm = await collcomm.aio.join("host:48148")
    async for view in comm.steps():
        mean = await comm.all_reduce(gradient, op="avg")

Collectives run on the communicator's engine thread in the order of their calls. Cancelling an await stops the waiting, not
the operation: the other members count on this one, so it goes on to its end (its arrays belong to it until then), its result
is dropped, and the group stays usable.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from . import joining
from .codedcalls import AnyCodec
from .communicator import Communicator
from .datatypes import Datatype
from .overlap.fused import Epilogue
from .types import View

T = TypeVar("T")


async def join(coordinator: str | None = None, **options: Any) -> AsyncCommunicator:
    """Join a group; takes the arguments of `collcomm.join` and raises its errors.

    Cancelled, the joining is given up in the background as soon as the coordinator answers or ``timeout`` is over.
    """
    lane = ThreadPoolExecutor(1, thread_name_prefix="collcomm-aio")
    joined = lane.submit(functools.partial(joining.join, coordinator, **options))
    try:
        comm = await asyncio.wrap_future(joined)
    except BaseException:
        joined.add_done_callback(_close_if_joined)
        lane.shutdown(wait=False)
        raise
    return AsyncCommunicator(comm, lane)


def _close_if_joined(joined: Any) -> None:
    if not joined.cancelled() and joined.exception() is None:
        joined.result().close()


class AsyncCommunicator:
    """Wraps a `Communicator`; see there for what each call does, takes and raises."""

    def __init__(self, comm: Communicator, lane: ThreadPoolExecutor | None = None):
        self._comm = comm
        # calls that consist of several collectives run here one after the other, each collective in this thread
        self._lane = lane or ThreadPoolExecutor(1, thread_name_prefix="collcomm-aio")

    @property
    def sync_face(self) -> Communicator:
        """The communicator underneath."""
        return self._comm

    @property
    def view(self) -> View:
        return self._comm.view

    @property
    def rank(self) -> int:
        return self._comm.rank

    @property
    def size(self) -> int:
        return self._comm.size

    @property
    def pending(self) -> int:
        return self._comm.pending

    @property
    def closed(self) -> bool:
        return self._comm.closed

    def stats(self) -> dict[str, float]:
        return self._comm.stats()

    async def __aenter__(self) -> AsyncCommunicator:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.leave()
        else:
            await self.close()

    # -- membership -------------------------------------------------------------------------------------------------

    async def step(self, timeout: float | None = None, leaving: bool = False) -> View:
        view = await self._composite(self._comm.step, timeout, leaving)
        if self.closed:
            self._lane.shutdown(wait=False)
        return view

    async def steps(self, leaving: object = False) -> AsyncIterator[View]:
        """A `step` per turn of the loop; the view is the one that the turn's calls run in. The loop ends once this peer has left,
        which it does when ``leaving`` is true: what `collcomm.on_preemption` gives."""
        while True:
            view = await self.step(leaving=bool(leaving))
            if self.closed:
                return
            yield view

    async def split(self, ranks: Sequence[int]) -> AsyncCommunicator | None:
        part = await self._composite(self._comm.split, ranks)
        return None if part is None else AsyncCommunicator(part)

    async def leave(self) -> None:
        if self.closed:
            return
        await self._composite(self._comm.leave)
        self._lane.shutdown(wait=False)

    async def close(self) -> None:
        await asyncio.to_thread(self._comm.close)
        self._lane.shutdown(wait=False)

    # -- collectives ------------------------------------------------------------------------------------------------

    async def all_reduce(
        self,
        x: Any,
        op: str = "sum",
        out: Any = None,
        codec: AnyCodec | None = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.all_reduce(
            x, op=op, out=out, codec=codec, datatype=datatype, async_op=True, timeout=timeout
        )

    async def fused_all_reduce(
        self, x: Any, epilogue: Epilogue, op: str = "sum", out: Any = None, timeout: float | None = None
    ) -> Any:
        return await self._comm.fused_all_reduce(x, epilogue, op=op, out=out, async_op=True, timeout=timeout)

    async def reduce(
        self,
        x: Any,
        root: int = 0,
        op: str = "sum",
        out: Any = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.reduce(x, root=root, op=op, out=out, datatype=datatype, async_op=True, timeout=timeout)

    async def reduce_scatter(
        self,
        x: Any,
        op: str = "sum",
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.reduce_scatter(
            x, op=op, out=out, counts=counts, datatype=datatype, async_op=True, timeout=timeout
        )

    async def all_gather(
        self,
        x: Any,
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.all_gather(x, out=out, counts=counts, datatype=datatype, async_op=True, timeout=timeout)

    async def all_to_all(
        self,
        x: Any,
        out: Any = None,
        send_counts: Sequence[int] | None = None,
        recv_counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.all_to_all(
            x,
            out=out,
            send_counts=send_counts,
            recv_counts=recv_counts,
            datatype=datatype,
            async_op=True,
            timeout=timeout,
        )

    async def broadcast(
        self,
        x: Any,
        root: int = 0,
        out: Any = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.broadcast(x, root=root, out=out, datatype=datatype, async_op=True, timeout=timeout)

    async def gather(
        self,
        x: Any,
        root: int = 0,
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.gather(
            x, root=root, out=out, counts=counts, datatype=datatype, async_op=True, timeout=timeout
        )

    async def scatter(
        self,
        x: Any = None,
        root: int = 0,
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        timeout: float | None = None,
    ) -> Any:
        return await self._comm.scatter(
            x, root=root, out=out, counts=counts, datatype=datatype, async_op=True, timeout=timeout
        )

    async def barrier(self, timeout: float | None = None) -> None:
        await self._comm.barrier(async_op=True, timeout=timeout)

    async def send(
        self, x: Any, dst: int, tag: int = 0, datatype: Datatype | None = None, timeout: float | None = None
    ) -> None:
        await self._comm.send(x, dst, tag, datatype=datatype, async_op=True, timeout=timeout)

    async def recv(
        self, out: Any, src: int, tag: int = 0, datatype: Datatype | None = None, timeout: float | None = None
    ) -> Any:
        return await self._comm.recv(out, src, tag, datatype=datatype, async_op=True, timeout=timeout)

    async def all_gather_object(self, value: Any, pickle: bool = False, timeout: float | None = None) -> list[Any]:
        return await self._composite(self._comm.all_gather_object, value, pickle, timeout)

    async def broadcast_object(
        self, value: Any = None, root: int = 0, pickle: bool = False, timeout: float | None = None
    ) -> Any:
        return await self._composite(self._comm.broadcast_object, value, root, pickle, timeout)

    def sync(self, state: Mapping[str, Any], revision: int | None, timeout: float | None = None) -> Awaitable[Any]:
        """Begins at once; await it now, or after other collectives that go on beside it."""
        handle: Awaitable[Any] = self._comm.sync(state, revision, async_op=True, timeout=timeout)
        return handle

    async def _composite(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.wrap_future(self._lane.submit(call, *arguments))


__all__ = ["AsyncCommunicator", "join"]
