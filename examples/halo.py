"""A wave in a box that processes share: each step they exchange halos with 26 neighbours, in one all_to_all of datatypes.

    python examples/halo.py

starts a coordinator and eight peers on this machine, each with one block of the box, follows the wave for some steps, and ends
with the check that the answer is that of a single process, bit for bit, and with a picture of it (halo-out/halo.png).

    python examples/halo.py --kill-step 30      # a peer dies there: what the others are told

Exit code: 0 if the run finished with the right answer, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any
from wave import alone, beginning, following

import numpy as np
from children import Children, EventStream
from entry import fill_in, positive, run
from processgrid import Halo, ProcessGrid, collect

import collcomm

SILENCE_SECONDS = 120.0  # without a word from any peer, the run is given up
FULL = {"size": 96, "radius": 3, "steps": 120}
QUICK = {"size": 24, "radius": 2, "steps": 20}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=positive, default=8, help="processes (default: %(default)s)")
    parser.add_argument("--size", type=positive, help=f"cells along each edge of the box (default: {FULL['size']})")
    parser.add_argument("--radius", type=int, choices=(1, 2, 3), help=f"depth of the halos ({FULL['radius']})")
    parser.add_argument("--steps", type=positive, help=f"(default: {FULL['steps']})")
    parser.add_argument("--kill-step", type=int, default=0, help="the last peer dies in this step (default: none)")
    parser.add_argument("--out", type=Path, default=Path("halo-out"), help="directory for the picture and logs")
    parser.add_argument("--quick", action="store_true", help="a small box and few steps: seconds, for tests")
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    fill_in(chosen, QUICK if chosen.quick else FULL)
    parts = max(ProcessGrid(chosen.size, chosen.peers).shape)
    if chosen.size // parts < chosen.radius:
        parser.error(
            f"--size {chosen.size}: blocks of {parts} processes in a row are thinner than a halo; take more cells"
        )
    if chosen.kill_step and chosen.peers < 2:
        parser.error("--kill-step: nobody would be left of one peer")
    return chosen


# -- one peer --------------------------------------------------------------------------------------------------------


def be_peer(chosen: argparse.Namespace) -> int:
    emit = EventStream()
    step = 0
    # A box cannot do without one of its blocks: a call that a death hits is not to go on among the survivors.
    comm = collcomm.join(chosen.join, name=chosen.name, min_size=chosen.peers, on_failure="raise")
    try:
        with comm:
            grid = ProcessGrid(chosen.size, comm.size)
            block = grid.block(comm.rank)
            before = beginning(chosen.size, block)
            field = np.pad(before, chosen.radius)
            halo = Halo(grid, comm.rank, field, chosen.radius)
            now = field[halo.inside]
            exchanging, computing = [], []
            for step in range(1, chosen.steps + 1):
                if step == chosen.kill_step:
                    os.kill(os.getpid(), signal.SIGKILL)
                began = time.perf_counter()
                halo.exchange(comm)
                exchanged = time.perf_counter()
                after = following(field, before, chosen.radius)
                before = now.copy()
                now[:] = after
                exchanging.append(exchanged - began)
                computing.append(time.perf_counter() - exchanged)
                if comm.rank == 0:
                    emit("step", step=step)
            whole = collect(comm, grid, now, chosen.size)
            if whole is not None:
                np.save(chosen.out / "field.npy", whole)
            partners = [rank for rank in range(comm.size) if rank != comm.rank and halo.sends[rank] is not None]
            emit(
                "finished",
                rank=comm.rank,
                place=grid.place(comm.rank),
                cells=now.shape,
                partners=len(partners),
                exchange=median(exchanging),
                compute=median(computing),
                bytes=sum(halo.sends[rank].nbytes for rank in partners),
            )
    except collcomm.PeerLost as lost:
        emit("lost", step=step, text=str(lost))
        return 1
    return 0


# -- the whole job -----------------------------------------------------------------------------------------------------


def run_job(chosen: argparse.Namespace) -> int:
    chosen.out.mkdir(parents=True, exist_ok=True)
    grid = ProcessGrid(chosen.size, chosen.peers)
    shape = " x ".join(map(str, grid.shape))
    print(
        f"{chosen.peers} peers in a grid of {shape} share a box of {chosen.size}^3 cells; halos are {chosen.radius} deep."
    )
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Children(chosen.out / "logs") as children:
        for number in range(1, chosen.peers + 1):
            start_peer(chosen, coordinator.address, children, number)
        finished, failed = follow(chosen, children)
        for name in failed:
            print(f"{name} ended early. {children.last_words(name)}".rstrip())
    if len(finished) < chosen.peers:
        print("The box has lost a block: there is no answer. Start again, or from a checkpoint.")
        return 1
    return report(chosen, grid, finished)


def start_peer(chosen: argparse.Namespace, address: str, children: Children, number: int) -> None:
    name = f"peer-{number}"
    options = {"join": address, "name": name, "peers": chosen.peers, "out": chosen.out}
    options |= {"size": chosen.size, "radius": chosen.radius, "steps": chosen.steps}
    if number == chosen.peers:
        options["kill-step"] = chosen.kill_step
    command = [sys.executable, str(Path(__file__).resolve())]
    children.start(name, command + [f"--{option}={value}" for option, value in options.items()])


def follow(chosen: argparse.Namespace, children: Children) -> tuple[list[dict[str, Any]], list[str]]:
    """Until all peers have ended: what those told that got to the end, and the names of the others."""
    finished, failed = [], []
    for event in children.until_ended(SILENCE_SECONDS):
        if event is None:
            continue
        if event["event"] == "step" and event["step"] % max(1, chosen.steps // 5) == 0:
            print(f"step {event['step']} of {chosen.steps}", flush=True)
        elif event["event"] == "lost":
            print(f"{event['peer']} stopped in step {event['step']}: {event['text']}", flush=True)
        elif event["event"] == "finished":
            finished.append(event)
        elif event["event"] == "exit" and event["code"]:
            failed.append(event["peer"])
    return finished, failed


def report(chosen: argparse.Namespace, grid: ProcessGrid, finished: list[dict[str, Any]]) -> int:
    """What it took, whether it is right, and how it looks."""
    from fieldpicture import save_picture  # matplotlib is slow to import: only where it is needed

    exchange, compute = (median(event[what] for event in finished) for what in ("exchange", "compute"))
    one = finished[0]
    print(
        f"A step: {compute * 1e3:.1f} ms of computing, {exchange * 1e3:.1f} ms of exchange, waiting for slower peers included."
        f" An exchange: 26 boxes, {one['bytes'] / 1e3:.0f} kB from each peer to {one['partners']} others, in one all_to_all."
    )
    field = np.load(chosen.out / "field.npy")
    expected = alone(chosen.size, chosen.radius, chosen.steps)
    identical = field.tobytes() == expected.tobytes()
    if identical:
        print("The answer is bit-identical to that of a single process.")
    else:
        worst = np.abs(field.astype(np.float64) - expected).max()
        print(f"The answer is NOT that of a single process: it is off by up to {worst:.3g}.")
    picture = chosen.out / "halo.png"
    save_picture(picture, field, expected, grid, f"the wave after {chosen.steps} steps, z = {chosen.size // 2}")
    print(f"Picture: {picture}")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(run(arguments, be_peer, run_job))
