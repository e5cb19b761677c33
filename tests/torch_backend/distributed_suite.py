"""Run PyTorch's own distributed test suite against a backend.

python tests/torch_backend/distributed_suite.py --backend gloo --world-size 2 [-k NAME] [--json OUT]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import unittest
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).with_name("gloo_passes.json")
TEST_SECONDS = 60  # a rank's own time-outs end before, so that the test can say what it waited for
ERROR_CHARACTERS = 6000
HEADLINES = 12
SINGLE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Outcome:
    """What has become of one test."""

    name: str
    outcome: str  # "passed", "failed" or "skipped"
    said: str  # the error, or why it was skipped
    seconds: float


def _prepare(backend: str, world_size: int, spawn: bool, scratch: str) -> Any:
    """The adapted tests; what they are is decided by the environment while they are imported, as torch has it."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ.update(dict.fromkeys(SINGLE_THREAD, "1"))  # ranks share the cores; and no threads before the fork
    os.environ["DISTRIBUTED_TESTS_DEFAULT_TIMEOUT"] = str(TEST_SECONDS)
    os.environ.update(BACKEND=backend, WORLD_SIZE=str(world_size), INIT_METHOD=f"file://{scratch}/unused")
    os.environ.update(TMPDIR=scratch, SUITE_OUTPUT=f"{scratch}/output")
    tempfile.tempdir = scratch  # torch's tests leave files behind
    if not spawn:
        os.environ["SUITE_FORKS"] = "1"
    from tests.torch_backend import adaptations

    adaptations.adopt_orphans()
    return adaptations.AdaptedTest


def _run_one(tests: Any, name: str) -> Outcome:
    result = unittest.TestResult()
    output = Path(os.environ["SUITE_OUTPUT"])
    output.write_bytes(b"")
    heard = io.StringIO()  # with the stacks of ranks that hang
    handler = logging.StreamHandler(heard)
    handler.setLevel(logging.ERROR)
    logger = logging.getLogger("torch.testing._internal.common_distributed")
    logger.addHandler(handler)
    logger.propagate = False
    begin = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        unittest.TestSuite([tests(name)]).run(result)
    seconds = round(time.monotonic() - begin, 2)
    logger.removeHandler(handler)
    if bad := [*result.errors, *result.failures]:
        printed = output.read_text(errors="replace")
        said = "\n".join([*(error for _, error in bad), heard.getvalue(), "Output of its ranks:", printed])
        return Outcome(name, "failed", said[:ERROR_CHARACTERS], seconds)
    if result.skipped:
        return Outcome(name, "skipped", result.skipped[0][1], seconds)
    return Outcome(name, "passed", "", seconds)


def headlines(error: str) -> str:
    """Of stacks and output, the lines that tell what was wrong."""
    noise = (" ", "Traceback (", "frame #", "Exception raised from", "USDT:", "To execute this", "This message can be")
    lines = [line for line in error.splitlines() if line and not line.startswith(noise)]
    return "\n".join(lines[:HEADLINES])


def run(tests: Any, names: list[str], limit: float) -> list[Outcome]:
    """Run these tests; those that the limit leaves no time for have failed."""
    outcomes = []
    deadline = time.monotonic() + limit
    for name in names:
        if time.monotonic() > deadline:
            outcome = Outcome(name, "failed", f"not run: the {limit:.0f} s of the whole run were over", 0.0)
        else:
            outcome = _run_one(tests, name)
        outcomes.append(outcome)
        print(f"{outcome.outcome:8}{outcome.seconds:6.1f} s  {name}", flush=True)
        if outcome.outcome == "failed":
            print("          " + headlines(outcome.said).replace("\n", "\n          "), flush=True)
    return outcomes


def named(outcomes: list[Outcome], outcome: str) -> list[str]:
    """The names of tests with that outcome."""
    return [each.name for each in outcomes if each.outcome == outcome]


def gloo_passes(world_size: int) -> list[str]:
    """The checked-in list."""
    names: list[str] = json.loads(BASELINE.read_text())["passes"][str(world_size)]
    return names


def record(world_size: int, runs: list[list[Outcome]]) -> None:
    """Make these runs the baseline for their world size: what has passed in each of them; what has in some is flaky."""
    import torch

    passes = [set(named(outcomes, "passed")) for outcomes in runs]
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    baseline["torch"] = torch.__version__.split("+")[0]
    steady, flaky = set.intersection(*passes), set.union(*passes) - set.intersection(*passes)
    baseline.setdefault("passes", {})[str(world_size)] = sorted(steady)
    baseline.setdefault("left out: flaky with Gloo itself", {})[str(world_size)] = sorted(flaky)
    BASELINE.write_text(json.dumps(baseline, indent=1, sort_keys=True) + "\n")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("-k", default="", dest="only", metavar="NAME", help="tests with this in their name")
    parser.add_argument(
        "--gloo-passes", action="store_true", help="only tests that Gloo passes, by the checked-in list"
    )
    parser.add_argument("--spawn", action="store_true", help="a fresh interpreter for each rank, as torch does; slow")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all outcomes here")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for the whole run")
    parser.add_argument("--record", type=int, default=0, metavar="RUNS", help="make so many runs the checked-in list")
    chosen = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torch-suite-") as scratch:
        tests = _prepare(chosen.backend, chosen.world_size, chosen.spawn, scratch)
        names = gloo_passes(chosen.world_size) if chosen.gloo_passes else unittest.TestLoader().getTestCaseNames(tests)
        names = [name for name in names if chosen.only in name]
        runs = [run(tests, names, chosen.limit) for _ in range(chosen.record or 1)]
    outcomes = runs[-1]
    seconds = time.monotonic() - begin
    counts = {outcome: len(named(outcomes, outcome)) for outcome in ("passed", "failed", "skipped")}
    print(f"{chosen.backend}, {chosen.world_size} ranks: {counts}, {seconds:.0f} s")
    if chosen.record:
        record(chosen.world_size, runs)
    if chosen.json:
        about = {"backend": chosen.backend, "world_size": chosen.world_size, "seconds": round(seconds, 1), **counts}
        chosen.json.write_text(json.dumps({**about, "tests": [asdict(each) for each in outcomes]}, indent=1) + "\n")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
