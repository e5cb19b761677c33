"""`collcomm bench torch`: our torch.distributed backend against Gloo; collectives, a training step, and the cost of a call."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from .cases import row_of_times
from .launch import Peers, free_port
from .measure import format_seconds, format_size, parse_size, summaries
from .report import print_table

Row = dict[str, Any]
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
PARTS = (*COLLECTIVES, "ddp", "dispatch")
DEFAULT_PARTS = ("all_reduce", "ddp", "dispatch")
SIZES = ("4", "1K", "64K", "1M", "16M", "64M")
PARAMETERS = 10_000_000
DDP_BLOCK = 3  # times as long as a block of collectives, for some steps to fit in
DDP_ASKED = 1.5
END_SECONDS = 60.0


def run_torch(options: argparse.Namespace) -> list[Row] | None:
    """The rows of the parts that are asked for, which are printed; None where torch is missing, as is printed, too."""
    try:
        import torch  # noqa: F401
    except ImportError:
        print("collcomm bench torch needs torch: pip install 'collcomm[bench]'")
        return None
    bench = TorchBench(options.backend, options.rounds, options.block)
    sizes = [parse_size(text) for text in options.sizes or SIZES]
    peers = options.peers or (2, 4)
    title = "collcomm bench torch {}" + (f" of {options.backend}" if options.backend != "collcomm" else "")
    rows: list[Row] = []
    for part in [options.part] if options.part else DEFAULT_PARTS:
        if part == "dispatch":
            found = bench.dispatch()
        elif part == "ddp":
            count = parse_size(options.sizes[0]) // 4 if options.sizes and options.part else PARAMETERS
            found = [bench.ddp(n, count) for n in peers]
        else:
            found = [row for n in peers for row in bench.collective(part, n, sizes, options.dtype, options.async_op)]
        print_table(title.format(part), [cells(row) for row in found])
        if said := verdict(found):
            print(said)
        rows += found
    return rows


class TorchBench:
    """Times ``backend``, "ours", against Gloo, in ``rounds`` blocks of ``block`` seconds each."""

    def __init__(self, backend: str = "collcomm", rounds: int = 5, block: float = 0.4, timeout: float = 1200.0):
        self._case: Row = {"case": "torch_rank", "backend": backend, "rounds": rounds, "block": block}
        self._timeout = timeout

    def collective(self, kind: str, n: int, sizes: Sequence[int], dtype: str, async_op: bool = False) -> list[Row]:
        """A row for each of ``sizes``: bytes of the whole array."""
        case = {"what": "collective", "kind": kind, "sizes": list(sizes), "dtype": dtype, "async_op": async_op}
        rows = []
        for event in self._run(n, case):
            row = row_of_times(kind, n, event["nbytes"], event["times"])
            facts = {"dtype": dtype, "async_op": async_op, "asked": asked(kind, dtype, event["nbytes"])}
            rows.append({**row, **facts, "ratio": row["gloo"]["ratio"]})
        return rows

    def ddp(self, n: int, parameters: int = PARAMETERS) -> Row:
        """Steps of a model with so many ``parameters``, with the batch at which Gloo's takes twice what it takes alone."""
        case = {"what": "ddp", "parameters": parameters, "block": self._case["block"] * DDP_BLOCK}
        event = next(iter(self._run(n, case)))
        row = {"kind": "ddp", "peers": n, "batch": event["batch"], "parameters": event["parameters"]}
        row |= summaries(event["times"])
        ratio = row["gloo"]["median"] / row["ours"]["median"]
        return {**row, "ratio": ratio, "asked": DDP_ASKED if parameters == PARAMETERS else None}

    def dispatch(self) -> list[Row]:
        """What a call of one float costs in a group of one."""
        rows = []
        for event in self._run(1, {"what": "dispatch"}):
            row = {"kind": "dispatch", "peers": 1, "how": event["how"]}
            row |= summaries(event["times"])
            rows.append({**row, "ratio": row["gloo"]["median"] / row["ours"]["median"], "asked": None})
        return rows

    def _run(self, n: int, case: Row) -> list[Row]:
        """The figures of ``n`` ranks, when all have ended well."""
        found: list[Row] = []
        running = n
        with Peers() as peers:
            port = free_port()
            for rank in range(n):
                peers.start(rank, {**self._case, **case, "n": n, "rank": rank, "port": port})
            for event in peers.events(self._timeout):
                if event["event"] == "times":
                    found.append(event)
                running -= event["event"] == "exit"
                if not running:
                    break
            peers.wait(END_SECONDS)
        return found


def asked(kind: str, dtype: str, nbytes: int) -> float | None:
    """How many times Gloo's speed is wanted."""
    if kind != "all_reduce":
        return None
    if dtype == "bfloat16":
        return 2.0
    if dtype != "float32":
        return None
    return 3.0 if nbytes <= 1 << 20 else 1.5 if nbytes >= 1 << 24 else None


def cells(row: Row) -> dict[str, str]:
    """One line of the table. Ratios are times over ours; that of gloo / alone is what the batch was chosen for."""
    line = {"peers": str(row["peers"])}
    if "dtype" in row:
        line["size"] = format_size(row["nbytes"])
        line["dtype"] = row["dtype"] + (" async" if row["async_op"] else "")
    elif "batch" in row:
        line |= {"parameters": f"{row['parameters'] / 1e6:.3g} M", "batch": str(row["batch"])}
    else:
        line["call"] = row["how"]
    precise = row["kind"] == "dispatch"
    for who in ("alone", "ours", "gloo", "nothing"):
        if who in row:
            took = row[who]["median"]
            line[who] = f"{took * 1e6:.1f} us" if precise else format_seconds(took)
            if who in ("ours", "gloo"):
                line[f"{who} p99"] = format_seconds(row[who]["p99"])
            if "bus_bandwidth" in row[who]:
                line[f"{who} bus"] = f"{row[who]['bus_bandwidth'] / 1e9:.2f} GB/s"
    if "alone" in row:
        line["gloo / alone"] = f"{row['gloo']['median'] / row['alone']['median']:.2f}x"
        line["ours / alone"] = f"{row['ours']['median'] / row['alone']['median']:.2f}x"
    line["gloo / ours"] = f"{row['ratio']:.3g}x"
    if row["kind"] != "dispatch":
        line["asked"] = f"{row['asked']:g}x" if row["asked"] else ""
    return line


def verdict(rows: Sequence[Row]) -> str:
    """How many of those for which a ratio is asked have it, and how near the others come; empty if none is asked."""
    shares = [row["ratio"] / row["asked"] for row in rows if row["asked"]]
    if not shares:
        return ""
    missed = [share for share in shares if share < 1]
    told = f"{len(shares) - len(missed)} of {len(shares)} have the ratio that is asked for"
    return told + (f"; of the others the median has {statistics.median(missed):.2f} of it" if missed else "")
