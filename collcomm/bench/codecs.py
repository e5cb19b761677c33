"""Codecs: what a core encodes and decodes, and all_reduce with one against plain float32, on this machine and over slow links."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import xxhash

import collcomm

from ..codecs import Codec, codec_of, names
from ..coded import wire_bytes
from ..laboratory import Network
from .launch import CoordinatorProcess, Peers
from .measure import alternate, format_seconds, format_size, parse_size, summary, timed
from .report import print_table

Row = dict[str, Any]
SPEED_SIZES = (256 << 10, 64 << 20)  # bytes of float32: what lies in cache, and what does not
CODED_SIZES = (64 << 20,)
RATE = 62.5e6  # bytes per second each way: 500 Mbit/s
PORT = 48148
JOIN_SECONDS = 60.0
RUN_SECONDS = 900.0
LEAST_NUMBERS = 1 << 16


# -- one core ---------------------------------------------------------------------------------------------------------------


def run_codecs(options: argparse.Namespace) -> list[Row]:
    """The rows of `collcomm bench codecs`, which are printed."""
    sizes = [parse_size(text) for text in options.sizes or ()] or SPEED_SIZES
    rows = [row for nbytes in sizes for row in bench_codecs(nbytes, options.rounds)]
    print_table("collcomm bench codecs", [_speed_cells(row) for row in rows])
    return rows


def bench_codecs(nbytes: int, rounds: int = 5) -> list[Row]:
    """Seconds of encoding and decoding ``nbytes`` of float32, by codec, in alternating turns of one thread; "add" decodes and
    adds."""
    numbers = np.random.default_rng(1).standard_normal(max(1, nbytes // 4)).astype(np.float32)
    out = np.empty_like(numbers)
    blocks: dict[str, Callable[[], list[float]]] = {}
    codecs = [codec_of(name) for name in names()]
    for codec in codecs:
        payload = codec.encode(numbers)
        count = max(1, LEAST_NUMBERS * 16 // numbers.size)
        blocks |= {
            f"{codec.name} encode": partial(_block, partial(codec.encode, numbers, payload), count),
            f"{codec.name} decode": partial(_block, partial(codec.decode, payload, out), count),
            f"{codec.name} add": partial(_block, partial(codec.add, payload, out), count),
        }
    times = alternate(blocks, rounds, lambda: None)
    return [_speed_row(codec, numbers.size, times) for codec in codecs]


def _block(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds of the core, also on a machine where others are at work."""
    call()
    began = time.thread_time()
    for _ in range(count):
        call()
    return [(time.thread_time() - began) / count]


def _speed_row(codec: Codec, count: int, times: dict[str, list[float]]) -> Row:
    found = {what: summary(times[f"{codec.name} {what}"]) for what in ("encode", "decode", "add")}
    rates = {f"{what} rate": 4 * count / figures["median"] for what, figures in found.items()}
    both = 4 * count / (found["encode"]["median"] + found["decode"]["median"])
    bits = 8 * codec.encoded_bytes(count) / count
    return {"codec": codec.spec, "nbytes": 4 * count, "bits": bits, **found, **rates, "both rate": both}


def _speed_cells(row: Row) -> dict[str, str]:
    cells = {"codec": row["codec"], "size": format_size(row["nbytes"]), "bits": f"{row['bits']:.2f}"}
    for what in ("encode", "decode", "add", "both"):
        cells[what if what != "both" else "encode + decode"] = f"{row[f'{what} rate'] / 1e9:.2f} GB/s"
    return cells


# -- all_reduce -------------------------------------------------------------------------------------------------------------


def run_coded(options: argparse.Namespace) -> list[Row]:
    """The rows of `collcomm bench coded`, which are printed."""
    sizes = [parse_size(text) for text in options.sizes or ()] or CODED_SIZES
    chosen = options.codec.split(",")
    for name in chosen:
        codec_of(name)  # raises ValueError here, not in the peers
    where: list[float | str] = [RATE, "tcp", "shm"] if os.geteuid() == 0 else ["tcp", "shm"]
    if os.geteuid():
        print("links of 500 Mbit/s are left out: only root can make them")
    rows = []
    for n in options.peers or [4]:
        for link in where if options.transport is None else [options.transport]:
            rows += bench_coded(n, sizes, chosen, link, options.rounds, options.out_of_place)
    print_table("collcomm bench coded", [_coded_cells(row) for row in rows])
    return rows


def bench_coded(
    n: int, sizes: Sequence[int], codecs: Sequence[str], link: float | str, rounds: int = 5, out_of_place: bool = True
) -> list[Row]:
    """all_reduce of float32 among ``n`` processes, plain and with each of ``codecs``, in alternating turns. ``link``: bytes per
    second each way between network namespaces (root), or "tcp" or "shm" on this machine."""
    case: Row = {"case": "coded_peer", "n": n, "sizes": list(sizes), "codecs": list(codecs), "rounds": rounds}
    case |= {"out_of_place": out_of_place, "transports": [link] if isinstance(link, str) else None}
    with ExitStack() as stack:
        if isinstance(link, str):
            case["address"] = stack.enter_context(collcomm.Coordinator("127.0.0.1:0")).address
            peers = stack.enter_context(Peers())
        else:
            network = stack.enter_context(Network(n, link))
            at = f"{network.hub_address}:{PORT}"
            case["address"] = stack.enter_context(CoordinatorProcess(at, network.enter(None))).address
            peers = stack.enter_context(Peers(network.enter))
        for index in range(n):
            peers.start(index, case)
        found = peers.times(len(sizes), RUN_SECONDS)
    return [_coded_row(event, n, name, link) for event in found for name in codecs]


def _coded_row(event: Row, n: int, name: str, link: float | str) -> Row:
    plain, coded = (summary(event["times"][who]) for who in ("float32", name))
    codec, count = codec_of(name), event["nbytes"] // 4
    return {
        "codec": codec.spec,
        "peers": n,
        "link": link,
        "nbytes": event["nbytes"],
        "float32": plain,
        "coded": coded,
        "speed-up": plain["median"] / coded["median"],
        "sent": event["sent"][name],
        "sent plain": event["sent"]["float32"],
        "payload": wire_bytes(codec, count, n, event["pieces"]),
    }


def _coded_cells(row: Row) -> dict[str, str]:
    link = row["link"] if isinstance(row["link"], str) else f"{row['link'] * 8e-6:g} Mbit/s"
    return {
        "codec": row["codec"],
        "peers": str(row["peers"]),
        "link": link,
        "size": format_size(row["nbytes"]),
        "float32": format_seconds(row["float32"]["median"]),
        "coded": format_seconds(row["coded"]["median"]),
        "speed-up": f"{row['speed-up']:.2f}x",
        "bytes": f"{row['sent plain'] / row['sent']:.2f}x fewer" if row["sent"] else "in memory",
    }


def coded_peer(case: Row, emit: Callable[..., None]) -> None:
    """One process of the bench. Raises AssertionError where results differ among peers, or are too far from the sum."""
    comm = collcomm.join(
        case["address"], min_size=case["n"], timeout=JOIN_SECONDS, transports=case["transports"], probe=False
    )
    for nbytes in case["sizes"]:
        x = np.random.default_rng(comm.rank).standard_normal(max(1, nbytes // 4)).astype(np.float32)
        exact = comm.all_reduce(x)
        for name in case["codecs"]:
            _verify(comm, comm.all_reduce(x, codec=name), exact, codec_of(name))
        del exact
        out = np.empty_like(x) if case["out_of_place"] else x
        calls = {"float32": partial(comm.all_reduce, x, op="avg", out=out)}  # in place, sums would grow
        calls |= {name: partial(comm.all_reduce, x, op="avg", out=out, codec=name) for name in case["codecs"]}
        sent = {who: _sent(comm, call) for who, call in calls.items()}
        blocks: dict[str, Callable[[], Sequence[float]]] = {
            who: partial(_timed_once, comm, call) for who, call in calls.items()
        }
        times = alternate(blocks, case["rounds"], comm.barrier)
        if comm.rank == 0:
            emit(event="times", nbytes=x.nbytes, times=times, sent=sent, pieces=comm._coded.pieces(x.nbytes))
    comm.leave()


def _timed_once(comm: collcomm.Communicator, call: Callable[[], Any]) -> list[float]:
    """Two calls, of which the second counts, from when all begin."""
    times = timed(call, 1)
    comm.barrier()
    return times


def _sent(comm: collcomm.Communicator, call: Callable[[], Any]) -> float:
    comm.barrier()
    before = comm.stats()["bytes_sent"]
    call()
    return comm.stats()["bytes_sent"] - before


def _verify(comm: collcomm.Communicator, found: Any, exact: Any, codec: Codec) -> None:
    digest = np.array([xxhash.xxh3_64_intdigest(found.view(np.uint8).data)], np.uint64)
    assert len(set(comm.all_gather(digest).tolist())) == 1, f"{codec}: peers hold different bits"
    greatest = float(np.abs(exact).max())
    ends = np.resize(np.array([greatest, -greatest], np.float32), min(exact.size, 4096))
    limit = (comm.size + 1) * float(codec.error_bound(ends).max())
    assert np.abs(found - exact).max() <= limit, f"{codec}: the result is too far from the sum"
