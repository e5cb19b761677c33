"""Clients of torch.distributed as they are, over the backend: what they compute is what one process computes.

``CLIENTS_BACKEND=gloo`` runs the same checks over Gloo.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.torch_backend.clients.launch import Start, environment, run_bounded, run_checks
from tests.torch_backend.clients.names import BACKEND as VARIABLE

BACKEND = os.environ.get(VARIABLE, "collcomm")
SECONDS = 400  # of a test in which checks fail and are started anew; without that, some 10

pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.timeout(SECONDS),
    pytest.mark.slow,
]


def _hold(start: Start, *names: str) -> None:
    report = run_checks(start, names)
    assert not report.failed, report.text()
    assert sorted(report.done) == sorted(names or report.known)


@pytest.mark.parametrize(
    ("modules", "size"),
    [
        ("ddp,ddp_hooks,pipeline,states", 3),
        ("ddp,ddp_hooks,pipeline,states", 2),
        ("functional,gradients,objects", 3),
        ("sharded,mesh", 3),
        ("sharded,mesh,functional,objects", 4),
        ("lifecycle", 3),
    ],
)
def test_clients_compute_what_one_process_computes(modules: str, size: int) -> None:
    _hold(Start(modules, size, BACKEND))


def test_compiled_graphs() -> None:
    _hold(Start("compiled", 2, BACKEND))


def test_under_torchrun() -> None:
    """Workers meet in the store of their agent."""
    _hold(Start("objects,gradients", 2, BACKEND, torchrun=True))


def test_with_torchs_own_checks() -> None:
    """DDP looks closer, and groups of C++ backends compare all calls."""
    _hold(Start("ddp,objects", 2, BACKEND, extra={"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "TORCH_CPP_LOG_LEVEL": "ERROR"}))


@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_accelerate() -> None:
    _hold(Start("accelerating", 2, BACKEND))


@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")
def test_lightning(tmp_path: Path) -> None:
    """The parameters of one process on the joined batches, and a metric that is the mean over both ranks."""
    command = [sys.executable, "-m", "tests.torch_backend.clients.lightning_fit", "2"]
    outputs = run_bounded([command], [environment(tmp_path, BACKEND)], tmp_path, 100.0)
    assert not outputs, outputs[0]
    check = [sys.executable, "-m", "tests.torch_backend.clients.lightning_told", "2"]
    outputs = run_bounded([check], [environment(tmp_path, BACKEND)], tmp_path, 100.0)
    assert not outputs, outputs[0]
