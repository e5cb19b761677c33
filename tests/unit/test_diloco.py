"""DiLoCo: the outer optimizer, a round's arithmetic, and a newcomer that lands on the group's bits."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import collcomm
from collcomm.diloco import DiLoCo, FlatParameters, NesterovSGD
from tests.support.peers import run_peers, run_peers_at


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_outer_optimizer_is_torchs(momentum: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    start = rng.standard_normal(100_001).astype(np.float32)
    ours, outer = start.copy(), NesterovSGD(start.size, lr=0.7, momentum=momentum)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    sgd = torch.optim.SGD([theirs], lr=0.7, momentum=momentum, nesterov=momentum > 0)
    for _ in range(5):
        gradient = rng.standard_normal(start.size).astype(np.float32)
        kept = gradient.copy()
        outer.step(ours, gradient)
        np.testing.assert_array_equal(gradient, kept)
        theirs.grad = torch.from_numpy(gradient)
        sgd.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": float("inf")}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_settings_of_the_outer_optimizer_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NesterovSGD(3, **wrong)
    with pytest.raises(ValueError, match="gradient"):
        NesterovSGD(3).step(np.zeros(3, np.float32), np.zeros(4, np.float32))


def test_parameters_of_many_shapes_are_one_vector() -> None:
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.full((), 7.0), "c": np.empty((0, 4))}
    flat = FlatParameters(arrays)
    vector = np.empty(flat.size)
    flat.read(vector)
    assert flat.size == 7 and sorted(vector) == [0, 1, 2, 3, 4, 5, 7]
    flat.write(vector + 1)
    assert arrays["a"] == 8 and arrays["b"][1, 2] == 6


def test_rounds_follow_the_formula_and_end_in_equal_bits() -> None:
    def body(comm: collcomm.Communicator) -> bytes:
        params = {"w": np.zeros((3, 2), np.float32), "v": np.ones(5, np.float32)}
        diloco = DiLoCo(comm, params, lr=0.5, momentum=0.5)
        diloco.sync()
        anchor, buffer = np.zeros(6), np.zeros(6)
        for _ in range(3):
            params["w"] += 0.1 * (comm.rank + 1)  # the inner steps
            report = diloco.round()
            gradient = np.full(6, -np.mean([0.1 * (rank + 1) for rank in range(3)]))
            buffer = 0.5 * buffer + gradient
            anchor -= 0.5 * (gradient + 0.5 * buffer)
            np.testing.assert_allclose(params["w"].reshape(-1), anchor, rtol=1e-5)
            np.testing.assert_array_equal(params["v"], 1)
            assert report.peers == 3 and report.bytes_sent > 0 and report.retries == 0
            assert not diloco.sync().changed
        assert diloco.rounds == 3
        return diloco.anchor.tobytes()

    assert len(set(run_peers(3, body))) == 1


def test_a_newcomer_lands_on_the_same_bits() -> None:
    results: dict[str, bytes] = {}

    def train(comm: collcomm.Communicator, name: str, total: int) -> None:
        params = {"w": np.random.default_rng(hash(name) % 1000).standard_normal(1000).astype(np.float32)}
        if name != "new":
            params["w"][:] = 0
        diloco = DiLoCo(comm, params)
        while True:
            diloco.sync()
            if diloco.rounds == total:
                break
            params["w"] += np.float32(0.01 * (comm.rank + 1))
            diloco.round()
            comm.step()
        results[name] = params["w"].tobytes()

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:

        def newcomer() -> None:
            with collcomm.join(coordinator.address, name="new", min_size=2, timeout=20) as comm:
                train(comm, "new", 12)

        thread = threading.Thread(target=newcomer)

        def body(comm: collcomm.Communicator) -> None:
            if comm.rank == 0:
                thread.start()
                while not comm.pending:
                    pass
            comm.barrier()
            train(comm, f"old-{comm.rank}", 12)

        run_peers_at(coordinator.address, 2, body)
        thread.join(20)
    assert len(results) == 3 and len(set(results.values())) == 1


def test_another_model_is_refused() -> None:
    def body(comm: collcomm.Communicator) -> None:
        shape = (4, 2) if comm.rank == 2 else (2, 4)
        diloco = DiLoCo(comm, {"w": np.ones(shape, np.float32)})
        if comm.rank == 2:
            with pytest.raises(ValueError, match="other names, shapes or dtypes"):
                diloco.sync()
        else:
            diloco.sync()

    run_peers(3, body)
