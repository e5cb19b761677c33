"""The main job, as a newcomer runs it, but small: one peer is killed, one joins, all end on the same bits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quick_job(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    command = [sys.executable, str(ROOT / "examples" / "diloco.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout
    assert "killed with SIGKILL" in said and "was killed" in said and "peer-5 joined" in said
    assert "All 4 peers ended with bit-identical parameters." in said
    assert len(set(re.findall(r"parameters: ([0-9a-f]{64})", said))) == 1
    before, after = (float(text) for text in re.search(r"Held-out loss: ([\d.]+) .* ([\d.]+) after", said).groups())  # type: ignore[union-attr]
    assert after < before - 1
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "report.json").read_text())
