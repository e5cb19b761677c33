"""The elastic example under torchrun, small: a rank dies in its backward pass, and comes back as a newcomer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rank_is_killed_and_comes_back(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command += [str(ROOT / "examples" / "ddp.py"), "--steps", "60", "--kill-step", "20", "--join-step", "30"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }  # of the tables, which wrap where it is narrow
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    said = done.stdout
    assert done.returncode == 0, said[-3000:] + done.stderr[-3000:]
    assert re.search(r"20 │ 3 -> 2 │ a rank was killed; complete over 2", said), said
    assert re.search(r"30 │ 2 -> 3 │ newcomer, has state and data", said), said
    assert "All 3 ranks ended with bit-identical parameters." in said
    assert len(set(re.findall(r"[0-9a-f]{64}", said))) == 1
    assert float(re.search(r"([\d.]+)% of the digits recognised", said)[1]) > 80  # type: ignore[index]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
