"""Checked collectives in real groups: what is planted is found, the rank is named at all ranks alike, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from collcomm.planner import Choice

import collcomm
from collcomm.checking import CheckedCommunicator
from collcomm.collectives import BY_MESSAGES
from collcomm.engine import reduction
from collcomm.engine import request as cached_request
from collcomm.health.audit import Cause
from tests.support.peers import run_peers, run_peers_at

Array = np.ndarray[Any, Any]
HERE = threading.local()  # of the peer that this thread is
SIZES = (100, 60_000)


class Died(Exception):
    """What a peer does that is told to."""


class Saboteur:
    """A communicator whose memory goes wrong at one rank. ``place``: "contribution", "transient" (back again afterwards),
    "copy", or None. ``dies``: (name of a collective, how many of these it begins before it dies in one)."""

    def __init__(self, comm: Any, sick: int, place: str | None, dies: tuple[str, int] | None = None, bit: int = 30):
        self._comm = comm
        self._sick = comm.rank == sick
        self._place = place
        self._dies = dies
        self._bit = bit
        self.begun: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def all_reduce(self, x: Array, **options: Any) -> Any:
        return self._run("all_reduce", x, **options)

    def all_gather(self, x: Array, **options: Any) -> Any:
        return self._run("all_gather", x, **options)

    def broadcast(self, x: Array, **options: Any) -> Any:
        return self._run("broadcast", x, **options)

    def _run(self, kind: str, x: Array, **options: Any) -> Any:
        self.begun[kind] = self.begun.get(kind, 0) + 1
        if self._dies is not None and self._dies == (kind, self.begun[kind]):
            self._comm.close()
            raise Died
        first, method = sum(self.begun.values()) == 1 and self._sick, getattr(self._comm, kind)
        if first and self._place in ("contribution", "transient"):
            flip(x, self._bit)
        result = method(x, **options)
        if first and self._place == "transient":
            flip(x, self._bit)
        if first and self._place == "copy":
            flip(result, self._bit)
        return result


def flip(data: Array, bit: int) -> None:
    element = data.size // 3
    data.view(np.uint8)[element * data.itemsize + bit // 8] ^= 1 << bit % 8


def sabotaged(comm: Any, sick: int, place: str | None, check: str = "sum", policy: str = "raise") -> Any:
    return CheckedCommunicator(Saboteur(comm, sick, place), check, 1, policy, None)  # type: ignore[arg-type]


def numbers(rank: int, size: int, dtype: Any = np.float32) -> Array:
    return (np.random.default_rng(rank).standard_normal(size) * 50).astype(dtype)


def detected(call: Callable[[], Any]) -> Any:
    """What is told of the corruption, less what is of one rank's own."""
    with pytest.raises(collcomm.CorruptionDetected) as caught:
        call()
    corruption: Any = caught.value.corruption
    assert all(str(each.member) in str(caught.value) for each in corruption.blamed)
    return str(caught.value), corruption.ranks, corruption.certain, [each.cause for each in corruption.blamed]


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("place", ["contribution", "copy"])
def test_a_flipped_bit_names_its_rank(n: int, place: str, each_transport: str) -> None:
    def body(comm: collcomm.Communicator) -> list[Any]:
        found = []
        for op, dtype in (("sum", "f4"), ("avg", "f8"), ("sum", "i4"), ("max", "f4"), ("prod", "i8"), ("bor", "u2")):
            for size in SIZES:
                x = numbers(comm.rank, size, dtype)
                kept = x.copy()
                bit = min(30, 8 * x.itemsize - 2)
                checked = CheckedCommunicator(Saboteur(comm, n - 1, place, bit=bit), "sum", 1, "raise", None)
                found.append(detected(lambda: checked.all_reduce(x, op=op, out=x)))
                assert (x == kept).sum() >= size - (place == "contribution")
        return found

    cause = Cause.CONTRIBUTION if place == "contribution" else Cause.COPY
    told = run_peers(n, body)
    assert all(each == told[0] for each in told)
    assert [(ranks, certain, causes) for _, ranks, certain, causes in told[0]] == [((n - 1,), True, [cause])] * 12


class SickKernel:
    """numpy's addition; wrong in the threads of the sick, always or once."""

    __name__ = "add"

    def __init__(self) -> None:
        self.erred = 0
        self.once = False

    def __call__(self, left: Array, right: Array, out: Any = None) -> Any:
        result = np.add(left, right, out=out)
        if getattr(HERE, "sick", False) and not (self.once and self.erred):
            self.erred += 1
            result[result.size // 2] += 4096
        return result


@pytest.fixture
def sick_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[SickKernel]:
    kernel = SickKernel()
    with monkeypatch.context() as patch:
        patch.setitem(reduction._REPLACED, ("sum", np.dtype("f4")), kernel)
        reduction.ufunc_for.cache_clear()
        cached_request.cache_clear()
        yield kernel
    reduction.ufunc_for.cache_clear()
    cached_request.cache_clear()


def algorithms() -> list[str]:
    return sorted(name for kind, name in BY_MESSAGES if kind == "all_reduce" and name != "hierarchical")


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("how", ["shm", *algorithms()])
def test_wrong_arithmetic_names_its_rank(
    n: int, how: str, sick_kernel: SickKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLCOMM_TRANSPORTS", "shm" if how == "shm" else "tcp")

    def body(comm: collcomm.Communicator) -> list[Any]:
        group: Any = comm.split(range(comm.size))
        if how != "shm":
            plain = group._group.choose
            group._group.choose = lambda kind, nbytes, view: (
                Choice(how, {}) if kind == "all_reduce" else plain(kind, nbytes, view)
            )
        found = []
        for size in SIZES:
            for sick in range(n):
                HERE.sick = False
                comm.barrier()
                before = sick_kernel.erred
                HERE.sick = comm.rank == sick
                checked = group.checked("sum", on_corruption="report")
                checked.all_reduce(numbers(comm.rank, size))
                HERE.sick = False
                comm.barrier()
                found.append((sick, sick_kernel.erred > before, [(c.ranks, c.certain) for c in checked.found]))
                comm.barrier()
        return found

    told = run_peers(n, body)
    assert all(each == told[0] for each in told)
    assert any(erred for _, erred, _ in told[0])
    for sick, erred, found in told[0]:
        assert found == ([((sick,), True)] if erred else []), (sick, found)


def test_an_error_that_does_not_come_again_is_detected_and_names_all(
    sick_kernel: SickKernel, each_transport: str
) -> None:
    sick_kernel.once = True

    def body(comm: collcomm.Communicator) -> Any:
        HERE.sick = comm.rank == 1
        return detected(lambda: comm.checked().all_reduce(numbers(comm.rank, 50_000)))

    told = run_peers(3, body)
    assert all(each == told[0] for each in told)
    assert told[0][1:3] == ((0, 1, 2), False) and "one of" in told[0][0]


def test_a_contribution_that_was_wrong_on_its_way_is_detected(each_transport: str) -> None:
    told = run_peers(
        3, lambda comm: detected(lambda: sabotaged(comm, 1, "transient").all_reduce(numbers(comm.rank, 9)))
    )
    assert all(each == told[0] for each in told)
    assert 1 in told[0][1]


@pytest.mark.parametrize("kind", ["all_gather", "broadcast"])
@pytest.mark.parametrize("place", ["contribution", "copy"])
def test_what_is_moved(kind: str, place: str, each_transport: str) -> None:
    sick = 1

    def body(comm: collcomm.Communicator) -> Any:
        options = {"root": sick} if kind == "broadcast" else {}
        checked = sabotaged(comm, sick, place)
        return detected(lambda: getattr(checked, kind)(numbers(comm.rank, 500), **options))

    for n in (2, 3):
        told = run_peers(n, body)
        assert all(each == told[0] for each in told)
        assert told[0][1:3] == ((sick,), True)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "broadcast"])
def test_agreement_names_the_odd_one_or_the_pair(kind: str, each_transport: str) -> None:
    def body(comm: collcomm.Communicator) -> Any:
        return detected(lambda: getattr(sabotaged(comm, 1, "copy", "agree"), kind)(numbers(comm.rank, 500)))

    for n, ranks, certain in ((2, (0, 1), False), (3, (1,), True), (4, (1,), True)):
        told = run_peers(n, body)
        assert all(each == told[0] for each in told)
        assert told[0][1:3] == (ranks, certain)


def test_a_thousand_clean_operations_find_nothing(each_transport: str) -> None:
    ops = [("sum", "f4"), ("avg", "f2"), ("sum", "i8"), ("min", "f8"), ("bxor", "u1"), ("sum", "c8"), ("prod", "f4")]

    def body(comm: collcomm.Communicator) -> dict[str, int]:
        checked = comm.checked()
        for turn in range(1000):
            op, dtype = ops[turn % len(ops)]
            size = (1, 37, 3000)[turn % 3]
            x = numbers(comm.rank + 10 * turn, size, dtype)
            checked.all_reduce(x, op=op, out=x if turn % 2 else None)
        return checked.check_stats()

    assert run_peers(3, body) == [{"passed": 1000, "skipped": 0, "audits": 0, "wrong": 0}] * 3


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_is_not_finite_is_looked_into_and_no_corruption(each_transport: str) -> None:
    def body(comm: collcomm.Communicator) -> dict[str, int]:
        checked = comm.checked()
        for op in ("sum", "avg", "max", "prod"):
            x = numbers(comm.rank, 5000)
            x[[7, 4000]] = np.nan, np.inf
            x[comm.rank] = 3e38
            checked.all_reduce(x, op=op)
        return checked.check_stats()

    told = run_peers(3, body)
    assert told[0] == told[1] == told[2] and told[0]["wrong"] == 0 and told[0]["passed"] == 4


# -- deaths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, "copy"])
@pytest.mark.parametrize("when", [("all_reduce", 1), *(("all_gather", turn) for turn in range(1, 7))])
def test_a_death_in_a_checked_call(when: tuple[str, int], place: str | None, each_transport: str) -> None:
    """Of rank 2; of what rank 1 does, the survivors make the same."""

    def body(comm: collcomm.Communicator) -> Any:
        dying = comm.rank == 2
        spy = Saboteur(comm, 1, place, when if dying else None)
        checked = CheckedCommunicator(spy, "sum", 1, "report", None)  # type: ignore[arg-type]
        x = numbers(comm.rank, 20_000)
        try:
            checked.all_reduce(x, out=x)
        except Died:
            return None
        if dying:  # there were not so many exchanges
            comm.close()
            return None
        again = comm.checked().all_reduce(np.ones(10))
        assert (again == comm.size).all() and comm.size == 3
        return [(c.ranks, c.certain) for c in checked.found], checked.check_stats()

    told = [each for each in run_peers(4, body) if each is not None]
    assert len(told) == 3 and all(each == told[0] for each in told)
    found, stats = told[0]
    assert found == ([((1,), True)] if place else [])
    exchanges = 6 if place else 1  # the table, block hashes, three of blocks, votes
    if when[0] == "all_gather" and when[1] <= exchanges:
        assert stats["skipped"] == 1


def test_with_on_failure_raise_the_result_stands_and_the_next_call_tells() -> None:
    def body(comm: collcomm.Communicator) -> Any:
        spy = Saboteur(comm, -1, None, ("all_gather", 1) if comm.rank == 2 else None)
        checked = CheckedCommunicator(spy, "sum", 1, "raise", None)  # type: ignore[arg-type]
        try:
            assert checked.all_reduce(np.ones(10))[0] == 3
        except Died:
            return None
        with pytest.raises(collcomm.PeerLost):
            checked.all_reduce(np.ones(10))
        assert checked.all_reduce(np.ones(10))[0] == 2
        return checked.check_stats()["skipped"]

    assert sorted(str(each) for each in run_peers(3, body, on_failure="raise")) == ["1", "1", "None"]


# -- the face ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_group_are_checked_apart(each_transport: str) -> None:
    def body(comm: collcomm.Communicator) -> Any:
        odd = comm.split([1, 3])
        even = comm.split([0, 2, 4])
        part = odd or even
        assert part is not None
        checked = sabotaged(part, 1 if part is even else -1, "copy", policy="report")
        counts = [10 * (rank + 1) for rank in range(part.size)]
        checked.all_reduce(numbers(comm.rank, 700))
        checked.all_gather(numbers(comm.rank, counts[part.rank]), counts=counts)
        return [(corruption.ranks, corruption.blamed[0].member.id) for corruption in checked.found], comm.view.ids

    told = run_peers(5, body)
    assert [found for found, _ in told] == [[(((1,)), told[0][1][2])], []] * 2 + [[((1,), told[0][1][2])]]


def test_a_newcomer_checks_the_calls_that_the_others_check(each_transport: str) -> None:
    def calls(comm: collcomm.Communicator) -> tuple[int, int]:
        checked = comm.checked(every=3)
        for _ in range(60):
            checked.all_reduce(np.ones(5))
            comm.step()
        return checked.check_stats()["passed"], comm.size

    def member(comm: collcomm.Communicator) -> tuple[int, int]:
        early = comm.checked(every=2)
        while comm.size < 3:
            early.all_reduce(np.ones(3))
            comm.step()
        return calls(comm)

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        late: list[Any] = []

        def newcomer() -> None:
            late.extend(run_peers_at(coordinator.address, 1, calls, name="late", min_size=2))

        thread = threading.Thread(target=newcomer, daemon=True)

        def first(comm: collcomm.Communicator) -> tuple[int, int]:
            if comm.rank == 0:
                thread.start()
            return member(comm)

        told = run_peers_at(coordinator.address, 2, first)
        thread.join(30)
    assert late and [*told, *late] == [told[0]] * 3
    assert 8 <= told[0][0] <= 35


def test_a_callback_gets_what_becomes_a_finding_and_its_fault_hurts_nobody() -> None:
    def body(comm: collcomm.Communicator) -> Any:
        seen: list[Any] = []

        def tell(corruption: Any) -> None:
            seen.append(corruption)
            raise RuntimeError("a fault of the callback")

        checked = CheckedCommunicator(Saboteur(comm, 0, "copy"), "sum", 1, "report", tell)  # type: ignore[arg-type]
        x = np.ones((4, 50))
        result = checked.all_reduce(x)
        assert result.shape == x.shape
        (finding,) = checked.findings()
        assert seen == list(checked.found) and finding.culprit.members == (comm.view.ids[0],)
        return finding.row()["culprit"]

    assert run_peers(3, body) == ["rank"] * 3


def test_kinds_of_arrays_handles_and_bad_arguments(each_transport: str) -> None:
    def body(comm: collcomm.Communicator) -> None:
        import torch

        checked, n = comm.checked(), comm.size
        tensor = torch.ones(3, 4)
        assert checked.all_reduce(tensor, out=tensor) is tensor and (tensor == n).all()
        assert isinstance(checked.all_gather(torch.ones(2, 3)), torch.Tensor)
        table = np.ones((50, 6))
        assert (checked.all_reduce(table[:, 2], out=table[:, 2]) == n).all()
        assert (table[:, 2] == n).all() and (table[:, 3] == 1).all()
        other = np.zeros((n * 2, 3))
        assert checked.all_gather(np.full((2, 3), comm.rank), out=other.astype(int)).shape == (n * 2, 3)
        assert (checked.broadcast(np.full(5, comm.rank), root=n - 1) == n - 1).all()
        x = np.full(5, comm.rank)
        assert checked.broadcast(x, root=1, out=x) is x and (x == 1).all()
        handle = checked.all_reduce(np.ones(3), async_op=True)
        assert (handle.result(20) == n).all()
        assert checked.all_reduce(np.ones(()), check=None) == n
        assert checked.rank == comm.rank and checked.unchecked is comm and "checked (sum)" in repr(checked)
        passed = checked.check_stats()["passed"]
        assert passed == 7
        for wrong in (
            lambda: comm.checked("sums"),
            lambda: comm.checked(every=0),
            lambda: comm.checked(on_corruption=""),
        ):
            with pytest.raises(ValueError, match="must be"):
                wrong()
        with pytest.raises(TypeError, match="out has dtype"):
            checked.all_reduce(np.ones(3), out=np.ones(3, np.float32))
        with pytest.raises(ValueError, match="out has 4 elements"):
            checked.all_reduce(np.ones(3), out=np.ones(4))
        with pytest.raises(ValueError, match="op 'mean'"):
            checked.all_reduce(np.ones(3), op="mean")
        handle = sabotaged(comm, 1, "copy").all_reduce(np.ones(3), async_op=True)
        with pytest.raises(collcomm.CorruptionDetected, match="rank 1, "):
            handle.result(20)

    run_peers(3, body)


def test_peers_that_check_differently_are_told() -> None:
    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(collcomm.CollectiveMismatch) as caught:
            comm.checked("sum" if comm.rank else "agree").all_reduce(np.ones(5000))
        assert "check of the result" in caught.value.__notes__[0]
        assert comm.all_reduce(np.ones(2))[0] == comm.size

    run_peers(3, body)
