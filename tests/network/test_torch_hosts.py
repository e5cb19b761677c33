"""torch.distributed over two hosts with two ranks each: they find each other through torch's store, and share a secret by it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from collcomm.laboratory import Network
from tests.torch_backend.clients.launch import environment, ranks_environment, run_bounded

PORT = 29_500


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_process_group_across_hosts(tmp_path: Path) -> None:
    with Network(2) as network:
        command = [sys.executable, "-m", "tests.torch_backend.clients.rank", "operations"]
        commands = [[*network.enter(rank % 2), *command] for rank in range(4)]
        extras = [
            environment(tmp_path, "collcomm")
            | ranks_environment(rank, 4, PORT)
            | {"MASTER_ADDR": network.address(0), "LOCAL_RANK": str(rank // 2), "LOCAL_WORLD_SIZE": "2"}
            for rank in range(4)
        ]
        outputs = run_bounded(commands, extras, tmp_path, 100.0)
    told = "\n".join(path.read_text()[-2000:] for path in tmp_path.glob("events-*"))
    assert not outputs, told + "\n".join(outputs)
