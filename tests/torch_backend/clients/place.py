"""Where a check runs: what it may know about its process, and how it joins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.torch_backend.clients.names import BACKEND, FOLDER

PATIENCE = timedelta(seconds=20)  # of a collective: shorter than a check's bound, so that its own error is seen


@dataclass(frozen=True)
class Place:
    """One process of a check: its rank among how many, the backend's name, a folder that all of them share."""

    rank: int
    size: int
    backend: str
    folder: Path

    def mine(self, batch: torch.Tensor) -> torch.Tensor:
        """This rank's rows of a batch that all ranks know."""
        return batch[self.rank :: self.size]


def here() -> Place:
    """From the environment; the backend is registered afterwards."""
    backend = os.environ[BACKEND]
    if backend == "collcomm":
        import collcomm.torch  # noqa: F401  (an import is all that a program adds)
    return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), backend, Path(os.environ[FOLDER]))


def join(place: Place) -> None:
    """The default group over env://."""
    dist.init_process_group(place.backend, timeout=PATIENCE)
