"""What the launcher says in the environment: where the coordinator is, and how many peers begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PORT = 48148
MOST_PEERS = 10_000
SIZES = ("COLLCOMM_MIN_SIZE", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True)
class Placement:
    """``coordinator``: "host:port", or None in an MPI job, which has none. ``min_size``: peers that begin together; all give
    the same, those who come later, too."""

    coordinator: str | None
    min_size: int


def find_placement(environment: Mapping[str, str]) -> Placement:
    """COLLCOMM_COORDINATOR and COLLCOMM_MIN_SIZE, where they are set. Otherwise: under torchrun the host of its rendezvous, under
    srun the one that runs the batch script; under mpirun no coordinator, but MPI. Port 48148, or COLLCOMM_PORT.

    Raises ValueError where there is nothing to go by.
    """
    port = _number("COLLCOMM_PORT", environment.get("COLLCOMM_PORT", str(PORT)), 65_535)
    size = next((name for name in SIZES if name in environment), None)
    min_size = 1 if size is None else _number(size, environment[size], MOST_PEERS)
    given = environment.get("COLLCOMM_COORDINATOR")
    if given:
        return Placement(given, min_size)
    if "TORCHELASTIC_RUN_ID" in environment and "MASTER_ADDR" in environment:
        return Placement(_address(environment["MASTER_ADDR"], port), min_size)
    if "OMPI_COMM_WORLD_RANK" in environment:
        return Placement(None, min_size)
    if "SLURM_PROCID" in environment and "SLURM_LAUNCH_NODE_IPADDR" in environment:
        return Placement(_address(environment["SLURM_LAUNCH_NODE_IPADDR"], port), min_size)
    raise ValueError(
        "where is the coordinator? Start this with one of the files beside it, or set COLLCOMM_COORDINATOR=host:48148"
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _number(name: str, text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ValueError(f"{name} must be a number from 1 to {most}, not {text!r}")
    return int(text)
