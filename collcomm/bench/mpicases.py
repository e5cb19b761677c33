"""Benches of the MPI transport: against raw mpi4py in the same processes, and deaths under ULFM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cases import DEFAULT, row_of_times
from .measure import Timing, summary
from .mpilaunch import run_ranks

Row = dict[str, Any]
FAILURE_SECONDS = 60.0


def bench_mpi(
    kind: str,
    n: int,
    sizes: Sequence[int],
    timing: Timing = DEFAULT,
    ulfm: bool = False,
    timeout: float = 1200.0,
) -> list[Row]:
    """Times of ``kind`` among ``n`` ranks of one job, with those of raw mpi4py in between if ``timing`` is against "mpi"."""
    case = {**timing.case(kind, sizes), "raw": "mpi" in timing.against}
    events = [event for event in run_ranks(n, case, timeout, ulfm) if event["event"] == "times"]
    return [{**row_of_times(kind, n, event["nbytes"], event["times"]), "dtype": timing.dtype} for event in events]


def bench_mpi_failure(n: int, sizes: Sequence[int], runs: int = 20) -> list[Row]:
    """SIGKILL of one of ``n`` ranks inside an all_reduce under ULFM: until noticed, until the others hold the retried
    result."""
    rows = []
    for nbytes in sizes:
        noticed, held = [], []
        for run in range(runs):
            case = {"case": "failure", "nbytes": nbytes, "victim": run % n, "after": 0.1 + 0.0017 * run}
            events = run_ranks(n, case, FAILURE_SECONDS, ulfm=True)
            killed = next(event["at"] for event in events if event["event"] == "killed")
            for event in events:
                if event["event"] == "survived":
                    noticed.append(event["noticed"] - killed)
                    held.append(event["done"] - killed)
        row = {"kind": "failure", "peers": n, "nbytes": nbytes}
        rows.append({**row, "noticed": summary(noticed), "held": summary(held)})
    return rows
