"""The launch files under the launchers that they are for: one peer killed, one told to go; the others go on and end alike."""

from __future__ import annotations

import importlib.util
import signal
import sys

import pytest
from collcomm.transports.launchers import find_mpirun

from collcomm.bench.launch import free_port
from tests.support.launching import LAUNCH, Launched, ended_alike

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
TRAIN = ("--rounds", "60", "--inner-steps", "3", "--least-seconds", "0.2")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
needs_mpirun = pytest.mark.skipif(find_mpirun() is None, reason="no mpirun of Open MPI: pip install 'collcomm[mpi]'")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'collcomm[launch]'"
)


def ports() -> dict[str, str]:
    return {"COLLCOMM_PORT": str(free_port()), "RDZV_PORT": str(free_port())}


def one_is_killed_and_comes_back(launched: Launched) -> None:
    first = launched.training(3)
    launched.signal(first[0], signal.SIGKILL)
    launched.until(lambda: set(launched.rounds) - set(first))  # it is there again, as another process
    assert len(ended_alike_at_end(launched)) == 3


def ended_alike_at_end(launched: Launched) -> list[dict[str, object]]:
    status = launched.wait()
    finished = ended_alike(launched)
    assert status == 0, "\n".join(launched.said[-60:])
    return finished


@needs_torch
@pytest.mark.parametrize("restart", ["keep", "agent"])
def test_torchrun_one_is_killed_and_comes_back(restart: str) -> None:
    with Launched([str(LAUNCH / "torchrun.sh"), *TRAIN], RESTART=restart, **ports()) as launched:
        one_is_killed_and_comes_back(launched)


@needs_torch
def test_torchrun_one_is_told_to_go() -> None:
    with Launched([str(LAUNCH / "torchrun.sh"), *TRAIN], **ports()) as launched:
        going = launched.training(3)[0]
        launched.signal(going, signal.SIGTERM)
        finished = ended_alike_at_end(launched)
        assert len(finished) == 2 and all(result["retries"] == 0 for result in finished)
        assert [result["end"] for result in launched.results].count("left") == 1


@needs_torch
def test_torchrun_all_are_told_to_go() -> None:
    with Launched([str(LAUNCH / "torchrun.sh"), *TRAIN], **ports()) as launched:
        launched.training(3)
        launched.process.send_signal(signal.SIGTERM)
        launched.wait()
        assert [result["end"] for result in launched.results] == ["left"] * 3


@needs_mpirun
def test_mpirun_one_is_killed_and_comes_back() -> None:
    with Launched([str(LAUNCH / "mpirun.sh"), *TRAIN], **ports()) as launched:
        one_is_killed_and_comes_back(launched)


@needs_mpirun
def test_mpirun_over_mpi_one_is_told_to_go() -> None:
    with Launched([str(LAUNCH / "mpirun.sh"), *TRAIN], TRANSPORT="mpi", **ports()) as launched:
        going = launched.training(3)[0]
        launched.signal(going, signal.SIGUSR1)
        assert len(ended_alike_at_end(launched)) == 2
        assert [result["end"] for result in launched.results].count("left") == 1


@needs_mpirun
def test_mpirun_all_are_told_to_go() -> None:
    with Launched([str(LAUNCH / "mpirun.sh"), *TRAIN], **ports()) as launched:
        launched.training(3)
        launched.process.send_signal(signal.SIGTERM)
        launched.wait()
        assert [result["end"] for result in launched.results] == ["left"] * 3


@needs_ray
def test_ray_one_is_killed_and_one_is_told_to_go() -> None:
    command = [sys.executable, str(LAUNCH / "ray_train.py"), "--", *TRAIN]
    with Launched(command, RAY_DEDUP_LOGS="0", RAY_USAGE_STATS_ENABLED="0") as launched:
        launched.until(lambda: sum(size == 3 for size in launched.sizes.values()) >= 3, 120.0)
        killed, going, _ = launched.training(3)[:3]
        launched.signal(killed, signal.SIGKILL)
        launched.until(lambda: len(launched.rounds) >= 4)
        launched.signal(going, signal.SIGTERM)
        assert len(ended_alike_at_end(launched)) == 3
        assert [result["end"] for result in launched.results].count("left") == 1
