"""A bounded store of what is made when it is first asked for; what was not asked for longest gives way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, ItemsView
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Keeping(Generic[K, V]):
    def __init__(self, make: Callable[[], V], most: int):
        self._make = make
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def of(self, key: K) -> V:
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._make()
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return found

    def get(self, key: K) -> V | None:
        return self._kept.get(key)

    def pop(self, key: K) -> None:
        self._kept.pop(key, None)

    def items(self) -> ItemsView[K, V]:
        return self._kept.items()

    def clear(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
