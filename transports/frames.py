"""What travels on a data connection: a greeting once, then frames with epoch, sequence and length.

Frame: a 32-byte header, then ``length`` bytes of payload. The header's length keeps a payload that is read into the
same buffer behind it aligned to 16 bytes.

    magic u16 | kind u8 | 0 u8 | epoch u32 | seq u32 | fingerprint u32 | offset u64 | length u32 | message u32

``fingerprint`` stands for the whole call (kind, op, dtype, sizes), so that peers which called different things find out
at the first frame; ``message`` counts the messages of one operation on one directed pair of ranks; ``offset`` is the
position of this frame's payload within that message, in bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = 0x6343
VERSION = 2
HEADER = struct.Struct("<HBBIIIQII")
HEADER_BYTES = HEADER.size
MAX_FRAME_BYTES = 1 << 24  # no frame is longer; a longer one is rubbish, not data

NONCE_BYTES = 16
MAX_PURPOSE = 4  # of a link: collectives, point to point, windows in host memory and on devices, probes
GREETING = struct.Struct(f"<4sHBBIIIIBB2x{NONCE_BYTES}s")
GREETING_MAGIC = b"CCL\x01"

assert HEADER_BYTES == 32


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 1
    DONE = 2  # the sender's data phase is finished (commit round); ``message`` is the round's number


class Header(NamedTuple):
    kind: int
    epoch: int
    seq: int
    fingerprint: int
    offset: int
    length: int
    message: int


class BadFrame(ValueError):
    """Bytes on a data connection that no peer of this version writes."""


def pack(kind: int, epoch: int, seq: int, fingerprint: int, offset: int, length: int, message: int) -> bytes:
    return HEADER.pack(MAGIC, kind, 0, epoch, seq, fingerprint, offset, length, message)


def unpack(buffer: bytes | bytearray | memoryview) -> Header:
    magic, kind, zero, epoch, seq, fingerprint, offset, length, message = HEADER.unpack_from(buffer)
    if magic != MAGIC or zero or kind not in (1, 2) or length > MAX_FRAME_BYTES:
        raise BadFrame(f"not a frame of this protocol: {bytes(buffer[:HEADER_BYTES]).hex()}")
    return Header(kind, epoch, seq, fingerprint, offset, length, message)


class Greeting(NamedTuple):
    """First bytes on a data connection, from the side that dials: who calls whom in which view, for which communicator."""

    epoch: int
    gid: int
    caller: int
    called: int
    stream: int
    streams: int
    purpose: int
    nonce: bytes

    def pack(self) -> bytes:
        return GREETING.pack(
            GREETING_MAGIC,
            VERSION,
            self.purpose,
            0,
            self.epoch,
            self.gid,
            self.caller,
            self.called,
            self.stream,
            self.streams,
            self.nonce,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Greeting:
        magic, version, purpose, zero, epoch, gid, caller, called, stream, streams, nonce = GREETING.unpack(data)
        if magic != GREETING_MAGIC:
            raise BadFrame("not a collcomm peer, or one that uses TLS where this one does not")
        if version != VERSION:
            raise BadFrame(f"data protocol version {version}, this peer speaks {VERSION}")
        if zero or not 0 < streams <= 64 or stream >= streams or purpose > MAX_PURPOSE:
            raise BadFrame("greeting with impossible fields")
        return cls(epoch, gid, caller, called, stream, streams, purpose, nonce)


GREETING_BYTES = GREETING.size
