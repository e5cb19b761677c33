"""What a newcomer needs to go on where the others are: state_dicts, as arrays that `Communicator.sync` shares and the rest around
them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils import _pytree as trees

from .memory import Lent

_MARK = "collcomm.tensor"  # stands in for a tensor: its number, shape and dtype


class Stateful(Protocol):
    """A module, an optimizer, a schedule, a sampler."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class SharedState:
    """The state of ``parts`` at this peer."""

    def __init__(self, parts: Mapping[str, Stateful]):
        self._parts = parts
        self._tensors: list[Any] = []
        self._skeleton = trees.tree_map(self._take, {name: part.state_dict() for name, part in parts.items()})

    def _take(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        self._tensors.append(leaf)
        return [_MARK, len(self._tensors) - 1, list(leaf.shape), str(leaf.dtype).removeprefix("torch.")]

    def encoded(self) -> bytes:
        """All but the tensors' contents."""
        buffer = io.BytesIO()
        torch.save(self._skeleton, buffer)
        return buffer.getvalue()

    def adopt(self, encoded: bytes) -> None:
        """Take the others' form, with tensors to be filled. Nothing that they send is run."""
        self._skeleton = torch.load(io.BytesIO(encoded), weights_only=True)
        marks = sorted(filter(_is_mark, trees.tree_leaves(self._skeleton, is_leaf=_is_mark)), key=lambda mark: mark[1])
        self._tensors = [torch.zeros(shape, dtype=getattr(torch, dtype)) for _, _, shape, dtype in marks]

    def lend(self) -> list[Lent]:
        """The tensors' memory, to be shared."""
        return [Lent([tensor]) for tensor in self._tensors]

    def restore(self) -> None:
        """The parts have what the skeleton and the tensors say."""
        whole = trees.tree_map(
            lambda leaf: self._tensors[leaf[1]] if _is_mark(leaf) else leaf, self._skeleton, is_leaf=_is_mark
        )
        unknown = set(whole) ^ set(self._parts)
        if unknown:
            raise ValueError(
                f"this peer shares {sorted(self._parts)}, the others {sorted(whole)}: give share() the same"
            )
        for name, part in self._parts.items():
            part.load_state_dict(whole[name])


def arrays_of(lent: list[Lent]) -> dict[str, np.ndarray[Any, Any]]:
    return {str(number): one.array for number, one in enumerate(lent)}


def _is_mark(leaf: Any) -> bool:
    return isinstance(leaf, list) and len(leaf) == 4 and leaf[0] == _MARK
