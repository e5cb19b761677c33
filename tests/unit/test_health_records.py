"""Rings of records: bounded, in order, and whole whoever writes at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from collcomm.health.records import OperationRecord, Recorder, TransferRecord, operation_of

WAIT_SECONDS = 20.0


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def operation(seq: int, gid: int = 0) -> OperationRecord:
    at = float(seq)
    return OperationRecord(gid, 1, seq, "all_reduce", 64, "ring", at, at + 0.1, at + 0.2, at + 0.3, at + 0.4, 0.0, "")


def transfer(seq: int) -> TransferRecord:
    return TransferRecord(0, 1, seq, 2, 0, bool(seq % 2), seq + 0.0, seq + 0.1, seq + 0.2, 64)


def named(rows: list[tuple[Any, ...]]) -> list[OperationRecord]:
    return [operation_of(row) for row in rows]


def test_nothing_has_happened() -> None:
    recorder = Recorder()
    assert recorder.operations() == []
    assert recorder.transfers() == []
    assert recorder.since(0) == ([], 0)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 11])
def test_the_last_are_kept_in_order(count: int) -> None:
    recorder = Recorder(capacity=4, transfers=3)
    for seq in range(count):
        recorder.operation(*operation(seq))
        recorder.transfer(*transfer(seq))
    assert recorder.operations() == [operation(seq) for seq in range(max(0, count - 4), count)]
    assert recorder.transfers() == [transfer(seq) for seq in range(max(0, count - 3), count)]


def test_an_observer_gets_what_is_new_and_knows_how_much_it_has_missed() -> None:
    recorder = Recorder(capacity=4)
    for seq in range(3):
        recorder.operation(*operation(seq))
    first, count = recorder.since(0)
    assert named(first) == [operation(seq) for seq in range(3)]
    assert recorder.since(count) == ([], 3)
    for seq in range(3, 9):
        recorder.operation(*operation(seq))
    later, now = recorder.since(count)
    assert (named(later), now) == ([operation(seq) for seq in range(5, 9)], 9)
    assert now - count - len(later) == 2


def test_copies_do_not_change() -> None:
    recorder = Recorder(capacity=2)
    recorder.operation(*operation(0))
    copied = recorder.operations()
    recorder.operation(*operation(1))
    recorder.operation(*operation(2))
    assert copied == [operation(0)]


@pytest.mark.parametrize(("capacity", "transfers"), [(0, 1), (1, 0), (-1, 1)])
def test_a_ring_holds_something(capacity: int, transfers: int) -> None:
    with pytest.raises(ValueError, match="one record or more"):
        Recorder(capacity, transfers)


def _write(recorder: Recorder, gid: int, each: int, start: threading.Barrier) -> None:
    start.wait(WAIT_SECONDS)
    for seq in range(each):
        recorder.operation(*operation(seq, gid))


@pytest.mark.usefixtures("frequent_switches")
def test_writers_at_the_same_time_lose_nothing() -> None:
    writers, each = 4, 2000
    recorder = Recorder(capacity=writers * each)
    start = threading.Barrier(writers)
    threads = [threading.Thread(target=_write, args=(recorder, gid, each, start)) for gid in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    kept = recorder.operations()
    for gid in range(writers):
        assert [one for one in kept if one.gid == gid] == [operation(seq, gid) for seq in range(each)]


@pytest.mark.usefixtures("frequent_switches")
def test_a_reader_sees_each_record_once_while_the_ring_is_written_over() -> None:
    each, recorder = 20_000, Recorder(capacity=64)
    start = threading.Barrier(2)
    writer = threading.Thread(target=_write, args=(recorder, 0, each, start))
    writer.start()
    start.wait(WAIT_SECONDS)
    seen: list[int] = []
    count = 0
    while count < each:
        rows, count = recorder.since(count)
        found = named(rows)
        assert found == [operation(one.seq) for one in found]
        seen += [one.seq for one in found]
    writer.join(WAIT_SECONDS)
    assert seen == sorted(set(seen))
    assert seen[-1] == each - 1
