"""What is refused, and by whom it is said, where data does not lie in one row; the group stays usable."""

from __future__ import annotations

import numpy as np
import pytest

import collcomm
from collcomm import datatypes
from tests.support.contract import raises
from tests.support.peers import run_peers

pytestmark = pytest.mark.usefixtures("each_transport")


def test_own_mistakes_are_told_at_once() -> None:
    def body(comm: collcomm.Communicator) -> None:
        n = comm.size
        table = np.zeros((5, 4), np.float32)
        twice = np.lib.stride_tricks.as_strided(table, (5, 4), (8, 4), writeable=True)
        raises(ValueError, lambda: comm.all_reduce(np.zeros((5, 4), np.float32), out=twice), "out", "twice")
        raises(ValueError, lambda: comm.recv(twice, (comm.rank + 1) % n), "out", "twice")
        raises(ValueError, lambda: comm.all_to_all([table] * n, out=[twice] * n), "out", "twice")
        frozen = table[:, 1].view()
        frozen.flags.writeable = False
        raises(ValueError, lambda: comm.all_reduce(np.zeros(5, np.float32), out=frozen), "read-only")
        raises(ValueError, lambda: comm.all_to_all([table] * n, out=[frozen] * n), "read-only")
        raises(ValueError, lambda: comm.all_to_all([table], out=[None] * n), "x has 1 arrays", f"{n} ranks")
        raises(ValueError, lambda: comm.all_to_all([table] * n), "list", "out")
        mixed = datatypes.struct([1, 1], [0, 4], [np.float32, np.int32])
        raises(TypeError, lambda: comm.all_reduce(table, datatype=mixed), "several dtypes")
        column = datatypes.vector(5, 1, 4, np.float32)
        raises(ValueError, lambda: comm.all_reduce(table[:4], datatype=column), "reaches", "64 bytes")
        raises(ValueError, lambda: comm.all_reduce(table, datatype=column, out=table[:4]), "reaches", "64 bytes")
        raises(ValueError, lambda: comm.all_reduce(table[:, ::2], datatype=column), "contiguous")
        whole = np.ones((5, 4), np.float32)  # twice the same byte may be sent
        overlapping = np.lib.stride_tricks.as_strided(whole, (4, 4), (4, 4))
        assert (comm.all_reduce(overlapping) == n).all()
        assert (comm.all_reduce(np.broadcast_to(np.float32(1), (2000, 3))) == n).all()

    run_peers(2, body)


def test_disagreements_are_named() -> None:
    def body(comm: collcomm.Communicator) -> None:
        me, n = comm.rank, comm.size
        wrong = collcomm.CollectiveMismatch
        odd = comm.view[2].name
        data = np.arange(100.0).reshape(10, 10) + me
        kept = data.copy()
        pieces = [data[:, rank : rank + 1 + (me == 2 and rank == 0)] for rank in range(n)]
        target = np.zeros((10, 10))
        out = [target[:, rank] for rank in range(n)]
        if me == 0:
            raises(wrong, lambda: comm.all_to_all(pieces, out=out), f"{comm.view[0].name} received data")
        else:
            raises(wrong, lambda: comm.all_to_all(pieces, out=out), "received data")
        if me == 2:
            raises(wrong, lambda: comm.all_to_all(np.zeros(n)), f"{odd} called something else")
        else:
            raises(wrong, lambda: comm.all_to_all(pieces[:n], out=out), f"{odd} called something else", "float64")
        assert (data == kept).all()
        column = datatypes.vector(10 - (me == 2), 1, 10, np.float64)
        raises(wrong, lambda: comm.all_reduce(data, datatype=column), f"{odd} called something else")
        assert comm.all_reduce(data[:, 0])[0] == sum(range(n))

    run_peers(3, body)
