"""The life of one operation at one peer, and what view changes make of it."""

from __future__ import annotations

import threading

import pytest

from collcomm.engine.progress import Failure, Halted, Progress
from collcomm.types import Call, Member, Outcome, Verdict, View

CALL = Call(1, "barrier()")


def view(epoch: int, *ids: int) -> View:
    return View(epoch, tuple(Member(i, f"p{i}", "127.0.0.1", 1) for i in ids or (1, 2)))


def never() -> None:
    raise AssertionError("it should not have to wait")


def test_the_happy_path() -> None:
    progress = Progress(0, view(1), 0)
    for seq in (1, 2, 3):
        assert progress.take() == seq
        assert progress.enter(seq, CALL) is False
        progress.finish(1, seq)
        progress.commit(1, seq)
    assert (progress.entered, progress.complete, progress.committed) == (3, 3, 3)


def test_what_is_frozen_stays_as_it_was_reported() -> None:
    progress = Progress(0, view(1), 0)
    progress.enter(1, CALL)
    report = progress.halt()
    assert (report.complete, report.entered, report.members) == (0, 1, (1, 2))
    for forbidden in (lambda: progress.finish(1, 1), lambda: progress.commit(1, 1), lambda: progress.enter(1, CALL)):
        with pytest.raises(Halted):
            forbidden()
    assert progress.halt() == report


@pytest.mark.parametrize("done", [False, True])
def test_a_view_that_was_adopted_meanwhile_ends_the_attempt(done: bool) -> None:
    """Halt and adopt may both happen while a thread is between two steps: what it does next belongs to the old view."""
    progress = Progress(0, view(1), 0)
    progress.enter(1, CALL)
    if done:
        progress.finish(1, 1)
    progress.halt()
    progress.adopt(view(2, 1), Outcome(int(done), int(done)))
    with pytest.raises(Halted):
        progress.commit(1, 1) if done else progress.finish(1, 1)
    assert progress.resolve(1, 1, never) is done
    if not done:
        progress.enter(1, CALL)
        progress.finish(2, 1)
        progress.commit(2, 1)


def test_operations_that_failed_fail_also_for_those_who_call_them_later() -> None:
    verdict = Verdict("timeout", "too late")
    progress = Progress(0, view(1), 4)
    progress.halt()
    progress.adopt(view(2), Outcome(4, 6, verdict))
    for seq in (5, 6):
        assert progress.take() == seq
        with pytest.raises(Halted):
            progress.enter(seq, CALL)
        assert progress.resolve(seq, -1, never) == Failure(5, 6, verdict, progress.view)
    assert progress.take() == 7
    assert progress.enter(7, CALL) is False


def test_an_operation_that_was_asked_for_before_it_was_entered() -> None:
    progress = Progress(0, view(1), 0)
    assert progress.inquire(1) is None
    assert progress.enter(1, CALL) is True
    assert progress.inquire(1) == CALL


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a view change"])
def test_an_operation_that_is_asked_for_when_the_next_one_was_entered(again: bool) -> None:
    """Another member waits for a frame of it, which was lost when it had all it needed itself."""
    other = Call(2, "all_reduce")
    progress = Progress(0, view(1), 0)
    progress.enter(1, CALL)
    progress.finish(1, 1)
    progress.commit(1, 1)
    progress.enter(2, other)
    if again:
        progress.halt()
        progress.adopt(view(2), Outcome(1, 1))
        progress.enter(2, other)
    assert (progress.inquire(1), progress.inquire(2), progress.inquire(3)) == (CALL, other, None)
    epoch = progress.epoch
    progress.finish(epoch, 2)
    progress.commit(epoch, 2)
    assert progress.enter(3, CALL) is True
    assert (progress.inquire(1), progress.inquire(2), progress.inquire(3)) == (None, other, CALL)


def test_an_outcome_that_cannot_be_is_refused() -> None:
    progress = Progress(0, view(3), 5)
    progress.halt()
    for made in (view(3), view(2)):
        with pytest.raises(AssertionError):
            progress.adopt(made, Outcome(5, 5))
    for outcome in (Outcome(4, 4), Outcome(6, 6)):
        with pytest.raises(AssertionError):
            progress.adopt(view(4), outcome)


def test_whoever_waits_is_woken_by_a_view_and_by_a_failure() -> None:
    for end in ("adopt", "fail"):
        progress = Progress(0, view(1), 0)
        progress.enter(1, CALL)
        progress.halt()
        fates: list[object] = []

        def wait(progress: Progress = progress, fates: list[object] = fates) -> None:
            try:
                fates.append(progress.resolve(1, 1, lambda: None))
            except RuntimeError as error:
                fates.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        failure = RuntimeError("closed")
        if end == "adopt":
            progress.adopt(view(2, 1), Outcome(0, 0))
        else:
            progress.fail(failure)
        thread.join(10)
        assert fates == ([False] if end == "adopt" else [failure])
