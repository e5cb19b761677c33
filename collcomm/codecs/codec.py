"""What every codec is: float32 numbers into fewer bytes, of which all peers know beforehand how many, and back.

A payload begins with eight bytes: the codec's number, the version of its format, and how many numbers follow. The rest is the
codec's own. Payloads are little-endian, and as long as a multiple of eight bytes, so that they can lie one behind the other.
"""

from __future__ import annotations

import math
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import CollcommError

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Words = np.ndarray[Any, np.dtype[np.uint32]]

HEAD = struct.Struct("<BBHI")  # number, version, zero, count
VERSION = 1
MOST_NUMBERS = (1 << 32) - 1  # in one payload
TILE = 1 << 18  # numbers at a time: they, their codes and what lies between stay in the caches
TINY = np.float32(2.0**-126)  # the smallest normal number: no step between two codes is smaller


class MalformedPayload(CollcommError, ValueError):
    """Bytes that are no payload of this codec: of another length, another codec, or with fields that no encoder writes."""


class Codec(ABC):
    """A way to write float32 numbers with fewer bits. Objects may be used by several peers of a process at once, unless they
    draw (``stochastic``); encoding draws, decoding never does, and gives the same bits everywhere.

    ``name``: in the registry. ``wire_id``: on the wire, 1 to 255. ``block``: how many numbers share a scale; cut long arrays at
    multiples of it.
    """

    name: ClassVar[str]
    wire_id: ClassVar[int]
    block: int = 1

    @property
    def spec(self) -> str:
        """What all peers of a collective must have in common, in words."""
        return self.name

    def encoded_bytes(self, count: int) -> int:
        """The length in bytes of the payload of ``count`` numbers; it depends on nothing else."""
        if not 0 <= count <= MOST_NUMBERS:
            raise ValueError(f"{self.name}: a payload holds 0 to {MOST_NUMBERS} numbers, not {count}")
        return -(-(HEAD.size + self._body_bytes(count)) // 8) * 8

    def encode(self, source: Floats, into: Bytes | None = None) -> Bytes:
        """The payload of ``source``, contiguous and of float32, in ``into`` (a new array if None), which is returned.

        Raises TypeError or ValueError for arrays that do not fit.
        """
        _require(source, np.float32, "source")
        nbytes = self.encoded_bytes(source.size)
        payload = np.zeros(nbytes, np.uint8) if into is None else into
        _require(payload, np.uint8, "into")
        if payload.size != nbytes:
            raise ValueError(f"{self.name}: {source.size} numbers need {nbytes} bytes, into has {payload.size}")
        HEAD.pack_into(payload.data, 0, self.wire_id, VERSION, 0, source.size)
        with np.errstate(all="ignore"):  # numbers that are not finite are dealt with
            self._encode(source, payload[HEAD.size :])
        return payload

    def decode(self, payload: Bytes, out: Floats) -> Floats:
        """The numbers of ``payload`` into ``out``, which says how many are expected. Raises MalformedPayload."""
        _require(out, np.float32, "out")
        parts = self._opened(payload, out.size)
        with np.errstate(all="ignore"):
            for first in range(0, out.size, TILE):
                self._decode(parts, first, out[first : first + TILE])
        return out

    def add(self, payload: Bytes, out: Floats) -> Floats:
        """As `decode`, but added to what ``out`` holds, in float32. Raises MalformedPayload."""
        _require(out, np.float32, "out")
        parts = self._opened(payload, out.size)
        with np.errstate(all="ignore"):
            for first in range(0, out.size, TILE):
                part = out[first : first + TILE]
                room = WORKSPACE.floats("decoded", part.shape)
                self._decode(parts, first, room)
                np.add(part, room, out=part)
        return out

    @abstractmethod
    def error_bound(self, source: Floats) -> Floats:
        """How far each decoded number may be from that of ``source``. Infinite where nothing is promised."""

    @abstractmethod
    def _body_bytes(self, count: int) -> int:
        """Without the first eight bytes, and before they are made a multiple of eight."""

    @abstractmethod
    def _encode(self, source: Floats, body: Bytes) -> None: ...

    @abstractmethod
    def _parts(self, body: Bytes, count: int) -> Any:
        """What ``body`` consists of, for `_decode`. Raises MalformedPayload for fields that no encoder writes."""

    @abstractmethod
    def _decode(self, parts: Any, first: int, out: Floats) -> None:
        """``out.size`` numbers from ``first`` on, a multiple of `TILE`."""

    def _opened(self, payload: Bytes, count: int) -> Any:
        """The parts of ``payload``, once it is known to be one of ``count`` numbers by this codec."""
        _require(payload, np.uint8, "payload")
        nbytes = self.encoded_bytes(count)
        if payload.size != nbytes:
            raise self._malformed(f"has {payload.size} bytes, {count} numbers take {nbytes}")
        head = HEAD.unpack_from(payload.data, 0)
        if head != (self.wire_id, VERSION, 0, count):
            raise self._malformed(f"begins with {head}, expected {(self.wire_id, VERSION, 0, count)}")
        return self._parts(payload[HEAD.size :], count)

    def _malformed(self, why: str) -> MalformedPayload:
        return MalformedPayload(f"payload of codec {self.spec} {why}; encode it with the same codec at the other end")

    def __repr__(self) -> str:
        return f"<codec {self.spec}>"


class Workspace(threading.local):
    """Memory of a thread to work in: fresh memory for each call would cost more than the work."""

    def __init__(self) -> None:
        self._kept: dict[str, Floats] = {}

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Room of undefined content for at most `TILE` numbers, until the next call with that name."""
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = np.empty(TILE, np.float32)
        return kept[: math.prod(shape)].reshape(shape)

    def words(self, name: str, shape: tuple[int, ...]) -> Words:
        return self.floats(name, shape).view(np.uint32)


WORKSPACE = Workspace()


class Rows(NamedTuple):
    """Whole blocks, or the last and shorter one, of an array: ``numbers`` has a row for each of the ``blocks``."""

    blocks: slice
    elements: slice
    numbers: Floats


def rows_of(part: Floats, first: int, block: int) -> Iterator[Rows]:
    """``part``, which begins at element ``first`` of an array, by blocks; ``first`` is a multiple of ``block``."""
    whole = part.size // block * block
    start = first // block
    if whole:
        yield Rows(slice(start, start + whole // block), slice(first, first + whole), part[:whole].reshape(-1, block))
    if whole < part.size:
        last = start + whole // block
        yield Rows(slice(last, last + 1), slice(first + whole, first + part.size), part[whole:].reshape(1, -1))


def _require(array: Array, dtype: Any, what: str) -> None:
    if type(array) is not np.ndarray or array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{what} must be a contiguous numpy array of {np.dtype(dtype)} with one axis, not {found}")


__all__ = [
    "HEAD",
    "TILE",
    "TINY",
    "WORKSPACE",
    "Array",
    "Bytes",
    "Codec",
    "Floats",
    "MalformedPayload",
    "Words",
    "rows_of",
]
