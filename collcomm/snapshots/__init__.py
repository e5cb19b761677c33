"""What is needed to go on when peers have died. numpy, and torch where the caller's arrays are tensors.

`Snapshots` keeps each member's shard in its neighbour's memory (`buddy`).
"""

from __future__ import annotations

from .agreement import ShardLost
from .buddy import Recovery, Shard, Snapshots

__all__ = ["Recovery", "Shard", "ShardLost", "Snapshots"]
