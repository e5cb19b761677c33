"""The halo example, as a newcomer runs it, but small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "halo.py"), "--quick", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("peers", "radius"), [(8, 3), (5, 1)])
def test_the_answer_is_that_of_a_single_process(peers: int, radius: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    done = _run("--peers", str(peers), "--radius", str(radius), "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "The answer is bit-identical to that of a single process." in done.stdout
    assert (tmp_path / "halo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_box_without_a_block_is_given_up(tmp_path: Path) -> None:
    done = _run("--peers", "4", "--kill-step", "7", "--out", str(tmp_path))
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "peer-4" in done.stdout and "There is no answer" in done.stdout.replace("there is no", "There is no")
