"""Arrays on a real GPU: processes that share one, streams, torch's tensors, deaths, and what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.bench.launch import Peers
from tests.support.churn import Churn
from tests.support.contract import CONTRACT
from tests.support.cupyarrays import on_gpu
from tests.support.peers import run_peers

SECONDS = 120.0
TRANSPORTS = {"on the GPU": ["cuda_ipc"], "through shared memory": ["shm"], "through connections": ["tcp"]}
each_way = pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)


@each_way
@pytest.mark.parametrize("n", [2, 4])
def test_processes_that_share_a_gpu_keep_the_contract(n: int, transports: Any) -> None:
    with (
        collcomm.Coordinator("127.0.0.1:0") as coordinator,
        Peers(program=("-m", "tests.gpu.peer")) as peers,
    ):
        case = {"address": coordinator.address, "n": n, "transports": transports}
        for index in range(n):
            peers.start(index, case)
        wanted = {(name, rank) for name in CONTRACT for rank in range(n)}
        for event in peers.events(SECONDS):
            if event["event"] == "done":
                wanted.discard((event["case"], event["rank"]))
            if not wanted:
                break
        peers.wait(SECONDS)


@each_way
def test_several_peers_in_one_process(transports: Any) -> None:
    def body(comm: collcomm.Communicator) -> None:
        for name in ("kinds", "uneven", "large"):
            CONTRACT[name](on_gpu(comm))  # type: ignore[arg-type]

    run_peers(3, body, transports=transports)


def test_arrays_stay_where_they_are() -> None:
    import cupy

    def body(comm: collcomm.Communicator) -> None:
        x = cupy.arange(1000, dtype=cupy.float32)
        result = comm.all_reduce(x)
        assert type(result) is cupy.ndarray and bool((result == 2 * cupy.arange(1000)).all())
        address = x.data.ptr
        assert comm.all_reduce(x, out=x) is x and x.data.ptr == address
        assert comm._group._on_device is not None  # type: ignore[attr-defined]

    run_peers(2, body)


@each_way
def test_work_of_the_callers_stream_comes_first(transports: Any) -> None:
    """The array is still being made when it is handed over, on a stream that nobody waits for."""
    import cupy

    def body(comm: collcomm.Communicator) -> None:
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            x = cupy.zeros(1 << 22, cupy.float32)
            for _ in range(200):  # some milliseconds of work
                x += 1
            handle = comm.all_reduce(x, async_op=True)
            result = handle.result(SECONDS)
            assert bool((result == 600).all())

    run_peers(3, body, transports=transports)


@each_way
def test_torch_tensors(transports: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch knows no CUDA")

    def body(comm: collcomm.Communicator) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e5m2):
            x = torch.ones(5, 3, device="cuda").to(dtype)
            result = comm.all_reduce(x, op="max")
            assert result.dtype == dtype and result.device == x.device and result.shape == x.shape
            assert bool((result.to(torch.float32) == 1).all())
            assert comm.all_gather(x).shape == (10, 3)
        x = torch.ones(4, device="cuda", requires_grad=True)
        assert comm.all_reduce(x, op="avg").tolist() == [1, 1, 1, 1]
        y = torch.zeros(3, 4, device="cuda").t()
        comm.all_reduce(torch.ones(4, 3, device="cuda"), out=y)
        assert bool((y == 2).all())

    run_peers(2, body, transports=transports)


@pytest.mark.parametrize("transports", ["cuda_ipc", "tcp"])
def test_deaths(transports: str, tmp_path: Path) -> None:
    Churn(seed=4, stop=tmp_path / "stop", on_devices=transports, gpu=True).run(events=10, deadline=SECONDS)


def test_nothing_is_left_in_the_memory_of_the_gpu() -> None:
    import cupy

    def body(comm: collcomm.Communicator) -> None:
        comm.all_reduce(cupy.ones(1 << 20))
        comm.barrier()

    run_peers(2, body)
    cupy.get_default_memory_pool().free_all_blocks()
    before = cupy.cuda.runtime.memGetInfo()[0]
    for _ in range(3):
        run_peers(2, body)
    cupy.get_default_memory_pool().free_all_blocks()
    assert cupy.cuda.runtime.memGetInfo()[0] >= before - (1 << 24)


def test_bits_are_those_of_the_host() -> None:
    import cupy

    def body(comm: collcomm.Communicator) -> None:
        x = np.random.default_rng(comm.rank).standard_normal(100_003, np.float32)
        np.testing.assert_array_equal(cupy.asnumpy(comm.all_reduce(cupy.asarray(x))), comm.all_reduce(x))

    run_peers(2, body)  # of two operands, in whatever order
