"""What the commit round after a collective takes: a dissemination barrier, as the engine runs it (`engine/inline.py`)."""

from __future__ import annotations

from .network import Network


def commit_seconds(network: Network) -> float:
    """From the moment at which all ranks have their result until the last one knows that of all."""
    n = network.n
    ready = [0.0] * n
    distance = 1
    while distance < n:
        sent = [at + network.overhead for at in ready]
        ready = [
            max(sent[rank], sent[(rank - distance) % n] + network.latency((rank - distance) % n, rank))
            + network.overhead
            for rank in range(n)
        ]
        distance *= 2
    return max(ready)
