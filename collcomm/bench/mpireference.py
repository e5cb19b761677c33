"""Open MPI on the same work: ranks under mpirun that time their all_reduce when they are told to, and sleep in between."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

from .measure import repetitions, timed
from .mpilaunch import started
from .workload import Call, raw_call

IDLE_SECONDS = 0.01
END_SECONDS = 10.0
COMMAND_BYTES = 256


class MpiReference:
    """``n`` ranks, until `close`. Raises RuntimeError where there is no mpirun."""

    def __init__(self, n: int):
        self._stack = ExitStack()
        self._process, _ = self._stack.enter_context(started(n, {"case": "reference"}, stdin=subprocess.PIPE))

    def block(self, nbytes: int, out_of_place: bool, seconds: float) -> list[float]:
        """Times of reductions of ``nbytes`` of float32, as many as fill about ``seconds``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {"nbytes": nbytes, "out_of_place": out_of_place, "seconds": seconds}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"mpirun ended with status {self._process.wait(END_SECONDS)}")
        times: list[float] = json.loads(answer)
        return times

    def close(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("null\n")  # mpirun does not hand on the end of its input
            self._process.stdin.flush()
            self._process.wait(END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            self._stack.close()


def serve(case: dict[str, Any]) -> None:
    """The rank's side: commands come to rank 0 on its standard input, a JSON object a line; it answers with times."""
    import numpy as np
    from mpi4py import MPI

    comm = MPI.COMM_WORLD

    def told() -> dict[str, Any] | None:
        """The next command at all ranks; None at the end. Polls, since MPI waits by spinning."""
        line = np.zeros(COMMAND_BYTES, np.uint8)
        if comm.rank == 0:
            text = sys.stdin.readline().encode()
            line[: len(text)] = np.frombuffer(text, np.uint8)
        request = comm.Ibcast(line)
        while not request.Test():
            time.sleep(IDLE_SECONDS)
        text = bytes(line).rstrip(b"\0")
        command: dict[str, Any] | None = json.loads(text) if text else None
        return command

    def slowest(took: float) -> float:
        longest: float = comm.allreduce(took, MPI.MAX)
        return longest

    known: tuple[dict[str, Any], Call, int] | None = None  # the last command, and how often it is called
    while (command := told()) is not None:
        if known is None or known[0] != command:
            call = raw_call(comm, "all_reduce", command["nbytes"], "float32", command["out_of_place"])
            known = command, call, repetitions(call, command["seconds"], slowest)
        times = timed(known[1], known[2])
        if comm.rank == 0:
            print(json.dumps(times), flush=True)
