"""Datatypes from and to those of mpi4py, in a rank under mpirun: `tests/support/mpitypes.py` holds the cases."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from collcomm.bench.mpilaunch import run_ranks, why_not

PROGRAM = ("-m", "tests.support.mpitypes")
CASES = ["named_types", "other_roads", "what_is_refused", "large_types", "elements", "nothing_is_left"]
RUN_SECONDS = 90.0

needs_mpi = pytest.mark.skipif(bool(why_not()), reason=why_not())


def _run(cases: list[str], **options: Any) -> list[dict[str, Any]]:
    events = run_ranks(1, {"cases": cases, **options}, options.pop("timeout", RUN_SECONDS), program=PROGRAM)
    errors = [f"{event['case']}: {event['text']}" for event in events if event["event"] == "error"]
    assert not errors, "\n".join(errors)
    assert [event["case"] for event in events if event["event"] == "done"] == cases
    return events


@needs_mpi
def test_each_kind_of_datatype() -> None:
    _run(CASES)


@pytest.mark.slow
@needs_mpi
def test_random_types_are_what_the_library_makes_of_them() -> None:
    (seen,) = [event for event in _run(["random_types", "random_types_of_bytes"]) if event["event"] == "seen"]
    assert seen["standard"] > 2000 and seen["other"] < seen["standard"] / 10, "Open MPI's own bounds are the exception"


@needs_mpi
@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_many_random_types() -> None:
    _run(["random_types"], examples=50_000, timeout=1500.0)


def _said(source: str) -> str:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).strip()


def test_importing_datatypes_does_not_start_mpi() -> None:
    source = (
        "import sys, collcomm.datatypes\nprint([name for name in sys.modules if name.startswith('mpi4py')],"
        " collcomm.datatypes.from_mpi.__name__)"
    )
    assert _said(source) == "[] from_mpi"


def test_a_missing_package_is_named() -> None:
    source = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from collcomm import datatypes\n"
        "try: datatypes.to_mpi(datatypes.as_datatype('f4'))\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert "pip install 'collcomm[mpi]'" in _said(source)
