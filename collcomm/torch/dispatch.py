"""Before torch 2.14: functional collectives whose C++ side reaches a method that a Python process group cannot override.

Such a method looks for a C++ backend, and says "No backend type associated with device type cpu". For each of these operators
there is a kernel here, for the devices that we serve: it takes groups of ours to their Python methods, and all others to the
kernel that was there before. Operators that work as they are stay untouched, so other backends pay for these few only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from .processgroup import ProcessGroup

_NAMESPACE = "_c10d_functional"
_KEYS = ("CPU", "CUDA")
_c10d = torch._C._distributed_c10d
_library: Any = None  # its end would take the kernels away


def use_methods() -> None:
    """From now on, these operators know our groups."""
    global _library
    if not hasattr(torch.library, "get_kernel"):  # how to fall back on what was there before
        return
    _library = torch.library.Library(_NAMESPACE, "IMPL")
    for name, place, kernel in (
        ("all_gather_into_tensor_out", 2, _all_gather_into_tensor_out),
        ("batch_p2p_ops", 4, _batch_p2p_ops),
    ):
        if not hasattr(getattr(torch.ops, _NAMESPACE), name):
            continue
        for key in _KEYS:
            before = torch.library.get_kernel(f"{_NAMESPACE}::{name}", key)
            _library.impl(name, partial(_either, before, place, kernel), key, with_keyset=True)


def _either(before: Any, place: int, kernel: Callable[..., Any], keys: Any, *args: Any, **kwargs: Any) -> Any:
    """``place``: where among ``args`` the group stands, by name or itself."""
    group = _group_of(args[place])
    if isinstance(group, ProcessGroup):
        return kernel(group, *args, **kwargs)
    return before.call_boxed(keys, *args, **kwargs)


def _group_of(named: Any) -> Any:
    if isinstance(named, str):
        return _c10d._resolve_process_group(named)
    return named if isinstance(named, dist.ProcessGroup) else dist.ProcessGroup.unbox(named)


def _all_gather_into_tensor_out(group: ProcessGroup, tensor: Any, size: int, named: Any, *, out: Any) -> Any:
    _c10d._register_work(out, group.all_gather_single(out, tensor))
    return out


def _batch_p2p_ops(
    group: ProcessGroup,
    kinds: Sequence[str],
    peers: Sequence[int],
    tags: Sequence[int],
    tensors: Sequence[Any],
    named: Any,
) -> list[Any]:
    """``kinds``: "isend" or "irecv". All messages start before any is waited for."""
    for kind, peer, tag, tensor in zip(kinds, peers, tags, tensors, strict=True):
        work = group.send([tensor], peer, tag) if kind == "isend" else group.recv([tensor], peer, tag)
        _c10d._register_work(tensor, work)
    return list(tensors)
