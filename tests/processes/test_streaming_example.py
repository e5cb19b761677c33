"""The comparison of low-communication methods, as a newcomer runs it, but small and over loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "examples" / "streaming_diloco.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quick_comparison(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    command = [*PROGRAM, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "All peers ended each method with bit-identical parameters." in done.stdout
    rows = json.loads((tmp_path / "report.json").read_text())
    assert {"data-parallel", "diloco", "one-step-delayed", "co2", "streaming"} <= set(rows)
    assert "streaming-4bit" in rows or "streaming-4bit: left out" in done.stdout
    for name, row in rows.items():
        assert row["losses"][-1] < row["losses"][0], f"{name} has learned nothing"
        assert 0 < row["exposed"] < 1 and row["sent"] > 0
    per_step = {name: row["sent"] / row["steps"] for name, row in rows.items()}
    assert per_step["streaming"] < per_step["data-parallel"] / 6  # H is 8
    assert (tmp_path / "streaming.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [(["--tau", "30"], "--tau: must be less than the 30"), (["--rate", "0"], "--rate must be positive")],
)
def test_arguments_that_make_no_sense(wrong: list[str], text: str) -> None:
    done = subprocess.run([*PROGRAM, *wrong], capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    assert done.returncode == 2 and text in done.stderr
