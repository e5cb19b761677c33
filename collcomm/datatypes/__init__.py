"""Strided data as it lies: datatypes with MPI's names, one canonical form for each layout, and packing at memory speed."""

from .constructors import (
    as_datatype,
    contiguous,
    hindexed,
    hindexed_block,
    hvector,
    indexed,
    indexed_block,
    resized,
    struct,
    subarray,
    vector,
)
from .datatype import Datatype
from .mpi import from_mpi, to_mpi
from .strided import Dim, StridedBlock
from .strides import of_array, of_strides
from .typedbuffer import TypedBuffer

__all__ = [
    "Datatype",
    "Dim",
    "StridedBlock",
    "TypedBuffer",
    "as_datatype",
    "contiguous",
    "from_mpi",
    "hindexed",
    "hindexed_block",
    "hvector",
    "indexed",
    "indexed_block",
    "of_array",
    "of_strides",
    "resized",
    "struct",
    "subarray",
    "to_mpi",
    "vector",
]
