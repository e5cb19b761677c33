"""A torch.distributed process group over a communicator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from ..communicator import Communicator
from ..engine import Handle
from ..errors import CommunicatorClosed, PeerLost
from . import collectives, profiling
from .calls import NAME, Tensors, listed, op_of, root_of, runs_behind, seconds_of
from .errors import as_torch
from .innerbackend import provide_backend
from .memory import Lent, as_array, await_stream, lies_in_row
from .monitored import MonitoredBarrier
from .reductions import reduction_of
from .work import Done, Futures, Pending

_Options = torch._C._distributed_c10d.Backend.Options
Body = Callable[[float], Any]  # given the seconds that it may take
Release = Callable[[bool], None]  # told whether to take leave of the others


class ProcessGroup(dist.ProcessGroup):
    """``comm``: of the group's members, by rank; ``release`` closes it. ``timeout``: of operations that say none.

    A synchronous operation on an idle group runs in its caller's thread; asynchronous ones, and those that C++ calls, run in
    order on the communicator's engine thread, messages beside them. Where a member is lost, the operation in hand and all
    that follow raise `PeerLost`.
    """

    def __init__(self, comm: Communicator, timeout: timedelta, store: Any = None, release: Release | None = None):
        super().__init__(comm.rank, comm.size)
        self.comm = comm
        self._store = store
        self._release = release or (lambda _: comm.close())
        self._seconds = timeout.total_seconds()
        self._roll = comm.view
        self._futures = Futures(f"collcomm-torch-{comm.rank}")
        self._sequence = 0
        self._barriers = 0  # monitored ones
        self._coalescing: list[Pending] | None = None
        self._name = self._description = ""
        self._closing = threading.Lock()
        self._closed = False
        provide_backend(self)

    # -- who we are ------------------------------------------------------------------------------------------------------

    supports_splitting = supports_time_estimate = supports_shrinking = False
    supports_coalescing = True

    def getBackendName(self) -> str:
        return NAME

    def getRank(self) -> int:
        return self.comm.rank

    def getSize(self) -> int:
        return self.comm.size

    def getGroupName(self) -> str:
        return self._name

    def setGroupName(self, name: str) -> None:
        self._name = name

    def getGroupDesc(self) -> str:
        return self._description

    def setGroupDesc(self, description: str) -> None:
        self._description = description

    name = _get_backend_name = getBackendName
    rank, size = getRank, getSize
    group_name, _set_group_name = property(getGroupName), setGroupName
    group_desc, _set_group_desc = property(getGroupDesc), setGroupDesc

    @property
    def _device_types(self) -> list[Any]:
        return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]

    def _get_backend(self, device: Any) -> Any:
        return self

    @property
    def options(self) -> Any:
        return _Options(NAME, timedelta(seconds=self._seconds))

    def get_group_store(self) -> Any:
        return self._store

    def set_timeout(self, timeout: timedelta) -> None:
        self._seconds = timeout.total_seconds()

    _set_default_timeout = set_timeout

    def _set_sequence_number_for_group(self) -> None:
        """Operations are numbered from the first one on."""

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    def split_group(
        self,
        ranks: Sequence[int],
        timeout: timedelta | None = None,
        opts: Any = None,
        group_name: str | None = None,
        group_desc: str | None = None,
        device_types: Any = None,
    ) -> ProcessGroup | None:
        """A group of ``ranks`` of this one, in this order; None at the others. All ranks call it."""
        self._sequence += 1
        if self.rank() not in ranks:
            return None
        self._check()
        comm = self.comm.create_group(list(ranks), f"split {self._sequence}")
        part = type(self)(comm, timeout or timedelta(seconds=self._seconds), self._store)
        part._set_group_name(group_name or f"{self.group_name}:split:{self._sequence}")
        part._set_group_desc(group_desc or f"{self.group_desc}:split")
        return part

    splitGroup = split_group

    # -- the end ---------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Leave the group; what has not ended fails. Harmless when done twice."""
        self._end(True)

    def abort(self) -> None:
        """Close at once, without a word to the others, who will notice. Harmless when done twice."""
        self._end(False)

    def _end(self, takes_leave: bool) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._release(takes_leave)
        self._futures.close()

    # -- running operations ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Before each collective."""
        self._sequence += 1
        self._check()

    def _check(self) -> None:
        """Raises PeerLost when a member has gone: what the survivors would compute is not what was asked for."""
        self._check_open()
        if self.comm.latest.size != self._roll.size:
            left = set(self.comm.latest.ids)
            gone = ", ".join(f"rank {rank}, {m}" for rank, m in enumerate(self._roll.members) if m.id not in left)
            raise as_torch(
                PeerLost(
                    f"process group {self.group_name!r} has lost {gone}: make a new group of those who are left, or use "
                    f"collcomm.torch.elastic, whose groups go on over the survivors"
                )
            )

    def _check_open(self) -> None:
        if self._closed:
            raise as_torch(CommunicatorClosed(f"the process group {self.group_name!r} was destroyed"))

    def _run(self, what: str, opts: Any, body: Body, tensors: Tensors, given: Tensors | None = None) -> Any:
        """``body`` in this thread, or on the engine's where ``opts``, a coalescing manager, or a profiler would have it so.
        ``tensors``: the results; ``given``: the input, if not the same."""
        await_stream(tensors)
        await_stream(given or ())
        work = partial(self._checked, body, seconds_of(opts, self._seconds))
        if profiling.is_on():
            return profiling.recorded(
                what, tensors if given is None else given, partial(self._submit, what, work, tensors)
            )
        if runs_behind(opts) or self._coalescing is not None:
            return self._submit(what, work, tensors)
        try:
            self.comm.compose(work, what)
        except Exception as error:
            raise as_torch(error) from None
        return Done(tensors)

    def _submit(self, what: str, work: Callable[[], None], tensors: Tensors) -> Pending:
        return self._pending([self.comm.compose(work, what, async_op=True)], tensors)

    def _checked(self, body: Body, seconds: float) -> None:
        body(seconds)
        if self.comm.size != self._roll.size:
            self._check()

    def _pending(
        self,
        handles: Sequence[Handle],
        tensors: Tensors,
        receives: bool = False,
        finish: Callable[[], None] | None = None,
    ) -> Any:
        work = Pending(handles, tensors, self._futures, receives, finish)
        if self._coalescing is not None:
            self._coalescing.append(work)
        return work

    def _start_coalescing(self, device: Any = None) -> None:
        if self._coalescing is not None:
            raise RuntimeError("operations are being coalesced already: the managers must not be nested")
        self._coalescing = []

    def _end_coalescing(self, device: Any = None) -> Any:
        works, self._coalescing = self._coalescing or [], None
        return Pending.of_all(works, self._futures)

    start_coalescing, end_coalescing = _start_coalescing, _end_coalescing  # as C++ calls them from torch 2.14 on

    # -- reductions ------------------------------------------------------------------------------------------------------

    def allreduce(self, tensors: Any, opts: Any = None, timeout: Any = None) -> Any:
        tensors = listed(tensors)
        tensor, opts = tensors[0], opts if timeout is None else (opts, timeout)
        self._begin()
        reduction = reduction_of(op_of(opts), tensor.dtype)
        if tensor.is_sparse:
            body: Body = partial(collectives.all_reduce_sparse, self.comm, tensor, reduction)
            return self._run("all_reduce", opts, body, tensors)
        alone = len(tensors) == 1 and reduction.plain and self._coalescing is None and lies_in_row(tensor)
        if alone and not runs_behind(opts) and not profiling.is_on():
            array = as_array(tensor)
            seconds = seconds_of(opts, self._seconds)
            try:
                self.comm.all_reduce(array, op=reduction.op, out=array, timeout=seconds)
            except Exception as error:
                raise as_torch(error) from None
            if self.comm.size != self._roll.size:
                self._check()
            return Done(tensors)
        return self._run("all_reduce", opts, partial(collectives.all_reduce, self.comm, tensors, reduction), tensors)

    allreduce_sparse = allreduce

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> Any:
        self._begin()
        reduction = reduction_of(op_of(opts), tensors[0].dtype)
        body = partial(collectives.all_reduce_coalesced, self.comm, tensors, reduction)
        return self._run("all_reduce", opts, body, tensors)

    def reduce(self, tensors: Any, opts: Any = None, op: Any = None, timeout: Any = None) -> Any:
        tensors = listed(tensors)
        self._begin()
        reduction = reduction_of(op_of(opts) if op is None else op, tensors[0].dtype)
        body = partial(collectives.reduce, self.comm, tensors[0], root_of(opts), reduction)
        return self._run("reduce", (opts, timeout), body, tensors)

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Any:
        outputs = listed(outputs)
        inputs = inputs[0] if isinstance(inputs[0], list | tuple) else inputs
        self._begin()
        reduction = reduction_of(op_of(opts), outputs[0].dtype)
        body = partial(collectives.reduce_scatter, self.comm, outputs[0], list(inputs), reduction)
        return self._run("reduce_scatter", (opts, timeout), body, outputs, list(inputs))

    def reduce_scatter_single(self, output: Any, tensor: Any, opts: Any = None) -> Any:
        self._begin()
        reduction = reduction_of(op_of(opts), output.dtype)
        body = partial(collectives.reduce_scatter, self.comm, output, [tensor], reduction)
        return self._run("reduce_scatter", opts, body, [output], [tensor])

    def reduce_scatter_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        self._begin()
        reduction = reduction_of(op_of(opts), outputs[0].dtype)

        def body(seconds: float) -> None:
            for output, tensor in zip(outputs, inputs, strict=True):
                collectives.reduce_scatter(self.comm, output, [tensor], reduction, seconds)

        return self._run("reduce_scatter", opts, body, outputs, inputs)

    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    # -- gathering and scattering ----------------------------------------------------------------------------------------

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Any = None) -> Any:
        tensors = listed(tensors)
        self._begin()
        body = partial(collectives.broadcast, self.comm, tensors, root_of(opts))
        return self._run("broadcast", (opts, timeout), body, tensors)

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        outputs = outputs[0] if isinstance(outputs[0], list | tuple) else outputs
        self._begin()
        body = partial(collectives.all_gather, self.comm, list(outputs), listed(inputs)[0])
        return self._run("all_gather", opts, body, [list(outputs)], listed(inputs))

    def all_gather_single(self, output: Any, tensor: Any, opts: Any = None) -> Any:
        self._begin()
        body = partial(collectives.all_gather, self.comm, [output], tensor)
        return self._run("all_gather", opts, body, [output], [tensor])

    def all_gather_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        return self._all_gather_coalesced([[output] for output in outputs], inputs, opts, outputs)

    def allgather_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        """``outputs``: for each rank a list with a tensor for each input."""
        return self._all_gather_coalesced(list(zip(*outputs, strict=True)), inputs, opts, outputs)

    def _all_gather_coalesced(self, targets: Sequence[Tensors], inputs: Tensors, opts: Any, outputs: Tensors) -> Any:
        self._begin()

        def body(seconds: float) -> None:
            for target, tensor in zip(targets, inputs, strict=True):
                collectives.all_gather(self.comm, target, tensor, seconds)

        return self._run("all_gather", opts, body, outputs, inputs)

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def gather(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Any:
        outputs = outputs[0] if outputs and isinstance(outputs[0], list | tuple) else outputs
        self._begin()
        body = partial(collectives.gather, self.comm, list(outputs), listed(inputs)[0], root_of(opts))
        return self._run("gather", (opts, timeout), body, [list(outputs)], listed(inputs))

    def gather_single(self, output: Any, tensor: Any, opts: Any = None) -> Any:
        return self.gather([output], [tensor], opts)

    gather_into_tensor = gather_single

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Any:
        outputs = listed(outputs)
        inputs = inputs[0] if inputs and isinstance(inputs[0], list | tuple) else inputs
        self._begin()
        body = partial(collectives.scatter, self.comm, outputs[0], list(inputs), root_of(opts))
        return self._run("scatter", (opts, timeout), body, outputs, list(inputs))

    def alltoall(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        self._begin()
        body = partial(collectives.all_to_all, self.comm, outputs, inputs)
        return self._run("all_to_all", opts, body, outputs, inputs)

    def all_to_all_single(self, output: Any, tensor: Any, receives: Any = (), sends: Any = (), opts: Any = None) -> Any:
        self._begin()
        body = partial(collectives.all_to_all_single, self.comm, output, tensor, receives, sends)
        return self._run("all_to_all", opts, body, [output], [tensor])

    alltoall_base = all_to_all_single

    # -- meeting ---------------------------------------------------------------------------------------------------------

    def barrier(self, opts: Any = None) -> Any:
        self._begin()
        return self._run("barrier", opts, lambda seconds: self.comm.barrier(timeout=seconds), [])

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        """A barrier that tells rank 0 who did not come. Raises RuntimeError."""
        self._begin()
        seconds = self._seconds if timeout is None else timeout.total_seconds()
        self._barriers += 1
        MonitoredBarrier(self.comm, self._barriers, seconds, wait_all_ranks).run()

    # -- point to point --------------------------------------------------------------------------------------------------

    def send(self, tensors: Any, dst: int, tag: int = 0) -> Any:
        tensors = listed(tensors)

        def start() -> Pending:
            handle = self.comm.send(Lent(tensors).array, dst, tag, async_op=True, timeout=self._seconds)
            return self._pending([handle], tensors)

        return self._message("send", tensors, start)

    def recv(self, tensors: Any, src: int, tag: int = 0) -> Any:
        tensors = listed(tensors)

        def start() -> Pending:
            lent = Lent(tensors, reads=False)
            handle = self.comm.recv(lent.array, src, tag, async_op=True, timeout=self._seconds)
            return self._pending([handle], tensors, finish=lent.give_back)

        return self._message("recv", tensors, start)

    def recv_anysource(self, tensors: Any, tag: int = 0) -> Any:
        tensors = listed(tensors)

        def start() -> Pending:
            lent = Lent(tensors, reads=False)
            handle = self.comm.recv_any(lent.array, tag, async_op=True, timeout=self._seconds)
            return self._pending([handle], tensors, True, lent.give_back)

        return self._message("recvAnySource", tensors, start)

    recvAnysource = recv_anysource

    def _message(self, what: str, tensors: Tensors, start: Callable[[], Pending]) -> Pending:
        self._check()
        await_stream(tensors)
        try:
            return profiling.recorded(what, tensors, start) if profiling.is_on() else start()
        except Exception as error:
            raise as_torch(error) from None
