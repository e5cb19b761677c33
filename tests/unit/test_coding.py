"""Gradient coding: any s of n may be late, and the sum is exact."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.diloco import CodedSum, Cyclic, FractionalRepetition
from collcomm.diloco.coding import GradientCode
from tests.support.peers import run_peers

CODES = [
    *[(FractionalRepetition, n, s) for n, s in [(1, 0), (4, 1), (6, 2), (6, 5), (9, 2)]],
    *[(Cyclic, n, s) for n, s in [(1, 0), (3, 0), (4, 1), (5, 2), (7, 3), (8, 3), (10, 4), (6, 5)]],
]


def gradient(part: int, size: int = 40) -> np.ndarray:
    """Whole numbers, so that their sum is exact in any order."""
    return np.random.default_rng(part).integers(-50, 50, size).astype(np.float32)


@pytest.mark.parametrize(("kind", "n", "s"), CODES)
def test_every_set_of_stragglers_leaves_the_exact_sum(kind: type[GradientCode], n: int, s: int) -> None:
    code = kind(n, s)
    parts = {part: gradient(part) for part in range(n)}
    exact = sum(part.astype(np.float64) for part in parts.values())
    sent = [code.encode(worker, {part: parts[part] for part in code.parts(worker)}) for worker in range(n)]
    assert all(len(code.parts(worker)) == s + 1 for worker in range(n))
    for late in combinations(range(n), s):
        weights = code.weights(set(range(n)) - set(late))
        assert not set(weights) & set(late)
        ones = sum(weight * code.matrix[worker] for worker, weight in weights.items())
        np.testing.assert_allclose(ones, 1, atol=1e-10)
        total = sum(weight * sent[worker] for worker, weight in weights.items())
        if kind is FractionalRepetition:
            np.testing.assert_array_equal(total, exact)
        np.testing.assert_array_equal(np.float32(np.rint(total)), np.float32(exact))
        np.testing.assert_allclose(total, exact, atol=1e-6)


@pytest.mark.parametrize(("kind", "n", "s"), [(FractionalRepetition, 6, 2), (Cyclic, 6, 2)])
def test_too_few_workers_are_not_enough(kind: type[GradientCode], n: int, s: int) -> None:
    code = kind(n, s)
    assert code.decodes({0, 1, 2, 3})
    assert not code.decodes({0, 1, 2})  # a whole group is missing, or one worker more than may be
    with pytest.raises(ValueError, match="any 4 of 6"):
        code.weights({0, 1, 2})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Cyclic(4, 4), "s is 4, but of 4 workers at most 3"),
        (lambda: Cyclic(4, -1), "s is -1"),
        (lambda: FractionalRepetition(4, 9), "s is 9"),
        (lambda: FractionalRepetition(5, 1), "2 does not divide 5"),
        (lambda: Cyclic(0, 0), "1 to 256 workers"),
        (lambda: Cyclic(1000, 2), "1 to 256 workers"),
    ],
)
def test_codes_that_cannot_be(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_a_missing_part_is_named() -> None:
    code = Cyclic(4, 1)
    with pytest.raises(ValueError, match="worker 2 has to give the gradient of part 3"):
        code.encode(2, {2: gradient(2)})


@pytest.mark.parametrize("code", [FractionalRepetition(4, 1), Cyclic(4, 2)])
def test_over_a_group_all_have_the_same_sums(code: GradientCode) -> None:
    def body(comm: collcomm.Communicator) -> bytes:
        summed = CodedSum(comm, code, 40)
        total = np.zeros(40)
        while summed.number < 20:
            found = summed.ready()
            if found is None:
                found = summed.add({part: gradient(part + 100 * summed.number) for part in summed.parts})
            np.testing.assert_allclose(
                found, sum(gradient(part + 100 * (summed.number - 1)) for part in range(4)), atol=1e-4
            )
            total += found
        summed.close()
        comm.barrier()
        return total.tobytes()

    assert len(set(run_peers(4, body))) == 1


def test_a_straggler_is_not_waited_for_and_finds_the_sums() -> None:
    """Rank 3 does nothing until all others have made their ten sums; it then takes these, without computing anything."""

    def body(comm: collcomm.Communicator) -> tuple[int, bytes]:
        summed = CodedSum(comm, Cyclic(4, 1), 40)
        computed, total = 0, np.zeros(40)
        if comm.rank == 3:
            comm.recv(np.empty(1), 0, tag=5)
        while summed.number < 10:
            found = summed.ready(20 if comm.rank == 3 else 0)  # they are on their way
            if found is None:
                computed += 1
                found = summed.add({part: gradient(part) for part in summed.parts})
            total += found
        if comm.rank == 0:
            assert summed.late == {3}
            comm.send(np.zeros(1), 3, tag=5)
        summed.close()
        comm.barrier()
        return computed, total.tobytes()

    found = run_peers(4, body)
    assert found[0][0] == 10 and found[3][0] == 0
    assert len({data for _, data in found}) == 1


def test_arguments_that_do_not_fit_the_group() -> None:
    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(ValueError, match="for 3 workers, the group has 2"):
            CodedSum(comm, Cyclic(3, 1), 5)
        with pytest.raises(ValueError, match="root"):
            CodedSum(comm, Cyclic(2, 1), 5, root=2)
        with pytest.raises(ValueError, match="1 element"):
            CodedSum(comm, Cyclic(2, 1), 0)
        comm.barrier()

    run_peers(2, body)
