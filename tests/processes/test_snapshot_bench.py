"""`collcomm bench snapshots`: its peers, without the network of namespaces; that what is timed comes back as it was."""

from __future__ import annotations

from typing import Any

import pytest

import collcomm
from collcomm.bench import snapshots
from tests.support.peers import run_peers_at


def test_each_way_of_taking_them_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "NBYTES", 1 << 18)
    monkeypatch.setattr(snapshots, "WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr(snapshots, "SHARES", (0.5,))
    monkeypatch.setattr(snapshots, "STEPS", 2)
    events: list[dict[str, Any]] = []
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        case = {"address": coordinator.address, "n": 2, "rounds": 1}
        run_peers_at(
            coordinator.address,
            2,
            lambda comm: snapshots.snapshot_peer(case, lambda **event: events.append(event)),
            group="beside",
        )
    assert [(event["computation"], event["share"]) for event in events] == [
        (computation, share) for computation in snapshots.WORKS for share in snapshots.SHARES
    ]
    for event in events:
        assert event["times"].keys() == {"none", "now", "later", "waited for"}
        assert all(len(found) == snapshots.STEPS and min(found) > 0 for found in event["times"].values())
