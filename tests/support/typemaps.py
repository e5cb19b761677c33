"""Random datatypes, and the type map of each as the MPI standard defines it: element by element, in plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from collcomm import datatypes
from collcomm.datatypes.darray import darray

MAX_ELEMENTS = 300  # of a random type; more take long and find no more

reproducible = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


@dataclass(frozen=True)
class TypeMap:
    """Offset and dtype of each element in order, and where the lower and upper bounds were marked."""

    entries: tuple[tuple[int, np.dtype[Any]], ...]
    lower: tuple[int, ...] = ()
    upper: tuple[int, ...] = ()

    @property
    def lb(self) -> int:
        return min(self.lower or [offset for offset, _ in self.entries] or [0])

    @property
    def ub(self) -> int:
        if self.upper:
            return max(self.upper)
        end = max((offset + dtype.itemsize for offset, dtype in self.entries), default=0)
        alignment = max((dtype.alignment for _, dtype in self.entries), default=1)
        return end + -(end - self.lb) % alignment

    @cached_property
    def extent(self) -> int:
        return self.ub - self.lb

    @property
    def offsets(self) -> list[int]:
        return [offset + i for offset, dtype in self.entries for i in range(dtype.itemsize)]

    def at(self, offsets: Iterable[int]) -> TypeMap:
        """A copy at each of these."""
        return joined(self.moved(offset) for offset in offsets)

    def moved(self, by: int) -> TypeMap:
        entries = tuple((offset + by, dtype) for offset, dtype in self.entries)
        return TypeMap(entries, tuple(low + by for low in self.lower), tuple(high + by for high in self.upper))

    def bounded(self, lb: int, extent: int) -> TypeMap:
        return TypeMap(self.entries, (lb,), (lb + extent,))


def joined(maps: Iterable[TypeMap]) -> TypeMap:
    maps = list(maps)
    chain = itertools.chain.from_iterable
    return TypeMap(
        tuple(chain(one.entries for one in maps)),
        tuple(chain(one.lower for one in maps)),
        tuple(chain(one.upper for one in maps)),
    )


def map_of(given: Any) -> TypeMap:
    """Of a numpy dtype."""
    dtype = np.dtype(given)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        one = map_of(base)
        return one.at(item * one.extent for item in range(math.prod(shape)))
    if dtype.fields is not None:
        fields = [dtype.fields[name] for name in dtype.names or ()]
        return joined(map_of(field[0]).moved(field[1]) for field in fields).bounded(0, dtype.itemsize)
    return TypeMap(((0, dtype),))


# -- constructors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A datatype as a tree: how it is built, of what, and its type map."""

    constructor: str
    olds: tuple[Built, ...]
    parameters: dict[str, Any]
    map: TypeMap = field(repr=False)

    @property
    def datatype(self) -> datatypes.Datatype:
        """As this project builds it."""
        if self.constructor == "dtype":
            return datatypes.as_datatype(self.parameters["dtype"])
        olds = [old.datatype for old in self.olds]
        if self.constructor == "struct":
            return datatypes.struct(olds=olds, **self.parameters)
        if self.constructor == "darray":
            return darray(old=olds[0], **self.parameters)
        build: Callable[..., datatypes.Datatype] = getattr(datatypes, self.constructor)
        return build(old=olds[0], **self.parameters)


def of_dtype(dtype: np.dtype[Any]) -> Built:
    return Built("dtype", (), {"dtype": dtype}, map_of(dtype))


def built(constructor: str, *olds: Built, **parameters: Any) -> Built:
    maps = [old.map for old in olds]
    made = _struct(maps, **parameters) if constructor == "struct" else _MAPS[constructor](maps[0], **parameters)
    return Built(constructor, olds, parameters, made)


def _blocks(old: TypeMap, lengths: Sequence[int], starts: Sequence[int]) -> TypeMap:
    pairs = zip(lengths, starts, strict=True)
    return old.at(start + item * old.extent for length, start in pairs for item in range(length))


def _contiguous(old: TypeMap, count: int) -> TypeMap:
    return _blocks(old, [count], [0])


def _vector(old: TypeMap, count: int, blocklength: int, stride: int) -> TypeMap:
    return _hvector(old, count, blocklength, stride * old.extent)


def _hvector(old: TypeMap, count: int, blocklength: int, stride: int) -> TypeMap:
    return _blocks(old, [blocklength] * count, [row * stride for row in range(count)])


def _indexed(old: TypeMap, blocklengths: list[int], displacements: list[int]) -> TypeMap:
    return _blocks(old, blocklengths, [start * old.extent for start in displacements])


def _indexed_block(old: TypeMap, blocklength: int, displacements: list[int]) -> TypeMap:
    return _indexed(old, [blocklength] * len(displacements), displacements)


def _hindexed_block(old: TypeMap, blocklength: int, displacements: list[int]) -> TypeMap:
    return _blocks(old, [blocklength] * len(displacements), displacements)


def _struct(olds: list[TypeMap], blocklengths: list[int], displacements: list[int]) -> TypeMap:
    rows = zip(olds, blocklengths, displacements, strict=True)
    return joined(_blocks(old, [length], [start]) for old, length, start in rows)


def _subarray(old: TypeMap, sizes: list[int], subsizes: list[int], starts: list[int], order: str) -> TypeMap:
    indices = [range(start, start + subsize) for start, subsize in zip(starts, subsizes, strict=True)]
    return _picked(old, sizes, indices, order)


def _darray(
    old: TypeMap,
    size: int,
    rank: int,
    gsizes: list[int],
    distribs: list[str],
    dargs: list[int | None],
    psizes: list[int],
    order: str,
) -> TypeMap:
    places = list(itertools.product(*map(range, psizes)))[rank]
    indices = []
    for gsize, distrib, darg, psize, place in zip(gsizes, distribs, dargs, psizes, places, strict=True):
        piece = darg or {"block": math.ceil(gsize / psize), "cyclic": 1, "none": gsize}[distrib]
        indices.append([i for i in range(gsize) if i // piece % psize == place])
    return _picked(old, gsizes, indices, order)


def _picked(old: TypeMap, sizes: list[int], indices: list[Any], order: str) -> TypeMap:
    pitches = [math.prod(sizes[d + 1 :] if order == "C" else sizes[:d]) for d in range(len(sizes))]
    turn = 1 if order == "C" else -1
    items = [
        old.extent * sum(i * pitch for i, pitch in zip(index, pitches[::turn], strict=True))
        for index in itertools.product(*indices[::turn])
    ]
    return old.at(items).bounded(0, old.extent * math.prod(sizes))


_MAPS: dict[str, Callable[..., TypeMap]] = {
    "contiguous": _contiguous,
    "vector": _vector,
    "hvector": _hvector,
    "indexed": _indexed,
    "hindexed": lambda old, blocklengths, displacements: _blocks(old, blocklengths, displacements),
    "indexed_block": _indexed_block,
    "hindexed_block": _hindexed_block,
    "subarray": _subarray,
    "darray": _darray,
    "resized": TypeMap.bounded,
}


# -- random types ------------------------------------------------------------------------------------------------------

PLAIN = ["u1", "i1", "u2", "i4", "f4", "f8", "c8", "?"]
small = st.integers(0, 4)
length = st.integers(0, 3)
near = st.integers(-4, 8)  # items
far = st.integers(-40, 80)  # bytes


@st.composite
def dtypes(draw: st.DrawFn, depth: int = 1) -> np.dtype[Any]:
    """Plain ones; at times with fields, packed or aligned or in any order, and sub-arrays."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind < 4:
        return np.dtype(draw(st.sampled_from(PLAIN)))
    if kind == 4:
        return np.dtype((draw(dtypes(depth - 1)), tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=2)))))
    formats = draw(st.lists(dtypes(depth - 1), min_size=1, max_size=3))
    names = [f"f{number}" for number in range(len(formats))]
    if draw(st.booleans()):
        return np.dtype(list(zip(names, formats, strict=True)), align=draw(st.booleans()))
    offsets = _as_many(draw, st.integers(0, 20), formats)
    end = max(offset + one.itemsize for offset, one in zip(offsets, formats, strict=True))
    size = end + draw(st.integers(0, 3))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def _as_many(draw: st.DrawFn, values: st.SearchStrategy[int], others: Sequence[Any]) -> list[int]:
    return draw(st.lists(values, min_size=len(others), max_size=len(others)))


@st.composite
def types(draw: st.DrawFn, depth: int = 3, leaves: st.SearchStrategy[Any] | None = None) -> Built:
    leaves = dtypes() if leaves is None else leaves
    if depth == 0 or draw(st.integers(0, 9)) == 0:
        return of_dtype(np.dtype(draw(leaves)))
    old = draw(types(depth - 1, leaves))
    if 4 * len(old.map.entries) > MAX_ELEMENTS:
        return old
    kind = draw(st.sampled_from([*_MAPS, "struct"]))
    drawn: dict[str, Any] = {}
    if kind == "contiguous":
        drawn = {"count": draw(small)}
    elif kind in ("vector", "hvector"):
        stride = st.integers(-4, 6) if kind == "vector" else st.integers(-20, 40)
        drawn = {"count": draw(small), "blocklength": draw(length), "stride": draw(stride)}
    elif kind in ("indexed", "hindexed"):
        lengths = draw(st.lists(length, max_size=4))
        drawn = {
            "blocklengths": lengths,
            "displacements": _as_many(draw, near if kind == "indexed" else far, lengths),
        }
    elif kind in ("indexed_block", "hindexed_block"):
        starts = draw(st.lists(near if kind == "indexed_block" else far, max_size=4))
        drawn = {"blocklength": draw(length), "displacements": starts}
    elif kind == "struct":
        olds = [old, *draw(st.lists(types(depth - 1, leaves), max_size=2))]
        lengths = _as_many(draw, length, olds)
        return built("struct", *olds, blocklengths=lengths, displacements=_as_many(draw, far, olds))
    elif kind == "subarray":
        sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        subsizes = [draw(st.integers(1, size)) for size in sizes]
        starts = [draw(st.integers(0, size - subsize)) for size, subsize in zip(sizes, subsizes, strict=True)]
        drawn = {"sizes": sizes, "subsizes": subsizes, "starts": starts, "order": draw(st.sampled_from("CF"))}
    elif kind == "darray":
        drawn = _drawn_darray(draw)
    else:
        drawn = {"lb": draw(st.integers(-8, 8)), "extent": draw(st.integers(-8, 40))}
    return built(kind, old, **drawn)


def _drawn_darray(draw: st.DrawFn) -> dict[str, Any]:
    gsizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=2))
    distribs = [draw(st.sampled_from(["block", "cyclic", "none"])) for _ in gsizes]
    psizes = [1 if distrib == "none" else draw(st.integers(1, 3)) for distrib in distribs]
    dargs: list[int | None] = []
    for gsize, distrib, psize in zip(gsizes, distribs, psizes, strict=True):
        least = math.ceil(gsize / psize) if distrib == "block" else 1
        given = distrib != "none" and draw(st.booleans())
        dargs.append(draw(st.integers(least, least + 2)) if given else None)
    size = math.prod(psizes)
    return {
        "size": size,
        "rank": draw(st.integers(0, size - 1)),
        "gsizes": gsizes,
        "distribs": distribs,
        "dargs": dargs,
        "psizes": psizes,
        "order": draw(st.sampled_from("CF")),
    }
