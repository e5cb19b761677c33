"""A stage of a pipeline from its neighbours."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import collcomm
from collcomm.snapshots import gradient_norm, neighbour_mean, rebuild_stage
from tests.support.peers import run_peers


def stage(value: float, dtype: Any = np.float32) -> dict[str, Any]:
    return {"w": np.full((4, 3), value, dtype), "b": np.arange(5).astype(dtype)}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_the_mean_is_weighted(dtype: Any) -> None:
    before, after = stage(1.0, dtype), stage(5.0, dtype)
    found = neighbour_mean(before, after, 3.0, 1.0)
    assert found["w"].dtype == dtype and (found["w"] == dtype(2.0)).all()
    assert (found["b"] == before["b"]).all()
    assert (before["w"] == dtype(1.0)).all() and (after["w"] == dtype(5.0)).all()


def test_by_the_formula() -> None:
    chance = np.random.default_rng(0)
    one, other = chance.standard_normal((2, 100))
    found = neighbour_mean({"x": one}, {"x": other}, 0.7, 2.1)["x"]
    np.testing.assert_allclose(found, (0.7 * one + 2.1 * other) / 2.8, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("one", "other", "mean"), [(0, 0, 3), (0, 2, 5), (2, 0, 1), (1e308, 1e308, 3), (1e-320, 1e-320, 3)]
)
def test_weights_at_the_edge(one: float, other: float, mean: float) -> None:
    assert neighbour_mean(stage(1.0), stage(5.0), one, other)["w"] == pytest.approx(mean)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    before = {"w": torch.ones(3, 4, dtype=torch.bfloat16, requires_grad=True)}
    found = neighbour_mean(before, {"w": torch.full((3, 4), 3.0, dtype=torch.bfloat16)}, 1.0, 1.0)["w"]
    assert found.dtype == torch.bfloat16 and torch.equal(found, torch.full((3, 4), 2.0, dtype=torch.bfloat16))
    assert gradient_norm({"w": torch.full((4, 4), 0.5)}) == 2.0


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (None, stage(1.0), "first and the last"),
        (stage(1.0), None, "first and the last"),
        (stage(1.0), {"w": np.ones((4, 3), np.float32)}, "other names"),
        (stage(1.0), stage(1.0, np.float64), "float64"),
        ({"w": np.ones(3)}, {"w": np.ones(4)}, "shape"),
        ({"w": np.ones(3, int)}, {"w": np.ones(3, int)}, "makes no sense"),
    ],
)
def test_what_has_no_mean_is_refused(before: Any, after: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        neighbour_mean(before, after, 1.0, 1.0)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_what_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="norm of a gradient"):
        neighbour_mean(stage(1.0), stage(1.0), 1.0, weight)


def test_a_norm_of_all_gradients_together() -> None:
    gradients = {"a": np.array([3.0], np.float16), "b": np.array([[0.0, 4.0]], ml_dtypes.bfloat16)}
    assert gradient_norm(gradients) == 5.0 and gradient_norm({}) == 0.0
    assert gradient_norm({"large": np.full(2, 300.0, np.float16)}) == pytest.approx(300 * 2**0.5), "no overflow"


def test_over_messages() -> None:
    def body(comm: collcomm.Communicator) -> Any:
        params = stage(float(comm.rank))
        if comm.rank != 3:
            rebuild_stage(comm, 0, 1, 2, params, None if comm.rank == 1 else 1.0 + comm.rank)
        return params["w"]

    found = run_peers(4, body)
    expected = neighbour_mean(stage(0.0), stage(2.0), 1.0, 3.0)["w"]
    assert found[1].tobytes() == expected.tobytes() and (found[2] == 2).all() and (found[3] == 3).all()


def test_neighbours_of_another_layout() -> None:
    def body(comm: collcomm.Communicator) -> None:
        params = stage(float(comm.rank), np.float64 if comm.rank == 2 else np.float32)
        with pytest.raises(collcomm.CollectiveMismatch, match=r"\[2\]" if comm.rank == 1 else "rank 1"):
            rebuild_stage(comm, 0, 1, 2, params, 1.0, timeout=10)
        assert (params["w"] == comm.rank).all()
        rebuild_stage(comm, 0, 1, 2, stage(1.0), 1.0, timeout=10)

    run_peers(3, body)


def test_ranks_that_cannot_be() -> None:
    def body(comm: collcomm.Communicator) -> None:
        for ranks, text in (
            ((-1, 0, 1), "first and the last"),
            ((1, 2, 3), "first and the last"),
            ((0, 1, 1), "different"),
        ):
            with pytest.raises(ValueError, match=text):
                rebuild_stage(comm, *ranks, stage(1.0), 1.0)
        if comm.rank != 1:
            with pytest.raises(ValueError, match="weight"):
                rebuild_stage(comm, 0, 1, 2, stage(1.0))

    run_peers(3, body)
