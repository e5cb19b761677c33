"""PyTorch's own distributed test suite: what Gloo passes, collcomm passes.

``distributed_suite.py`` runs it, from what the torch wheel ships; ``gloo_passes.json`` is what Gloo passed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch's distributed suite needs torch")
pytest.importorskip("expecttest", reason="PyTorch's distributed suite imports expecttest")

RUNNER = Path(__file__).with_name("distributed_suite.py")
BASELINE = json.loads(RUNNER.with_name("gloo_passes.json").read_text())
LIMIT_SECONDS = 240  # of one run; it takes 30 to 60, and a test that hangs ends after 60
TAIL = 3000


def _run(world_size: int, where: Path) -> dict[str, str]:
    """What each test that Gloo passes has said under collcomm; "" if it has passed."""
    outcomes, printed = where / "outcomes.json", where / "printed"
    options = ["--backend", "collcomm", "--world-size", str(world_size), "--gloo-passes", "--limit", str(LIMIT_SECONDS)]
    with printed.open("wb") as log:
        command = [sys.executable, str(RUNNER), *options, "--json", str(outcomes)]
        runner = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            runner.wait(LIMIT_SECONDS + 100)
        finally:
            os.killpg(runner.pid, signal.SIGKILL)  # a zombie until it is waited for: the group is still there
            runner.wait()
    assert outcomes.exists(), printed.read_text(errors="replace")[-TAIL:]
    tests = json.loads(outcomes.read_text())["tests"]
    return {test["name"]: "" if test["outcome"] == "passed" else f"{test['outcome']}: {test['said']}" for test in tests}


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_SECONDS + 120)
@pytest.mark.parametrize("world_size", [2, 3])
def test_what_gloo_passes_passes(world_size: int, tmp_path: Path) -> None:
    if version("torch").split("+")[0] != BASELINE["torch"]:
        pytest.skip(f"Gloo's list is of torch {BASELINE['torch']}: record it anew with {RUNNER.name} --record 3")
    said = _run(world_size, tmp_path)
    assert sorted(said) == BASELINE["passes"][str(world_size)]
    wrong = [f"{name} {text[:TAIL]}" for name, text in said.items() if text]
    assert not wrong, f"{len(wrong)} of {len(said)} tests that Gloo passes:\n" + "\n\n".join(wrong)
