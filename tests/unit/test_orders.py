"""Any order of ranks: proved for every algorithm by messages, and no more steps than the blocks that move ask for."""

from __future__ import annotations

import random
from typing import Any

import pytest

from collcomm.collectives import BY_MESSAGES, THROUGH_WINDOWS, Action, Schedule, generate
from collcomm.collectives.prover import prove

ROOTED = ("broadcast", "reduce", "gather", "scatter")
SEGMENTED = {("all_reduce", "ring"), ("all_reduce", "bidirectional"), ("broadcast", "ring")}


def parameters(kind: str, algorithm: str, n: int, rng: random.Random) -> dict[str, Any]:
    """An order, and whatever else the algorithm understands."""
    order = list(range(n))
    rng.shuffle(order)
    found: dict[str, Any] = {"order": tuple(order)}
    if algorithm == "hierarchical":
        found["hosts"] = tuple(rng.randrange(rng.randint(1, n)) for _ in range(n))
    if (kind, algorithm) in SEGMENTED:
        found["segments"] = rng.randint(1, 2)
    return found


def group(kind: str, algorithm: str, n: int, root: int = 0, **more: Any) -> list[Schedule]:
    return [generate(kind, algorithm, n, rank, root, **more) for rank in range(n)]


@pytest.mark.parametrize(("kind", "algorithm"), sorted(BY_MESSAGES))
def test_every_algorithm_in_random_orders(kind: str, algorithm: str) -> None:
    rng = random.Random(f"{kind} {algorithm}")
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17):
        for _ in range(3):
            root = rng.randrange(n) if kind in ROOTED else 0
            more = parameters(kind, algorithm, n, rng)
            schedules = group(kind, algorithm, n, root, **more)
            assert [schedule.rank for schedule in schedules] == list(range(n))
            prove(schedules.__getitem__, n, root)
            if schedules[0].in_place:
                prove(schedules.__getitem__, n, root, in_place=True)


@pytest.mark.parametrize(("kind", "algorithm"), sorted(BY_MESSAGES))
def test_the_order_of_ranks_changes_nothing(kind: str, algorithm: str) -> None:
    for n in (1, 5, 8):
        assert group(kind, algorithm, n, order=tuple(range(n))) == group(kind, algorithm, n)


@pytest.mark.parametrize(("kind", "algorithm"), sorted(BY_MESSAGES))
def test_who_stands_beside_whom(kind: str, algorithm: str) -> None:
    """The rank at a position talks to those who stand where that position's partners do, as often, and moves as many blocks."""
    n, order = 7, (3, 0, 6, 2, 5, 1, 4)
    for position, rank in enumerate(order):
        plain, mapped = (
            generate(kind, algorithm, n, position, 2),
            generate(kind, algorithm, n, rank, order[2], order=order),
        )
        assert blocks(mapped) == {(action, order[peer]): count for (action, peer), count in blocks(plain).items()}
        assert mapped.chunks == plain.chunks


def blocks(schedule: Schedule) -> dict[tuple[Action, int], int]:
    """By what is done with whom."""
    found: dict[tuple[Action, int], int] = {}
    for step in schedule.steps:
        if step.action is not Action.COPY:
            span = step.source if step.action is Action.SEND else step.target
            assert span is not None
            found[step.action, step.peer] = found.get((step.action, step.peer), 0) + span.last - span.first
    return found


def test_blocks_in_a_row_go_together_and_others_one_by_one() -> None:
    """The rank that stands third collects for itself and the fourth."""

    def texts(rank: int, order: tuple[int, ...]) -> list[str]:
        return [str(step) for step in generate("gather", "tree", 4, rank, order[0], order=order).steps]

    assert texts(1, (3, 0, 1, 2)) == ["copy tmp[1] <- in[0]", "recv tmp[2] <- 2", "send tmp[1:3] -> 3"]
    assert texts(3, (3, 0, 1, 2)) == ["copy out[3] <- in[0]", "recv out[0] <- 0", "recv out[1:3] <- 1"]
    apart = ["copy tmp[2] <- in[0]", "recv tmp[1] <- 1", "send tmp[2] -> 3", "send tmp[1] -> 3"]
    assert texts(2, (3, 0, 2, 1)) == apart
    assert texts(3, (3, 0, 2, 1)) == [
        "copy out[3] <- in[0]",
        "recv out[0] <- 0",
        "recv out[2] <- 2",
        "recv out[1] <- 2",
    ]


def test_a_turned_ring_of_pieces_has_the_steps_of_a_ring() -> None:
    steps = [str(step) for step in generate("all_reduce", "ring", 3, 0, order=(2, 0, 1)).steps]
    assert steps[:2] == ["send in[1] -> 1", "reduce out[0] <- in[0] + 2"]  # pieces belong to positions


def test_hosts_are_those_of_ranks() -> None:
    """Whatever the order, a rank hands over to the other one of its host, and to one of the other host."""
    hosts, order = (0, 1, 0, 1), (3, 1, 2, 0)
    for rank in range(4):
        steps = generate("all_to_all", "hierarchical", 4, rank, hosts=hosts, order=order).steps
        peers = [step.peer for step in steps if step.action is Action.SEND]
        assert [hosts[peer] == hosts[rank] for peer in peers] == [True, False]


@pytest.mark.parametrize("order", [(), (0, 1), (0, 1, 1), (1, 2, 3), (0, 1, 2, 3), (-1, 0, 1)])
def test_an_order_that_is_none(order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not a permutation of the ranks 0 to 2"):
        generate("all_reduce", "ring", 3, 0, order=order)


@pytest.mark.parametrize(("kind", "algorithm"), sorted(THROUGH_WINDOWS))
def test_windows_know_no_order(kind: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match="goes through windows"):
        generate(kind, algorithm, 3, 0, order=(2, 1, 0))
