"""What outlives a coordinator: records of its groups, and the right to lead."""

from __future__ import annotations

from typing import Protocol

from ..errors import CollcommError


class Deposed(CollcommError):
    """This coordinator does not lead (any more): nothing was written."""


class Store(Protocol):
    """Durable records, one per group, and the right to write them."""

    leader_hint: str

    def leads(self) -> bool: ...

    def load(self, group: str) -> bytes | None: ...

    def save(self, group: str, record: bytes | None) -> None: ...

    def close(self) -> None: ...


class MemoryStore:
    """Always leads, and remembers nothing."""

    leader_hint = ""

    def leads(self) -> bool:
        return True

    def load(self, group: str) -> bytes | None:
        return None

    def save(self, group: str, record: bytes | None) -> None:
        pass

    def close(self) -> None:
        pass
