"""Buddy copies: layouts, what is held, what a group agrees on, and groups within one process."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest

import collcomm
from collcomm.snapshots import ShardLost, Snapshots
from collcomm.snapshots.agreement import Report, Ring, agree, buddy_of, loss, ring_of
from collcomm.snapshots.holdings import Copy, Holdings
from collcomm.snapshots.shard import Layout, described, restored, written
from collcomm.types import Member, View
from tests.support.peers import run_peers

DTYPES = [np.dtype(name) for name in ("bool", "i1", "u8", "f2", "f8", "c16")]
DTYPES += [np.dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)]
LIMIT = 20.0


def there_and_back(arrays: dict[str, Any], meta: Any = None) -> tuple[dict[str, Any], Any]:
    layout, seen = described(arrays, meta)
    row = np.empty(layout.nbytes, np.uint8)
    written(layout, seen, row)
    again = Layout.decoded(layout.encoded())
    assert again == layout
    return restored(again, row), again.meta


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_shard_comes_back_bit_for_bit(dtype: np.dtype) -> None:
    data = np.frombuffer(np.random.default_rng(1).bytes(60 * dtype.itemsize), np.uint8)
    if dtype.kind == "b":
        data = data & 1
    table = data.view(dtype).reshape(6, 10)
    given = {"table": table, "column": table[:, 3], "turned": table.T, "one": table[2, 2], "none": table[:0]}
    found, meta = there_and_back(given, {"step": 7, 3: [1, None]})
    assert meta == {"step": 7, 3: [1, None]}
    for name, array in given.items():
        assert found[name].dtype == dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_tensors_come_back_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    given = {
        "half": torch.randn(3, 5, dtype=torch.bfloat16),
        "eighth": torch.randn(7).to(torch.float8_e4m3fn),
        "turned": torch.arange(12).reshape(3, 4).T,
        "one": torch.tensor(2.5, requires_grad=True),
        "array": np.ones(3),
    }
    found, _ = there_and_back(given)
    assert isinstance(found["array"], np.ndarray)
    for name in ("half", "eighth", "turned", "one"):
        assert found[name].dtype == given[name].dtype and found[name].shape == given[name].shape
        assert torch.equal(found[name].float(), given[name].float())


def test_torch_is_imported_by_nobody() -> None:
    program = "import sys, collcomm.snapshots; sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=LIMIT, check=False).returncode == 0


def test_what_is_no_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="arrays have names"):
        described({3: np.ones(1)}, None)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="must be an array"):
        described({"x": "text"}, None)
    with pytest.raises(TypeError, match="dtype"):
        described({"x": np.array(["text"])}, None)
    with pytest.raises(TypeError, match="meta"):
        described({}, object())[0].encoded()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02\x03",
        b"\x92\x91\x94\xa1x\xa3f99\x91\x01\xc2\xc0",
        b"\x92\x91\x94\xa1x\xa2f4\x91\xff\xc2\xc0",
    ],
)
def test_what_describes_no_shard_is_refused(rubbish: bytes) -> None:
    with pytest.raises(ValueError, match=r"shard|dtype|array"):
        Layout.decoded(np.frombuffer(rubbish, np.uint8))


def a_copy(held: Holdings, number: int, owner: int, nbytes: int = 1000) -> Copy:
    copy = Copy((1, number), number, owner, described({}, None)[0], held.room(nbytes))
    held.put(copy)
    return copy


def test_two_copies_are_held_of_an_owner_and_their_memory_is_used_again() -> None:
    held = Holdings()
    for number in range(1, 10):
        for owner in (1, 2):
            a_copy(held, number, owner)
        assert held.nbytes <= 4000
        held.keep_only((1, number))
    assert held.nbytes == 4000 and {copy.key for copy in held} == {(1, 9)}
    a_copy(held, 10, 1)
    with pytest.raises(AssertionError):
        a_copy(held, 11, 1)
    held.keep_only(None)
    held.trim()
    assert held.nbytes == 0


def test_neighbours_are_on_different_hosts() -> None:
    members = [Member(i + 1, f"p{i}", "h", 1, host) for i, host in enumerate(["a", "a", "a", "b", "b", "b"])]
    names = [name for _, name in ring_of(View(1, tuple(members)))]
    assert names == ["p0", "p3", "p1", "p4", "p2", "p5"]
    apart = [Member(i + 1, f"p{i}", "h", 1) for i in range(3)]
    assert [member for member, _ in ring_of(View(1, tuple(apart)))] == [1, 2, 3]


def plain_ring(n: int) -> Ring:
    return tuple((member, f"p{member}") for member in range(1, n + 1))


def reports(n: int, snapshots: dict[int, set[int]], here: set[int], kept: bool = True) -> list[Report]:
    """Of members ``here`` of a ring of ``n``. ``snapshots``: by number, whose copy has come whole to its buddy."""
    ring = plain_ring(n)
    found = []
    for member in sorted(here):
        held = []
        for number, come in snapshots.items():
            held += [((1, number), number, member)] if kept else []
            held += [((1, number), number, owner) for owner in come if buddy_of(ring, owner)[0] == member]
        found.append(Report(member, 1, {1: ring}, tuple(held)))
    return found


def test_the_latest_snapshot_that_serves_is_taken() -> None:
    everybody = {1, 2, 3, 4}
    found = agree(reports(4, {5: everybody, 6: {1, 2, 4}}, {1, 2, 4}))
    assert (found.step, found.lost, found.generation) == (5, (), 2)
    assert found.holders == {1: (1, 2), 2: (2,), 3: (4,), 4: (4, 1)}
    assert agree(reports(4, {5: everybody, 6: {1, 2, 3}}, {1, 2, 4})).step == 6, "4's own copy is whole as it is"
    nothing = agree([Report(1), Report(2)])
    assert nothing.step is None and nothing.generation == 1


def test_a_report_is_the_same_after_its_journey() -> None:
    for report in reports(3, {4: {1, 2}}, {1, 2, 3}):
        assert Report.of(report.row) == report


def test_what_is_lost_is_named_with_its_buddy_and_what_to_do() -> None:
    found = agree(reports(4, {5: {1, 2, 3, 4}}, {1, 4}))
    assert found.lost == (2,) and found.step == 5
    error = loss(found, [1, 4])
    assert error.owners == ("p2",)
    assert "p2 has gone, and so has its buddy p3" in str(error) and "neighbour_mean" in str(error)
    early = agree(reports(3, {1: set()}, {1, 3}))
    assert "p2 has gone before a whole copy had come to its buddy p3" in str(loss(early, [1, 3]))
    bare = agree(reports(3, {1: {1, 2, 3}}, {1, 3}, kept=False))
    assert "p1 keeps no copy of its own" in str(loss(bare, [1, 3]))


@pytest.mark.parametrize("seed", range(200))
def test_whoever_dies_all_is_there_unless_neighbours_died_together(seed: int) -> None:
    chance = random.Random(seed)
    n = chance.randrange(2, 9)
    everybody = set(range(1, n + 1))
    dead = set(chance.sample(sorted(everybody), chance.randrange(1, n)))
    under_way = {owner for owner in everybody if chance.random() < 0.5}
    found = agree(reports(n, {7: everybody, 8: under_way}, everybody - dead))
    ring = plain_ring(n)
    assert set(found.lost) == {owner for owner in dead if buddy_of(ring, owner)[0] in dead}
    assert found.step == 7 or {owner for owner in dead if buddy_of(ring, owner)[0] not in dead} <= under_way
    for owner, holders in found.holders.items():
        assert set(holders) <= everybody - dead and (holders[0] == owner or owner in dead)


@pytest.mark.parametrize("copy", ["now", "later", "never"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_everybody_gets_its_own_shard_back(n: int, copy: str) -> None:
    def body(comm: collcomm.Communicator) -> tuple[int | None, int]:
        with Snapshots(comm, copy, timeout=LIMIT) as snapshots:
            assert snapshots.broken and snapshots.recover().own is None and not snapshots.broken
            shard = {"w": np.full(5000 + comm.rank, float(comm.rank)), "b": np.arange(10)[::3]}
            for step in range(4):
                snapshots.take(step, shard, {"step": step})
                snapshots.wait()
                shard["w"] += 1
            step = snapshots.finish()
            held = snapshots.nbytes
            found = snapshots.recover()
            if n > 1 or copy != "never":
                assert found.own is not None and found.own.owner == comm.name and found.own.meta == {"step": 3}
                assert (found.own.arrays["w"] == comm.rank + 3).all() and found.own.arrays["w"].size == 5000 + comm.rank
                np.testing.assert_array_equal(found.own.arrays["b"], [0, 3, 6, 9])
            assert found.orphans == {} and found.lost == () and snapshots.take_over() == {}
            return step, held

    for step, held in run_peers(n, body):
        assert step == 3 or (n == 1 and copy == "never")
        assert held < 4 * 41_000, "two copies of two owners"


def test_members_that_are_not_at_one_step_are_told() -> None:
    def body(comm: collcomm.Communicator) -> str:
        with Snapshots(comm, timeout=LIMIT) as snapshots:
            snapshots.recover()
            snapshots.take(4 if comm.rank == 1 else 5, {"x": np.ones(3)})
            with pytest.raises(collcomm.CollectiveMismatch) as caught:
                snapshots.finish()
            assert snapshots.broken
            assert snapshots.recover(partial=True).step in (4, 5)
            snapshots.take(6, {"x": np.ones(3)})
            assert snapshots.finish() == 6
            return str(caught.value)

    texts = run_peers(3, body)
    assert len(set(texts)) == 1 and "peer" in texts[0] and "of step 4" in texts[0] and "of step 5" in texts[0]


def test_recoveries_leave_nothing_over() -> None:
    def count() -> tuple[int, int]:
        return psutil.Process().num_fds(), threading.active_count()

    def body(comm: collcomm.Communicator) -> None:
        snapshots = Snapshots(comm, timeout=LIMIT)
        found = []
        for turn in range(6):
            snapshots.recover()
            for step in range(2):
                snapshots.take(step, {"x": np.ones(30_000)})
            assert snapshots.finish() == 1
            comm.barrier()
            if turn in (1, 5):
                found.append(count())
            comm.barrier()
        assert found[1][0] < found[0][0] + 6, "descriptors: what else runs here has some, more or less"
        assert found[1][1] <= found[0][1]
        snapshots.close()
        comm.barrier()
        assert snapshots.nbytes == 0 and count()[1] < found[0][1]
        comm.barrier()

    run_peers(3, body)


def test_a_member_that_does_not_come_is_not_waited_for_without_end() -> None:
    met = threading.Barrier(3)

    def body(comm: collcomm.Communicator) -> None:
        with Snapshots(comm, timeout=LIMIT) as snapshots:
            snapshots.recover()
            snapshots._timeout = 0.3
            if comm.rank:
                snapshots.take(1, {"x": np.ones(3)})
                with pytest.raises(collcomm.CollectiveTimeout):
                    snapshots.finish()
                with pytest.raises(collcomm.CollectiveTimeout):
                    snapshots.take(2, {"x": np.ones(3)})
            met.wait(LIMIT)

    run_peers(3, body)


def test_an_error_is_not_held_up_by_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peer 1 sends nothing; peer 0, which waits for that in the background, fails."""
    send, failed = collcomm.Communicator.send, threading.Event()

    def held_up(comm: collcomm.Communicator, *arguments: Any, **options: Any) -> Any:
        if comm.name == "peer-1":
            failed.wait(LIMIT)
        else:
            sending.set()
        return send(comm, *arguments, **options)

    sending = threading.Event()
    monkeypatch.setattr(collcomm.Communicator, "send", held_up)

    def fail(snapshots: Snapshots) -> None:
        with snapshots:
            snapshots.recover()
            snapshots.take(1, {"x": np.ones(3)})
            assert sending.wait(LIMIT)
            raise ZeroDivisionError

    def body(comm: collcomm.Communicator) -> None:
        snapshots = Snapshots(comm, timeout=10 * LIMIT)
        if comm.name == "peer-0":
            with pytest.raises(ZeroDivisionError):
                fail(snapshots)
            failed.set()
        else:
            with snapshots:
                snapshots.recover()
                snapshots.take(1, {"x": np.ones(3)})
                assert failed.wait(LIMIT), "the error waits"

    run_peers(2, body)


def test_a_newcomer_makes_the_ring_larger() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        found: dict[str, Any] = {}
        ready = threading.Event()

        def live(name: str) -> None:
            with (
                collcomm.join(coordinator.address, name=name, min_size=2, timeout=LIMIT, op_timeout=LIMIT) as comm,
                Snapshots(comm, "never", timeout=LIMIT) as snapshots,
            ):
                if name != "newcomer":
                    snapshots.recover()
                    snapshots.take(1, {"x": np.array([ord(name[0])])})
                    assert snapshots.finish() == 1
                    ready.set()
                    while not snapshots.broken:
                        comm.step()
                    with pytest.raises(collcomm.PeerLost, match="recover"):
                        snapshots.take(2, {})
                recovery = snapshots.recover()
                found[name] = recovery.step, recovery.own and recovery.own.arrays["x"].tolist(), recovery.orphans
                snapshots.take(2, {"x": np.zeros(1)})
                assert snapshots.finish() == 2
                with pytest.raises(ValueError, match="had no shard"):
                    snapshots.take_over({"newcomer": "a"})
                with pytest.raises(ValueError, match="is not here"):
                    snapshots.take_over({"a": "nobody"})
                comm.barrier()

        threads = [threading.Thread(target=live, args=(name,), daemon=True) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        assert ready.wait(LIMIT)
        threads.append(threading.Thread(target=live, args=("newcomer",), daemon=True))
        threads[-1].start()
        for thread in threads:
            thread.join(LIMIT)
    assert found == {"a": (1, [97], {}), "b": (1, [98], {}), "newcomer": (1, None, {})}


def test_arguments_that_cannot_be() -> None:
    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(ValueError, match="copy"):
            Snapshots(comm, "sometimes")
        with pytest.raises(ValueError, match="timeout"):
            Snapshots(comm, timeout=0)
        with Snapshots(comm, timeout=LIMIT) as snapshots:
            with pytest.raises(collcomm.CollcommError, match="recover"):
                snapshots.take(1, {})
            with pytest.raises(collcomm.CollcommError, match="recover"):
                snapshots.take_over()
            snapshots.recover()
            with pytest.raises(ValueError, match="step"):
                snapshots.take(-1, {})
        assert issubclass(ShardLost, collcomm.CollcommError)

    run_peers(1, body)
