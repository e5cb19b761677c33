"""`join` under mpirun or srun: rank and size come from the launcher, and there is no coordinator."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Container, Sequence

from .communicator import Communicator
from .engine import EventLog
from .errors import JoinRejected, UnsupportedTransport
from .transports.launchers import is_launched


def wants_mpi(coordinator: str | None, transports: Sequence[str] | None) -> bool:
    """Whether a join with these arguments is one of an MPI job. Raises UnsupportedTransport where it cannot be.

    ``coordinator``: as given, or as found in the environment.
    """
    wanted = [transports] if isinstance(transports, str) else list(transports or ())
    if not wanted:
        return coordinator is None and is_launched(os.environ)
    if "mpi" not in wanted:
        return False
    if coordinator is None and is_launched(os.environ):
        return True
    others = [name for name in wanted if name != "mpi"]
    if others and coordinator is not None:
        return False
    if coordinator is not None:
        raise UnsupportedTransport(
            f"an MPI job has all its ranks from the start: nobody can join it at {coordinator}. Leave the address out "
            f"under mpirun, or use transports=['tcp']"
        )
    if others:
        return False  # and `join` asks for the coordinator
    raise UnsupportedTransport(
        "transports=['mpi'], but no MPI launcher has started this process: run it as `mpirun -n 4 python ...` or "
        "`srun --mpi=pmix ...`"
    )


class JobCommunicator(Communicator):
    """All ranks of an MPI job. Views change in operations, and there is no coordinator."""

    def await_without(self, members: Container[int], until: float) -> None:
        pass

    def resign(self, timeout: float = 0.0) -> None:
        pass


def join_launched(name: str | None, min_size: int, timeout: float, on_failure: str, op_timeout: float) -> Communicator:
    """Every rank of the job calls it. Raises UnsupportedTransport, JoinRejected, CollectiveTimeout."""
    from .engine.mpi import MpiSession
    from .transports.mpi import start

    world = start()
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if world.size == 1 and tasks > 1 and "OMPI_COMM_WORLD_RANK" not in os.environ:
        raise UnsupportedTransport(f"srun started {tasks} tasks, but MPI sees one: use `srun --mpi=pmix`")
    if world.size < min_size:
        raise JoinRejected(
            f"min_size is {min_size}, but the launcher started {world.size} ranks, and nobody joins later"
        )
    if name is None:
        name = f"{socket.gethostname()[:100]}-{world.rank}"
    session = MpiSession.form(world, name, on_failure == "raise", time.monotonic() + timeout)
    if events := os.environ.get("COLLCOMM_EVENTS"):
        session.events = EventLog(events, name, session.totals)
        session.events.adopted(session.member, session.view)
    return JobCommunicator(session, session.world(), name, op_timeout)
