"""Runs ranks under mpirun, hears what they say, and leaves nothing behind: no process, no file in /dev/shm or /tmp."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..transports.launchers import find_mpirun
from .launch import END_SECONDS, child_environment, die_with_parent

BENCH_RANK = ("-m", "collcomm.bench.mpipeer")
SEGMENTS = Path("/dev/shm")
PREFIX = "mpi-collcomm-"
EVENTS = "COLLCOMM_RANK_EVENTS"  # names a file to which ranks write their events


def why_not() -> str:
    """Why MPI cannot be used here; empty when it can."""
    try:
        import importlib.util

        found = importlib.util.find_spec("mpi4py") is not None
    except ImportError:
        found = False
    if not found:
        return "mpi4py is missing: pip install 'collcomm[mpi]'"
    return "" if find_mpirun() else "there is no mpirun: pip install 'collcomm[mpi]'"


def emit(**event: Any) -> None:
    """In a rank: tell the launcher something; on stdout without one. In a file, lines of several ranks do not mix."""
    line = (json.dumps(event) + "\n").encode()
    if EVENTS not in os.environ:
        print(json.dumps(event), flush=True)
        return
    file = os.open(os.environ[EVENTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def clear_up(where: Path) -> None:
    """Remove what launchers have left there that were killed."""
    for folder in where.glob(f"{PREFIX}*-*"):
        launcher = folder.name.removeprefix(PREFIX).partition("-")[0]
        if launcher.isdigit() and not Path("/proc", launcher).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(
    n: int,
    case: dict[str, Any],
    ulfm: bool = False,
    program: Sequence[str] = BENCH_RANK,
    stdin: int | None = None,
    stderr: int | None = None,
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """mpirun with ``n`` ranks, which end with the context, and the file to which they write their events. Its standard output
    is a pipe."""
    mpirun = find_mpirun()
    if mpirun is None:
        raise RuntimeError(why_not())
    where = SEGMENTS if SEGMENTS.is_dir() else Path(tempfile.gettempdir())
    clear_up(where)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=where) as folder:
        events = Path(folder) / "events"
        options = ["--allow-run-as-root", "--oversubscribe", "--mca", "btl_sm_backing_directory", folder]
        if ulfm:
            options += ["--with-ft", "ulfm"]
        command = [mpirun, *options, "-n", str(n), sys.executable, *program, json.dumps(case)]
        environment = {**child_environment(), "TMPDIR": folder, EVENTS: str(events)}
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
            preexec_fn=die_with_parent,
        )
        try:
            yield process, events
        finally:
            _end(process)


def run_ranks(
    n: int,
    case: dict[str, Any],
    timeout: float,
    ulfm: bool = False,
    program: Sequence[str] = BENCH_RANK,
    excused: bool = False,
) -> list[dict[str, Any]]:
    """Run Python's ``program`` with ``case`` as ``n`` ranks; returns their events in the order in which they came.

    Raises RuntimeError when mpirun fails, unless ``excused`` or a rank was meant to die, TimeoutError after ``timeout`` seconds.
    """
    with started(n, case, ulfm, program, stderr=subprocess.STDOUT) as (process, events):
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise TimeoutError(f"the ranks have not ended within {timeout:.0f} s; events: {_read(events)}") from None
        if process.returncode and not excused:
            raise RuntimeError(f"mpirun ended with code {process.returncode}: {said[-4000:]}")
        return [*_read(events), {"event": "exit", "code": process.returncode, "said": said}]


def _end(process: subprocess.Popen[str]) -> None:
    """mpirun ends its ranks when it is told to; those that call `die_with_parent` end with it in any case."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        process.send_signal(how)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
