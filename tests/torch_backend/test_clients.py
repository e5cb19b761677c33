"""Clients of torch.distributed as they are, over the backend: what they compute is what one process computes.

``CLIENTS_BACKEND=gloo`` runs the same checks over Gloo.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.torch_backend.clients.launch import environment, run_bounded, run_checks
from tests.torch_backend.clients.names import BACKEND as VARIABLE

BACKEND = os.environ.get(VARIABLE, "collcomm")
SECONDS = 400  # of a test in which checks fail and are started anew; without that, some 10

pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.timeout(SECONDS),
    pytest.mark.slow,
]


def _hold(modules: str, size: int, extra: Mapping[str, str] | None = None, torchrun: bool = False) -> None:
    report = run_checks(modules, size, BACKEND, extra=extra, torchrun=torchrun)
    assert not report.failed, report.text()
    assert report.known and sorted(report.done) == sorted(report.known)


@pytest.mark.parametrize(
    ("modules", "size"),
    [
        ("ddp,ddp_hooks,pipeline,states", 3),
        ("functional,gradients,objects", 3),
        ("sharded,mesh", 3),
        ("sharded,mesh", 4),
        ("lifecycle", 3),
    ],
)
def test_clients_compute_what_one_process_computes(modules: str, size: int) -> None:
    _hold(modules, size)


def test_compiled_graphs() -> None:
    _hold("compiled", 2)


def test_under_torchrun() -> None:
    """Workers meet in the store of their agent."""
    _hold("objects,gradients", 2, torchrun=True)


@pytest.mark.skipif(BACKEND == "gloo", reason="2.13 crashes in DDP when it wraps Gloo for its checks")
def test_with_torchs_own_checks() -> None:
    """DDP looks closer at what differs between ranks."""
    _hold("ddp,objects", 2, extra={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"})


@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_accelerate() -> None:
    _hold("accelerating", 2)


@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")
def test_lightning(tmp_path: Path) -> None:
    """It starts its second process; both compare parameters and loss with one process's."""
    command = [sys.executable, "-m", "tests.torch_backend.clients.lightning_fit", "2"]
    outputs = run_bounded([command], [environment(tmp_path, BACKEND)], tmp_path, 100.0)
    assert not outputs, outputs[0]
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1"]
