"""Members choose the same chunks, whatever the moments at which they submit and cancel, and the most urgent goes first."""

from __future__ import annotations

import random

import pytest

from collcomm.overlap.turns import LEAST_BYTES, MOST_BYTES, MOST_ITEMS, Chunk, Turns

Submission = tuple[int, int, int]  # elements, bytes of one, priority


class Member:
    def __init__(self, turns: Turns, plan: list[Submission]):
        self.turns = turns
        self.waiting = list(plan)
        self.chosen: list[Chunk] = []
        self.cancelled: list[int] = []

    def submit(self) -> None:
        if self.waiting:
            self.turns.submit(*self.waiting.pop(0))


def turn(members: list[Member]) -> Chunk | None:
    words = [max(column) for column in zip(*(member.turns.words() for member in members), strict=True)]
    found = set()
    for member in members:
        chunk, cancelled = member.turns.agreed(words)
        found.add((chunk, cancelled))
        if chunk is not None:
            member.chosen.append(chunk)
        if cancelled is not None:
            member.cancelled.append(cancelled)
    assert len(found) == 1, "members differ"
    return found.pop()[0]


@pytest.mark.parametrize("seed", range(60))
def test_all_choose_alike_and_everything_goes_once(seed: int) -> None:
    rng = random.Random(seed)
    plan = [
        (rng.choice([0, 1, 10, 100_000, 600_000]), rng.choice([1, 4, 8]), rng.randrange(-3, 4))
        for _ in range(rng.randrange(1, 12))
    ]
    members = [Member(Turns(0.01), plan) for _ in range(rng.randrange(1, 5))]
    wished: set[int] = set()
    for _ in range(10_000):
        for member in members:
            if rng.random() < 0.3:
                member.submit()
            if rng.random() < 0.05 and member.turns.submitted:
                number = rng.randrange(member.turns.submitted)
                member.turns.cancel(number)
                wished.add(number)
            member.turns.took(rng.uniform(1e-6, 0.1), rng.choice([0, 1 << 20]), rng.uniform(0, 1e-3))
        turn(members)
        if not any(member.waiting or member.turns.pending for member in members):
            break
    else:
        raise AssertionError("it does not end")
    (first, *others) = members
    assert all(member.chosen == first.chosen and member.cancelled == first.cancelled for member in others)
    assert set(first.cancelled) <= wished and len(set(first.cancelled)) == len(first.cancelled)
    for number, (elements, _, _) in enumerate(plan):
        chunks = [chunk for chunk in first.chosen if chunk.number == number]
        assert [chunk.start for chunk in chunks] == [0, *(chunk.stop for chunk in chunks[:-1])][: len(chunks)]
        if number not in first.cancelled:
            assert chunks[-1].stop == elements and [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [
                True
            ]
        else:
            assert not any(chunk.last for chunk in chunks)


def test_the_lower_number_goes_first_and_of_equals_the_earlier() -> None:
    member = Member(Turns(0.01), [(1, 4, 5), (1, 4, 0), (1, 4, 5), (1, 4, -1)])
    for _ in range(4):
        member.submit()
    order = [chunk.number for _ in range(4) if (chunk := turn([member])) is not None]
    assert order == [3, 1, 0, 2] and turn([member]) is None


def test_chunks_last_as_long_as_asked_within_bounds() -> None:
    member = Member(Turns(0.01), [(1 << 30, 1, 0)])
    member.submit()
    for rate, expected in ((1e8, 1 << 19), (1e13, MOST_BYTES), (1e3, LEAST_BYTES)):
        member.turns.took(LEAST_BYTES / rate, LEAST_BYTES)
        chunk = turn([member])
        assert chunk is not None and chunk.stop - chunk.start == expected


def test_where_words_take_long_chunks_are_larger_and_one_late_member_does_not_count() -> None:
    member = Member(Turns(0.01), [(1 << 30, 1, 0)])
    member.submit()
    member.turns.took(LEAST_BYTES / 1e7, LEAST_BYTES, exchange=0.1)
    chunk = turn([member])
    assert chunk is not None and chunk.stop == 1 << 22  # 0.8 s, and a power of two
    for seconds in (0.001, 3.0):
        member.turns.took(exchange=seconds)
    chunk = turn([member])
    assert chunk is not None and chunk.stop - chunk.start == 1 << 16


def test_too_much_is_refused() -> None:
    turns = Turns(0.01)
    for _ in range(MOST_ITEMS):
        turns.submit(1, 4, 0)
    with pytest.raises(OverflowError, match="pending"):
        turns.submit(1, 4, 0)
