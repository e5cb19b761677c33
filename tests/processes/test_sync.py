"""Shared state over a real group."""

from __future__ import annotations

import threading
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import collcomm
from collcomm.state import Content, Election, Standing, Synchroniser
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


def test_a_silently_corrupted_peer_is_named_and_repaired() -> None:
    """One bit between two syncs; the peer does not know of it."""

    def body(comm: collcomm.Communicator) -> None:
        state = {"w": np.random.default_rng(2).standard_normal(600_000), "m": np.ones(10)}
        good = state["w"].copy()
        comm.sync(state, revision=1)
        if comm.rank == 2:
            state["w"].view(np.uint8)[3_000_000] ^= 4
        report = comm.sync(state, revision=2)
        np.testing.assert_array_equal(state["w"], good)
        assert report.outvoted == report.laggards == {comm.view[2].name}
        assert (report.changed, report.chunks_received) == ((True, 1) if comm.rank == 2 else (False, 0))

    run_peers(4, body)


def test_a_stale_majority_does_not_win() -> None:
    """Two that trained on against three that restarted from an older state: who synced last decides, not who is more."""

    def body(comm: collcomm.Communicator) -> None:
        ahead = comm.rank < 2
        state = {"w": np.full(400_000, 9.0 if ahead else 4.0)}
        assert comm.sync(state, revision=9 if ahead else 4).revision == 9  # nobody has synced: the latest revision
        assert (state["w"] == 9).all()
        if not ahead:  # as after a restart from a checkpoint: an older revision, and no memory of having synced
            state["w"][:] = 5.0
            comm._sharing._standing.lineage = -1
        report = comm.sync(state, revision=9 if ahead else 5)
        assert (state["w"] == 9).all() and report.revision == 9
        assert len(report.laggards) == 3 and not report.outvoted

    run_peers(5, body)


def test_a_donor_whose_memory_fails_during_the_transfer_is_found_out() -> None:
    """What it sends is not what it claimed: the receiver says so, the donor looks again, and is served by the other two."""

    def body(comm: collcomm.Communicator) -> None:
        state = {"w": np.full(3_000_000, 1.0 if comm.rank < 3 else 0.0)}
        state["w"][0] = 7.0
        claimed = Synchroniser._transfer

        class Failing(Synchroniser):
            def _transfer(self, election: Election) -> None:
                if comm.rank == 1 and self.report.turns == 1:
                    state["w"][1_200_000:1_200_010] = 3.0  # in its third of the chunks
                claimed(self, election)

        content = Content(state)
        report = Failing(comm, content, 1 if comm.rank < 3 else -1, Standing()).run()
        assert (state["w"][1:] == 1).all() and state["w"][0] == 7
        names = [member.name for member in comm.view.members]
        assert report.outvoted == {names[1]} and report.laggards == {names[1], names[3]}
        assert report.changed == (comm.rank in (1, 3))

    run_peers(4, body)


def test_arrays_written_to_all_the_time_are_an_error() -> None:
    """The only donor goes on training on the arrays that it shares, faster than anybody could fetch them."""

    def body(comm: collcomm.Communicator) -> None:
        state = {"w": np.full(300_000, float(comm.rank == 0))}

        class Writing(Synchroniser):
            def _one_round(self, *arguments: Any) -> None:
                state["w"] += comm.rank == 0
                super()._one_round(*arguments)
                state["w"] += comm.rank == 0

        with pytest.raises(collcomm.StateDiverged, match="write to their arrays"):
            Writing(comm, Content(state), 3 if comm.rank == 0 else -1, Standing()).run()

    run_peers(2, body)


# -- in the background ------------------------------------------------------------------------------------------------


def _held(comm: collcomm.Communicator, gate: threading.Event) -> None:
    """Make this peer's syncs wait for ``gate`` before state travels."""
    inner = comm._sharing._run

    def run(*arguments: Any) -> Any:
        assert gate.wait(20)
        return inner(*arguments)

    comm._sharing._run = run  # type: ignore[method-assign]


def test_collectives_go_on_while_state_is_synced() -> None:
    gate = threading.Event()
    passed = threading.Barrier(3)

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 1:
            _held(comm, gate)
        state = {"w": np.full(2_000_000, 1.0 if comm.rank != 2 else 0.0)}
        handle = comm.sync(state, revision=3 if comm.rank != 2 else None, async_op=True)
        for turn in range(20):
            assert comm.all_reduce(np.ones(3))[0] == 3
            comm.step()
            assert comm.all_gather_object(turn) == [turn] * 3
        assert not handle.done()
        passed.wait(20)
        gate.set()
        report = handle.result(20)
        assert report.revision == 3 and report.changed == (comm.rank == 2) and (state["w"] == 1).all()
        assert comm.sync(state, revision=3).laggards == set()

    run_peers(3, body)


def test_whether_a_peer_waits_or_takes_a_handle_is_its_own_business() -> None:
    def body(comm: collcomm.Communicator) -> None:
        state = {"w": np.full(500_000, float(comm.rank == 0))}
        report = comm.sync(state, revision=1 if comm.rank == 0 else None, async_op=comm.rank != 1)
        if comm.rank != 1:
            report = report.result(20)
        assert report.revision == 1 and (state["w"] == 1).all()
        second = [comm.sync(state, revision=revision, async_op=True) for revision in (2, 3)]
        assert [handle.result(20).revision for handle in second] == [2, 3]

    run_peers(3, body)


def test_no_majority_in_the_background() -> None:
    def body(comm: collcomm.Communicator) -> None:
        handle = comm.sync({"w": np.full(10, comm.rank)}, revision=3, async_op=True)
        assert comm.all_reduce(np.ones(1))[0] == 4
        with pytest.raises(collcomm.StateDiverged, match="no majority"):
            handle.result(20)
        with pytest.raises(ValueError, match="revision"):
            comm.sync({"w": np.ones(1)}, revision=-1, async_op=True)

    run_peers(4, body)


def test_something_else_called_instead_of_sync_is_named() -> None:
    def body(comm: collcomm.Communicator) -> None:
        state = {"w": np.ones(4)}
        other = comm.rank == 0
        handle = comm.all_reduce(state["w"], async_op=True) if other else comm.sync(state, revision=1, async_op=True)
        with pytest.raises(collcomm.CollectiveMismatch, match="peer-"):
            handle.result(20)
        assert comm.sync(state, revision=1).revision == 1

    run_peers(3, body)


def test_nobody_is_admitted_while_a_sync_runs() -> None:
    """The newcomer waits for the first step() after it, and is then served by a sync of its own."""
    gate = threading.Event()
    found: list[Any] = []

    def newcomer(address: str) -> None:
        with collcomm.join(address, name="new", min_size=2, timeout=20) as comm:
            state = {"w": np.zeros(200_000)}
            found.append(comm.sync(state, revision=None))
            found.append(state["w"])
            comm.barrier()

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:

        def body(comm: collcomm.Communicator) -> None:
            if comm.rank == 1:
                _held(comm, gate)
            state = {"w": np.ones(200_000)}
            handle = comm.sync(state, revision=1, async_op=True)
            if comm.rank == 0:
                thread = threading.Thread(target=newcomer, args=(coordinator.address,))
                thread.start()
                while comm.pending < 1:
                    time.sleep(0.01)
            comm.barrier()
            for _ in range(5):
                assert comm.step().size == 2
            comm.barrier()
            gate.set()
            handle.result(20)
            while comm.size < 3:
                comm.step()
            assert comm.sync(state, revision=1).laggards == {"new"}
            comm.barrier()
            if comm.rank == 0:
                thread.join(20)

        run_peers_at(coordinator.address, 2, body)
    assert found[0].revision == 1 and (found[1] == 1).all()


def test_a_part_of_the_group_syncs_by_itself() -> None:
    def body(comm: collcomm.Communicator) -> None:
        (part,) = (half for half in [comm.split([0, 2]), comm.split([1, 3])] if half is not None)
        low = min(comm.rank, 1)
        state = {"w": np.full(300_000, float(comm.rank if part.rank == 0 else -1))}
        handle = part.sync(state, revision=1 if part.rank == 0 else None, async_op=True)
        assert comm.all_reduce(np.ones(1))[0] == 4
        assert handle.result(20).revision == 1
        assert (state["w"] == (0.0 if comm.rank in (0, 2) else 1.0)).all(), low

    run_peers(4, body)


def test_closing_ends_a_sync() -> None:
    gate = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        if comm.rank == 1:
            _held(comm, gate)
        handle = comm.sync({"w": np.ones(10)}, revision=1, async_op=True)
        comm.barrier()
        if comm.rank == 0:
            comm.close()
            with pytest.raises(collcomm.CommunicatorClosed):
                handle.result(20)
            with pytest.raises(collcomm.CommunicatorClosed):
                comm.sync({"w": np.ones(10)}, revision=1)
            gate.set()
        else:
            assert handle.result(20).revision == 1

    run_peers(2, body)
