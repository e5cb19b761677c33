"""Open faults of the membership: each test says what ought to be, and fails until it is so."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from collcomm.membership.messages import MAX_BYTES, MAX_MEMBERS, BadMessage, decode
from tests.simulation.test_membership import live
from tests.simulation.transcript import three
from tests.simulation.world import BLIPS


@pytest.mark.xfail(
    raises=AssertionError, strict=True, reason="a ready that is lost is not said again: all wait in step()"
)
@pytest.mark.parametrize("seed", [56, 172, 288])
def test_a_lost_ready_is_said_again(seed: int) -> None:
    live(seed, BLIPS)


@pytest.mark.xfail(strict=True, reason="whoever is ahead of the lowest report is evicted: one too low evicts the rest")
def test_one_report_that_is_too_low_does_not_evict_the_others() -> None:
    transcript = three().play("""
        1.0  a accuse 1 b
        1.0  b echo             => a,b,c<halt 1/1
        1.0  a state 1/1 0:9/9
        1.0  b state 1/1 0:9/9
        1.0  c state 1/1 0:0/0
    """)
    assert {1, 2} <= set(transcript.group.view.ids)


@pytest.mark.xfail(strict=True, reason="8 MiB of empty lists unpack to 512 MiB, before anything is known of the sender")
def test_a_message_of_empty_lists_costs_little() -> None:
    row = b"\xdc" + struct.pack(">H", MAX_MEMBERS - 1) + b"\x90" * (MAX_MEMBERS - 1)
    rows = (MAX_BYTES - 8) // len(row)
    data = b"\xdc" + struct.pack(">H", rows) + row * rows
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20
