"""Who is to blame, by what ranks show of a block, and by their votes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from collcomm.health.audit import Cause, Evidence, Shown, elect, judge, judge_copies, odd_ones_out, reduce_again
from collcomm.health.checksums import Way, block_sums
from collcomm.health.corruption import Blamed, Corruption
from collcomm.health.finding import CulpritKind, Syndrome
from collcomm.types import Member

Array = np.ndarray[Any, Any]
N, C, A, Y, K, S = Cause


def evidence(n: int = 3, op: str = "sum", wrong: bool = False) -> Evidence:
    """Of a healthy group; one block of 100 numbers."""
    given = [np.random.default_rng(rank).standard_normal(100).astype(np.float32) for rank in range(n)]
    result = reduce_again(np.add, op, given)
    shown = [
        Shown(x, result.copy(), result.copy(), block_sums(x, Way.ROUNDED)[0][0], block_sums(result, Way.ROUNDED)[0][0])
        for x in given
    ]
    return Evidence(op, result.dtype, Way.ROUNDED, [False] * n, [b"same"] * n, wrong, [shown])


def with_block(base: Evidence, rank: int, copies: list[bytes] | None = None, **changes: Any) -> Evidence:
    (block,) = base.blocks
    shown = [replace(each, **changes) if index == rank else each for index, each in enumerate(block)]
    return replace(base, blocks=[shown], copies=copies or base.copies)


def off(data: Array) -> Array:
    wrong = data.copy()
    wrong[5] += 1000
    return wrong


def test_nothing_is_wrong_where_nothing_is() -> None:
    for n in (2, 3, 5):
        for op in ("sum", "avg"):
            assert not judge(evidence(n, op)).any()


def test_a_changed_contribution_is_all_that_is_told() -> None:
    base = replace(evidence(wrong=True), changed=[False, True, False])
    assert judge(base).tolist() == [N, C, N]


def test_who_reduces_wrongly_again_is_named_and_nobody_else() -> None:
    base = evidence(wrong=True)
    (block,) = base.blocks
    after = block_sums(off(block[0].result), Way.ROUNDED)[0][0]
    bad = [replace(each, result=off(each.result), after=after) for each in block]
    bad[2] = replace(bad[2], redone=off(bad[2].redone))
    assert judge(replace(base, blocks=[bad])).tolist() == [N, N, A]


def test_an_error_that_does_not_come_again_names_all() -> None:
    base = evidence(wrong=True)
    (block,) = base.blocks
    after = block_sums(off(block[0].result), Way.ROUNDED)[0][0]
    bad = [replace(each, result=off(each.result), after=after) for each in block]
    assert judge(replace(base, blocks=[bad])).tolist() == [S, S, S]


@pytest.mark.parametrize("n", [2, 3])
def test_a_wrong_copy_is_named_also_among_two(n: int) -> None:
    base = evidence(n)
    wrong = off(base.blocks[0][1].result)
    copies = [b"same"] * n
    copies[1] = b"other"
    after = block_sums(wrong, Way.ROUNDED)[0][0]
    assert judge(with_block(base, 1, copies, result=wrong, after=after)).tolist() == [N, Y, N][:n]


def test_of_two_copies_that_differ_within_rounding_the_one_that_nobody_makes_is_wrong() -> None:
    base = evidence(2)
    near = base.blocks[0][0].result.copy()
    near.view(np.uint8)[12] ^= 1
    after = block_sums(near, Way.ROUNDED)[0][0]
    assert judge(with_block(base, 0, [b"other", b"same"], result=near, after=after)).tolist() == [Y, N]


@pytest.mark.parametrize("n", [3, 4])
def test_what_is_right_in_another_order_is_right(n: int) -> None:
    """As in recursive doubling, where all orders of the ranks may occur: two have an error of the first, one is right."""
    base = evidence(n)
    (block,) = base.blocks
    given = [each.contribution for each in block]
    right = reduce_again(np.add, "sum", given[::-1])
    near = right.copy()
    near.view(np.uint32)[:] ^= 1
    results = [near, right, near, right][:n]
    shown = [
        replace(each, result=result, after=block_sums(result, Way.ROUNDED)[0][0])
        for each, result in zip(block, results, strict=True)
    ]
    changed = replace(base, copies=[b"a", b"b", b"a", b"b"][:n], blocks=[shown])
    assert judge(changed).tolist() == [S, N, S, N][:n]


def test_a_wrong_result_that_was_passed_on_is_blamed_on_who_has_it() -> None:
    base = evidence(4, wrong=True)
    (block,) = base.blocks
    wrong = off(block[0].result)
    after = block_sums(wrong, Way.ROUNDED)[0][0]
    shown = [replace(each, result=wrong, after=after) if rank < 3 else each for rank, each in enumerate(block)]
    assert judge(replace(base, copies=[b"a", b"a", b"a", b"b"], blocks=[shown])).tolist() == [S, S, S, N]


def test_checksums_that_are_not_of_the_data_are_named() -> None:
    assert judge(with_block(evidence(wrong=True), 1, before=np.float64(77.0))).tolist() == [N, K, N]
    assert judge(with_block(evidence(wrong=True), 2, after=np.float64(77.0))).tolist() == [N, N, K]
    assert judge(with_block(evidence(wrong=True), 2, after=np.float64(np.nan))).tolist() == [N, N, K]


def test_alarm_without_anything_wrong_to_be_found_names_all() -> None:
    assert judge(replace(evidence(wrong=True), blocks=())).tolist() == [S, S, S]


def test_majorities() -> None:
    assert odd_ones_out([b"a", b"a", b"b"]) == [2]
    assert odd_ones_out([b"a", b"b"]) == []
    assert odd_ones_out([b"a", b"a", b"b", b"b"]) == []
    assert odd_ones_out([b"a", b"b", b"a", b"c", b"a"]) == [1, 3]


def test_votes() -> None:
    assert elect(np.array([[N, Y, N], [N, N, N], [N, Y, N]], np.uint8)).tolist() == [N, Y, N]
    assert elect(np.array([[N, A], [A, N]], np.uint8)).tolist() == [A, A]
    assert elect(np.array([[N, A], [N, N]], np.uint8)).tolist() == [N, A]
    assert elect(np.array([[S, S], [N, A]], np.uint8)).tolist() == [S, A]


def test_moved_blocks() -> None:
    right, wrong, other = b"right", b"wrong", b"other"
    assert judge_copies([right] * 3, [right] * 3, [[right] * 3] * 3, range(3)).tolist() == [N, N, N]
    one_bad = [[right] * 3, [right, right, wrong], [right] * 3]
    assert judge_copies([right] * 3, [right] * 3, one_bad, range(3)).tolist() == [N, Y, N]
    sent_bad = [[right] * 3, [wrong, right, right], [wrong, right, right]]
    assert judge_copies([right] * 3, [right] * 3, sent_bad, range(3)).tolist() == [Y, N, N]
    assert judge_copies([right] * 3, [right, other, right], sent_bad[:1] * 3, range(3)).tolist() == [N, C, N]
    assert judge_copies([right] * 2, [right] * 2, [[right], [wrong]], [0]).tolist() == [N, Y]


def test_findings_name_members() -> None:
    members = [Member(7, "a", "h", 1), Member(9, "b", "h", 2)]
    sure = Corruption("all_reduce(sum)", 0, 12, 3, (Blamed(1, members[1], Cause.COPY),), True, 1.0, "hashes")
    (finding,) = sure.findings(5.0)
    assert finding.syndrome is Syndrome.CORRUPTION and finding.culprit.kind is CulpritKind.RANK
    assert finding.culprit.members == (9,) and finding.since == (0, 12) and finding.confidence == 1.0
    assert "rank 1, b (h:2)" in sure.text and "inputs are intact" in sure.advice
    pair = replace(
        sure, certain=False, confidence=0.5, blamed=tuple(Blamed(r, m, Cause.SUSPECT) for r, m in enumerate(members))
    )
    (finding,) = pair.findings(5.0)
    assert finding.culprit.members == (7, 9) and finding.confidence == 0.5
