"""From a user's call to an operation of the engine, and from what that has computed to the user's result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .datatypes import Datatype
from .devicearrays import AnyArray, DeviceArray, array_of
from .engine import AnyGroup, Operation, PinnedMemory, Request
from .parts import HostParts
from .transports.device import Device

IN_PLACE_KINDS = frozenset({"all_reduce", "broadcast"})  # others copy an input that is also the output


def target_of(
    asked: Request,
    out: Any,
    given: AnyArray,
    shape: tuple[int, ...],
    receives: bool,
    device: Device | None,
    datatype: Datatype | None,
) -> AnyArray | None:
    """Where the result goes: ``out``, or, on a device, a new array; None where the engine makes one, or there is none
    (``receives``). Raises ValueError, TypeError where ``out`` does not fit."""
    if out is None:
        return given.blank(shape) if isinstance(given, DeviceArray) and receives else None
    if out is given.value and asked.kind in IN_PLACE_KINDS:
        given.require_writable("out")
        return given
    items = 0 if datatype is None or not datatype.size else math.prod(shape) * given.dtype.itemsize // datatype.size
    target = array_of(out, "out", device, datatype, items)
    target.require_writable("out")
    if target.dtype != given.dtype:
        raise TypeError(f"{asked.kind}: out has dtype {target.dtype}, the data {given.dtype}")
    if target.shape != shape and target.flat.size != math.prod(shape):
        raise ValueError(f"{asked.kind}: out has shape {target.shape}, the result {shape}")
    if type(given) is not type(target):
        raise TypeError(f"{asked.kind}: x and out must lie both in host memory, or both on the device")
    given.part_from(target)  # type: ignore[arg-type]
    return target


def operation_of(
    group: AnyGroup,
    member: int,
    asked: Request,
    given: AnyArray | HostParts | None,
    target: AnyArray | HostParts | None,
    ufunc: np.ufunc | None,
) -> Operation:
    """The operation, to be done where its arrays lie: on the device if all members can meet there, else in host memory."""
    stays = False
    if isinstance(given, DeviceArray) or isinstance(target, DeviceArray):
        stays = group.stays_on_device(asked)
        if stays:
            asked = asked.on_device
        else:
            _stage(given, target)
    source = None if given is None else given.flat
    operation = Operation(asked, group.view, member, source, None if target is None else target.flat, ufunc)
    for array in (given, target):
        if isinstance(array, DeviceArray):
            _lay_out(operation, array, stays)
    operation.incoming = None if given is None else given.original
    operation.outgoing = None if target is None else target.original
    return operation


def _stage(*arrays: AnyArray | HostParts | None) -> None:
    for array in arrays:
        if isinstance(array, DeviceArray):
            array.stage()


def _lay_out(operation: Operation, array: DeviceArray, stays: bool) -> None:
    if stays:
        operation.place = operation.device = array.device
        operation.ready = (*operation.ready, array.ready)
    else:
        operation.place = PinnedMemory(array.device)


def conclude(
    group: AnyGroup,
    operation: Operation,
    given: AnyArray | HostParts | None,
    target: AnyArray | HostParts | None,
    shape: tuple[int, ...],
    flat: Any,
    error: BaseException | None,
) -> Any:
    """The caller's result, made of what the engine has computed."""
    group.show(operation.view)
    if error is not None:
        raise error
    if flat is None:
        return None
    if target is not None:
        if isinstance(target, DeviceArray):
            target.write_back(operation.alive(operation.view))
        whole = flat.size == target.flat.size
        return target.value if whole else target.like(target.flat[: flat.size], (-1, *shape[1:]))
    assert given is not None
    return given.like(flat, shape if flat.size == math.prod(shape) else (-1, *shape[1:]))
