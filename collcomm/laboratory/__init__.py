"""Networks on this machine, made of namespaces: hosts, switches, routers, shaped and delayed links. Needs root and Linux.

A topology is a function that returns a `Laboratory`, which is a context: ``with two_sites(4, 125e6, 12.5e6, 0.02) as lab``.
"""

from __future__ import annotations

from .description import Description
from .guardian import PREFIX, sweep
from .laboratory import Laboratory, RelayedLaboratory
from .namespaces import missing_for_namespaces
from .routed import PathsLaboratory, behind_nat, leaf_spine, two_paths
from .switched import Network, asymmetric_ring, delayed, flat, one_slow_host, two_sites

__all__ = [
    "PREFIX",
    "Description",
    "Laboratory",
    "Network",
    "PathsLaboratory",
    "RelayedLaboratory",
    "asymmetric_ring",
    "behind_nat",
    "delayed",
    "flat",
    "leaf_spine",
    "missing_for_namespaces",
    "one_slow_host",
    "sweep",
    "two_paths",
    "two_sites",
]
