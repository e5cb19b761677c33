"""Codecs by name."""

from __future__ import annotations

from collections.abc import Callable

from .codec import Codec
from .e3m0 import E3M0
from .fp8 import E4M3, E5M2
from .halves import BF16, F16
from .int8 import Int8
from .topk import TopK

_MAKERS: dict[str, Callable[[], Codec]] = {kind.name: kind for kind in (F16, BF16, E4M3, E5M2, Int8, E3M0, TopK)}
_ALSO = {"fp8": E4M3.name}
_NUMBERS = {kind.wire_id: kind.name for kind in (F16, BF16, E4M3, E5M2, Int8, E3M0, TopK)}
_FIRST_OWN = 64  # numbers from here on belong to users


class UnknownCodec(ValueError):
    """No codec has that name here."""


def names() -> tuple[str, ...]:
    """Of all codecs."""
    return tuple(_MAKERS)


def codec_of(codec: Codec | str) -> Codec:
    """The codec itself, or a new one by its name. Raises UnknownCodec, TypeError."""
    if isinstance(codec, Codec):
        return codec
    if not isinstance(codec, str):
        raise TypeError(f"codec must be a name or a Codec, not {type(codec).__name__}")
    maker = _MAKERS.get(_ALSO.get(codec, codec))
    if maker is None:
        raise UnknownCodec(f"codec {codec[:64]!r} is not known here; there are {', '.join(_MAKERS)}")
    return maker()


def register(kind: type[Codec]) -> None:
    """Make a codec of your own known by its name, at every peer: ``kind()`` makes one. Raises ValueError when its name or its
    number is taken, or the number is not from 64 to 255."""
    if kind.name in _MAKERS or kind.name in _ALSO or kind.wire_id in _NUMBERS:
        raise ValueError(f"a codec {kind.name!r}, or one with the number {kind.wire_id}, is registered already")
    if not _FIRST_OWN <= kind.wire_id <= 255:
        raise ValueError(f"codec {kind.name!r}: wire_id must be from {_FIRST_OWN} to 255, not {kind.wire_id}")
    _MAKERS[kind.name] = kind
    _NUMBERS[kind.wire_id] = kind.name
