"""What an operation in place has overwritten is put back."""

from __future__ import annotations

import numpy as np

from collcomm.engine.undo import UndoLog


def test_what_is_overwritten_twice_comes_back_as_it_was_at_first() -> None:
    """A frame has landed in part when its stream dies, and comes again over another one."""
    memory = np.arange(8, dtype=np.uint8)
    log = UndoLog(memory, np.empty(8, np.uint8))
    log.save(0, 8)
    memory[:4] = 99
    log.save(0, 8)
    memory[:] = 77
    log.roll_back()
    assert memory.tolist() == list(range(8))
    log.save(4, 4)
    memory[4:] = 5
    log.roll_back()
    assert memory.tolist() == list(range(8))
