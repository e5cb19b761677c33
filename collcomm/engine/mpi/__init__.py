"""The engine over MPI: membership from the launcher, native collectives, and ULFM where it is on. No agent, no coordinator."""

from __future__ import annotations

from .session import MpiSession

__all__ = ["MpiSession"]
