"""The example of rings and woven halves, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "ring_attention.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_way_agrees_with_a_single_process() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    done = _run("--peers", "3", "--tokens", "100")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "All are those of a single process."
    assert "NOT" not in done.stdout and len(lines) == 8
    (exact,) = [line for line in lines if line.startswith("LASP-2")]
    assert exact.split()[3:5] == ["0", "0"], "whole numbers differ"


def test_too_few_tokens_are_refused() -> None:
    done = _run("--peers", "3", "--tokens", "11")
    assert done.returncode == 2 and "3 peers share 12 or more" in done.stderr
