"""Style, format and types of the tree. `python tests/unit/test_static.py` prints what the type checker says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOVED = ("transports", "planner")  # rooms at the top of the tree that are installed inside the package


def _run(command: list[str], cwd: Path, **variables: str) -> tuple[int, str]:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def _types(where: Path) -> tuple[int, str]:
    """mypy over links that lay the package out as an installed one is: it cannot follow an extended ``__path__``."""
    package = where / "collcomm"
    package.mkdir()
    for entry in (ROOT / "collcomm").iterdir():
        (package / entry.name).symlink_to(entry)
    for room in MOVED:
        (package / room).symlink_to(ROOT / room)
    (where / "examples").symlink_to(ROOT / "examples")
    (where / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    command = [sys.executable, "-m", "mypy", "--explicit-package-bases", "--cache-dir", str(ROOT / ".mypy_cache")]
    return _run(command, where, MYPYPATH="examples")  # the examples are scripts that import their neighbours


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["style", "format"])
def test_ruff_has_nothing_to_say(arguments: list[str]) -> None:
    code, said = _run([sys.executable, "-m", "ruff", *arguments, "."], ROOT)
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_types_fit(tmp_path: Path) -> None:
    code, said = _types(tmp_path)
    assert code == 0, said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as staged:
        print(_types(Path(staged))[1])
