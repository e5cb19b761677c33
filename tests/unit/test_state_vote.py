"""Whose content wins."""

from __future__ import annotations

import pytest

from collcomm.errors import StateDiverged
from collcomm.state import Claim, elect


def claims(*rows: tuple[int, int, str], schema: bytes = b"s") -> list[Claim]:
    """(revision, lineage, content) of each peer."""
    return [
        Claim(f"p{i}", revision, lineage, schema, root.encode()) for i, (revision, lineage, root) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "revision", "holders", "outvoted"),
    [
        ([(1, -1, "a")] * 3, 1, (0, 1, 2), ()),
        ([(5, 4, "a"), (5, 4, "a"), (5, 4, "b")], 5, (0, 1), (2,)),  # corrupted
        ([(5, 4, "a"), (0, -1, "z"), (0, -1, "z"), (-1, -1, "z")], 5, (0,), ()),  # many newcomers
        ([(9, -1, "a"), (4, -1, "b"), (4, -1, "b")], 9, (0,), ()),  # first sync: an older majority
        ([(9, 9, "a"), (9, 4, "b"), (9, 4, "b")], 9, (0,), ()),  # a majority that missed the last sync
        ([(6, 5, "a"), (6, 5, "a"), (7, 5, "b")], 6, (0, 1), (2,)),  # ahead alone
        ([(3, -1, "a"), (3, -1, "a"), (3, -1, "b"), (2, -1, "b")], 3, (0, 1), (2,)),
    ],
)
def test_the_majority_of_those_who_synced_last(
    rows: list[tuple[int, int, str]], revision: int, holders: tuple[int, ...], outvoted: tuple[int, ...]
) -> None:
    election = elect(claims(*rows))
    assert (election.revision, election.holders, election.outvoted) == (revision, holders, outvoted)
    assert sorted(election.holders + election.laggards) == list(range(len(rows)))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([(1, -1, "a"), (1, -1, "b")], "no majority"),
        ([(5, 4, "a"), (5, 4, "a"), (5, 4, "b"), (5, 4, "c")], "no majority"),
        ([(-1, -1, "a"), (-1, -1, "a")], "nobody has any state"),
        ([(3, 4, "a"), (3, 4, "a")], "cannot go back"),
    ],
)
def test_no_winner(rows: list[tuple[int, int, str]], match: str) -> None:
    with pytest.raises(StateDiverged, match=match):
        elect(claims(*rows))


def test_arrays_that_do_not_match() -> None:
    with pytest.raises(StateDiverged, match=r"arrays of p0 differ"):
        elect([*claims((-1, -1, "x"), schema=b"t"), *claims((1, 1, "a"), (1, 1, "a"))[1:]])
