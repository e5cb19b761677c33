"""The wheel holds every module of the tree, where users import it from, and the command line starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"collcomm": "collcomm", "transports": "collcomm/transports", "planner": "collcomm/planner"}
BUILD = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """A wheel of a copy of the tree: building writes beside the sources, and old build folders would leak in."""
    tree = tmp_path_factory.mktemp("tree")
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [*BUILD, "-w", str(out), str(tree)], capture_output=True, text=True, timeout=110, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = out.glob("*.whl")
    return zipfile.Path(found)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.Path) -> None:
    names = {name for name in wheel.root.namelist() if not name.endswith("/")}
    expected = {
        f"{inside}/{path.relative_to(ROOT / room).as_posix()}"
        for room, inside in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed" or path.parent.name == "page"
    }
    assert {"collcomm/py.typed", "collcomm/dashboard/page/index.html"} <= expected
    assert expected - names == set(), "add the missing packages to [tool.setuptools] in pyproject.toml"
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - expected - metadata == set(), "the wheel holds what the tree does not"


def test_wheel_works_from_its_own_folder(wheel: zipfile.Path, tmp_path: Path) -> None:
    wheel.root.extractall(tmp_path)
    program = (
        "import collcomm, collcomm.transports, collcomm.planner, collcomm.cli;"
        "print(collcomm.__version__, collcomm.__file__, collcomm.transports.__file__, collcomm.planner.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, *files = done.stdout.split()
    assert all(Path(file).is_relative_to(tmp_path) for file in files)
    assert any(f"collcomm-{version}.dist-info/" in name for name in wheel.root.namelist())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["bench", "--help"], ["coordinator", "--help"]])
def test_command_line_answers(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "collcomm", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "collcomm" in done.stdout
