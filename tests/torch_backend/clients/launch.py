"""Starts the ranks of some checks, bounds them, and starts again behind a check that has failed.

By hand: ``python -m tests.torch_backend.clients.launch ddp,ddp_hooks 3 --backend gloo``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from collcomm.bench.launch import free_port
from tests.torch_backend.clients.names import BACKEND, FOLDER

ROOT = Path(__file__).parents[3]
START_SECONDS = 150.0  # bounds one start; a check has a bound of its own in its process
ALL_SECONDS = 200.0  # no further start after it
GRACE_SECONDS = 3.0  # of the others when one has failed: they may have more to say
POLL_SECONDS = 0.02
TAIL = 4500  # characters of output that are shown
Events = list[list[dict[str, Any]]]  # of each rank


@dataclass
class Report:
    """What checks have come to: names to seconds, or to what went wrong."""

    known: list[str] = field(default_factory=list)
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        return "\n\n".join(f"--- {name}\n{text}" for name, text in self.failed.items())


@dataclass(frozen=True)
class _Start:
    """Which modules, "one,other", in how many processes, by which launcher."""

    modules: str
    size: int
    backend: str
    torchrun: bool
    extra: Mapping[str, str]
    seconds: float

    def run(self, names: Sequence[str], folder: Path) -> list[str]:
        program = ["-m", "tests.torch_backend.clients.rank", self.modules, *names]
        common = environment(folder, self.backend) | dict(self.extra)
        port = free_port()
        if self.torchrun:
            elastic = ["-m", "torch.distributed.run", f"--nproc-per-node={self.size}", f"--master-port={port}"]
            return run_bounded([[sys.executable, *elastic, *program]], [common], folder, self.seconds)
        extras = [common | ranks_environment(rank, self.size, port) for rank in range(self.size)]
        return run_bounded([[sys.executable, *program]] * self.size, extras, folder, self.seconds)


def environment(folder: Path, backend: str) -> dict[str, str]:
    """Of all processes that a start leads to."""
    return os.environ | {
        BACKEND: backend,
        FOLDER: str(folder),
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compiling processes
        "OMPI_MCA_btl_sm_backing_directory": str(
            folder
        ),  # who looks whether MPI is there starts it, and leaves a segment
    }


def ranks_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    return address | {name: str(value) for name, value in ranks.items()}


def run_bounded(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]], folder: Path, seconds: float
) -> list[str]:
    """Output of each process; all of them are gone afterwards, whatever happens. An empty list: all ended well."""
    outputs = [folder / f"output-{index}" for index in range(len(commands))]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command, variables, output in zip(commands, environments, outputs, strict=True):
            with output.open("w") as file:
                processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=dict(variables), stdout=file, stderr=file, start_new_session=True
                    )
                )
        deadline = time.monotonic() + seconds
        codes = [process.poll() for process in processes]
        while None in codes and time.monotonic() < deadline:
            if any(codes):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            time.sleep(POLL_SECONDS)
            codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            _end(process)
    if not any(code is None or code for code in codes):
        return []
    texts = [output.read_text()[-TAIL:] for output in outputs]
    return [f"[{index}] exit code {code}\n{text}" for index, (code, text) in enumerate(zip(codes, texts, strict=True))]


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started, also in sessions of their own as torchrun's workers are."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_checks(
    modules: str,
    size: int,
    backend: str,
    asked: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    torchrun: bool = False,
    seconds: float = START_SECONDS,
) -> Report:
    """All checks of ``modules``, "one,other", or those asked for: one start, and one more behind each check that fails."""
    start = _Start(modules, size, backend, torchrun, extra or {}, seconds)
    report = Report()
    names = list(asked)
    deadline = time.monotonic() + ALL_SECONDS
    while True:
        with tempfile.TemporaryDirectory(prefix="clients-") as name:
            outputs = start.run(names, Path(name))
            paths = sorted(Path(name).glob("events-*"))
            events: Events = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        report.known = next((e["checks"] for told in events for e in told if "checks" in e), report.known)
        order = names or report.known
        finished = [{e["done"]: e["seconds"] for e in told if "done" in e} for told in events]
        done = [check for check in order if len(finished) == size and all(check in rank for rank in finished)]
        report.done |= {check: max(rank[check] for rank in finished) for check in done}
        if not outputs:
            break
        bad = next((check for check in order if check not in done), "leaving")
        texts = dict.fromkeys(e["text"][-TAIL:] for told in events for e in told if e.get("failed") == bad)  # each once
        report.failed[bad] = "\n".join(texts or outputs)
        names = order[order.index(bad) + 1 :] if bad in order else []
        if not names or time.monotonic() > deadline:
            break
    missing = [check for check in asked or report.known if check not in report.done and check not in report.failed]
    report.failed |= {check: "has not run at all ranks" for check in missing}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", help="names with commas in between")
    parser.add_argument("size", type=int)
    parser.add_argument("checks", nargs="*", help='"module.check"; all without')
    parser.add_argument("--backend", default="collcomm")
    parser.add_argument("--torchrun", action="store_true")
    parser.add_argument("--full", action="store_true", help="show all of what has gone wrong")
    arguments = parser.parse_args()
    started = time.monotonic()
    wanted = arguments.modules, arguments.size, arguments.backend, arguments.checks
    report = run_checks(*wanted, torchrun=arguments.torchrun)
    for name, seconds in report.done.items():
        print(f"{seconds:7.2f} s  {name}")
    print(f"{time.monotonic() - started:7.2f} s  in all, {len(report.done)} done, {len(report.failed)} failed")
    brief = "\n".join(f"--- {name}: {text[-500:]}" for name, text in report.failed.items())
    print(report.text() if arguments.full else brief)


if __name__ == "__main__":
    main()
