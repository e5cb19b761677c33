"""What outlives a coordinator: records of its groups, and the right to lead.

A coordinator writes down each view before it announces it. So whoever leads next, the same process restarted or
another one, knows the last view there was, and a leader that was replaced without noticing can announce none.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import CollcommError


class Deposed(CollcommError):
    """This coordinator does not lead (any more), or cannot be sure that it does: what it wanted to write does not count."""


class Store(Protocol):
    """Durable records, one per group, and the right to write them. Called from the coordinator's thread."""

    @property
    def leader(self) -> str:
        """The address of whoever leads, "" if unknown."""

    def leads(self) -> bool:
        """Whether we may answer peers at this moment. Asks nobody."""

    def load(self, group: str) -> bytes | None: ...

    def save(self, group: str, record: bytes | None) -> None:
        """Write, or with None delete. Raises Deposed; whatever else it raises says that nothing was written."""

    def close(self) -> None:
        """Let somebody else lead at once."""


class MemoryStore:
    """Always leads, and remembers nothing: a restarted coordinator goes by what peers report."""

    leader = ""

    def leads(self) -> bool:
        return True

    def load(self, group: str) -> bytes | None:
        return None

    def save(self, group: str, record: bytes | None) -> None:
        pass

    def close(self) -> None:
        pass
