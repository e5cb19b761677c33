"""Metrics: what Prometheus' own parser reads of them."""

from __future__ import annotations

import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collcomm.errors import CollcommError
from collcomm.health.metrics import SnapshotCollector, start_metrics
from tests.unit.test_console import SNAPSHOT

TOTALS = [
    {"kind": "view", "cause": "", "count": 7},
    {"kind": "died", "cause": "silent", "count": 2},
    {"kind": "died", "cause": "port gone", "count": 1},
    {"kind": "left", "cause": "left", "count": 4},
]


def read(text: str) -> dict[tuple[str, ...], float]:
    """By name and values of labels, in the order of the labels' names."""
    families = text_string_to_metric_families(text)
    return {
        (s.name, *(s.labels[label] for label in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


def told(*snapshots: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return read(SnapshotCollector(lambda: list(snapshots)).exposition().decode())


def test_a_group_is_told_of() -> None:
    links = [{"source": 1, "target": 2, "latency": 1e-4, "bandwidth": 1.25e8}, {"source": 1, "target": 9, "latency": 1}]
    found = told({**SNAPSHOT, "totals": TOTALS, "links": links})
    assert found["collcomm_members", "run-7"] == 3 and found["collcomm_epoch", "run-7"] == 7
    assert found["collcomm_views_total", "run-7"] == 7 and found["collcomm_pending_peers", "run-7"] == 1
    assert found["collcomm_exits_total", "silent", "run-7", "died"] == 2
    assert found["collcomm_exits_total", "left", "run-7", "left"] == 4
    assert found["collcomm_events_total", "run-7", "died"] == 3
    assert found["collcomm_findings", "run-7", "communication slow"] == 1  # another one is over
    assert found["collcomm_member_waited_for_by", "run-7", "lab-3"] == 2
    assert found["collcomm_member_operation_age_seconds", "run-7", "lab-1"] == 2.5
    assert found["collcomm_member_state", "run-7", "lab-3", "silent"] == 1
    assert found["collcomm_member_state", "run-7", "lab-3", "waiting"] == 0
    assert found["collcomm_member_sent_bytes_per_second", "run-7", "lab-1"] == 1e6
    assert found["collcomm_link_bandwidth_bytes_per_second", "run-7", "lab-1", "lab-2"] == 1.25e8
    assert ("collcomm_member_late_seconds", "run-7", "lab-1") not in found  # not known
    assert not [key for key in found if "member 9" in key]


def test_operations_are_a_counter() -> None:
    shown = {"group": "g", "members": [{"id": 1, "name": "a", "operations": 12}]}
    assert told(shown)["collcomm_member_operations_total", "g", "a"] == 12


def test_a_finding_that_is_over_counts_as_none() -> None:
    over = [{**SNAPSHOT["findings"][0], "ended": 1.0}]
    assert told({**SNAPSHOT, "findings": over})["collcomm_findings", "run-7", "communication slow"] == 0


def test_several_groups_and_none() -> None:
    assert told() == {}
    found = told(SNAPSHOT, {**SNAPSHOT, "group": 'other "quoted"\n', "epoch": 1})
    assert found["collcomm_epoch", 'other "quoted"\n'] == 1 and found["collcomm_epoch", "run-7"] == 7


def test_a_huge_group_is_told_of_as_a_whole() -> None:
    members = [{"id": number, "name": f"p{number}", "rate": 1.0} for number in range(2000)]
    found = told({"group": "g", "members": members})
    assert found["collcomm_members", "g"] == 2000
    assert not [key for key in found if key[0] == "collcomm_member_operations_per_second"]


@pytest.mark.parametrize("rubbish", [None, 5, [1, "x", None], [{"id": [], "name": {}, "rate": float("nan")}]])
def test_rubbish_is_passed_over(rubbish: Any) -> None:
    fields = dict.fromkeys(("members", "links", "findings", "totals", "events"), rubbish)
    told({"group": "g", "epoch": "seven", **fields})


def test_a_peer_serves_its_own() -> None:
    stats = {"bytes_sent": 10.0, "bytes_received": 20, "operations": 3, "retries": 1, "seconds_lost": 0.5}
    peer = SimpleNamespace(name="lab-3", size=4, view=SimpleNamespace(epoch=2), stats=lambda: stats)
    with start_metrics(peer) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            found = read(answer.read().decode())
        assert found["collcomm_sent_bytes_total", "lab-3"] == 10 and found["collcomm_operations_total", "lab-3"] == 3
        assert found["collcomm_lost_seconds_total", "lab-3"] == 0.5
        assert found["collcomm_members", "lab-3"] == 4 and found["collcomm_epoch", "lab-3"] == 2
        with pytest.raises(CollcommError, match="cannot be served"):
            start_metrics(peer, server.port)
