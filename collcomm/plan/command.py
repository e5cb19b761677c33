"""The command line of `collcomm plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bench.measure import bus_factor, format_seconds, format_size, parse_size
from ..bench.report import print_table
from ..collectives import KINDS, generate
from ..errors import CollcommError
from ..planner.prediction import Prediction
from ..planner.quantities import format_rate
from ..planner.simulate import MOST_NODES, predict, simulate
from ..planner.topology import Topology
from ..planner.topologyfile import load_topology
from .candidates import Candidate, candidates, order_on

SHOWN = 8  # links
MOST_NAMED = 12  # ranks of a ring
PICTURES = (".png", ".svg", ".pdf")
MOST_BYTES = 1 << 50
Row = tuple[Candidate, Prediction]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology",
        type=Path,
        required=True,
        metavar="FILE",
        help="hosts, switches and links; see examples/topologies",
    )
    parser.add_argument("--kind", default="all_reduce", choices=KINDS, help="default: %(default)s")
    parser.add_argument(
        "--bytes", default="64M", metavar="SIZE", help="of the vector, or of all blocks together; default: %(default)s"
    )
    parser.add_argument(
        "--algorithm", action="append", default=[], metavar="NAME", help="only this one; may be given several times"
    )
    parser.add_argument("--root", type=int, default=0, metavar="RANK", help="of broadcast, reduce, gather, scatter")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the delays up to the jitter that the file gives; default: %(default)s"
    )
    parser.add_argument(
        "--draw", type=Path, metavar="FILE", help="a picture of the network under load: .png, .svg or .pdf"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    nbytes = parse_size(options.bytes)
    if nbytes > MOST_BYTES:
        raise ValueError(f"--bytes is at most {format_size(MOST_BYTES)}")
    if options.draw and options.draw.suffix.lower() not in PICTURES:
        raise ValueError(f"--draw {options.draw}: the name ends in one of {', '.join(PICTURES)}")
    topology = load_topology(options.topology)
    if not 0 <= options.root < topology.n:
        raise ValueError(f"--root is a rank from 0 to {topology.n - 1}, not {options.root}")
    order = order_on(topology)
    rows, left_out = _predictions(options, topology, nbytes, order)
    for candidate, why in left_out:
        print(f"left out: {candidate.algorithm}: {why}")
    if not rows:
        return 1
    candidate, best = min(rows, key=lambda row: (row[1].seconds, row[0].algorithm))
    about = {f"{topology.name}:": f"{len(topology.all_hosts):,} hosts", "ranks": f"{topology.n:,}"}
    title = f"{options.kind} of {format_size(nbytes)}, predicted"
    print_table(title, [_cells(options.kind, nbytes, row, best, topology) for row in rows], about)
    if any(row.algorithm == "ring" for row, _ in rows):
        print(f"\nring: {_ring(topology, order)}")
    loads = [
        {
            "link": topology.names[load.resource],
            "rate": format_rate(topology.capacities[load.resource]),
            "carries": f"{load.nbytes / 1e6:.4g} MB",
            "busy": format_seconds(load.busy),
            "used": f"{load.share * 100:.1f}%",
        }
        for load in best.busiest(SHOWN)
    ]
    if loads:
        print_table(f"busiest links with {candidate.algorithm}", loads, {"of": format_seconds(best.seconds)})
    if topology.failures:
        _print_failures(options, topology, nbytes, candidate)
    if options.draw:
        _draw(options, topology, candidate, best, order, title)
    return 0


def _predictions(
    options: argparse.Namespace, topology: Topology, nbytes: int, order: tuple[int, ...]
) -> tuple[list[Row], list[tuple[Candidate, str]]]:
    """What can be simulated, and what cannot, with the reason."""
    rows, left_out = [], []
    for candidate in candidates(options.kind, topology, nbytes, order, options.algorithm):
        try:
            found = predict(
                options.kind,
                candidate.algorithm,
                topology.n,
                nbytes,
                topology,
                options.root,
                seed=options.seed,
                **candidate.parameters,
            )
        except ValueError as error:
            left_out.append((candidate, str(error)))
            continue
        rows.append((candidate, found))
    return rows, left_out


def _cells(kind: str, nbytes: int, row: Row, best: Prediction, topology: Topology) -> dict[str, str]:
    candidate, prediction = row
    busiest = prediction.busiest(1)
    link = topology.names[busiest[0].resource] if busiest else ""
    moved = nbytes * bus_factor(kind, topology.n)
    return {
        "": "best" if prediction is best else "",
        "algorithm": candidate.algorithm,
        "with": str(candidate),
        "time": format_seconds(prediction.seconds),
        "bus": f"{moved / prediction.seconds / 1e6:.4g} MB/s" if prediction.seconds else "",
        "to best": f"{prediction.seconds / best.seconds:.2f}x" if best.seconds else "",
        "messages": f"{prediction.messages:,}",
        "busiest link": link,
        "used": f"{busiest[0].share * 100:.1f}%" if busiest else "",
        "shares": "exact" if prediction.exact else "approximate",
    }


def _ring(topology: Topology, order: tuple[int, ...]) -> str:
    """The order of the ring by host, with the first and last of many."""
    names = [topology.all_hosts[topology.hosts[rank]].name for rank in order]
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED // 2], "...", *names[-MOST_NAMED // 2 :]]
    return " > ".join([*names, names[0]])


def _print_failures(options: argparse.Namespace, topology: Topology, nbytes: int, candidate: Candidate) -> None:
    n = topology.n
    what = "; ".join(f"{failure.what} at {format_seconds(failure.at)}" for failure in topology.failures)
    each = (options.kind, candidate.algorithm, n)
    steps = n * len(generate(*each, (options.root + 1) % n, options.root, **candidate.parameters).steps)
    if steps > MOST_NODES:
        print(f"\nif {what}: not simulated: {candidate.algorithm} has some {steps:,} steps (at most {MOST_NODES:,})")
        return
    schedules = [generate(*each, rank, options.root, **candidate.parameters) for rank in range(n)]
    found = simulate(schedules, nbytes, topology, failures=topology.failures, seed=options.seed)
    if not found.stuck:
        print(
            f"\nif {what}: {candidate.algorithm} is done in {format_seconds(found.seconds)}, as if nothing had failed"
        )
        return
    left = sum(1 for seconds in found.finish if seconds == float("inf"))
    print(f"\nif {what}: with {candidate.algorithm}, {left:,} of {n:,} ranks never finish")
    for stuck in found.stuck[:SHOWN]:
        print(f"  rank {stuck.rank} on {topology.all_hosts[topology.hosts[stuck.rank]].name}: {stuck.why}")


def _draw(
    options: argparse.Namespace,
    topology: Topology,
    candidate: Candidate,
    prediction: Prediction,
    order: tuple[int, ...],
    title: str,
) -> None:
    try:
        from .drawing import save_picture
    except ImportError as error:
        raise CollcommError(f"--draw needs {error.name}: pip install 'collcomm[plan]'") from None
    ring = order if candidate.algorithm == "ring" else ()
    words = f"{title}: {format_seconds(prediction.seconds)} with {candidate.algorithm}"
    save_picture(options.draw, topology, prediction, ring, words)
    print(f"\ndrawn: {options.draw}")
