"""Shared state over a real group."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

import collcomm
from tests.support.peers import run_peers, run_peers_at


def test_equal_state_moves_nothing() -> None:
    def body(comm: collcomm.Communicator) -> None:
        state = {"w": np.arange(500_000.0), "m": np.ones(3), "empty": np.empty((0, 4)), "scalar": np.array(2.0)}
        before = comm.stats()["bytes_sent"]
        report = comm.sync(state, revision=1)
        assert (report.revision, report.changed, report.bytes_received, report.bytes_sent) == (1, False, 0, 0)
        assert comm.stats()["bytes_sent"] - before < 2000
        state["w"] += 1
        assert comm.sync(state, revision=2).revision == 2

    run_peers(3, body)


def test_a_corrupted_member_is_healed_by_the_others() -> None:
    def body(comm: collcomm.Communicator) -> None:
        w = np.random.default_rng(1).standard_normal(1_000_000, np.float32)
        good = w.copy()
        comm.sync({"w": w}, revision=1)
        if comm.rank == 1:
            w[[5, 900_000]] = 7  # two of four chunks
        report = comm.sync({"w": w}, revision=2)
        np.testing.assert_array_equal(w, good)
        if comm.rank == 1:
            assert report.changed and report.chunks_received == 2 and len(report.donors) == 2
            assert report.bytes_received == (1 << 20) + (4_000_000 - 3 * (1 << 20))
        else:
            assert not report.changed and report.bytes_received == 0

    run_peers(3, body)


def test_no_majority_is_an_error_for_all() -> None:
    def body(comm: collcomm.Communicator) -> None:
        names = {member.name for member in comm.view.members}
        with pytest.raises(collcomm.StateDiverged, match="no majority") as caught:
            comm.sync({"w": np.full(10, comm.rank)}, revision=3)
        assert all(name in str(caught.value) for name in names)
        with pytest.raises(collcomm.StateDiverged, match=r"differ from the majority's|no majority"):
            comm.sync({"w": np.zeros(10 + comm.rank)}, revision=3)
        with pytest.raises(collcomm.StateDiverged, match="nobody has any state"):
            comm.sync({"w": np.zeros(10)}, revision=None)
        assert comm.sync({"w": np.zeros(10)}, revision=4).revision == 4
        with pytest.raises(collcomm.StateDiverged, match="cannot go back"):
            comm.sync({"w": np.zeros(10)}, revision=2)

    run_peers(2, body)


def test_bad_arguments() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, collcomm.join(coordinator.address, timeout=10) as comm:
        frozen = np.ones(2)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            comm.sync({"w": frozen}, revision=1)
        with pytest.raises(ValueError, match="revision"):
            comm.sync({"w": np.ones(2)}, revision=-3)
        with pytest.raises(TypeError, match="array"):
            comm.sync({"w": "text"}, revision=1)


def test_newcomers_catch_up_from_several_donors_and_never_outvote() -> None:
    """Two newcomers with equal rubbish join three members; strided, bfloat16 and torch arrays come along."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    trained = np.random.default_rng(3).standard_normal((1000, 700))
    newcomers: list[threading.Thread] = []
    reports = []

    def state(filled: bool) -> dict:
        w = np.empty((700, 1000)).T
        w[...] = trained if filled else 0
        half = np.full(300_000, 1.5 if filled else 0, ml_dtypes.bfloat16)
        return {"w": w, "half": half, "t": torch.full((100_000,), 2.0 if filled else 0.0)}

    def check(arrays: dict) -> None:
        np.testing.assert_array_equal(arrays["w"], trained)
        assert (arrays["half"] == 1.5).all() and (arrays["t"] == 2).all()

    def newcomer(address: str, number: int) -> None:
        with collcomm.join(address, name=f"new-{number}", min_size=3, timeout=20) as comm:
            arrays = state(filled=False)
            reports.append(comm.sync(arrays, revision=0))
            check(arrays)
            comm.barrier()

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:

        def body(comm: collcomm.Communicator) -> None:
            arrays = state(filled=True)
            comm.sync(arrays, revision=5)
            if comm.rank == 0:
                for number in range(2):
                    newcomers.append(threading.Thread(target=newcomer, args=(coordinator.address, number)))
                    newcomers[-1].start()
                while comm.pending < 2:
                    pass
            comm.barrier()
            while comm.size < 5:
                comm.step()
            report = comm.sync(arrays, revision=5)
            assert not report.changed and report.revision == 5
            check(arrays)
            comm.barrier()

        run_peers_at(coordinator.address, 3, body)
        for thread in newcomers:
            thread.join(20)
    assert len(reports) == 2
    for report in reports:
        assert report.changed and report.revision == 5 and len(report.donors) == 3


def test_a_donor_that_dies_meanwhile() -> None:
    """One of two donors goes before the chunks travel: the others begin again and finish."""

    def body(comm: collcomm.Communicator) -> None:
        w = np.zeros(3_000_000) if comm.rank == 2 else np.ones(3_000_000)
        comm.sync({"tiny": np.ones(1)}, revision=1)
        if comm.rank == 1:
            original = comm.all_to_all

            def die(*_: object, **__: object) -> None:
                assert original
                comm.close()
                raise SystemExit

            comm.all_to_all = die  # type: ignore[method-assign]
            with pytest.raises(SystemExit):
                comm.sync({"w": w}, revision=2 if comm.rank != 2 else 1)
            return
        report = comm.sync({"w": w}, revision=2 if comm.rank != 2 else 1)
        assert (w == 1).all() or comm.size == 2
        assert report.revision == 2

    run_peers(4, body)
