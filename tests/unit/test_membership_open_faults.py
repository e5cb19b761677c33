"""Faults that a review of the membership found: each test failed once."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from collcomm.membership.messages import MAX_BYTES, MAX_MEMBERS, BadMessage, decode
from tests.simulation.transcript import three


def test_one_report_that_is_too_low_does_not_evict_the_others() -> None:
    transcript = three().play("""
        1.0  a accuse 1 b
        1.0  b echo             => a,b,c<halt 1/1
        1.0  a state 1/1 0:9/9
        1.0  b state 1/1 0:9/9
        1.0  c state 1/1 0:0/0
    """)
    assert {1, 2} <= set(transcript.group.view.ids)


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
