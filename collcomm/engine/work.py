"""What the frames of one attempt share: memory, and which of them are done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..transports.frames import Kind, pack
from .attempt import Attempt
from .cutting import Frame
from .original import Original
from .reduction import combine
from .undo import UndoLog

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Work:
    """``buffers``: flat bytes by name; ``count``: of frames; for the rest see `run_streaming`.

    A frame that was handed over may have to go again if its stream dies (``flying``, by number), while what it was made of is
    about to be overwritten: then its bytes are copied first (``kept``). Whoever overwrites them names it among the frames
    that it comes after.
    """

    def __init__(
        self,
        buffers: Mapping[str, Bytes],
        dtype: np.dtype[Any],
        ufunc: np.ufunc | None,
        attempt: Attempt,
        count: int,
        undo: UndoLog | None,
        incoming: Mapping[str, Original],
        outgoing: Original | None,
    ):
        self.undo = undo
        self._incoming = incoming
        self._outgoing = outgoing
        self.buffers = buffers
        self.dtype = dtype
        self.ufunc = ufunc
        self.attempt = attempt
        self.done = bytearray(count)
        self.flying: dict[int, Frame] = {}
        self.kept: dict[int, Bytes] = {}

    def ready(self, frame: Frame) -> bool:
        done = self.done
        for earlier in frame.after:  # noqa: SIM110 - all() with a generator costs three times as much
            if not done[earlier]:
                return False
        return True

    def source(self, frame: Frame) -> Bytes:
        if frame.source in self._incoming:
            self._incoming[frame.source].fetch(frame.source_from, frame.nbytes)
        return self.buffers[frame.source][frame.source_from : frame.source_from + frame.nbytes]

    def again(self, frame: Frame) -> Bytes:
        """The payload of a frame that was handed over before."""
        kept = self.kept.get(frame.index)
        return self.source(frame) if kept is None else kept

    def target(self, frame: Frame) -> Bytes:
        """Memory that the frame is about to overwrite."""
        if frame.target in self._incoming:
            self._incoming[frame.target].fetch(frame.target_from, frame.nbytes)
        if self.undo is not None and frame.fresh and frame.target == "out":
            self.undo.save(frame.target_from, frame.nbytes)
        if self.flying:
            for earlier in frame.after:
                if earlier in self.flying and earlier not in self.kept:
                    self.kept[earlier] = self.source(self.flying[earlier]).copy()
        return self.buffers[frame.target][frame.target_from : frame.target_from + frame.nbytes]

    def landed(self, frame: Frame) -> None:
        """The other end has it: it will not go again."""
        self.flying.pop(frame.index, None)
        self.kept.pop(frame.index, None)

    def end(self, frame: Frame) -> None:
        """The frame is done."""
        self.done[frame.index] = 1
        if self._outgoing is not None and frame.final and frame.target == "out":
            self._outgoing.store(frame.target_from, frame.nbytes)

    def header(self, frame: Frame) -> bytes:
        attempt = self.attempt
        return pack(
            Kind.DATA,
            attempt.epoch,
            attempt.seq,
            attempt.fingerprint,
            frame.offset,
            frame.nbytes,
            frame.ordinal,
        )

    def word(self, kind: Kind, serial: int, count: int) -> bytes:
        """Says how many frames of this operation have come on the stream ``serial``."""
        attempt = self.attempt
        return pack(kind, attempt.epoch, attempt.seq, attempt.fingerprint, count, 0, serial)

    def reduce(self, frame: Frame, received: Bytes) -> None:
        assert self.ufunc is not None
        mine, theirs = self.source(frame).view(self.dtype), received.view(self.dtype)
        left, right = (theirs, mine) if frame.received_first else (mine, theirs)
        combine(self.ufunc, left, right, self.target(frame).view(self.dtype))
