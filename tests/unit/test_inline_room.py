"""Messages that are sent in list order may wait for room in a socket's buffers, never for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import product

import pytest

from collcomm.collectives import BY_MESSAGES, Action, generate
from collcomm.engine.plan import INLINE_BYTES, Plan, compile_plan

ROOM = 2 * INLINE_BYTES  # bytes that a connection takes though nobody reads them: Linux's least, of Unix sockets


class Rank:
    """Runs its plan as the inline executor does, or as the streaming one: any message whose turn has come."""

    def __init__(self, number: int, plan: Plan):
        self.number = number
        self.plan = plan
        self.left = list(range(len(plan.messages)))

    def go(self, ways: dict[tuple[int, int], deque[int]]) -> bool:
        """Take the steps that can be taken. Whether there were any."""
        moved = False
        for index in list(self.left):
            if self._ready(index) and self._take(index, ways):
                self.left.remove(index)
                moved = True
            elif self.plan.inline:
                break
        return moved

    def _ready(self, index: int) -> bool:
        message = self.plan.messages[index]
        earlier = [self.plan.messages[other] for other in self.left if other < index]
        same_way = any(
            m.peer == message.peer and (m.action is Action.SEND) == (message.action is Action.SEND) for m in earlier
        )
        return not set(message.after) & set(self.left) and (message.action is Action.COPY or not same_way)

    def _take(self, index: int, ways: dict[tuple[int, int], deque[int]]) -> bool:
        message = self.plan.messages[index]
        if message.action is Action.COPY:
            return True
        if message.action is Action.SEND:
            way = ways.setdefault((self.number, message.peer), deque())
            if way and sum(way) + message.nbytes > ROOM:
                return False
            way.append(message.nbytes)
            return True
        way = ways.setdefault((message.peer, self.number), deque())
        if not way:
            return False
        way.popleft()
        return True


def ends(plans: Sequence[Plan]) -> bool:
    ranks = [Rank(number, plan) for number, plan in enumerate(plans)]
    ways: dict[tuple[int, int], deque[int]] = {}
    while any([rank.go(ways) for rank in ranks]):
        pass
    return not any(rank.left for rank in ranks)


def plans_of(kind: str, algorithm: str, n: int, piece: int, **parameters: object) -> list[Plan]:
    schedules = [generate(kind, algorithm, n, rank, 0, **parameters) for rank in range(n)]
    found = []
    for schedule in schedules:
        bounds = {buffer: [piece * index for index in range(count + 1)] for buffer, count in schedule.chunks.items()}
        found.append(compile_plan(schedule, bounds, 1, False))
    return found


PIECES = (1, INLINE_BYTES // 8, INLINE_BYTES // 2, INLINE_BYTES)


@pytest.mark.parametrize(("kind", "algorithm"), [key for key in BY_MESSAGES if key[1] != "hierarchical"])
def test_every_algorithm(kind: str, algorithm: str) -> None:
    segmented = algorithm in ("ring", "bidirectional") and kind in ("all_reduce", "broadcast")
    for n, piece, segments in product(range(2, 10), PIECES, (1, 5) if segmented else (1,)):
        parameters = {"segments": segments} if segmented else {}
        assert ends(plans_of(kind, algorithm, n, piece, **parameters)), (n, piece, segments)


@pytest.mark.parametrize("kind", ["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast"])
def test_hierarchical(kind: str) -> None:
    layouts = [
        (0, 1, 1, 2, 2, 2),
        (0, 1, 0, 1),
        (0, 0, 1),
        (0, 0, 0, 1, 1),
        (0, 1, 1, 1, 1, 1),
        (0, 0, 1, 1, 2, 2, 3, 3),
    ]
    for layout, piece in product(layouts, PIECES):
        assert ends(plans_of(kind, "hierarchical", len(layout), piece, hosts=layout)), (layout, piece)


def test_many_small_messages_in_a_row_are_not_sent_blindly() -> None:
    """288 KiB to a rank of the same host that sends as much: more than a Unix socket holds."""
    layout = (0, 1, 1, 2, 2, 2)
    plans = plans_of("all_reduce", "hierarchical", 6, 32768, hosts=layout)
    assert not any(plan.inline for plan in plans[1:])
    assert all(plan.inline for plan in plans_of("all_reduce", "hierarchical", 6, 64, hosts=layout))
