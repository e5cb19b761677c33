"""The synchronous face: collectives on arrays over a group whose members come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from . import departure, safepoint
from .blocks import checked_counts, elements, items_of_block, items_of_whole, rows_of_block, rows_of_whole
from .checking import CheckedCommunicator
from .codedcalls import AnyCodec, CodedCalls
from .collectives import KINDS
from .datatypes import Datatype
from .devicearrays import AnyArray, DeviceArray, array_of, is_on_device
from .deviceparts import DeviceParts
from .engine import AnyGroup, AnySession, Operation, Request, request
from .engine.choosing import Explanation
from .engine.handle import Conclusion
from .errors import CommunicatorClosed
from .inspection import Tell
from .invocation import conclude, operation_of, target_of
from .objects import gather_objects, spread_object
from .overlap.fused import Epilogue, FusedReduction
from .overlap.ring import RingExchange
from .overlap.triggered import TriggeredAllReduce
from .participant import Participant
from .partings import Partings
from .parts import HostParts
from .sharing import Sharing, derived_gid
from .types import View


class Communicator(Participant):
    """One peer's place in a group; `collcomm.join` makes the first, `split` smaller ones.

    All collectives: every member makes the same calls in the same order. Results have the caller's kind of array (numpy,
    torch, cupy) and lie where the input lies. ``out=None`` makes a new array; ``out=x`` works in place. ``async_op=True``
    returns a `Handle` at once; the arrays belong to the operation until it has ended. ``timeout``: seconds, the
    communicator's ``op_timeout`` if None. Uneven sizes count elements along the first axis.

    Arrays may have any strides. ``datatype``: ``x`` and ``out`` are buffers with items of that datatype, of which the first
    begins at the buffer's start; an item counts as a row, so that blocks are of one item each unless counts say otherwise. A
    typed buffer (``datatype.over(...)``) may stand for each of them on its own. Without ``out`` the result is packed.

    A peer that dies inside a collective is dropped and the collective is run again over the survivors with everybody's
    original input; afterwards ``view``, ``rank`` and ``size`` show the new membership. They change inside calls only.

    Errors of every collective: `CollectiveMismatch` when peers called different things, `CollectiveTimeout`, `PeerLost`
    (the root is gone, or ``on_failure="raise"``), `CoordinatorUnavailable` when a failure cannot be settled.
    """

    def __init__(self, session: AnySession, group: AnyGroup, name: str, op_timeout: float):
        super().__init__(session, group, name, op_timeout)
        self._partings = Partings()
        self._coded = CodedCalls(session, group)
        self._fused = FusedReduction(session, group)
        self._sharing = Sharing(session, group, lambda lane: Communicator(session, lane, name, op_timeout))

    # -- membership -----------------------------------------------------------------------------------------------------

    def step(self, timeout: float | None = None, leaving: bool = False) -> View:
        """A safe point: admit those who wait, and return the view that the next calls run in. Every member calls it.

        With nobody waiting it costs one small all_reduce; the coordinator is not asked. While a `sync` of some member still
        runs in the background, nobody is admitted. A better plan for the traffic, when all members hold one, is taken
        into use here.

        ``leaving``: this peer goes here, and is ``closed`` afterwards. The others hear of it before they go on, so that no
        operation of theirs is begun with it: none is run again, none raises PeerLost.
        """
        if self._group.gid:
            raise ValueError("step() belongs to the whole group: call it on the communicator that join() returned")
        deadline = self._session.clock.monotonic() + (self._timeout if timeout is None else timeout)
        view = self.latest
        plan = self._session.offer(view)
        words = safepoint.meet(
            view, self.pending > 0, self._sharing.busy, 0 if plan is None else plan.revision, leaving
        )
        agreed = self.all_reduce(words, op="band", timeout=timeout)
        if safepoint.somebody_leaves(agreed):
            departure.settle(self, leaving, timeout, self._session.clock)
            if self.closed:
                return view
        admit, revision = safepoint.outcome(agreed, self._group.view)
        if revision and plan is not None:
            self._group.revise(plan, view.epoch)
        if admit:
            self._group.show(self._session.wait_admission(self._group.view, deadline))
        self._session.steps += 1
        return self._group.view

    def dump(self, directory: str | PathLike[str]) -> Path:
        """Write what this peer remembers of its operations into a file in ``directory``, which is made if need be, for
        `collcomm report` and `collcomm trace`. Raises ValueError where nothing is recorded (MPI, COLLCOMM_RECORD=0), OSError
        when it cannot be written, as the log says."""
        if self._session.dump is None:
            raise ValueError("nothing is recorded here: not under MPI, and not with COLLCOMM_RECORD=0")
        path = self._session.dump(fspath(directory))
        if path is None:
            raise OSError(f"no dump was written to {directory}; the log says why")
        return path

    def explain(self, kind: str, nbytes: int) -> Explanation:
        """What the next collective ``kind`` of ``nbytes`` (of the whole vector, or of all blocks together) goes by, what that
        should take, and what such calls did take here. Printed, it says so in words. Raises ValueError for an unknown
        kind."""
        if kind not in KINDS:
            raise ValueError(f"no collective is called {kind!r}; there are {', '.join(KINDS)}")
        if not nbytes >= 0:
            raise ValueError(f"nbytes must be 0 or more, not {nbytes!r}")
        return self._group.explain(kind, int(nbytes))

    def split(self, ranks: Sequence[int]) -> Communicator | None:
        """A communicator of ``ranks`` of this one; None at the others. Every member calls it with the same ranks."""
        chosen = sorted(ranks)
        members = self._members(chosen)
        asked = request("split", np.dtype(np.uint8), extra=f"ranks {chosen}")
        operation = Operation(asked, self.view, self._session.member, None, None)
        self._group.run(operation, self._timeout)
        self._group.show(operation.view)
        beside = self._partings.add(members, self.view)
        if self._session.member not in members:
            return None
        part = self._derived(f"{self._group.gid}/{operation.seq}/{members}", members, self.view)
        part._group.choosing.beside = beside
        return part

    def create_group(self, ranks: Sequence[int], tag: str) -> Communicator:
        """A communicator of ``ranks`` of this one, in this order. They alone call it, with the same ranks and ``tag``, which
        this communicator has not seen before (as MPI_Comm_create_group). Nothing is sent until it is used."""
        members = self._members(list(ranks))
        if self._session.member not in members:
            raise ValueError(f"this peer, rank {self.rank}, is not among the ranks {list(ranks)}")
        announced = self._session.view  # a plan taken at a step() since is not known to be the others' at this point
        plan = announced.plan if announced.epoch == self.view.epoch else None
        return self._derived(f"{self._group.gid}/{tag!r}/{members}", members, replace(self.view, plan=plan))

    def _members(self, ranks: Sequence[int]) -> list[int]:
        if not ranks or len(set(ranks)) != len(ranks) or not all(0 <= rank < self.size for rank in ranks):
            raise ValueError(f"ranks must be different numbers from 0 to {self.size - 1}, not {list(ranks)}")
        return [self.view.ids[rank] for rank in ranks]

    def _derived(self, text: str, members: Sequence[int], view: View) -> Communicator:
        if self._session.failure is not None:
            raise self._session.failure
        group = self._session.make_group(derived_gid(text), members, view)
        return Communicator(self._session, group, self.name, self._timeout)

    # -- reductions -----------------------------------------------------------------------------------------------------

    def all_reduce(
        self,
        x: Any,
        op: str = "sum",
        out: Any = None,
        codec: AnyCodec | None = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Combine everybody's ``x`` elementwise; all get the same bits, in ``x``'s shape.

        ``op``: sum, avg (sum / number of contributors, floating types), prod, min, max, band, bor, bxor.

        ``codec``: send fewer bits over slow links: a name (``"int8"``, see `collcomm.codecs`), a `Codec`, or an `ErrorFeedback`;
        the same one at all members. Several in a list or tuple, None for none among them: members take the one that should be
        fastest over the links that were measured; ``"auto"`` stands for none or int8. For floating arrays in host memory (all
        are summed in float32) and ops sum and avg (or mean, which is the same). Numbers are rounded twice, within the codec's
        error bound; all members hold the same bits nevertheless. Each of P members sends 2 (P - 1) codec.encoded_bytes(n / P)
        bytes, where float32 takes 8 (P - 1) n / P; see `coded`. Members who name different codecs, or one that a member does
        not know, get CollectiveMismatch.
        """
        if codec is not None:
            return self._coded.all_reduce(x, op, out, codec, datatype, async_op, self._seconds(timeout))
        given = self._array(x, "x", datatype, reduces=True)
        asked = request("all_reduce", given.dtype, given.flat.size, op=op)
        return self._reduce(asked, given, out, given.whole, datatype, async_op, timeout)

    def triggered_all_reduce(
        self, x: Any, op: str = "sum", chunks: int = 16, codec: AnyCodec | None = None, timeout: float | None = None
    ) -> TriggeredAllReduce:
        """An all_reduce of ``x``, contiguous, in place and in ``chunks``, each of which goes when its producer says that it is
        ready: call ``ready(i)`` for each and then ``result()``; see `TriggeredAllReduce`. Every member calls this with the same
        ``op``, size and ``chunks``, and calls no other operation before all of them are marked."""
        return TriggeredAllReduce(self, x, op, chunks, codec, timeout)

    def fused_all_reduce(
        self,
        x: Any,
        epilogue: Epilogue,
        op: str = "sum",
        out: Any = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """An all_reduce of ``x``, and then ``epilogue`` on its rows, of which each rank computes a share: a norm with its
        residual, say. All get the same bits, in ``x``'s shape; the bytes are those of an all_reduce; see `overlap.fused`.

        ``epilogue(shard, start)``: given the rows of the sum from ``start`` on, as an array of its own that it may change, it
        returns as many, of the same shape and dtype. Rows are never split; a rank for which there are none does not call
        it. It is called again, with other rows, where a member dies before the end, so what it makes must depend on nothing
        but its arguments, and it makes no calls of this communicator. Where it raises, its error is raised at that rank and
        `EpilogueFailed` at all others. ``x`` and ``out`` lie in host memory.
        """
        return self._fused.all_reduce(x, epilogue, op, out, async_op, self._seconds(timeout))

    def reduce(
        self,
        x: Any,
        root: int = 0,
        op: str = "sum",
        out: Any = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """As `all_reduce`, but only ``root`` gets the result; the others get None."""
        given = self._array(x, "x", datatype, reduces=True)
        asked = request("reduce", given.dtype, given.flat.size, op=op, root=self._root(root))
        return self._reduce(asked, given, out, given.whole, datatype, async_op, timeout)

    def reduce_scatter(
        self,
        x: Any,
        op: str = "sum",
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Combine everybody's ``x`` elementwise and leave to each rank its block along the first axis.

        ``counts``: rows of each rank's block; equal blocks if None.
        """
        given = self._array(x, "x", datatype, items_of_whole(counts, self.size), reduces=True)
        rows = rows_of_whole(given.shape, counts, self.size)
        asked = request("reduce_scatter", given.dtype, op=op, counts=elements(rows, given.shape))
        shape = (rows[self.rank], *given.shape[1:])
        return self._reduce(asked, given, out, shape, datatype, async_op, timeout)

    def _reduce(
        self,
        asked: Request,
        given: AnyArray,
        out: Any,
        shape: tuple[int, ...],
        datatype: Datatype | None,
        async_op: bool,
        timeout: float | None,
    ) -> Any:
        ufunc = asked.ufunc
        target = self._target(out, given, shape, asked, datatype)
        return self._run(asked, given, target, shape, async_op, timeout, ufunc)

    # -- gathering and scattering ---------------------------------------------------------------------------------------

    def all_gather(
        self,
        x: Any,
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Everybody's ``x``, one behind the other by rank along the first axis. ``counts``: rows that each rank
        gives, where they differ."""
        given = self._array(x, "x", datatype, items_of_block(counts, self.rank))
        rows = rows_of_block(given.shape, counts, self.size, self.rank)
        asked = request("all_gather", given.dtype, counts=elements(rows, given.shape))
        shape = (sum(rows), *given.shape[1:])
        return self._run(asked, given, self._target(out, given, shape, asked, datatype), shape, async_op, timeout)

    def gather(
        self,
        x: Any,
        root: int = 0,
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """As `all_gather`, but only ``root`` gets the result; the others get None."""
        given = self._array(x, "x", datatype, items_of_block(counts, self.rank))
        rows = rows_of_block(given.shape, counts, self.size, self.rank)
        asked = request("gather", given.dtype, root=self._root(root), counts=elements(rows, given.shape))
        shape = (sum(rows), *given.shape[1:])
        return self._run(asked, given, self._target(out, given, shape, asked, datatype), shape, async_op, timeout)

    def scatter(
        self,
        x: Any = None,
        root: int = 0,
        out: Any = None,
        counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """To each rank its block of ``root``'s ``x`` along the first axis.

        The root gives ``x``; every other rank gives ``out``, an array of the size of its block.
        """
        root = self._root(root)
        if (x if self.rank == root else out) is None:
            raise ValueError("scatter: the root gives x, every other rank gives out to receive its block")
        items = items_of_whole(counts, self.size)
        given = self._array(x, "x", datatype, items) if self.rank == root else None
        model = self._array(out, "out", datatype, items_of_block(counts, self.rank)) if out is not None else None
        like = given or model
        assert like is not None
        if given is not None:
            rows = rows_of_whole(given.shape, counts, self.size)
            shape = (rows[self.rank], *given.shape[1:])
        else:
            assert model is not None
            rows = [(model.shape or (1,))[0]] * self.size if counts is None else checked_counts(counts, self.size)
            shape = model.shape
        asked = request("scatter", like.dtype, root=root, counts=elements(rows, like.shape))
        if given is None:
            like.require_writable("out")
        target = like if given is None else self._target(out, like, shape, asked, datatype)
        return self._run(asked, given, target, shape, async_op, timeout)

    def all_to_all(
        self,
        x: Any,
        out: Any = None,
        send_counts: Sequence[int] | None = None,
        recv_counts: Sequence[int] | None = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Block j of ``x`` goes to rank j; the result holds the block that each rank had for this one, by rank.

        ``send_counts`` and ``recv_counts``: rows of each block; equal blocks if None. Both or neither. Or ``x`` and ``out`` are
        lists with an array, a typed buffer, or None, for each rank, each of its own layout (MPI's alltoallw): what arrives must
        be of as many bytes as what its sender gives. After a death, the arrays for the dead hold nothing of use.
        """
        if isinstance(x, list | tuple):
            return self._all_to_all_parts(x, out, async_op, timeout)
        given = self._array(x, "x", datatype, items_of_whole(send_counts, self.size))
        if (send_counts is None) != (recv_counts is None):
            raise ValueError("all_to_all: give both send_counts and recv_counts, or neither")
        sends = rows_of_whole(given.shape, send_counts, self.size)
        receives = sends if recv_counts is None else checked_counts(recv_counts, self.size)
        asked = request(
            "all_to_all",
            given.dtype,
            size=given.flat.size if send_counts is None else 0,
            sends=elements(sends, given.shape),
            receives=elements(receives, given.shape),
        )
        shape = (sum(receives), *given.shape[1:])
        return self._run(asked, given, self._target(out, given, shape, asked, datatype), shape, async_op, timeout)

    def _all_to_all_parts(self, x: Sequence[Any], out: Any, async_op: bool, timeout: float | None) -> Any:
        if not isinstance(out, list | tuple):
            raise ValueError("all_to_all of a list of arrays needs a list of arrays, one per rank, for out")
        given, target = self._parts(x, "x"), self._parts(out, "out")
        target.require_writable("out")
        if isinstance(given, HostParts) != isinstance(target, HostParts):
            raise TypeError("all_to_all: x and out must lie both in host memory, or both on the device")
        given.part_from(target)  # type: ignore[arg-type]
        asked = request("all_to_all", given.dtype, sends=given.sizes, receives=target.sizes)
        return self._run(asked, given, target, target.shape, async_op, timeout)

    def _parts(self, values: Sequence[Any], what: str) -> HostParts | DeviceParts:
        if any(is_on_device(value) for value in values):
            return DeviceParts(values, what, self.size, self._session.device, gives=what == "x")
        return HostParts(values, what, self.size)

    def broadcast(
        self,
        x: Any,
        root: int = 0,
        out: Any = None,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """``root``'s ``x`` at every rank. The others' ``x`` tells shape and dtype; ``out=x`` receives into it."""
        given = self._array(x, "x", datatype)
        asked = request("broadcast", given.dtype, given.flat.size, root=self._root(root))
        target = self._target(out, given, given.whole, asked, datatype)
        return self._run(asked, given, target, given.whole, async_op, timeout)

    def barrier(self, async_op: bool = False, timeout: float | None = None) -> Any:
        """Returns when every member has called it."""
        return self._run(request("barrier", np.dtype(np.uint8)), None, None, (), async_op, timeout)

    # -- objects --------------------------------------------------------------------------------------------------------

    def all_gather_object(self, value: Any, pickle: bool = False, timeout: float | None = None) -> list[Any]:
        """Everybody's ``value``, by rank. msgpack-able values; anything else only with ``pickle=True``, which runs
        code that peers send: for peers that you trust."""
        return gather_objects(self, value, pickle, timeout)

    def broadcast_object(
        self, value: Any = None, root: int = 0, pickle: bool = False, timeout: float | None = None
    ) -> Any:
        """``root``'s ``value`` at every rank; see `all_gather_object` for what it may be."""
        return spread_object(self, value, self._root(root), pickle, timeout)

    # -- point to point -------------------------------------------------------------------------------------------------

    def send(
        self,
        x: Any,
        dst: int,
        tag: int = 0,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Send ``x`` to rank ``dst``, which calls `recv`. Returns when ``x`` may be changed again."""
        given = self._array(x, "x", datatype)
        if isinstance(given, DeviceArray):
            given.stage()
        return self._point.send(given, dst, tag, async_op, self._seconds(timeout))

    def recv(
        self,
        out: Any,
        src: int,
        tag: int = 0,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Receive into ``out`` what rank ``src`` sends with ``tag``; returns ``out``."""
        target, arrived = self._arrival(out, datatype)
        seconds = self._seconds(timeout)
        return self._point.receive(target, src, tag, async_op, seconds, lambda _, error: arrived(out, error))

    def recv_any(
        self,
        out: Any,
        tag: int = 0,
        datatype: Datatype | None = None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Receive into ``out`` what anybody sends with ``tag``; returns the sender's rank. Who asks for a message of that
        sender at the same time comes first."""
        target, arrived = self._arrival(out, datatype)
        return self._point.receive_any(target, tag, async_op, self._seconds(timeout), arrived)

    def _arrival(self, out: Any, datatype: Datatype | None) -> tuple[AnyArray, Conclusion]:
        """Where a message goes, and what brings it there."""
        target = self._array(out, "out", datatype)
        target.require_writable("out")
        if isinstance(target, DeviceArray):
            target.stage()

        def arrived(value: Any, error: BaseException | None) -> Any:
            if error is not None:
                raise error
            if isinstance(target, DeviceArray):
                target.stage().conclude(target.flat.nbytes)
                target.write_back(())
            return value

        return target, arrived

    def ring(self, both_ways: bool = False, timeout: float | None = None) -> RingExchange:
        """For blocks that go round all ranks, each of which computes on the one that it has: ``for owner, block in
        comm.ring().around(x)``; see `RingExchange`. ``both_ways``: `around` takes half the steps, of twice the bytes.
        ``timeout``: seconds for each step, the time that the slowest rank computes included. Nothing is sent yet."""
        return RingExchange(self._session, self._group, both_ways, self._seconds(timeout))

    # -- silent corruption ----------------------------------------------------------------------------------------------

    def checked(
        self, check: str = "sum", every: int = 1, on_corruption: str = "raise", tell: Tell | None = None
    ) -> CheckedCommunicator:
        """This communicator, with its results checked for silent corruption; see `CheckedCommunicator`. Every member calls it
        with the same arguments, but for ``tell``; nothing is sent."""
        return CheckedCommunicator(self, check, every, on_corruption, tell)

    # -- shared state ---------------------------------------------------------------------------------------------------

    def sync(
        self,
        state: Mapping[str, Any],
        revision: int | None,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Make ``state`` (name -> array, written in place) bit-identical at all members: a `SyncReport`, or a handle for it.

        ``revision``: counts the state's changes; None at a peer that has nothing. With ``async_op`` the arrays belong to
        the sync until it has ended (read them, do not write), and other collectives go on beside it; see `sharing`.
        ``timeout``: for all members to have called it. Raises StateDiverged where no majority holds the same.
        """
        return self._sharing.sync(state, revision, async_op, self._seconds(timeout))

    # -- common ---------------------------------------------------------------------------------------------------------

    def _run(
        self,
        asked: Request,
        given: AnyArray | HostParts | None,
        target: AnyArray | HostParts | None,
        shape: tuple[int, ...] = (),
        async_op: bool = False,
        timeout: float | None = None,
        ufunc: np.ufunc | None = None,
    ) -> Any:
        group = self._group
        operation = operation_of(group, self._session.member, asked, given, target, ufunc)
        seconds = self._seconds(timeout)
        if async_op:
            return group.submit(operation, seconds, partial(conclude, group, operation, given, target, shape))
        try:
            flat = group.run(operation, seconds)
        except BaseException:
            group.show(operation.view)
            raise
        return conclude(group, operation, given, target, shape, flat, None)

    def _array(
        self, value: Any, what: str, datatype: Datatype | None = None, items: int = 1, reduces: bool = False
    ) -> AnyArray:
        array = array_of(value, what, self._session.device, datatype, items)
        if reduces:
            array.require_elements(what)
        return array

    def _target(
        self, out: Any, given: AnyArray, shape: tuple[int, ...], asked: Request, datatype: Datatype | None
    ) -> AnyArray | None:
        if self._session.failure is not None:
            raise self._session.failure
        receives = asked.kind not in ("reduce", "gather") or self.rank == asked.root
        return target_of(asked, out, given, shape, receives, self._session.device, datatype)


__all__ = ["Communicator", "CommunicatorClosed"]
