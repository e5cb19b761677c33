"""What an operation's array in host memory is a copy of, where the caller's own is not one row of bytes there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Original(Protocol):
    """The caller's array, and ``host``: as many bytes, which the operation works on. What is to be read is fetched in parts, just
    before; what is final goes back in parts, while others are still on their way. ``early``: whether anything may go back
    before the operation is committed; not so where that could overwrite its own input."""

    host: Any
    early: bool

    def fetch(self, start: int, nbytes: int) -> None:
        """Bytes from ``start`` are in ``host`` when this returns."""

    def fetch_into(self, target: Any, start: int) -> None:
        """Bytes from ``start`` are in ``target``, as many as it has room for, when this returns."""

    def borders(self, limit: int) -> list[int]:
        """Where to cut it into pieces of up to ``limit`` bytes that are fetched well: 0, ends of pieces, all bytes."""

    def fetch_all(self) -> None: ...

    def forget(self) -> None:
        """``host`` was overwritten by an operation in place that has failed: nothing has been fetched."""

    def restart(self, ranks: Sequence[int]) -> None:
        """Nothing is final. ``ranks``: whose blocks the result will consist of, as ranks of the call."""

    def store(self, start: int, nbytes: int) -> None:
        """These bytes of ``host`` are final."""

    def deliver(self, start: int, source: Any) -> None:
        """``source`` is final for the bytes from ``start``; it may go straight to where it belongs, not by way of ``host``."""

    def settle(self) -> None:
        """Nothing is on its way any more, in either direction."""

    def conclude(self, nbytes: int) -> None:
        """The first ``nbytes`` of ``host`` are the result: when this returns, the caller's array has them."""
