"""One process's share of an array that is dealt out over a grid of processes, as High Performance Fortran does it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .canonical import concatenate, repeat
from .constructors import Old, as_datatype
from .datatype import Datatype
from .layout import Layout


def darray(
    size: int,
    rank: int,
    gsizes: Sequence[int],
    distribs: Sequence[str],
    dargs: Sequence[int | None],
    psizes: Sequence[int],
    order: str,
    old: Old,
) -> Datatype:
    """The share of ``rank``, one of ``size`` in a grid of ``psizes`` in row-major order, of an array of ``gsizes`` items of
    ``old``. Each dimension is dealt out as one of ``distribs`` says: "block", in pieces of ``dargs`` items, one each; "cyclic",
    in pieces of ``dargs`` items in turn; "none", not at all. A piece of None is as large as it must be ("block"), or 1. The
    extent is that of the whole array, in which ``order`` "F" means that the first dimension runs fastest."""
    old = as_datatype(old)
    if not len(gsizes) == len(distribs) == len(dargs) == len(psizes) or not len(gsizes):
        raise ValueError(f"all lists of a darray must be equally long: {gsizes}, {distribs}, {dargs}, {psizes}")
    if math.prod(psizes) != size or not 0 <= rank < size:
        raise ValueError(f"a grid of {psizes} processes has none of rank {rank} of {size}")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    dims = []
    for gsize, distrib, darg, psize in reversed(list(zip(gsizes, distribs, dargs, psizes, strict=True))):
        rank, place = divmod(rank, psize)
        dims.append((gsize, _piece(gsize, distrib, darg, psize), place, psize))
    layout, pitch = old.layout, old.extent
    for gsize, piece, place, psize in dims if order == "C" else reversed(dims):
        layout = _dealt(layout, pitch, gsize, piece, place, psize)
        pitch *= gsize
    return Datatype(layout, 0, pitch, old.element, old.alignment, True)


def _piece(gsize: int, distrib: str, darg: int | None, psize: int) -> int:
    """How many neighbours a process gets at once."""
    if gsize < 1 or psize < 1 or (darg is not None and darg < 1 and distrib != "none"):
        raise ValueError(f"{gsize} items cannot be dealt out to {psize} processes in pieces of {darg}")
    if distrib == "none":
        if psize != 1:
            raise ValueError(f"a dimension that is not dealt out must have 1 process, not {psize}")
        return gsize
    if distrib == "cyclic":
        return darg or 1
    if distrib != "block":
        raise ValueError(f"a dimension is dealt out as 'block', 'cyclic' or 'none', not {distrib!r}")
    piece = darg or -(-gsize // psize)
    if piece * psize < gsize:
        raise ValueError(f"{psize} blocks of {piece} are not all of {gsize} items; take larger ones, or cyclic ones")
    return piece


def _dealt(layout: Layout, pitch: int, gsize: int, piece: int, place: int, psize: int) -> Layout:
    """Of items ``pitch`` apart, the pieces number ``place``, ``place + psize``, ..."""
    first = place * piece
    whole, rest = divmod(
        gsize, piece * psize
    )  # rounds in which everybody gets a full piece, and what is left after them
    last = min(max(rest - first, 0), piece)
    if last == piece:
        whole, last = whole + 1, 0
    pieces = repeat(repeat(layout, piece, pitch), whole, piece * psize * pitch)
    remainder = repeat(layout, last, pitch).shifted(whole * piece * psize * pitch)
    return concatenate([pieces, remainder]).shifted(first * pitch)
