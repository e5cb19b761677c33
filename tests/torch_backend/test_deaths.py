"""A rank of an ordinary process group dies: the others are told who, at once, and groups without it go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from collcomm.bench.launch import free_port
from tests.torch_backend.clients.launch import ROOT, ranks_environment

SIZE = 3


def _survivors(victim: int, calls: str) -> list[list[dict[str, Any]]]:
    port = free_port()
    command = [sys.executable, "-m", "tests.torch_backend.mourner", str(victim), calls]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHELASTIC_USE_AGENT_STORE": "False"}
            | ranks_environment(rank, SIZE, port),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        said = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [[json.loads(line) for line in text.splitlines()] for rank, text in enumerate(said) if rank != victim]


@pytest.mark.slow
@pytest.mark.parametrize("calls", ["waiting", "in flight"])
def test_the_others_are_told_who_died_and_groups_without_it_go_on(calls: str) -> None:
    for told, left in _survivors(2, calls):
        assert told["kind"] == "PeerLost" and "rank-2" in told["text"], told
        assert told["then"] == "PeerLost" and told["torch's, too"] and told["others"] == 2.0, told
        assert told["seconds"] < 5 and left["left"] < 5


@pytest.mark.slow
@pytest.mark.parametrize("calls", ["waiting", "none yet"])
def test_the_coordinator_dies_with_rank_0_and_nobody_hangs(calls: str) -> None:
    for told, left in _survivors(0, calls):
        assert told["kind"] in ("PeerLost", "CoordinatorUnavailable"), told
        assert told["seconds"] < 15 and left["left"] < 5
