"""Datatypes from and to those of mpi4py, by envelope and contents.

mpi4py is imported by the functions, when they are called; to import it starts MPI (unless ``mpi4py.rc.initialize`` is off).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .constructors import (
    as_datatype,
    contiguous,
    hindexed,
    hindexed_block,
    hvector,
    indexed,
    indexed_block,
    resized,
    struct,
    subarray,
    vector,
)
from .darray import darray
from .datatype import Datatype
from .layout import Layout, Repeat, Run

if TYPE_CHECKING:
    from mpi4py import MPI

MAX_COUNT = 1 << 30  # at once; MPI 3 counts in 31 bits
MAX_NESTED = 256  # constructors within constructors

# What mpi4py calls the named types, by kind; how wide each one is the MPI library says.
_NAMED = {
    "i": """SIGNED_CHAR SHORT INT LONG LONG_LONG INT8_T INT16_T INT32_T INT64_T AINT OFFSET COUNT
        INTEGER INTEGER1 INTEGER2 INTEGER4 INTEGER8 INTEGER16 LOGICAL LOGICAL1 LOGICAL2 LOGICAL4 LOGICAL8 LOGICAL16""",
    "u": "UNSIGNED_CHAR UNSIGNED_SHORT UNSIGNED UNSIGNED_LONG UNSIGNED_LONG_LONG UINT8_T UINT16_T UINT32_T UINT64_T",
    "f": "FLOAT DOUBLE LONG_DOUBLE REAL REAL2 REAL4 REAL8 REAL16 DOUBLE_PRECISION FLOAT16_T",
    "c": """C_FLOAT_COMPLEX C_DOUBLE_COMPLEX C_LONG_DOUBLE_COMPLEX CXX_FLOAT_COMPLEX CXX_DOUBLE_COMPLEX
        CXX_LONG_DOUBLE_COMPLEX COMPLEX COMPLEX4 COMPLEX8 COMPLEX16 COMPLEX32 DOUBLE_COMPLEX""",
    "b": "C_BOOL CXX_BOOL",
    "V": "BYTE PACKED CHAR CHARACTER WCHAR",  # nothing that MPI would reduce by: bytes
}
_PAIRS = {
    "FLOAT_INT": "FLOAT",
    "DOUBLE_INT": "DOUBLE",
    "LONG_INT": "LONG",
    "SHORT_INT": "SHORT",
    "TWOINT": "INT",
    "LONG_DOUBLE_INT": "LONG_DOUBLE",
}
_WIDTHS = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "b": (1,)}
_ELEMENTS = {
    "b1": "C_BOOL",
    "f4": "FLOAT",
    "f8": "DOUBLE",
    "c8": "C_FLOAT_COMPLEX",
    "c16": "C_DOUBLE_COMPLEX",
    **{f"i{size}": f"INT{8 * size}_T" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"UINT{8 * size}_T" for size in (1, 2, 4, 8)},
}


def from_mpi(datatype: MPI.Datatype) -> Datatype:
    """The same type map, with the bounds that the MPI library gives it.

    The standard leaves alignment to the library, and libraries differ in what they pad (Open MPI 5, see `constructors`); the
    items of a type that it made are where it takes them from. Bytes and characters have no element, and cannot be reduced.
    Raises TypeError for what numpy has no fixed-width dtype for (long double), ValueError for the null datatype, and where
    there are more pieces without a regular form than `layout.MAX_RUNS`.
    """
    from mpi4py import MPI

    if not isinstance(datatype, MPI.Datatype):
        raise TypeError(f"from_mpi takes an mpi4py.MPI.Datatype, not {type(datatype).__name__}")
    if datatype == MPI.DATATYPE_NULL:
        raise ValueError("MPI.DATATYPE_NULL is no datatype; it may have been freed")
    return _taken(datatype, 0)


def to_mpi(datatype: Datatype) -> MPI.Datatype:
    """A committed MPI datatype with the same type map, order and bounds; the caller frees it.

    Its elements are those of ``datatype``; where it has no one element, or one that MPI does not know (half precision, fp8,
    another byte order, text), they are bytes. Complex numbers at distances that are no multiple of their size go as their real
    and imaginary parts. Raises TypeError for long double, ModuleNotFoundError without mpi4py.
    """
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise ModuleNotFoundError("to_mpi needs mpi4py: pip install 'collcomm[mpi]'") from None
    unit: MPI.Datatype = getattr(MPI, _element_name(datatype))
    made: list[MPI.Datatype] = []  # each frees what it was made of
    try:
        built, offset = _built(datatype.layout, unit, made)
        if offset:
            built = _kept(made, built.Create_hindexed_block(1, [offset]))
        if datatype.bounds_given or built.Get_extent() != (datatype.lb, datatype.extent):
            built = _kept(made, built.Create_resized(datatype.lb, datatype.extent))
        made.remove(built)
    finally:
        for intermediate in made:
            intermediate.Free()
    return built.Commit()


# -- from MPI ----------------------------------------------------------------------------------------------------------


def _taken(datatype: MPI.Datatype, depth: int) -> Datatype:
    """With the bounds that MPI says, on each level: the next one places its items by them."""
    if depth > MAX_NESTED:
        raise ValueError(f"an MPI datatype may be {MAX_NESTED} constructors deep at most; build it in fewer steps")
    ours = _decoded(datatype, depth)
    bounds = datatype.Get_extent()
    return ours if (ours.lb, ours.extent) == bounds else resized(ours, *bounds)


def _decoded(datatype: MPI.Datatype, depth: int) -> Datatype:
    from mpi4py import MPI

    base, combiner, contents = datatype.decode()
    if combiner == "NAMED":
        return _named(datatype)
    if combiner in _F90:
        return as_datatype(_dtype(_F90[combiner], datatype.Get_size(), datatype.Get_name()))
    given: list[MPI.Datatype] = [base]
    if combiner == "STRUCT":
        given = contents.pop("datatypes")
    elif combiner == "VALUE_INDEX":
        given = [contents.pop("value"), contents.pop("index")]
    try:
        olds = [_taken(part, depth + 1) for part in given]
    finally:
        for part in given:
            if not part.is_predefined:
                part.Free()
    if combiner == "STRUCT":
        return struct(olds=olds, **contents)
    if combiner == "VALUE_INDEX":
        return _pair(*olds)
    if combiner not in _CONSTRUCTORS:
        raise TypeError(f"{combiner} is a way to build MPI datatypes that is not known here")
    if "order" in contents:
        contents["order"] = "F" if contents["order"] == MPI.ORDER_F else "C"
    if combiner == "DARRAY":
        contents["distribs"] = [_distribution(distribution) for distribution in contents["distribs"]]
        contents["dargs"] = [None if arg == MPI.DISTRIBUTE_DFLT_DARG else arg for arg in contents["dargs"]]
    return _CONSTRUCTORS[combiner](old=olds[0], **contents)


_F90 = {"F90_INTEGER": "i", "F90_REAL": "f", "F90_COMPLEX": "c"}
_CONSTRUCTORS: dict[str, Callable[..., Datatype]] = {
    "DUP": as_datatype,
    "CONTIGUOUS": contiguous,
    "VECTOR": vector,
    "HVECTOR": hvector,
    "INDEXED": indexed,
    "HINDEXED": hindexed,
    "INDEXED_BLOCK": indexed_block,
    "HINDEXED_BLOCK": hindexed_block,
    "SUBARRAY": subarray,
    "DARRAY": darray,
    "RESIZED": resized,
}


def _distribution(number: int) -> str:
    from mpi4py import MPI

    return {MPI.DISTRIBUTE_BLOCK: "block", MPI.DISTRIBUTE_CYCLIC: "cyclic", MPI.DISTRIBUTE_NONE: "none"}[number]


def _named(datatype: MPI.Datatype) -> Datatype:
    from mpi4py import MPI

    for name, value in _PAIRS.items():
        if datatype == getattr(MPI, name):
            return _pair(_named(getattr(MPI, value)), _named(MPI.INT))
    for name, kind in _kinds().items():
        if datatype == getattr(MPI, name, MPI.DATATYPE_NULL):
            size = datatype.Get_size()
            if kind == "V":
                return Datatype(Run(0, size), 0, size, None, size)
            return as_datatype(_dtype(kind, size, f"MPI.{name}"))
    raise TypeError(f"{datatype.Get_name() or 'this'} is an MPI datatype that is not known here; send its bytes")


@lru_cache(maxsize=1)
def _kinds() -> dict[str, str]:
    return {name: kind for kind, names in _NAMED.items() for name in names.split()}


def _dtype(kind: str, size: int, name: str) -> np.dtype[Any]:
    if size not in _WIDTHS[kind]:  # long double, whose width differs from machine to machine
        raise TypeError(f"{name}, of {size} bytes, has no dtype that peers could share; use double precision, or bytes")
    return np.dtype(f"{kind}{size}")


def _pair(value: Datatype, index: Datatype) -> Datatype:
    """As C lays out a struct of the two."""
    second = value.extent + -value.extent % index.alignment
    alignment = max(value.alignment, index.alignment)
    end = second + index.extent
    return resized(struct([1, 1], [0, second], [value, index]), 0, end + -end % alignment)


# -- to MPI ------------------------------------------------------------------------------------------------------------


def _element_name(datatype: Datatype) -> str:
    element = datatype.element
    if element is None:
        return "BYTE"
    if element.char in "gG":
        raise TypeError("long double differs from machine to machine; use float64, or bytes")
    if not (element.isnative and element.isbuiltin == 1):
        return "BYTE"
    size = element.itemsize
    # Open MPI 5.0.11 rounds a stride of complex numbers down to a multiple of their size, where their parts are aligned
    if element.kind == "c" and not (datatype.extent % size == 0 and _on_grid(datatype.layout, size)):
        return _ELEMENTS[f"f{size // 2}"]
    return _ELEMENTS.get(f"{element.kind}{size}", "BYTE")


def _on_grid(layout: Layout, size: int) -> bool:
    """Whether all runs are multiples of ``size`` apart."""
    if isinstance(layout, Run):
        return True
    if isinstance(layout, Repeat):
        return layout.stride % size == 0 and _on_grid(layout.body, size)
    starts = {part.low % size for part in layout.parts}
    return len(starts) <= 1 and all(_on_grid(part, size) for part in layout.parts)


def _kept(made: list[MPI.Datatype], datatype: MPI.Datatype) -> MPI.Datatype:
    made.append(datatype)
    return datatype


def _built(layout: Layout, unit: MPI.Datatype, made: list[MPI.Datatype]) -> tuple[MPI.Datatype, int]:
    """A type, and the offset at which it stands for the layout. Runs consist of whole elements, as no element has gaps."""
    width = unit.Get_size()
    if isinstance(layout, Run):
        return _repeated(unit, layout.size // width, width, made), layout.start
    if isinstance(layout, Repeat):
        body, offset = _built(layout.body, unit, made)
        return _repeated(body, layout.count, layout.stride, made), offset
    parts = layout.parts
    lengths = [part.size // width for part in parts]
    if all(isinstance(part, Run) for part in parts) and max(lengths, default=0) <= MAX_COUNT:
        return _kept(made, unit.Create_hindexed(lengths, [part.low for part in parts])), 0
    types, offsets = zip(*(_built(part, unit, made) for part in parts), strict=True)
    return _kept(made, _struct_of(list(types), list(offsets))), 0


def _repeated(datatype: MPI.Datatype, count: int, stride: int, made: list[MPI.Datatype]) -> MPI.Datatype:
    if count <= MAX_COUNT:
        return _row(datatype, count, stride, made)
    rounds, rest = divmod(count, MAX_COUNT)
    all_rounds = _repeated(_row(datatype, MAX_COUNT, stride, made), rounds, MAX_COUNT * stride, made)
    if not rest:
        return all_rounds
    remainder = _row(datatype, rest, stride, made)
    return _kept(made, _struct_of([all_rounds, remainder], [0, rounds * MAX_COUNT * stride]))


def _row(datatype: MPI.Datatype, count: int, stride: int, made: list[MPI.Datatype]) -> MPI.Datatype:
    if stride == -1:  # which Open MPI 5.0.11 takes for no stride, and packs a row; an extent of -1 it takes as it is
        return _kept(made, _kept(made, datatype.Create_resized(0, -1)).Create_contiguous(count))
    return _kept(made, datatype.Create_hvector(count, 1, stride))


def _struct_of(types: list[MPI.Datatype], offsets: list[int]) -> MPI.Datatype:
    from mpi4py import MPI

    return MPI.Datatype.Create_struct([1] * len(types), offsets, types)
