"""Operators that reach a process group from C++, against Gloo's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torch_backend.processes import SECONDS, results

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(2 * SECONDS + 30)


def test_operators_find_the_group(tmp_path: Path) -> None:
    """On torch 2.13, `torch.ops.c10d` itself is Gloo's alone."""
    found = {}
    for backend in ("collcomm", "gloo"):
        folder = tmp_path / backend
        folder.mkdir()
        found[backend] = results("operators", [backend], folder, size=2)
    for ours, theirs in zip(found["collcomm"], found["gloo"], strict=True):
        assert ours == {name: theirs[name] for name in ours}
        assert len(ours) >= 14
    assert found["gloo"][0]["batch_p2p_ops"] == [0, 1, 10, 11]
    assert found["gloo"][0]["all_gather_of_a_column"] == [1, 3, 11, 13]
