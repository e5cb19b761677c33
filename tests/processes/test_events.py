"""Where and as whom to join may come from the environment, and so may a file for the log of events."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import collcomm
from tests.support.peers import run_peers

TOTALS = {"operations", "steps", "seconds_lost"}


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_join_without_an_address_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLCOMM_COORDINATOR", raising=False)
    with pytest.raises(ValueError, match="set COLLCOMM_COORDINATOR=host:48148"):
        collcomm.join()


async def test_address_and_name_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        monkeypatch.setenv("COLLCOMM_COORDINATOR", coordinator.address)
        monkeypatch.setenv("COLLCOMM_NAME", "lab-7")
        monkeypatch.setenv("COLLCOMM_ADVERTISE", "localhost")
        async with await collcomm.aio.join() as comm:
            (member,) = comm.view.members
            assert (member.name, member.host) == ("lab-7", "localhost")
        with collcomm.join(name="given") as given:
            assert given.name == "given"


def test_the_log_tells_of_joining_views_progress_and_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "events"
    monkeypatch.setenv("COLLCOMM_EVENTS", str(path))

    def body(comm: collcomm.Communicator) -> None:
        for _ in range(5):
            comm.all_reduce(np.ones(10))
            comm.step()
        if comm.name == "peer-1":
            comm.leave()
            return
        while comm.size == 2:
            comm.barrier()
        comm.barrier()

    run_peers(2, body)
    lines = _lines(path)
    assert all({"time", "pid", "name", "event"} | TOTALS <= set(line) for line in lines)
    stayed = [line for line in lines if line["name"] == "peer-0"]
    kinds = [line["event"] for line in stayed]
    assert [kind for kind in kinds if kind != "progress"] == ["joined", "first", "view", "first", "ended"]
    joined, first, view, again, ended = (line for line in stayed if line["event"] != "progress")
    assert joined["member"] in joined["members"]
    assert len(joined["members"]) == 2
    assert joined["time"] <= first["time"] <= view["halted"] <= view["time"] <= again["time"]
    assert (first["epoch"], again["epoch"]) == (joined["epoch"], view["epoch"])
    assert view["members"] == [joined["member"]]
    assert ended["steps"] == 5
    assert "closed" in ended["cause"]
    progress = [line for line in stayed if line["event"] == "progress"]
    assert progress
    assert all(b["time"] - a["time"] >= 0.1 for a, b in itertools.pairwise(progress))
