"""What is needed to go on when peers have died. numpy, and torch where the caller's arrays are tensors.

`Snapshots` keeps each member's shard in its neighbour's memory (`buddy`). `neighbour_mean` and `rebuild_stage` rebuild a
stage of a pipeline of which no copy is left (`checkfree`). `save`, `load` and `Checkpoint` are for checkpoints that any number
of peers can read; they need ``pip install 'collcomm[snapshots]'``.
"""

from __future__ import annotations

from .agreement import ShardLost
from .buddy import Recovery, Shard, Snapshots
from .checkfree import gradient_norm, neighbour_mean, rebuild_stage
from .checkpoint import Checkpoint, even_rows, load
from .index import CheckpointInvalid, SavedArray
from .saving import SaveFailed, save

__all__ = [
    "Checkpoint",
    "CheckpointInvalid",
    "Recovery",
    "SaveFailed",
    "SavedArray",
    "Shard",
    "ShardLost",
    "Snapshots",
    "even_rows",
    "gradient_norm",
    "load",
    "neighbour_mean",
    "rebuild_stage",
    "save",
]
