"""What is needed to go on when peers have died. numpy, and torch where the caller's arrays are tensors.

`Snapshots` keeps each member's shard in its neighbour's memory (`buddy`). `neighbour_mean` and `rebuild_stage` rebuild a
stage of a pipeline of which no copy is left (`checkfree`).
"""

from __future__ import annotations

from .agreement import ShardLost
from .buddy import Recovery, Shard, Snapshots
from .checkfree import gradient_norm, neighbour_mean, rebuild_stage

__all__ = [
    "Recovery",
    "Shard",
    "ShardLost",
    "Snapshots",
    "gradient_norm",
    "neighbour_mean",
    "rebuild_stage",
]
