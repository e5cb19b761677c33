"""Follows the frames of one direction of a data connection, and spoils the header of one when told to.

Only the first four bytes of a header are changed (magic, kind, zero): no frame of the protocol looks like that, so its receiver
must notice, break the link and have it made anew. A changed payload passes unnoticed where the connection is not
encrypted: TCP's checksum covers what the relay sends, not what it received. Where nothing looks like a frame (an
encrypted connection), any byte is changed, and the encryption has to notice.
"""

from __future__ import annotations

from collections.abc import Callable

from ..transports.frames import HEADER_BYTES, MAGIC, BadFrame, Kind, unpack

MARK = MAGIC.to_bytes(2, "little")
KINDS = frozenset(int(kind) for kind in Kind)
FLIP = 0x80
HANDSHAKE_BYTES = 4096  # a connection without a frame until then carries something else


class FrameSpoiler:
    """`feed` it all bytes in order; they are changed in place."""

    def __init__(self) -> None:
        self._armed: tuple[int, Callable[[], None]] | None = None
        self._header = bytearray()
        self._skip = 0
        self._searched = 0
        self._found = False
        self.opaque = False  # these are no frames

    def spoil_next(self, position: int, done: Callable[[], None]) -> None:
        """Change the byte at ``position`` (0 to 3) of the next header, then call ``done``."""
        self._armed = position % 4, done

    def disarm(self) -> None:
        self._armed = None

    @property
    def armed(self) -> bool:
        return self._armed is not None

    def feed(self, data: bytearray) -> None:
        at = 0
        while at < len(data) and not self.opaque:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
            elif self._found or self._is_mark(data[at]):
                at = self._read_header(data, at)
            else:
                at += 1
        if self.opaque and self._armed is not None and data:
            self._change(data, len(data) // 2)

    def _is_mark(self, byte: int) -> bool:
        """Before the first frame there is a handshake. True at the last byte of a header's first four."""
        self._searched += 1
        seen = self._header
        seen.append(byte)
        del seen[:-4]
        if len(seen) == 4 and seen[:2] == MARK and seen[2] in KINDS and not seen[3]:
            self._found = True
            del seen[-1]  # it is read again
            return True
        self.opaque = self._searched >= HANDSHAKE_BYTES
        return False

    def _read_header(self, data: bytearray, at: int) -> int:
        part = data[at : at + HEADER_BYTES - len(self._header)]
        if self._armed is not None:
            position = self._armed[0] - len(self._header)
            if 0 <= position < len(part):
                self._change(data, at + position)
        self._header += part
        if len(self._header) == HEADER_BYTES:
            try:
                self._skip = unpack(self._header).length
            except BadFrame:
                self.opaque = True
            self._header.clear()
        return at + len(part)

    def _change(self, data: bytearray, at: int) -> None:
        assert self._armed is not None
        data[at] ^= FLIP
        done, self._armed = self._armed[1], None
        done()
