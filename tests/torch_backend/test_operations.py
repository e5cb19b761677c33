"""What `clients/operations.py` checks, in shared memory and over TCP."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from tests.torch_backend.clients.launch import run_checks


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_operations_of_a_process_group(transport: str) -> None:
    report = run_checks("operations", 3, "collcomm", extra={"COLLCOMM_TRANSPORTS": transport})
    assert not report.failed, report.text()
    assert len(report.done) > 15
