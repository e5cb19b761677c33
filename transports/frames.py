"""What travels on a data connection: a greeting once, then frames with epoch, sequence and length.

Frame: a 32-byte header, then ``length`` bytes of payload. The header's length keeps a payload that is read into the
same buffer behind it aligned to 16 bytes.

    magic u16 | kind u8 | 0 u8 | epoch u32 | seq u32 | fingerprint u32 | offset u64 | length u32 | message u32

``fingerprint`` stands for the whole call (kind, op, dtype, sizes), so that peers which called different things find out
at the first frame; ``message`` counts the messages of one operation on one directed pair of ranks; ``offset`` is the
position of this frame's payload within that message, in bytes.

Two kinds have no payload and speak of one stream of a link that has several, which ``message`` names by its serial number:
``offset`` says how many frames of operation ``seq`` have been taken from it whole. GOT: so far; GONE: and it is closed.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = 0x6343
VERSION = 3
HEADER = struct.Struct("<HBBIIIQII")
HEADER_BYTES = HEADER.size
MAX_FRAME_BYTES = 1 << 24  # no frame is longer; a longer one is rubbish, not data

NONCE_BYTES = 16
MAX_STREAMS = 64  # of a link
MAX_PURPOSE = 5  # of a link: collectives, point to point, windows in host memory and on devices, probes, glances
GREETING = struct.Struct(f"<4sHBBIIIIBB2xQI{NONCE_BYTES}s")
GREETING_MAGIC = b"CCL\x01"

assert HEADER_BYTES == 32


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 1
    DONE = 2  # the sender's data phase is finished (commit round); ``message`` is the round's number
    GOT = 3  # what has come on one stream
    GONE = 4  # what had come on one stream, which its sender uses no more


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
    if magic != MAGIC or zero or not 1 <= kind <= 4 or length > (MAX_FRAME_BYTES if kind < 3 else 0):
        raise BadFrame(f"not a frame of this protocol: {bytes(buffer[:HEADER_BYTES]).hex()}")
    return Header(kind, epoch, seq, fingerprint, offset, length, message)


class Greeting(NamedTuple):
    """First bytes on a data connection, from the side that dials: who calls whom in which view, for which communicator.

    A link is there when all its ``streams`` are; with ``joins`` the connection is for a link that is there already, as its stream
    ``stream`` (a new one, or in place of one that died), and ``streams`` says how many it has then. ``way``: the number of the
    caller's way to the member that it looks for. That is ``onward`` if that is not 0: then the called one is to join this
    connection with the one by which ``onward`` looks for the caller.
    """

    epoch: int
    gid: int
    caller: int
    called: int
    stream: int
    streams: int
    purpose: int
    nonce: bytes
    joins: bool = False
    way: int = 0
    onward: int = 0

    @property
    def serial(self) -> int:
        """What both ends call the connection."""
        return int.from_bytes(self.nonce[:4], "little")

    def pack(self) -> bytes:
        return GREETING.pack(
            GREETING_MAGIC,
            VERSION,
            self.purpose,
            int(self.joins),
            self.epoch,
            self.gid,
            self.caller,
            self.called,
            self.stream,
            self.streams,
            self.way,
            self.onward,
            self.nonce,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Greeting:
        magic, version, purpose, joins, epoch, gid, caller, called, *shape, way, onward, nonce = GREETING.unpack(data)
        stream, streams = shape
        if magic != GREETING_MAGIC:
            raise BadFrame("not a collcomm peer, or one that uses TLS where this one does not")
        if version != VERSION:
            raise BadFrame(f"data protocol version {version}, this peer speaks {VERSION}")
        fits = joins <= 1 and 0 < streams <= MAX_STREAMS and stream < streams and purpose <= MAX_PURPOSE
        if not fits or (onward and onward in (caller, called)):
            raise BadFrame("greeting with impossible fields")
        return cls(epoch, gid, caller, called, stream, streams, purpose, nonce, bool(joins), way, onward)


GREETING_BYTES = GREETING.size
