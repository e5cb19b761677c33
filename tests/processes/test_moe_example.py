"""The mixture-of-experts example, as a newcomer runs it, but small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_outputs_are_those_of_a_single_process(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    command = [sys.executable, str(ROOT / "examples" / "moe.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("outputs are those of a single process") == 2
    report = json.loads((tmp_path / "report.json").read_text())
    plain, spread = report["modes"]["plain"], report["modes"]["LLEP"]
    assert plain["imbalance"] > 2 and plain["copies"] == 0
    assert spread["imbalance"] <= 1 + 32 / 256 and spread["copies"] > 0
    for mode in (plain, spread):
        assert mode["error"] <= 1e-4
        assert mode["formula"] <= mode["sent"]
        assert mode["losses"] == pytest.approx(report["losses"], rel=1e-3)
    assert report["losses"][-1] < report["losses"][0]
    assert report["exflow"]["placed"] <= 0.6 * report["exflow"]["usual"]
    assert (tmp_path / "moe.png").read_bytes().startswith(b"\x89PNG")
