"""MPI through mpi4py: communicators of our own, native collectives on flat arrays, messages, and what ULFM adds.

The one module that knows mpi4py. `start` imports it, which calls MPI_Init. All communicators return errors
(MPI_ERRORS_RETURN); a dead rank, a revoked communicator or any other error of MPI comes out as `CommFailed`. Ranks are those
of the communicator, sizes are in elements or bytes as said.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..errors import UnsupportedTransport
from .launchers import survives_deaths

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_SPINS = range(200)  # looks before giving others the processor; MPI's own progress yields when ranks outnumber cores
NAP_AFTER_SECONDS = 2e-3  # who waits longer than that waits for computing, not for messages
NAP_SECONDS = 50e-6
FINALIZE_SECONDS = 3.0  # it takes milliseconds, and others may still have to come
LOOK_SECONDS = 5e-3  # between two looks at what else may end a wait


class CommFailed(Exception):
    """A rank of the communicator is dead, somebody has revoked it, or MPI has failed otherwise.

    ``at_once``: it had before we came."""

    at_once = False


_MPI: Any = None  # mpi4py.MPI, once `start` has imported it


def start() -> Comm:
    """All ranks of the job; the first call starts MPI. Raises UnsupportedTransport."""
    global _MPI
    if _MPI is None:
        try:
            from mpi4py import MPI
        except ImportError:
            raise UnsupportedTransport("the mpi transport needs mpi4py: pip install 'collcomm[mpi]'") from None
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise UnsupportedTransport(
                f"the mpi transport finds no MPI library ({said}): start with the mpirun of `pip install 'collcomm[mpi]'`"
            ) from None
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise UnsupportedTransport("this MPI does not let several threads call it (MPI_THREAD_MULTIPLE)")
        _MPI = MPI
    return Comm(_MPI.COMM_WORLD, own=False)


def bound_the_end() -> None:
    """After a death, MPI_Finalize may wait for ever for who is dead (Open MPI 5.0.11): a process that has come to its end is then
    ended by SIGALRM."""
    atexit.unregister(_begin_to_end)
    atexit.register(_begin_to_end)


def _begin_to_end() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, FINALIZE_SECONDS)


def _fails(error: Exception) -> CommFailed:
    return CommFailed(_MPI.Get_error_string(error.Get_error_class()))  # type: ignore[attr-defined]


class Comm:
    """One MPI communicator. ``survives``: whether the job goes on when a rank dies (ULFM)."""

    def __init__(self, comm: Any, own: bool = True):
        self._comm = comm
        if own:
            comm.Set_errhandler(_MPI.ERRORS_RETURN)
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.survives = survives_deaths(os.environ)

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except _MPI.Exception as error:
            raise _fails(error) from None

    # -- making others ------------------------------------------------------------------------------------------------

    def duplicate(self) -> Comm:
        return Comm(self._guarded(self._comm.Dup))

    def subset(self, ranks: Sequence[int], tag: int) -> Comm:
        """A communicator of ``ranks`` of this one; they alone call it, at the same time, with the same ``tag``."""
        group = self._comm.Get_group().Incl(list(ranks))
        return Comm(self._guarded(self._comm.Create_group, group, tag & 0x7FFF))

    # -- failures -----------------------------------------------------------------------------------------------------

    def revoke(self) -> None:
        """Everybody's calls on this communicator fail from now on."""
        if self.survives:
            self._guarded(self._comm.Revoke)

    def is_revoked(self) -> bool:
        return self.survives and bool(self._comm.Is_revoked())

    def shrink(self) -> Comm:
        """All living ranks call it: a communicator of them, in the old order. Also of a revoked communicator."""
        return Comm(self._guarded(self._comm.Shrink))

    # -- collectives --------------------------------------------------------------------------------------------------

    def opening(self, nbytes: int) -> Opening:
        """All ranks call it: a small all-gather of ``nbytes`` per rank that can be done again and again."""
        return Opening(self._comm, self.size, nbytes)

    def barrier(self) -> None:
        self._guarded(self._comm.Barrier)

    def gather_bytes(self, mine: Bytes) -> Bytes:
        """Everybody's bytes, as many of each, as rows by rank."""
        rows = np.empty((self.size, mine.size), np.uint8)
        self._guarded(self._comm.Allgather, [mine, _MPI.BYTE], [rows, mine.size, _MPI.BYTE])
        return rows

    def spread_bytes(self, data: Bytes, root: int) -> None:
        self._guarded(self._comm.Bcast, [data, _MPI.BYTE], root)

    def all_reduce(self, source: Array, target: Array, op: str) -> None:
        """``source`` and ``target`` may be the same array."""
        kind = _datatype(target.dtype)
        given = _MPI.IN_PLACE if source is target else [source, source.size, kind]
        try:
            self._comm.Allreduce(given, [target, target.size, kind], _operation(op, target.dtype))
        except _MPI.Exception as error:
            raise _fails(error) from None

    def reduce(self, source: Array, target: Array | None, op: str, root: int) -> None:
        kind = _datatype(source.dtype)
        into = None if target is None else [target, target.size, kind]
        self._guarded(self._comm.Reduce, [source, kind], into, _operation(op, source.dtype), root)

    def reduce_scatter(self, source: Array, target: Array, counts: Sequence[int], op: str) -> None:
        kind = _datatype(source.dtype)
        operation = _operation(op, source.dtype)
        if len(set(counts)) == 1:
            self._guarded(self._comm.Reduce_scatter_block, [source, kind], [target, counts[0], kind], operation)
        else:
            self._guarded(self._comm.Reduce_scatter, [source, kind], [target, kind], counts, operation)

    def all_gather(self, source: Array, target: Array, counts: Sequence[int]) -> None:
        given, kind = _raw(source)
        into, _ = _raw(target)
        if len(set(counts)) == 1:
            self._guarded(self._comm.Allgather, [given, kind], [into, counts[0], kind])
        else:
            self._guarded(self._comm.Allgatherv, [given, kind], [into, counts, None, kind])

    def all_to_all(
        self, source: Array, target: Array, sends: Sequence[int], receives: Sequence[int], even: bool
    ) -> None:
        """``even``: all blocks of all ranks are equal."""
        given, kind = _raw(source)
        into, _ = _raw(target)
        if even:
            self._guarded(self._comm.Alltoall, [given, sends[0], kind], [into, sends[0], kind])
        else:
            self._guarded(self._comm.Alltoallv, [given, sends, None, kind], [into, receives, None, kind])

    def broadcast(self, data: Array, root: int) -> None:
        self._guarded(self._comm.Bcast, list(_raw(data)), root)

    def gather(self, source: Array, target: Array | None, counts: Sequence[int], root: int) -> None:
        given, kind = _raw(source)
        into, _ = _raw(target)
        self._guarded(self._comm.Gatherv, [given, kind], into if into is None else [into, counts, None, kind], root)

    def scatter(self, source: Array | None, target: Array, counts: Sequence[int], root: int) -> None:
        given, _ = _raw(source)
        into, kind = _raw(target)
        self._guarded(self._comm.Scatterv, given if given is None else [given, counts, None, kind], [into, kind], root)

    # -- messages -----------------------------------------------------------------------------------------------------

    def send(self, data: Any, nbytes: int, rank: int, tag: int) -> Pending:
        """Begin to send; ``data`` is not to be changed until the result says that it is done."""
        return Pending(self._guarded(self._comm.Isend, [data, nbytes, _MPI.BYTE], rank, tag))

    def incoming(self, rank: int, tag: int) -> Incoming | None:
        """The next message of ``rank`` with ``tag``, if it has come."""
        status = _MPI.Status()
        message = self._guarded(partial(self._comm.Improbe, rank, tag, status))
        return None if message is None else Incoming(message, status.Get_count(_MPI.BYTE))


def leave_to_mpi(*owners: Any) -> None:
    """MPI may still read or write the memory of ``owners`` while the process ends: never free it."""
    for owner in owners:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


class Pending:
    """A message on its way out."""

    def __init__(self, request: Any):
        self._request = request

    def done(self) -> bool:
        try:
            return bool(self._request.Test())
        except _MPI.Exception as error:
            raise _fails(error) from None


class Incoming:
    """A message that has come, of ``nbytes``."""

    def __init__(self, message: Any, nbytes: int):
        self._message = message
        self.nbytes = nbytes

    def receive(self, target: Any) -> None:
        try:
            self._message.Recv([target, self.nbytes, _MPI.BYTE])
        except _MPI.Exception as error:
            raise _fails(error) from None


class Opening:
    """A small all-gather with memory of its own: ``record`` is what this rank gives, ``rows`` are everybody's, by rank.

    It is the one persistent request that each operation begins with, so that its buffers and its algorithm are set up once.
    """

    def __init__(self, comm: Any, size: int, nbytes: int):
        self.record: Bytes = np.zeros(nbytes, np.uint8)
        self.rows: Bytes = np.zeros((size, nbytes), np.uint8)
        try:
            self._request = comm.Allgather_init([self.record, _MPI.BYTE], [self.rows, nbytes, _MPI.BYTE])
        except NotImplementedError:
            raise UnsupportedTransport(
                f"{_MPI.Get_library_version().split(',')[0]} has no persistent collectives (MPI 4): use Open MPI 5 or MPICH 4"
            ) from None
        except _MPI.Exception as error:
            raise _fails(error) from None
        self._start = self._request.Start
        self._test = self._request.Test

    def start(self) -> None:
        try:
            self._start()
        except _MPI.Exception as error:
            raise _fails(error) from None

    def abandon(self) -> None:
        """It was begun, and nobody waits for it."""
        leave_to_mpi(self.record, self.rows, self._request)

    def exchange(self, look: Callable[[], None]) -> None:
        """Until everybody's record is here. ``look`` is called every few milliseconds and ends the wait by raising."""
        test, began = self._test, 0.0
        try:
            self._start()
            for _ in _SPINS:
                if test():
                    return
            began = looked = time.monotonic()
            while not test():
                now = time.monotonic()
                if now - looked > LOOK_SECONDS:
                    looked = now
                    look()
                if now - began > NAP_AFTER_SECONDS:
                    time.sleep(NAP_SECONDS)
                else:
                    os.sched_yield()
        except _MPI.Exception as error:
            failed = _fails(error)
            failed.at_once = not began
            raise failed from None


# -- what MPI knows ----------------------------------------------------------------------------------------------------

_DATATYPES = {
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}_T" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "complex64": "C_FLOAT_COMPLEX",
    "complex128": "C_DOUBLE_COMPLEX",
}
_OPERATIONS = {"sum": "SUM", "avg": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX"}
_OPERATIONS |= {"band": "BAND", "bor": "BOR", "bxor": "BXOR"}
_ORDERED = frozenset("iu")  # kinds whose min and max are the same in MPI and numpy: no NaN, no second zero


def is_native(op: str, dtype: np.dtype[Any]) -> bool:
    """Whether MPI reduces ``dtype`` by ``op`` as numpy does. Not f16, bfloat16, fp8 and bool; nor min and max of floats,
    where MPI leaves open what becomes of NaNs."""
    return dtype.name in _DATATYPES and (op not in ("min", "max") or dtype.kind in _ORDERED)


def _datatype(dtype: np.dtype[Any]) -> Any:
    return getattr(_MPI, _DATATYPES[dtype.name])


def _operation(op: str, dtype: np.dtype[Any]) -> Any:
    return getattr(_MPI, _OPERATIONS[op])


_CARRIERS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64", 16: "complex128"}


def _raw(array: Array | None) -> tuple[Any, Any]:
    """``array`` as numbers of the same size that MPI knows, for data that is only moved; and their datatype."""
    if array is None:
        return None, None
    carrier = _CARRIERS[array.dtype.itemsize]
    return array.view(carrier), getattr(_MPI, _DATATYPES[carrier])
