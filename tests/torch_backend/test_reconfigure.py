"""c10d's own reconfiguration, against collcomm and, where it can do the same, Gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.torch_backend.processes import SECONDS, results

torch = pytest.importorskip("torch")

BOTH = pytest.mark.parametrize("backend", ["collcomm", "gloo"])

pytestmark = [
    pytest.mark.skipif(
        not hasattr(torch.distributed, "_reconfigure"),
        reason=f"torch {torch.__version__} has no reconfigure interface",
    ),
    pytest.mark.timeout(SECONDS + 30),
]


def ranks(scenario: str, backend: str, folder: Path, size: int = 3, killed: int | None = None) -> list[Any]:
    """What the scenario returns at each process; None at the one that kills itself."""
    return results("reconfiguring", [scenario, backend], folder, size, killed)


@BOTH
def test_first(backend: str, tmp_path: Path) -> None:
    """Nothing runs before; then a list tells the ranks."""
    assert ranks("first", backend, tmp_path) == [[True, True, [3, rank, 3]] for rank in (1, 2, 0)]


@BOTH
def test_ordinary_group(backend: str, tmp_path: Path) -> None:
    assert ranks("ordinary", backend, tmp_path) == [[[3, n, 3], [3, 2 - n, 3]] for n in range(3)]


@BOTH
def test_set_of_handles(backend: str, tmp_path: Path) -> None:
    found = ranks("by_set", backend, tmp_path)
    assert sorted(found) == [[3, rank, 3] for rank in range(3)]


@BOTH
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_shrinks_after_a_death(backend: str, victim: int, tmp_path: Path) -> None:
    found = ranks(f"shrink:{victim}", backend, tmp_path, killed=victim)
    left = [each for each in found if each]
    assert [result for _, result in left] == [[2, 0, 2], [2, 1, 2]]
    if backend == "collcomm":  # with Gloo, not all survivors may notice before their timeout
        assert max(seconds for seconds, _ in left) < 5


@BOTH
def test_grows_by_one_that_comes_late(backend: str, tmp_path: Path) -> None:
    assert ranks("grow", backend, tmp_path) == [[[2, 0, 2], [3, 0, 3]], [[2, 1, 2], [3, 1, 3]], [None, [3, 2, 3]]]


@BOTH
def test_splits_and_merges(backend: str, tmp_path: Path) -> None:
    found = ranks("split_and_merge", backend, tmp_path, size=4)
    assert found == [
        [[2, 0, 2], [4, 3, 4]],
        [[2, 1, 2], [4, 1, 4]],
        [[2, 1, 2], [4, 2, 4]],
        [[2, 0, 2], [4, 0, 4]],
    ]


@BOTH
def test_after_abort(backend: str, tmp_path: Path) -> None:
    assert ranks("after_abort", backend, tmp_path) == [[3, rank, 3] for rank in range(3)]


@BOTH
def test_what_is_in_flight_fails(backend: str, tmp_path: Path) -> None:
    found = ranks("in_flight", backend, tmp_path)
    assert found == [[True, [3, 0, 3]], [None, [3, 1, 3]], [None, [3, 2, 3]]]


@BOTH
def test_handles_are_valid_once(backend: str, tmp_path: Path) -> None:
    for rank, (said, after) in enumerate(ranks("once", backend, tmp_path)):
        assert after == [3, rank, 3]
        if backend == "collcomm":
            assert "valid once" in said and "collect get_reconfigure_handle() of all ranks anew" in said


@BOTH
def test_wrong_calls_change_nothing(backend: str, tmp_path: Path) -> None:
    for rank, (said, same, before, after) in enumerate(ranks("wrong", backend, tmp_path)):
        assert same and before == after == [3, rank, 3]
        if backend == "collcomm":
            assert "at least one handle" in said["none"]
            assert "'nonsense' is not a reconfigure handle of collcomm" in said["malformed"]
            assert "not among the 2 given" in said["without mine"]
            assert "given twice" in said["twice"]
            assert "uuid 1 was used by this group before" in said["used uuid"]


@BOTH
def test_one_that_never_comes(backend: str, tmp_path: Path) -> None:
    one, other, pid = ranks("absent", backend, tmp_path)
    for rank, (said, took, after) in enumerate((one, other)):
        assert 1.5 < took < 6 and after == [2, rank, 2]
        if backend == "collcomm":
            assert f"have not come: rank 0 (pid {pid} on " in said


def test_other_arguments_than_the_rest(tmp_path: Path) -> None:
    """Gloo waits for its timeout."""
    for rank, (said, after) in enumerate(ranks("disagree", "collcomm", tmp_path)):
        assert after == [3, rank, 3]
        assert "has come with another uuid" in said


@BOTH
def test_new_groups_of_a_reconfigured_one(backend: str, tmp_path: Path) -> None:
    found = ranks("subgroup", backend, tmp_path)
    assert found == [[2, True, [3, 2, 3]], [1, False, [3, 1, 3]], [2, True, [3, 0, 3]]]
