"""Windows: what the owner writes, others see; nobody can shrink them; rubbish is refused; a new view ends what was begun."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collcomm.transports.base import LinkBroken
from collcomm.transports.window import (
    CALL,
    COUNT,
    HEADER_BYTES,
    BadWindow,
    OwnWindow,
    receive_window,
    supported,
)

from collcomm.collectives import generate
from collcomm.engine.attempt import Mismatch
from collcomm.engine.marks import Marks
from collcomm.engine.progress import Halted
from collcomm.engine.request import request
from collcomm.engine.windowplan import WINDOW_BYTES, compile_windows
from collcomm.engine.windows import SharedWindows

pytestmark = pytest.mark.skipif(bool(supported()), reason=supported())
NBYTES = 1 << 16


def mapped() -> int:
    """Windows that this process has in its address space."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("/memfd:collcomm")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def test_what_the_owner_writes_the_other_sees(pair: tuple[socket.socket, socket.socket]) -> None:
    before, descriptors = mapped(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        receive_window(pair[1])
    own = OwnWindow(NBYTES)
    own.send(pair[0])
    seen = receive_window(pair[1])
    own.data[:] = np.arange(NBYTES) % 251
    own.signal()
    assert seen.words[COUNT] == 1 and (seen.data == np.arange(NBYTES) % 251).all()
    own.close()
    del own  # as if it had died: what was mapped stays
    assert seen.data[NBYTES - 1] == (NBYTES - 1) % 251
    del seen
    assert mapped() == before and len(os.listdir("/proc/self/fd")) == descriptors
    assert not list(Path("/dev/shm").glob("collcomm*"))


def test_nobody_can_take_the_memory_away(pair: tuple[socket.socket, socket.socket]) -> None:
    own = OwnWindow(NBYTES)
    own.send(pair[0])
    _, (descriptor,), _, _ = socket.recv_fds(pair[1], 64, 1)
    for size in (0, HEADER_BYTES, 2 * NBYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    os.close(descriptor)
    own.close()


def letter(nbytes: int = NBYTES, magic: int = 0x77636C63) -> bytes:
    return magic.to_bytes(4, "little") + bytes(4) + nbytes.to_bytes(8, "little")


def memory(size: int, sealed: bool = True) -> int:
    descriptor = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


@pytest.mark.parametrize(
    ("text", "make"),
    [
        (b"x", lambda: memory(HEADER_BYTES + NBYTES)),
        (letter(magic=1), lambda: memory(HEADER_BYTES + NBYTES)),
        (letter(), lambda: memory(HEADER_BYTES + NBYTES, sealed=False)),
        (letter(), lambda: memory(HEADER_BYTES)),
        (letter(1 << 40), lambda: memory(HEADER_BYTES + NBYTES)),
        (letter(0), lambda: memory(HEADER_BYTES)),
        (letter(), lambda: os.open("/dev/null", os.O_RDWR)),
        (letter(), None),
    ],
    ids=["short", "magic", "unsealed", "smaller", "giant", "empty", "no memory", "nothing"],
)
def test_rubbish_is_refused(pair: tuple[socket.socket, socket.socket], text: bytes, make: Any) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    given = [make()] if make else []
    if given:
        socket.send_fds(pair[0], [text], given)
    else:
        pair[0].send(text)
    for descriptor in given:
        os.close(descriptor)
    with pytest.raises(BadWindow):
        receive_window(pair[1])
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_end_of_the_connection_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(ConnectionResetError):
        receive_window(pair[1])


def test_a_sleeper_is_woken() -> None:
    own = OwnWindow(NBYTES)
    woken = threading.Event()

    def sleep() -> None:
        while own.words[COUNT] == 0:
            own.sleep(0)
        woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    own.signal()
    assert woken.wait(5)
    thread.join()
    began = time.monotonic()
    own.sleep(own.words[COUNT])  # nobody signals: it ends all the same
    assert time.monotonic() - began < 2
    own.close()


# -- ranks that meet in one process ------------------------------------------------------------------------------------


class Turn:
    """An attempt, as far as windows look at it. ``looks``: how often it was idle before it gives up."""

    def __init__(self, epoch: int, seq: int, fingerprint: int, looks: int = 5):
        self.epoch, self.seq, self.fingerprint = epoch, seq, fingerprint
        self.marks = Marks()
        self._looks = looks

    def now(self) -> float:
        return 0.0

    def check(self) -> None:
        self.idle(())

    def idle(self, ranks: Any) -> None:
        self._looks -= 1
        if self._looks < 0:
            raise Halted

    def moved(self) -> None: ...


def ranks(n: int) -> list[SharedWindows]:
    windows = [OwnWindow(WINDOW_BYTES) for _ in range(n)]
    return [
        SharedWindows(windows[r], {p: windows[p] for p in range(n) if p != r}, r, lambda rank: None, Counter())
        for r in range(n)
    ]


def together(bodies: list[Any]) -> list[Any]:
    """Run each in a thread; their results or errors."""
    found: list[Any] = [None] * len(bodies)

    def run(number: int) -> None:
        try:
            found[number] = bodies[number]()
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def opened(n: int, epoch: int = 1) -> list[SharedWindows]:
    group = ranks(n)
    assert together([lambda r=r: r.open(Turn(epoch, 0, 0, 1000)) for r in group]) == [None] * n  # type: ignore[misc]
    return group


def test_who_signals_for_another_call_is_found_out() -> None:
    one, two = opened(2)

    def call(rank: SharedWindows, fingerprint: int) -> None:
        turn: Any = Turn(1, 1, fingerprint, 1000)
        rank.begin(turn)
        rank.commit(turn)

    found = together([lambda: call(one, 5), lambda: call(two, 6)])
    assert any(isinstance(error, Mismatch) for error in found)
    assert all(isinstance(error, Mismatch | Halted) for error in found)


def test_who_is_a_call_ahead_has_ended_this_one() -> None:
    one, two = opened(2)
    turn: Any = Turn(1, 1, 5, 1000)
    one.begin(turn)
    two.begin(turn)
    two._own.signal()  # it commits,
    two._own.words[CALL] = 9 << 32 | 2 << 16 | 1  # and begins the next call
    one.commit(turn)


def test_the_count_of_another_view_commits_nothing() -> None:
    """Rank 0 was removed without hearing of it, and waits for rank 1, which goes on in the next view with rank 2."""
    group = ranks(3)
    bodies = [lambda r=r: r.open(Turn(1, 0, 0, 1000)) for r in group]  # type: ignore[misc]
    assert together(bodies) == [None] * 3
    turn: Any = Turn(1, 1, 5, 3)
    for rank in group:
        rank.begin(turn)
    assert group[0]._own.words[COUNT] == 1
    own = {1: group[1]._own, 2: group[2]._own}
    later = [
        SharedWindows(own[r], {0: own[3 - r]} if r == 2 else {1: own[3 - r]}, r - 1, lambda rank: None, Counter())
        for r in (1, 2)
    ]
    assert together([lambda r=r: r.open(Turn(2, 0, 0, 1000)) for r in later]) == [None] * 2  # type: ignore[misc]
    with pytest.raises(Halted):
        group[0].commit(turn)


def test_nobody_begins_a_view_alone() -> None:
    one, _ = ranks(2)
    with pytest.raises(Halted):
        one.open(Turn(1, 0, 0))  # type: ignore[arg-type]


def test_the_dead_are_noticed_while_waiting() -> None:
    windows = [OwnWindow(WINDOW_BYTES) for _ in range(2)]

    def dead(rank: int) -> None:
        raise LinkBroken(7, "closed", "gone")

    one = SharedWindows(windows[0], {1: windows[1]}, 0, dead, Counter())
    with pytest.raises(LinkBroken):
        one.open(Turn(1, 0, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 1000, 300_001, 1_000_003])
def test_slices_in_many_blocks(n: int, size: int) -> None:
    """Sizes with a remainder everywhere; more than a window holds."""
    dtype = np.dtype(np.int64)
    group = opened(n)
    inputs = [np.arange(size) * (rank + 1) for rank in range(n)]
    results = [np.full(size, -1) for _ in range(n)]

    def run(rank: int) -> int:
        asked = request("all_reduce", dtype, size, op="sum")
        schedule = generate("all_reduce", "windows", n, rank)
        bounds = asked.bounds({"in": n, "out": n}, range(n), rank)
        plan = compile_windows(schedule, bounds, 8, asked.largest(bounds, range(n)))
        turn: Any = Turn(1, 1, asked.fingerprint, 10_000)
        group[rank].begin(turn)
        buffers = {"in": inputs[rank].view(np.uint8), "out": results[rank].view(np.uint8)}
        group[rank].run(plan, buffers, dtype, np.add, turn)
        group[rank].commit(turn)
        return plan.blocks

    blocks = together([lambda r=r: run(r) for r in range(n)])  # type: ignore[misc]
    assert len(set(blocks)) == 1 and (blocks[0] > 2 or size <= 300_001), blocks
    for rank in range(n):
        np.testing.assert_array_equal(results[rank], sum(inputs))


def test_a_window_that_cannot_be_had_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space"):
        OwnWindow(NBYTES)
    assert len(os.listdir("/proc/self/fd")) == descriptors
