"""Open MPI on the same work: a group of ranks under mpirun that times its all_reduce when told to, and sleeps in between.

Run as ``mpirun ... python -m collcomm.bench.mpireference``; commands come on standard input, a JSON object a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from ..transports.launchers import find_mpirun
from .launch import die_with_parent
from .mpilaunch import why_not

IDLE_SECONDS = 0.01
END_SECONDS = 10.0


class MpiReference:
    """``n`` ranks, for as long as the context lasts. Raises RuntimeError where there is no mpirun."""

    def __init__(self, n: int):
        mpirun = find_mpirun()
        if mpirun is None:
            raise RuntimeError(why_not())
        command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", str(n)]
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "collcomm.bench.mpireference"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )

    def block(self, nbytes: int, count: int, in_place: bool) -> list[float]:
        """Seconds of ``count`` reductions of ``nbytes`` of float32; 0: as many as fill half a second."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"nbytes": nbytes, "count": count, "in_place": in_place}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"mpirun ended with status {self._process.wait(END_SECONDS)}")
        times: list[float] = json.loads(answer)
        return times

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_SECONDS)


def main() -> None:
    import numpy as np
    from mpi4py import MPI

    comm = MPI.COMM_WORLD

    def told() -> Any:
        """The next command at all ranks; None at the end. Polls, since MPI waits by spinning."""
        line = np.zeros(256, np.uint8)
        if comm.rank == 0:
            text = sys.stdin.readline().encode()
            line[: len(text)] = np.frombuffer(text, np.uint8)
        request = comm.Ibcast(line)
        while not request.Test():
            time.sleep(IDLE_SECONDS)
        text = bytes(line).rstrip(b"\0")
        return json.loads(text) if text else None

    while (command := told()) is not None:
        x = np.ones(max(1, command["nbytes"] // 4), np.float32)  # zeros would be one page of memory
        out = np.empty_like(x)
        given = (MPI.IN_PLACE, x) if command["in_place"] else (x, out)
        count = command["count"]
        comm.Allreduce(*given)
        if not count:
            began = time.perf_counter()
            comm.Allreduce(*given)
            took = comm.allreduce(time.perf_counter() - began, MPI.MAX)
            count = int(min(1000, max(2, 0.5 / took)))
        times = []
        for _ in range(count):
            began = time.perf_counter()
            comm.Allreduce(*given)
            times.append(time.perf_counter() - began)
        if comm.rank == 0:
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
