"""Placement of experts against brute force, on planted traffic, and without the solver."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from collcomm.planner.experts import exflow


def planted(layers: int, experts: int, groups: int, seed: int, tokens: int = 20_000, stay: float = 0.85) -> np.ndarray:
    """Tokens that mostly stay within hidden groups of experts, as many as devices; group members have any numbers."""
    rng = np.random.default_rng(seed)
    group = np.stack([rng.permutation(experts) % groups for _ in range(layers)])
    members = [[np.flatnonzero(group[layer] == g) for g in range(groups)] for layer in range(layers)]
    at = rng.integers(0, experts, tokens)
    flows = np.zeros((layers - 1, experts, experts), np.int64)
    for layer in range(layers - 1):
        kin = np.stack([members[layer + 1][g] for g in group[layer][at]])
        near = kin[np.arange(tokens), rng.integers(0, kin.shape[1], tokens)]
        following = np.where(rng.random(tokens) < stay, near, rng.integers(0, experts, tokens))
        np.add.at(flows[layer], (at, following), 1)
        at = following
    return flows


def brute_force(flows: np.ndarray, devices: int) -> int:
    layers, experts = len(flows) + 1, flows.shape[1]
    rows = sorted(set(itertools.permutations([expert * devices // experts for expert in range(experts)])))
    return min(exflow.crossings(flows, chosen) for chosen in itertools.product(rows, repeat=layers))


@pytest.mark.parametrize(("layers", "experts", "devices"), [(2, 4, 2), (3, 4, 2), (2, 3, 3), (3, 4, 4)])
def test_as_good_as_brute_force(layers: int, experts: int, devices: int) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed")
    for seed in range(4):
        flows = np.random.default_rng(seed).integers(0, 100, (layers - 1, experts, experts))
        found = exflow.place(flows, devices)
        assert found.method == "milp"
        assert found.crossings == brute_force(flows, devices) == exflow.crossings(flows, found.device)


@pytest.mark.parametrize(("layers", "experts", "devices"), [(4, 16, 4), (6, 64, 8)])
def test_planted_traffic_crosses_far_less(layers: int, experts: int, devices: int) -> None:
    flows = planted(layers, experts, devices, seed=layers)
    usual = exflow.crossings(flows, exflow.contiguous(layers, experts, devices))
    found = exflow.place(flows, devices, solver="swaps")
    assert found.method == "swaps" and found.total == 20_000 * (layers - 1)
    assert found.crossings <= 0.6 * usual
    assert found.crossing_share == pytest.approx(0.15 * (1 - 1 / devices), abs=0.01), "the hidden groups are found"
    for row in found.device:
        assert np.bincount(row, minlength=devices).tolist() == [experts // devices] * devices


def test_no_time_still_gives_a_placement_and_says_so() -> None:
    pytest.importorskip("scipy", reason="scipy is not installed")
    flows = planted(4, 24, 4, seed=1, stay=0.4)
    found = exflow.place(flows, 4, solver="milp", time_limit=0.05)
    assert found.method in ("milp, out of time", "swaps")
    assert found.crossings <= exflow.place(flows, 4, solver="swaps").crossings


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "collcomm.planner.experts.milp", raising=False)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    flows = np.random.default_rng(0).integers(0, 100, (2, 4, 4))
    assert exflow.place(flows, 2).method == "swaps"
    with pytest.raises(ModuleNotFoundError):
        exflow.place(flows, 2, solver="milp")


def test_a_single_layer_and_what_makes_no_sense() -> None:
    assert exflow.place(np.zeros((0, 4, 4), int), 2, solver="swaps").crossings == 0
    for affinity, devices in ((np.zeros((2, 4, 3), int), 1), (-np.ones((1, 2, 2), int), 1), (np.ones((1, 2, 2)), 1)):
        with pytest.raises(ValueError, match="affinity"):
            exflow.place(affinity, devices)
    with pytest.raises(ValueError, match="3 devices cannot hold 4 experts"):
        exflow.place(np.zeros((1, 4, 4), int), 3)
    with pytest.raises(ValueError, match="time_limit"):
        exflow.place(np.zeros((1, 4, 4), int), 2, time_limit=0)
