"""The command line of `collcomm bench`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from .cases import bench_collective, bench_failure, bench_join, bench_shaped, bench_state
from .checks import run_checks
from .codecs import run_codecs, run_coded
from .crowd import bench_crowd
from .gpu import why_no_gpu
from .hosts import bench_hosts
from .measure import Timing, machine, parse_size
from .mpicases import bench_mpi, bench_mpi_failure
from .mpilaunch import why_not
from .overlap import run_overlap
from .plantables import PLAN_PARTS, run_plan
from .records import run_records
from .report import print_rows
from .sickcases import run_health
from .snapshots import run_snapshots
from .strided import STRIDED, run_strided
from .succession import bench_succession
from .torchcases import PARTS, run_torch
from .workload import DTYPES

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
TRANSPORTS = ("shm", "tcp", "mpi", "cuda_ipc")
RIVALS = ("gloo", "mpi", "tls", "host")
DEFAULT_PEERS = {
    "join": [3],
    "failure": [4],
    "shaped": [4],
    "state": [4],
    "crowd": [2],
    "coordinator": [3],
    "hosts": [4],
}
PLAIN = {
    "checks": run_checks,
    "records": run_records,
    "codecs": run_codecs,
    "coded": run_coded,
    "overlap": run_overlap,
    "snapshots": run_snapshots,
}
DEFAULT_SIZES = ["4", "1K", "64K", "1M", "16M", "64M"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "case",
        nargs="?",
        default="all_reduce",
        choices=[
            *COLLECTIVES,
            "failure",
            "join",
            "shaped",
            "state",
            "crowd",
            "coordinator",
            "hosts",
            "torch",
            "plan",
            "health",
            "checks",
            "records",
            "codecs",
            "coded",
            "overlap",
            "snapshots",
            *STRIDED,
        ],
        help="a collective; a death in one, or of the coordinator; a newcomer; silent strangers; links of 1 Gbit/s, with "
        "several peers per host or one (root); packing, against Open MPI's and numpy's, and on a GPU; strided messages; "
        "halos; our torch.distributed backend against Gloo; measured plans against fixed ones, and what is said of "
        "faults that are planted, on networks of namespaces (root); what checks for silent corruption cost; what records cost; "
        "what codecs encode and decode, and all_reduce with one (coded), also over links of 500 Mbit/s (root); "
        "what of communication hides behind computation, and what a snapshot at each step costs (root)",
    )
    parser.add_argument(
        "part",
        nargs="?",
        choices=[*PARTS, *PLAN_PARTS],
        help="of torch: a collective; DistributedDataParallel; the cost of a call (default: all_reduce, ddp and dispatch). "
        "With ddp, --sizes are the bytes of the model. Of plan: which network, or all (root)",
    )
    parser.add_argument("--peers", nargs="+", type=int, metavar="N", help="group sizes (default: 2 4; 3 for join)")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help=f"bytes, like {' '.join(DEFAULT_SIZES)}")
    parser.add_argument(
        "--against",
        type=_rivals,
        default=(),
        metavar="NAMES",
        help="time the same work alternately with: gloo (torch's), mpi (Open MPI), both in host memory; tls (ours, encrypted); "
        "host (ours, with arrays on a GPU that go through host memory); two or more with commas between",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="blocks per size; failure and join run 4 times as often (default 5)"
    )
    parser.add_argument("--out-of-place", action="store_true", help="all_reduce into a second array")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the elements (default %(default)s)")
    parser.add_argument(
        "--block", type=float, default=0.4, metavar="SECONDS", help="length of a block (default %(default)s)"
    )
    parser.add_argument(
        "--transport", choices=TRANSPORTS, help="what carries ours (default: shm, or tcp for --against tls)"
    )
    parser.add_argument("--ulfm", action="store_true", help="with --transport mpi: ranks that survive deaths")
    parser.add_argument("--etcd", metavar="URL", help="coordinator: standbys in this etcd, not one that is restarted")
    parser.add_argument(
        "--codec", default="int8", metavar="NAMES", help="coded: with commas between (default %(default)s)"
    )
    parser.add_argument("--backend", default="collcomm", help="torch: what is compared with gloo (default %(default)s)")
    parser.add_argument("--async-op", action="store_true", help="torch: collectives with async_op=True, and wait()")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, times in seconds")
    parser.set_defaults(run=run)


def _rivals(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(RIVALS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(RIVALS)}")
    return names


def run(options: argparse.Namespace) -> int:
    if options.case == "torch":
        found = run_torch(options)
        return 2 if found is None else _written(options, found)
    if options.case == "plan":
        return _written(options, run_plan(options))
    if options.case == "health":
        return _written(options, run_health(options.rounds))
    if options.case in PLAIN:
        return _written(options, PLAIN[options.case](options))
    if options.part:
        raise ValueError(f"{options.part} after {options.case}: only torch and plan have parts")
    if options.case in STRIDED:
        found = run_strided(options)
        return 2 if found is None else _written(options, found)
    if "gloo" in options.against:
        try:
            import torch  # noqa: F401
        except ImportError:
            print("--against gloo needs torch: pip install 'collcomm[bench]'")
            return 2
    if "mpi" in (*options.against, options.transport) and (why := why_not()):
        print(why)
        return 2
    on_gpu = options.transport == "cuda_ipc"
    if on_gpu and (why := why_no_gpu()):
        print(f"--transport cuda_ipc: {why}")
        return 2
    if "host" in options.against and not on_gpu:
        print("--against host goes with --transport cuda_ipc: elsewhere, arrays lie in host memory already")
        return 2
    if {"tls", "host"} <= set(options.against):
        print("--against takes one of tls and host")
        return 2
    plain = options.case == "all_reduce" and options.dtype == "float32"
    if "mpi" in options.against and options.transport != "mpi" and not plain:
        print("--against mpi compares all_reduce of float32 only, unless --transport is mpi, too")
        return 2
    rows: list[dict[str, Any]] = []
    for n in options.peers or DEFAULT_PEERS.get(options.case, [2, 4]):
        rows += _rows(options, n)
    print_rows(f"collcomm bench {options.case}", rows)
    return _written(options, rows)


def _written(options: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0


def _rows(options: argparse.Namespace, n: int) -> list[dict[str, Any]]:
    def sizes(*default: str) -> list[int]:
        return [parse_size(text) for text in options.sizes or default]

    if options.transport == "mpi":
        return _mpi_rows(options, n, sizes)
    if options.case == "failure":
        return bench_failure(n, sizes("1M", "16M"), runs=options.rounds * 4)
    if options.case == "join":
        return bench_join(n, runs=options.rounds * 4)
    if options.case == "hosts":
        orders = (False, True)
        return [bench_hosts(n, nbytes, options.rounds, order) for nbytes in sizes("64M") for order in orders]
    if options.case == "crowd":
        return [bench_crowd(n, nbytes, options.rounds) for nbytes in sizes("1M")]
    if options.case == "coordinator":
        return [bench_succession(n, options.rounds, options.etcd)]
    if options.case == "shaped":
        return [row for nbytes in sizes("64M") for row in bench_shaped(n, nbytes)]
    if options.case == "state":
        return [
            row
            for size in sizes(_state_size(n))
            for together in (False, True)
            for row in bench_state(n, size, together=together)
        ]
    transport = options.transport or ("tcp" if "tls" in options.against else "shm")
    return bench_collective(options.case, n, sizes(*DEFAULT_SIZES), _timing(options), transport=transport)


def _timing(options: argparse.Namespace) -> Timing:
    return Timing(**{field.name: getattr(options, field.name) for field in fields(Timing)})


def _mpi_rows(options: argparse.Namespace, n: int, sizes: Callable[..., list[int]]) -> list[dict[str, Any]]:
    if options.case == "failure":
        return bench_mpi_failure(n, sizes("1M", "16M"), runs=options.rounds * 4)
    if options.case not in COLLECTIVES or set(options.against) - {"mpi"}:
        raise SystemExit("--transport mpi goes with a collective or failure, and with --against mpi")
    return bench_mpi(options.case, n, sizes(*DEFAULT_SIZES), _timing(options), ulfm=options.ulfm)


def _state_size(n: int) -> str:
    """The default for ``n`` peers on this machine, each with the whole state in memory."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for text in ("1G", "256M"):
        if n * parse_size(text) * 1.25 < free:
            return text
        print(f"{n} peers with {text} each do not fit into {free >> 20} MiB of free memory; taking less")
    return "64M"
