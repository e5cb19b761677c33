"""A rank that compares datatypes with those of the MPI library: size, bounds, and the bytes that MPI_Pack gives.

Run by `tests/processes/test_mpi_datatypes.py`, since importing mpi4py starts MPI.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from collcomm import datatypes
from collcomm.bench.launch import die_with_parent
from collcomm.bench.mpilaunch import emit
from collcomm.datatypes import Datatype, from_mpi, to_mpi
from collcomm.datatypes.packing import HostPacking
from tests.support.typemaps import PLAIN, Built, reproducible, types

BYTES = ["u1", "i1", "?"]  # nothing to pad
NAMED = {"u1": MPI.UINT8_T, "i1": MPI.INT8_T, "u2": MPI.UINT16_T, "i4": MPI.INT, "f4": MPI.FLOAT, "f8": MPI.DOUBLE}
NAMED |= {"c8": MPI.C_FLOAT_COMPLEX, "?": MPI.C_BOOL}
ORDERS = {"C": MPI.ORDER_C, "F": MPI.ORDER_F}
DISTRIBUTIONS = {
    "block": MPI.DISTRIBUTE_BLOCK,
    "cyclic": MPI.DISTRIBUTE_CYCLIC,
    "none": MPI.DISTRIBUTE_NONE,
}
Made = MPI.Datatype


def by_mpi(tree: Built, made: list[Made]) -> Made:
    """The same, as the MPI library builds it. All that must be freed is appended to ``made``."""
    if tree.constructor == "dtype":
        return NAMED[tree.parameters["dtype"].newbyteorder("=").str.lstrip("|<").replace("b1", "?")]
    olds = [by_mpi(old, made) for old in tree.olds]
    given = dict(tree.parameters)
    if "order" in given:
        given["order"] = ORDERS[given["order"]]
    if tree.constructor == "struct":
        new = MPI.Datatype.Create_struct(given["blocklengths"], given["displacements"], olds)
    elif tree.constructor == "darray":
        given["distribs"] = [DISTRIBUTIONS[one] for one in given["distribs"]]
        given["dargs"] = [MPI.DISTRIBUTE_DFLT_DARG if one is None else one for one in given["dargs"]]
        new = olds[0].Create_darray(**given)
    else:
        new = getattr(olds[0], f"Create_{tree.constructor}")(**given)
    made.append(new)
    return new


@contextmanager
def of_mpi(tree: Built) -> Iterator[Made]:
    made: list[Made] = []
    try:
        yield by_mpi(tree, made)
    finally:
        for one in made:
            one.Free()


def packed_by_mpi(datatype: Made, count: int, memory: np.ndarray[Any, Any], origin: int, nbytes: int) -> bytes:
    """``count`` items from byte ``origin`` on. They are wrapped in one item as long as the memory is, as mpi4py finds out the
    count by dividing."""
    items = datatype.Create_contiguous(count)
    one = items.Create_resized(0, memory.size).Commit()
    packed = np.zeros(nbytes, np.uint8)
    try:
        here = MPI.buffer.fromaddress(memory.ctypes.data + origin, memory.size)  # type: ignore[attr-defined]
        assert one.Pack(here, packed, 0, MPI.COMM_SELF) == nbytes
    finally:
        one.Free()
        items.Free()
    return packed.tobytes()


def bounds(datatype: Made) -> tuple[int, ...]:
    """Size, bounds, and true bounds, which have no meaning where the size is 0."""
    size = datatype.Get_size()
    return (size, *datatype.Get_extent(), *(datatype.Get_true_extent() if size else (0, 0)))


def check_same(theirs: Made, ours: Datatype, count: int, packs: bool = True) -> None:
    """In size, bounds, and bytes of ``count`` items, if it ``packs`` them."""
    expected = (ours.size, ours.lb, ours.extent, ours.true_lb, ours.true_extent)
    assert bounds(theirs) == expected, f"MPI: {bounds(theirs)}, here: {expected}"
    if not packs:
        return
    layout = ours.items(count)
    origin = 3 - layout.low
    memory = np.random.default_rng(layout.size).integers(0, 256, max(1, origin + layout.high + 5), np.uint8)
    packed = np.empty(layout.size, np.uint8)
    HostPacking(layout, memory, origin).pack(packed)
    assert packed.tobytes() == packed_by_mpi(theirs, count, memory, origin, layout.size)


seen: Counter[bool] = Counter()


def open_mpi_errs(tree: Built) -> bool:
    """Where Open MPI 5.0.11 contradicts the standard: it takes a stride of -1 byte for none, so that blocks lie in a row, and
    refuses to deal out empty items."""
    if tree.constructor in ("vector", "hvector") and tree.parameters["count"] > 1:
        stride = tree.parameters["stride"] * (tree.olds[0].map.extent if tree.constructor == "vector" else 1)
        if stride == -1:
            return True
    if tree.constructor == "darray" and not tree.olds[0].map.entries:
        return True
    return any(open_mpi_errs(old) for old in tree.olds)


def open_mpi_packs(tree: Built) -> bool:
    """Not complex numbers that are no multiple of their size apart: it rounds strides down to one."""
    complex_numbers = [(offset, dtype.itemsize) for offset, dtype in tree.map.entries if dtype.kind == "c"]
    apart = {(tree.map.extent % size, offset % size) for offset, size in complex_numbers}
    return not complex_numbers or (len(apart) == 1 and apart.pop()[0] == 0)


def check(tree: Built, count: int) -> bool:
    """Returns whether the library has the bounds of the standard, in this type and all that it is built of."""
    assume(not open_mpi_errs(tree))
    ours = tree.datatype
    with of_mpi(tree) as theirs:
        taken = from_mpi(theirs)
        check_same(theirs, taken, count, open_mpi_packs(tree))
        made: list[Made] = []
        try:
            standard = _has_standard_bounds(tree, made)
        finally:
            for one in made:
                one.Free()
        if standard:
            assert taken.layout == ours.layout and (taken.lb, taken.extent) == (ours.lb, ours.extent)
            assert taken.element == ours.element or not ours.size
        again = to_mpi(taken)
        try:
            check_same(again, taken, count)
            assert from_mpi(again).layout == taken.layout and bounds(again) == bounds(theirs)
        finally:
            again.Free()
    given = to_mpi(ours)
    try:
        check_same(given, ours, count)
        back = from_mpi(given)
        assert back == ours or (_parts_of(back.element) == ours.element and back.layout == ours.layout)
    finally:
        given.Free()
    return standard


def _parts_of(element: np.dtype[Any] | None) -> np.dtype[Any] | None:
    """The complex dtype of which this is the real part."""
    return {"f": np.dtype("c8"), "d": np.dtype("c16")}.get(element.char) if element is not None else None


def _has_standard_bounds(tree: Built, made: list[Made]) -> bool:
    theirs = by_mpi(tree, made)
    agrees = theirs.Get_extent() == (tree.map.lb, tree.map.extent)
    return agrees and all(_has_standard_bounds(old, made) for old in tree.olds)


# -- cases -------------------------------------------------------------------------------------------------------------


def random_types(examples: int | None = None) -> None:
    """As many ``examples`` of any kind; without a number, always the same ones."""

    @settings(reproducible, max_examples=examples or 1500, derandomize=examples is None)
    @given(types(leaves=st.sampled_from(PLAIN)), st.integers(0, 3))
    def run(tree: Built, count: int) -> None:
        seen[check(tree, count)] += 1

    run()


@settings(reproducible, max_examples=700)
@given(types(leaves=st.sampled_from(BYTES)), st.integers(0, 3))
def random_types_of_bytes(tree: Built, count: int) -> None:
    seen[check(tree, count)] += 1


def named_types() -> None:
    for name, element in {
        "INT": "i4",
        "LONG": "i8",
        "AINT": "i8",
        "UNSIGNED_SHORT": "u2",
        "DOUBLE_PRECISION": "f8",
        "LOGICAL": "i4",
        "INTEGER2": "i2",
        "COMPLEX": "c8",
        "C_DOUBLE_COMPLEX": "c16",
        "CXX_BOOL": "?",
        "SIGNED_CHAR": "i1",
    }.items():
        assert from_mpi(getattr(MPI, name)) == datatypes.as_datatype(element), name
    for name in ("BYTE", "PACKED", "CHAR", "CHARACTER", "WCHAR"):
        taken = from_mpi(getattr(MPI, name))
        assert taken.element is None and bounds(getattr(MPI, name)) == (taken.size, 0, taken.size, 0, taken.size)
    pair = np.dtype([("value", "f8"), ("index", "i4")], align=True)
    assert from_mpi(MPI.DOUBLE_INT) == datatypes.as_datatype(pair)
    assert (from_mpi(MPI.SHORT_INT).size, from_mpi(MPI.SHORT_INT).extent) == (6, 8)
    every = {name: value for name, value in vars(MPI).items() if isinstance(value, MPI.Datatype)}
    for name, value in every.items():
        if value == MPI.DATATYPE_NULL:
            continue
        if "LONG_DOUBLE" in name or name in ("REAL16", "COMPLEX32"):
            with pytest.raises(TypeError, match="no dtype that peers could share"):
                from_mpi(value)
        else:
            check_same(value, from_mpi(value), 2)


def other_roads() -> None:
    real = MPI.Datatype.Create_f90_real(6, 30)
    assert from_mpi(real) == datatypes.as_datatype("f4")
    assert from_mpi(MPI.Datatype.Create_f90_integer(9)) == datatypes.as_datatype("i4")
    assert from_mpi(MPI.Datatype.Create_f90_complex(12, 100)) == datatypes.as_datatype("c16")
    pairs = real.Create_vector(3, 1, 2)
    twice = pairs.Dup()
    assert from_mpi(twice) == from_mpi(pairs) == datatypes.vector(3, 1, 2, "f4")
    twice.Free()
    pairs.Free()
    nothing = MPI.Datatype.Create_struct([], [], [])
    assert from_mpi(nothing) == datatypes.struct([], [], [])
    nothing.Free()


def what_is_refused() -> None:
    with pytest.raises(TypeError, match=r"mpi4py.MPI.Datatype, not str"):
        from_mpi("i4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="DATATYPE_NULL"):
        from_mpi(MPI.DATATYPE_NULL)
    with pytest.raises(TypeError, match=r"MPI.LONG_DOUBLE, of 16 bytes"):
        from_mpi(MPI.LONG_DOUBLE)
    with pytest.raises(TypeError, match="long double"):
        to_mpi(datatypes.as_datatype(np.longdouble))
    within = MPI.Datatype.Create_struct([1, 1], [0, 16], [MPI.INT, MPI.LONG_DOUBLE])
    with pytest.raises(TypeError, match=r"MPI.LONG_DOUBLE"):
        from_mpi(within)
    within.Free()
    starts = np.cumsum(np.random.default_rng(0).integers(5, 9, (1 << 20) + 1))
    scattered = MPI.BYTE.Create_hindexed_block(4, starts.tolist())
    with pytest.raises(ValueError, match="separate pieces at most"):
        from_mpi(scattered)
    scattered.Free()
    deep = [MPI.BYTE.Create_contiguous(1)]
    for _ in range(300):
        deep.append(deep[-1].Create_contiguous(1))
    with pytest.raises(ValueError, match="256 constructors deep"):
        from_mpi(deep[-1])
    for one in deep:
        one.Free()


def large_types() -> None:
    """Counts beyond 31 bits, which MPI 3 does not know."""
    for ours in (
        datatypes.contiguous((1 << 40) + 1, "f4"),
        datatypes.vector((1 << 40) + 1, 1, 2, "f4"),
        datatypes.hvector((1 << 33) + 7, 3, -100, "f8"),
        datatypes.hvector((1 << 33) + 7, 1, -1, "u1"),
        datatypes.subarray([1 << 20] * 3, [1 << 19] * 3, [1] * 3, "i2"),
        datatypes.hindexed([1 << 33, 5], [0, 1 << 40], "f4"),
        datatypes.contiguous(1 << 33, datatypes.resized(datatypes.hindexed([1, 2], [0, 10], "u1"), 0, 100)),
    ):
        theirs = to_mpi(ours)
        assert bounds(theirs) == (ours.size, ours.lb, ours.extent, ours.true_lb, ours.true_extent), ours
        assert from_mpi(theirs) == ours
        theirs.Free()


def elements() -> None:
    """Those that MPI does not know travel as bytes; and some strides are ones that Open MPI mistakes."""
    for dtype in ("f2", ">f4", "S5", "U2", "m8[s]", "V6"):
        ours = datatypes.vector(3, 1, 2, dtype)
        theirs = to_mpi(ours)
        taken = from_mpi(theirs)
        assert taken.element is None and taken.layout == ours.layout and taken.extent == ours.extent
        theirs.Free()
    for ours in (
        datatypes.hvector(9, 1, -1, "u1"),
        datatypes.hvector(3, 2, -1, "i2"),
        datatypes.hvector(3, 1, 12, "c8"),
        datatypes.hindexed([1, 1, 2], [0, -24, 32], "c16"),
        datatypes.contiguous(3, datatypes.resized("c8", 0, 12)),
        datatypes.contiguous(0, "f8"),
    ):
        theirs = to_mpi(ours)
        check_same(theirs, ours, 2)
        theirs.Free()


def nothing_is_left() -> None:
    """Each round makes and frees some thirty MPI datatypes; what leaks shows in the memory that the process takes."""
    ours = datatypes.struct([2, 1], [-8, 300], [datatypes.indexed([1, 2, 1], [5, 0, 9], "f4"), "u1"])
    nested = datatypes.subarray([9, 9, 9], [2, 3, 4], [1, 2, 3], datatypes.resized(ours, 0, 400))

    def turn() -> None:
        theirs = to_mpi(nested)
        struct = MPI.Datatype.Create_struct([1, 2], [0, 1 << 20], [theirs, MPI.INT])
        from_mpi(struct)
        struct.Free()
        theirs.Free()

    for _ in range(300):
        turn()
    before = psutil.Process().memory_info().rss
    for _ in range(1500):
        turn()
    grown = psutil.Process().memory_info().rss - before
    assert grown < 1 << 20, f"{grown} bytes more after 1,500 rounds"


CASES: dict[str, Callable[..., None]] = {
    "random_types": random_types,
    "random_types_of_bytes": random_types_of_bytes,
    "named_types": named_types,
    "other_roads": other_roads,
    "what_is_refused": what_is_refused,
    "large_types": large_types,
    "elements": elements,
    "nothing_is_left": nothing_is_left,
}


def main() -> None:
    die_with_parent()
    case = json.loads(sys.argv[1])
    for name in case.pop("cases"):
        try:
            CASES[name](**case)
            emit(event="done", case=name)
        except BaseException as error:
            emit(event="error", case=name, text="".join(traceback.format_exception(error)))
    emit(event="seen", standard=seen[True], other=seen[False])


if __name__ == "__main__":
    main()
