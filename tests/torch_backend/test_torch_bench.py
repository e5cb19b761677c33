"""The bench of the torch backend, on small sizes and few rounds: what it reports, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collcomm.bench.torchcases import TorchBench, asked, cells, verdict
from collcomm.bench.torchstep import balanced_batch
from collcomm.cli import main

BENCH = TorchBench(rounds=1, block=0.01, timeout=100.0)


@pytest.mark.parametrize(("kind", "async_op"), [("all_reduce", False), ("reduce_scatter", True)])
def test_collectives_are_compared_with_those_of_gloo(kind: str, async_op: bool) -> None:
    rows = BENCH.collective(kind, 2, [4, 1 << 16], "bfloat16", async_op)
    assert [row["nbytes"] for row in rows] == [4, 1 << 16]
    for row in rows:
        assert row["ratio"] == row["gloo"]["median"] / row["ours"]["median"] > 0
        assert list(cells(row)) == list(cells(rows[0]))


@pytest.mark.slow
def test_a_training_step_is_compared_with_gloos_and_with_one_without_communication() -> None:
    row = BENCH.ddp(2, parameters=20_000)
    assert row["parameters"] == 10 * (45 * 45 + 45) and row["batch"] >= 1
    assert row["ratio"] == row["gloo"]["median"] / row["ours"]["median"] > 0
    assert {"parameters", "batch", "alone", "gloo / alone", "gloo / ours"} <= set(cells(row))


def test_the_command_times_calls_in_a_group_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    command = ["bench", "torch", "dispatch", "--rounds", "1", "--block", "0.01", "--json", str(file)]
    assert main(command) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["how"] for row in rows] == ["synchronous", "async", "functional"]
    assert all(row["nothing"]["median"] > 0 and row["ratio"] > 0 for row in rows)
    assert "functional" in capsys.readouterr().out


def test_only_torch_has_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "all_reduce", "ddp"]) == 2
    assert "only torch and plan have parts" in capsys.readouterr().out


@pytest.mark.parametrize("fixed", [0.5, 7.0, 90.0, 500.0])
def test_the_batch_is_found_at_which_half_of_the_step_is_communication(fixed: float) -> None:
    tried = []

    def ratio(batch: int) -> float:
        tried.append(batch)
        return 1 + fixed / (1 + 0.5 * batch)  # communication over computation

    best = balanced_batch(ratio)
    assert abs(ratio(best) - 2) < 0.15 or best == 1
    assert len(tried) < 15


def test_what_is_asked_for_is_told() -> None:
    assert asked("all_reduce", "float32", 4) == 3 and asked("all_reduce", "float32", 1 << 24) == 1.5
    assert asked("all_reduce", "bfloat16", 1 << 26) == 2 and asked("broadcast", "float32", 4) is None
    assert verdict([{"ratio": 2.0, "asked": None}]) == ""
    assert verdict([{"ratio": 3.0, "asked": 3.0}, {"ratio": 1.5, "asked": 3.0}]).startswith("1 of 2 have the ratio")
