"""Tests that need a GPU; elsewhere they are skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from collcomm.bench.gpu import why_no_gpu


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = why_no_gpu() if here else ""
    for item in here:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
