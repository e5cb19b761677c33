"""The contract of a communicator between threads of one process: over real sockets, in shared memory, with arrays on devices."""

from __future__ import annotations

import numpy as np
import pytest

import collcomm
from tests.support.contract import ALONE, CONTRACT, large, raises
from tests.support.peers import run_peers, run_peers_at

GROUPS = {
    "kinds": (2, 3, 4, 5, 7),
    "uneven": (2, 4, 5),
    "bits": (2, 3, 4, 5, 7),
    "splitting": (2, 4),
    "point_to_point": (2, 3),
}  # 3 peers for the rest
CASES = [(name, n) for name in CONTRACT for n in GROUPS.get(name, (3,))]


@pytest.mark.usefixtures("each_transport")
@pytest.mark.parametrize(("name", "n"), CASES, ids=lambda value: str(value))
def test_contract(name: str, n: int) -> None:
    run_peers(n, CONTRACT[name])


@pytest.mark.usefixtures("each_way_of_devices")
@pytest.mark.parametrize("name", CONTRACT)
def test_contract_on_devices(name: str) -> None:
    run_peers(3, CONTRACT[name])


@pytest.mark.usefixtures("each_transport")
@pytest.mark.parametrize("name", ALONE)
def test_contract_of_one_alone(name: str) -> None:
    run_peers(1, CONTRACT[name])


def test_several_connections_per_link() -> None:
    run_peers(3, large, streams=3)


@pytest.mark.usefixtures("each_transport")
def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def body(comm: collcomm.Communicator) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.float8_e5m2):
            x = torch.ones(5, 3).to(dtype)
            result = comm.all_reduce(x)
            assert result.dtype == dtype and result.shape == x.shape
            assert (result.to(torch.float32) == 2).all()
        x = torch.ones(4, requires_grad=True)
        assert comm.all_reduce(x).tolist() == [2, 2, 2, 2]
        y = torch.zeros(3, 4).t()
        comm.all_reduce(torch.ones(4, 3), out=y)
        assert (y == 2).all()

    run_peers(2, body)


def test_ipv6() -> None:
    with collcomm.Coordinator("[::1]:0") as coordinator:

        def body(comm: collcomm.Communicator) -> None:
            assert ":" in comm.view.members[0].host
            assert comm.all_reduce(np.ones(10))[0] == 2

        run_peers_at(coordinator.address, 2, body)


@pytest.mark.usefixtures("each_transport")
def test_a_call_behind_one_of_several_operations() -> None:
    """The numbers of operations follow the order in which they run."""

    def body(comm: collcomm.Communicator) -> None:
        def several() -> float:
            return sum(float(comm.all_reduce(np.ones(1))[0]) for _ in range(3))

        handles = [comm.compose(several, async_op=True) for _ in range(3)]
        late = comm.all_reduce(np.ones(1), async_op=True)
        assert comm.all_reduce(np.full(1, 2.0))[0] == 2.0 * comm.size
        assert [handle.result() for handle in handles] == [3.0 * comm.size] * 3 and late.result()[0] == comm.size

    run_peers(3, body)


def test_a_call_of_calls_of_several_operations() -> None:
    def body(comm: collcomm.Communicator) -> None:
        def one() -> float:
            return float(comm.all_reduce(np.ones(1))[0])

        def several() -> float:
            return comm.compose(one) + one()

        assert comm.compose(several) == 2.0 * comm.size
        assert comm.compose(several, async_op=True).result(20) == 2.0 * comm.size

    run_peers(2, body)


def test_who_comes_late_to_a_group_has_failed_with_the_others() -> None:
    """The first operation of the others is over, and is his first, too."""

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 0:
            part = comm.create_group([0, 1], "late")
            raises(collcomm.CollectiveTimeout, lambda: part.barrier(timeout=0.5), "peer-")
            comm.barrier()
        else:
            comm.barrier()
            part = comm.create_group([0, 1], "late")
            raises(collcomm.CollectiveTimeout, lambda: part.barrier(timeout=0.5), "peer-")
        assert part.all_reduce(np.ones(1))[0] == 2.0
        part.barrier()

    run_peers(2, body)
