"""Schedules of faults, and what is made of a run's records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from collcomm.transports.frames import HEADER_BYTES, BadFrame, pack, unpack
from hypothesis import given
from hypothesis import strategies as st

from collcomm.chaos.corruption import FrameSpoiler
from collcomm.chaos.record import Progress, Record, ViewChange
from collcomm.chaos.report import _effect, goodput
from collcomm.chaos.runner import Applied
from collcomm.chaos.schedule import KINDS, Fault, make_schedule, parse_kinds, read_schedule, write_schedule


def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    kinds = dict.fromkeys(KINDS, 1.0)
    assert make_schedule(7, kinds, 1.0, 100.0) == make_schedule(7, kinds, 1.0, 100.0)
    assert make_schedule(7, kinds, 1.0, 100.0) != make_schedule(8, kinds, 1.0, 100.0)


def test_rates_weights_and_bounds_hold() -> None:
    faults = make_schedule(1, {"kill": 3.0, "stop": 1.0}, 2.0, 4000.0)
    assert 1800 < len(faults) < 2200
    assert 0.7 < np.mean([fault.kind == "kill" for fault in faults]) < 0.8
    pauses = np.diff([0.0, *(fault.at for fault in faults)])
    assert pauses.min() >= 0.999
    assert pauses.max() <= 3.001
    assert all(fault.seconds == 0 for fault in faults if fault.kind == "kill")


@given(st.integers(0, 1000))
def test_what_is_printed_can_be_replayed(seed: int) -> None:
    faults = make_schedule(seed, dict.fromkeys(KINDS, 1.0), 1.0, 20.0)
    assert read_schedule(write_schedule(faults)) == faults


@pytest.mark.parametrize(
    "text", ['{"at": 1}', '{"at": 1, "kind": "flood"}', '{"at": -1, "kind": "kill"}', "kill", "[]"]
)
def test_a_wrong_line_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the schedule"):
        read_schedule('{"at": 0.5, "kind": "kill"}\n' + text)


def test_kinds_on_the_command_line() -> None:
    assert parse_kinds("kill:3,stop") == {"kill": 3.0, "stop": 1.0}
    for wrong in ("kil", "kill:0", "kill:-1", "kill:x"):
        with pytest.raises(ValueError, match=r"kil|x"):
            parse_kinds(wrong)


# -- spoiled frames --------------------------------------------------------------------------------------------------------

PAYLOADS = st.lists(st.binary(max_size=200), min_size=2, max_size=8)


def _stream(payloads: list[bytes]) -> bytes:
    frames = (pack(1, 3, seq, 9, 0, len(payload), 0) + payload for seq, payload in enumerate(payloads))
    return b"CCL\x01welcome\n" + b"".join(frames)


@given(PAYLOADS, st.integers(0, 3), st.integers(0, 400), st.lists(st.integers(1, 90), min_size=1))
def test_one_byte_of_one_header_is_changed_however_the_stream_is_cut(
    payloads: list[bytes], position: int, armed_after: int, cuts: list[int]
) -> None:
    stream = _stream(payloads)
    spoiler, out, hits, at, turn = FrameSpoiler(), bytearray(), [], 0, 0
    while at < len(stream):
        if at >= armed_after and not hits and not spoiler.armed:
            spoiler.spoil_next(position, lambda: hits.append(True))
        piece = bytearray(stream[at : at + cuts[turn % len(cuts)]])
        spoiler.feed(piece)
        out += piece
        at, turn = at + len(piece), turn + 1
    changed = [index for index in range(len(stream)) if out[index] != stream[index]]
    assert len(changed) == len(hits) <= 1
    start, headers = len(b"CCL\x01welcome\n"), []
    for payload in payloads:
        headers.append(start)
        start += HEADER_BYTES + len(payload)
    for index in changed:
        (header,) = [begin for begin in headers if begin <= index < begin + 4]
        assert index - header == position
        with pytest.raises(BadFrame):
            unpack(bytes(out[header : header + HEADER_BYTES]))


def test_nothing_is_changed_unless_told_to_and_a_greeting_never() -> None:
    greeting = bytearray(b"CCL\x01" + bytes(60))
    spoiler = FrameSpoiler()
    spoiler.spoil_next(0, lambda: None)
    spoiler.feed(greeting)
    assert greeting == b"CCL\x01" + bytes(60)
    assert spoiler.armed
    stream = bytearray(_stream([b"x" * 50] * 3))
    FrameSpoiler().feed(stream)
    assert stream == _stream([b"x" * 50] * 3)


def test_of_an_encrypted_connection_any_byte_is_changed() -> None:
    spoiler, hits = FrameSpoiler(), []
    noise = np.random.default_rng(1).integers(0, 256, 8000, np.uint8).tobytes()
    spoiler.feed(bytearray(noise))
    assert spoiler.opaque
    spoiler.spoil_next(2, lambda: hits.append(True))
    piece = bytearray(noise)
    spoiler.feed(piece)
    assert sum(a != b for a, b in zip(piece, noise, strict=True)) == len(hits) == 1


# -- figures ---------------------------------------------------------------------------------------------------------------


def _record(name: str, member: int, **facts: object) -> Record:
    record = Record(name, Path(name), 0.0, member=member, joined=1.0)
    for field, value in facts.items():
        setattr(record, field, value)
    return record


def test_detection_and_recovery_of_a_death_are_those_of_the_view_without_the_victim() -> None:
    survivors = [
        _record(
            f"peer-{member}",
            member,
            views=[
                ViewChange(1, None, 1.0, frozenset({1, 2, 3})),
                ViewChange(2, 9.9, 10.01, frozenset({1, 2, 3, 4})),  # on its way already when the fault came
                ViewChange(3, 10.02 + member / 1000, 10.04, frozenset({1, 2, 4})),
            ],
            firsts={1: 1.1, 2: 10.015, 3: 10.05 + member / 100},
            progress=[Progress(11.0, 50, 20, 0.1, 10.6)],
        )
        for member in (1, 2)
    ]
    applied = Applied(Fault(5.0, "kill"), 10.0, 10.0, "peer-3", 3)
    effect = _effect(applied, [*survivors, _record("peer-3", 3)])
    assert effect["detection"] == pytest.approx(0.021)
    assert effect["recovery"] == pytest.approx(0.07)


def test_without_a_view_change_the_pause_around_the_fault_counts() -> None:
    survivor = _record("peer-1", 1, progress=[Progress(9.0, 40, 10, 0.1, 9.0), Progress(10.7, 50, 20, 0.5, 10.45)])
    effect = _effect(Applied(Fault(5.0, "slow"), 10.0, 11.0, "peer-2", 2), [survivor])
    assert effect["detection"] is None
    assert effect["recovery"] == pytest.approx(0.45)


def test_goodput_counts_each_step_of_each_peer_within_the_run() -> None:
    steady = _record("peer-1", 1, progress=[Progress(t, 3 * t, t, 0.1, t) for t in range(31)])
    late = _record("peer-2", 2, progress=[Progress(20 + t, 3 * t, t, 0.1, t) for t in range(11)])
    assert goodput([steady, late], 10.0, 30.0) == pytest.approx((20 + 10) / 20)
    assert goodput([steady], 10.0, 12.5) == pytest.approx(1.0)
