"""`collcomm bench plan groups`: what a thread of a peer raises is not lost."""

from __future__ import annotations

import pytest

import collcomm
from collcomm.bench.grouppeer import _all_at_once
from tests.support.peers import run_peers


def test_groups_reduce_at_once_and_what_one_raises_is_raised() -> None:
    case = {"nbytes": 4096, "repetitions": 2}

    def body(comm: collcomm.Communicator) -> None:
        pair, trio = comm.split([0, 1]), comm.split([0, 1, 2])
        groups = [group for group in (pair, trio) if group is not None]
        _all_at_once(groups, case)
        _all_at_once([], case)
        if comm.rank == 2:
            with pytest.raises(MemoryError):
                _all_at_once(groups, {**case, "nbytes": 1 << 62})

    run_peers(3, body)
