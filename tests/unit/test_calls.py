"""Operations of one communicator run in the order of their numbers, from however many threads they are called."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from collcomm.clock import SYSTEM
from collcomm.engine.calls import Calls
from collcomm.engine.operation import Operation
from collcomm.engine.progress import Progress
from collcomm.engine.request import request
from collcomm.types import Member, View

VIEW = View(1, (Member(1, "a", "127.0.0.1", 1),))


class Ordered(Calls):
    def __init__(self) -> None:
        super().__init__("collcomm-test", VIEW, Progress(0, VIEW, 0), SYSTEM)
        self.done = 0

    def _carry_out(self, operation: Operation, seq: int, deadline: float) -> Any:
        assert seq == operation.seq == self.done + 1, (seq, self.done)
        self.done = seq
        return seq


def operation() -> Operation:
    return Operation(request("barrier", np.dtype(np.uint8)), VIEW, 1, None, None)


def test_numbers_follow_the_order_in_which_operations_run() -> None:
    calls = Ordered()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(300):
                if (turn + number) % 3:
                    calls.run(operation(), 10.0)
                else:
                    calls.submit(operation(), 10.0, lambda value, error: value).result(10.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    calls.queue.close()
    assert not errors, errors[0]
    assert calls.done == 6 * 300


def test_a_number_is_taken_before_anybody_else_may_take_one() -> None:
    """An operation that runs at once gets its number under the lock that orders calls."""
    calls = Ordered()
    second: list[int] = []
    other = threading.Thread(target=lambda: second.append(calls.submit(operation(), 10.0, lambda v, e: v).result(10.0)))

    def slowly() -> int:
        other.start()
        other.join(0.2)  # it cannot get on before this number is out
        return Progress.take(calls.progress)

    calls.progress.take = slowly  # type: ignore[method-assign]
    try:
        seq = calls.queue.begin(calls.progress.take)
    finally:
        del calls.progress.take
    assert seq == 1
    calls.done = 1
    calls.queue.end()
    other.join(10)
    calls.queue.close()
    assert second == [2]
