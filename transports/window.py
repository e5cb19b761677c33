"""Windows: memory of one member that the others on its host map, and words in it by which they wait for each other.

A window is an anonymous file (memfd): it has no name, so nothing is left of it when its last process ends, however that
happens, and the size of /dev/shm does not bound it. Its size is sealed: nobody can take away memory that others have mapped.

Only the owner writes data and counts. Its *count* goes up by one with each signal; whoever sees a count sees all that the
owner wrote before. That needs a machine whose stores and loads keep their order (x86-64), see `supported`.

Waiting is looking, for some tens of microseconds, then a futex: the waiter raises `WAITERS`, and the owner wakes when it finds
that raised after a signal. A wake that gets lost between the two costs one look after `SLEEP_SECONDS`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import socket
import struct
import sys
from typing import Any

import numpy as np

HEADER_BYTES = 4096
MAX_WINDOW_BYTES = 1 << 30
SPINS = 100  # looks before sleeping, some 50 us; sched_yield in between lets others run where peers outnumber cores
SLEEP_SECONDS = 0.005  # bounds how late a halt or a death is noticed
EPOCH, BASE, COUNT, CALL, FROZEN, WAITERS = 8, 9, 16, 17, 18, 24  # words of 8 bytes; 16 to 18 share a cache line
_MAGIC = 0x77636C63
_LETTER = struct.Struct("=IIQ")  # magic, zero, bytes of data: goes with the descriptor
LETTER_BYTES = _LETTER.size
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if hasattr(fcntl, "F_SEAL_SEAL") else 0
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_SYS_FUTEX = 202  # on x86-64
_SLEEP = (ctypes.c_long * 2)(0, int(SLEEP_SECONDS * 1e9))
_LIBC: Any = ctypes.CDLL(None, use_errno=True)


def supported() -> str:
    """Why there are no windows on this machine; "" when there are."""
    if not sys.platform.startswith("linux") or not hasattr(os, "memfd_create"):
        return "shared-memory windows need Linux (memfd, futex)"
    if platform.machine() not in ("x86_64", "AMD64"):
        return (
            f"shared-memory windows need a processor that keeps the order of stores (x86-64), not {platform.machine()}"
        )
    return ""


class BadWindow(ValueError):
    """What a member has sent is no window of this version."""


class Window:
    """``words``: the header as 64-bit words. ``data``: the rest, as bytes. ``spins``: looks before it is worth sleeping."""

    spins = SPINS

    def __init__(self, descriptor: int, nbytes: int):
        """Map ``nbytes`` of data behind the header; takes over ``descriptor``."""
        try:
            self._map = mmap.mmap(descriptor, HEADER_BYTES + nbytes)
        finally:
            os.close(descriptor)
        self.words = memoryview(self._map)[:HEADER_BYTES].cast("Q")
        self.data: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(self._map, np.uint8, nbytes, HEADER_BYTES)
        header = ctypes.c_char.from_buffer(self._map)
        self._count_address = ctypes.c_void_p(ctypes.addressof(header) + 8 * COUNT)

    def settle(self) -> None:
        """Writing and reading are over when they return."""

    def signal(self) -> None:
        """Owner: all that was written so far may be seen."""
        words = self.words
        words[COUNT] += 1
        if words[WAITERS]:
            words[WAITERS] = 0
            _LIBC.syscall(_SYS_FUTEX, self._count_address, _FUTEX_WAKE, 1 << 30, None, None, 0)

    def close(self) -> None:
        """The memory goes with the object."""

    def sleep(self, count: int) -> None:
        """Others: sleep until the count is no longer ``count``, a few milliseconds at most."""
        self.words[WAITERS] = 1
        if self.words[COUNT] == count:
            _LIBC.syscall(_SYS_FUTEX, self._count_address, _FUTEX_WAIT, count & 0xFFFFFFFF, _SLEEP, None, 0)


class OwnWindow(Window):
    """A window of this peer. Raises OSError (no memory) when it cannot be had, not later when it is used."""

    def __init__(self, nbytes: int):
        descriptor = os.memfd_create("collcomm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, HEADER_BYTES + nbytes)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = os.dup(descriptor)
        super().__init__(descriptor, nbytes)

    def send(self, line: socket.socket) -> None:
        """Give the other end of a Unix socket access. Raises OSError."""
        letter = _LETTER.pack(_MAGIC, 0, self.data.size)
        if socket.send_fds(line, [letter], [self._descriptor]) != len(letter):
            raise OSError(errno.EAGAIN, "the socket took part of a letter")

    def close(self) -> None:
        """Nobody else gets access any more; who has mapped it keeps it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def receive_window(line: socket.socket) -> Window:
    """The window that the other end has sent. Raises BlockingIOError when nothing has come, OSError, BadWindow."""
    letter, descriptors, _, _ = socket.recv_fds(line, LETTER_BYTES, 1)
    if not letter:
        raise ConnectionResetError(errno.ECONNRESET, "the connection was closed by the other side")
    if len(letter) != LETTER_BYTES or len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        raise BadWindow(f"{len(letter)} bytes with {len(descriptors)} descriptors")
    descriptor = descriptors[0]
    magic, zero, nbytes = _LETTER.unpack(letter)
    try:
        if magic != _MAGIC or zero or not 0 < nbytes <= MAX_WINDOW_BYTES:
            raise BadWindow("not a letter of this version")
        if os.fstat(descriptor).st_size != HEADER_BYTES + nbytes:
            raise BadWindow("the memory is not of the size that was said")
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise BadWindow("the memory may be taken away by its owner")
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise BadWindow(f"no memory: {error.strerror}") from None
        raise
    return Window(descriptor, nbytes)
