"""Processes that run a module of this folder, bounded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 75.0
POLL_SECONDS = 0.05
TAIL = 3000


def results(module: str, arguments: list[str], folder: Path, size: int, killed: int | None = None) -> list[Any]:
    """What each has written to result-NUMBER; None for the one that kills itself. All are gone afterwards. They are called with
    ``arguments``, their number and ``folder``."""
    command = [sys.executable, "-m", f"tests.torch_backend.{module}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = []
    try:
        for number in range(size):
            with (folder / f"output-{number}").open("w") as output:
                processes.append(
                    subprocess.Popen(
                        [*command, str(number), str(folder)],
                        cwd=ROOT,
                        env=environment,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        until = time.monotonic() + SECONDS
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
    finally:
        codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
    expected = [-signal.SIGKILL if number == killed else 0 for number in range(size)]
    outputs = [(folder / f"output-{number}").read_text()[-TAIL:] for number in range(size)]
    told = "\n".join(f"[{n}] {code}\n{text}" for n, (code, text) in enumerate(zip(codes, outputs, strict=True)))
    assert codes == expected, told
    return [
        None if number == killed else json.loads((folder / f"result-{number}").read_text()) for number in range(size)
    ]
