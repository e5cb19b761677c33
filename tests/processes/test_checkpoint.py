"""Saves in which a peer is killed: the checkpoint in the directory is whole, the one before or the new one."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.snapshots import Checkpoint, even_rows, load, save
from tests.support.shards import Company, die

pytest.importorskip("safetensors")

NAMES = ("p0", "p1", "p2")
ROWS = 30_000
SAVE_SECONDS = 20.0
CALLS = {  # of a save: whose death is meant, the function in which it comes, and what is whole then
    "before a part is durable": (1, "fsync", 0),
    "before the index is in place": (0, "replace", 0),
    "after the index is in place": (0, "replace and return", 1),
}


def content(revision: int) -> np.ndarray:
    return np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4) + revision


def keep(comm: collcomm.Communicator, directory: str, revision: int) -> None:
    start, stop = even_rows(ROWS, comm.size, comm.rank)
    arrays = {"x": content(revision)[start:stop], "same": content(revision)[:100]}
    save(comm, directory, arrays, ["same"], meta={"revision": revision}, timeout=SAVE_SECONDS)


def die_in(function: str) -> None:
    original = getattr(os, function.split()[0])

    def call(*arguments: Any, **options: Any) -> Any:
        if function.endswith("return"):
            original(*arguments, **options)
        die()

    setattr(os, function.split()[0], call)


def save_and_die(comm: collcomm.Communicator, tell: Connection, directory: str, rank: int, function: str) -> None:
    keep(comm, directory, 0)
    if comm.rank == rank:
        die_in(function)
    try:
        keep(comm, directory, 1)
    except collcomm.PeerLost as error:
        tell.send((comm.rank, str(error)))
    comm.barrier()
    if comm.rank == 0:
        tell.send(Checkpoint(directory).meta["revision"])
        assert (load(directory)["x"] == content(Checkpoint(directory).meta["revision"])).all()
    comm.barrier()
    keep(comm, directory, 2)
    tell.send("saved")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("when", CALLS)
def test_a_save_in_which_a_peer_dies(when: str, tmp_path: Path) -> None:
    rank, function, revision = CALLS[when]
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Company(coordinator.address) as peers:
        for name in NAMES:
            peers.start(name, save_and_die, str(tmp_path), rank, function, min_size=3)
        told = peers.until(NAMES, "saved")
    lost = [said for said in told if isinstance(said, tuple)]
    assert sorted(new for new, _ in lost) == [0, 1], told
    assert all("whole" in text for _, text in lost)
    assert [said for said in told if isinstance(said, int)] == [revision]
    for size in (2, 4):
        found = [load(tmp_path, number, size) for number in range(size)]
        assert (np.concatenate([one["x"] for one in found]) == content(2)).all()
        assert all((one["same"] == content(2)[:100]).all() for one in found)
    assert len(list(tmp_path.iterdir())) == 3, "two parts and an index"
