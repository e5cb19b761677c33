"""`collcomm simulate`: many histories, or one again."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..errors import CollcommError

BATCH = 20
SHOW_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="histories to run; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first; default: 0")
    parser.add_argument("--seed", type=int, metavar="SEED", help="replay this one history and print what happens")
    parser.add_argument(
        "--peers", type=int, default=4, metavar="K", help="peers at the beginning; default: %(default)s"
    )
    parser.add_argument("--faults", type=int, default=8, metavar="N", help="faults per history, at most; default: 8")
    parser.add_argument("--store", choices=("memory", "journal", "lease"), default="", help="default: chance decides")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes; default: all cores"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        from .history import Options, Violation, live
    except ImportError as error:
        if error.name != "greenlet":
            raise
        raise CollcommError("`collcomm simulate` needs greenlet: pip install 'collcomm[simulate]'") from None
    if not 1 <= options.peers <= 64 or options.seeds < 1 or options.faults < 1 or options.jobs < 1:
        raise ValueError("--peers is from 1 to 64; --seeds, --faults and --jobs are at least 1")
    common = {"peers": options.peers, "store": options.store, "faults": options.faults}
    if options.seed is None:
        return _run_many(options, common)
    try:
        outline = live(Options(options.seed, **common))
    except Violation as violation:
        print(violation)
        return 1
    print("\n".join(outline.log))
    beyond = ", and an era ended, which is outside of what is promised" * bool(outline.eras_ended)
    print(f"seed {options.seed}: {outline.views} views, {outline.operations} operations, no promise broken{beyond}")
    return 0


def _run_many(options: argparse.Namespace, common: dict[str, Any]) -> int:
    began, done, views, operations = time.monotonic(), 0, 0, 0
    shown = began
    for finished, more_views, more_operations, violation in run_batches(
        options.first, options.seeds, common, options.jobs
    ):
        if violation:
            print(f"\n{violation}", flush=True)
            return 1
        done, views, operations = done + finished, views + more_views, operations + more_operations
        now = time.monotonic()
        if now - shown > SHOW_SECONDS and sys.stderr.isatty():
            shown = now
            print(
                f"\r{done:,} of {options.seeds:,} histories, {done / (now - began):.0f} a second",
                end="",
                file=sys.stderr,
            )
    seconds = time.monotonic() - began
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(
        f"{done:,} histories of up to {options.peers} peers in {seconds:.0f} s: {views:,} views, "
        f"{operations:,} operations, no promise broken"
    )
    return 0


def run_batches(first: int, seeds: int, common: dict[str, Any], jobs: int) -> Iterator[tuple[int, int, int, str]]:
    """(histories, views, operations, text of a violation) batch by batch, from ``jobs`` processes."""
    batches = [(start, min(start + BATCH, first + seeds), common) for start in range(first, first + seeds, BATCH)]
    if jobs == 1:
        yield from map(_batch, batches)
        return
    context = multiprocessing.get_context("spawn")  # no threads of ours are copied
    with context.Pool(min(jobs, len(batches))) as pool:
        yield from pool.imap_unordered(_batch, batches)


def _batch(work: tuple[int, int, dict[str, Any]]) -> tuple[int, int, int, str]:
    from .history import Options, Violation, live

    first, end, common = work
    views = operations = 0
    for seed in range(first, end):
        try:
            outline = live(Options(seed, **common))
        except Violation as violation:
            return seed - first, views, operations, str(violation)
        views, operations = views + outline.views, operations + outline.operations
    return end - first, views, operations, ""
