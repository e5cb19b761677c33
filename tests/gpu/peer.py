"""One process of the GPU tests: keeps the contract with all arrays on the GPU, and tells how that ended."""

from __future__ import annotations

import json
import sys
from typing import Any

import collcomm
from collcomm.bench.launch import die_with_parent
from collcomm.bench.mpilaunch import emit
from tests.support.contract import CONTRACT
from tests.support.cupyarrays import on_gpu


def main() -> None:
    die_with_parent()
    case: dict[str, Any] = json.loads(sys.argv[1])
    try:
        with collcomm.join(case["address"], min_size=case["n"], timeout=60, transports=case["transports"]) as comm:
            for name, check in CONTRACT.items():
                check(on_gpu(comm))  # type: ignore[arg-type]
                emit(event="done", case=name, rank=comm.rank)
    except BaseException as error:
        emit(event="error", text=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
