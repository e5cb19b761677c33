"""One peer of a small training run, the same under every launcher: it may be killed, told to go, or started in the middle.

    COLLCOMM_COORDINATOR=host:48148 python examples/launch/train.py

Where the coordinator is, and how many begin, comes from the environment (`placement`); the launch files beside this one see to
that. Peers train for some steps each, average how far they have moved, and take an outer step (DiLoCo). A newcomer gets the
state of the others. On SIGTERM or SIGUSR1 a peer leaves at its next safe point, and the others go on without having anything
run again.

Standard output gets one line of JSON per peer; standard error tells how it goes. Exit status: 0 if all peers ended with the same
bits, or this one has left as told (--left-status makes that another number); 1 if not; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import net
import numpy as np
from placement import find_placement

import collcomm
from collcomm.diloco import NesterovSGD

JOIN_SECONDS = 120.0  # nodes of a cluster don't start at the same moment
GRACE_SECONDS = 25.0  # launchers give 30 by default


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="outer rounds (default: %(default)s)")
    parser.add_argument("--inner-steps", type=int, default=20, help="steps a round (default: %(default)s)")
    parser.add_argument(
        "--least-seconds", type=float, default=0.0, help="a round takes so long at least: this model is small"
    )
    parser.add_argument(
        "--grace", type=float, default=GRACE_SECONDS, help="seconds from the signal to the end, at most"
    )
    parser.add_argument(
        "--left-status", type=int, default=0, help="exit status of a peer that has left as told (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="file that all peers can read: written by who leaves, read by who begins"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


class Run:
    """What all peers have in common, bit by bit: weights, outer momentum, finished rounds."""

    def __init__(self, seed: int, checkpoint: Path | None):
        self.outer = NesterovSGD(net.SIZE)
        self.anchor = net.first_weights(seed)
        self.finished = np.zeros(1, np.int64)
        self.state = {"anchor": self.anchor, "momentum": self.outer.buffer, "finished": self.finished}
        self._checkpoint = checkpoint
        if checkpoint is not None and checkpoint.exists():
            with np.load(checkpoint, allow_pickle=False) as saved:
                for name, array in self.state.items():
                    array[:] = saved[name]

    @property
    def rounds(self) -> int:
        return int(self.finished[0])

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(array.tobytes() for array in self.state.values())).hexdigest()

    def round(self, comm: collcomm.Communicator, inner_steps: int, seed: int) -> None:
        """Train alone, average the moves, take the outer step."""
        member = comm.view.ids[comm.rank]
        weights = self.anchor.copy()
        net.train(weights, inner_steps, np.random.default_rng([seed, member, self.rounds]))
        move = comm.all_reduce(self.anchor - weights, op="avg")
        self.outer.step(self.anchor, move)
        self.finished += 1

    def save(self) -> None:
        """Whole or not at all; who else leaves at the same time writes the same."""
        if self._checkpoint is not None:
            unfinished = self._checkpoint.with_name(f"{self._checkpoint.name}.{os.uname().nodename}.{os.getpid()}")
            with open(unfinished, "wb") as file:
                np.savez(file, **self.state)
            unfinished.replace(self._checkpoint)


def take_part(chosen: argparse.Namespace, leaving: collcomm.Preemption, **joining: Any) -> dict[str, Any]:
    """Be one peer until the run is over or this one is told to go. ``joining``: options of `collcomm.join`."""
    run = Run(chosen.seed, chosen.checkpoint)
    comm = collcomm.join(timeout=JOIN_SECONDS, **joining)
    with comm:
        leaving.guard(comm)
        print(f"{comm.name}, process {os.getpid()}: joined as rank {comm.rank} of {comm.size}", file=sys.stderr)
        before = net.held_out_loss(run.anchor)
        result: dict[str, Any] = {"peer": comm.name, "end": "finished", "identical": None}
        while True:
            comm.sync(run.state, revision=run.rounds)  # newcomers get the state here; for the others it is a check
            result.setdefault("began", run.rounds)
            if run.rounds >= chosen.rounds:
                break
            until = time.monotonic() + chosen.least_seconds
            run.round(comm, chosen.inner_steps, chosen.seed)
            time.sleep(max(0.0, until - time.monotonic()))
            print(f"{comm.name}, process {os.getpid()}: round {run.rounds} with {comm.size} peers", file=sys.stderr)
            if leaving.step(comm):
                result["end"] = "left"
                break
        if result["end"] == "finished":
            digests = comm.all_gather_object(run.digest)
            result |= {"identical": len(set(digests)) == 1, "peers": len(digests)}
            comm.step(leaving=True)  # all at once
        run.save()
        result |= {"rounds": run.rounds, "digest": run.digest, "retries": comm.stats()["retries"]}
        return result | {"loss": [round(before, 5), round(net.held_out_loss(run.anchor), 5)]}


def main() -> int:
    chosen = arguments()
    try:
        placed = find_placement(os.environ)
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    with collcomm.on_preemption((signal.SIGTERM, signal.SIGUSR1), grace=chosen.grace) as leaving:
        result = take_part(chosen, leaving, coordinator=placed.coordinator, min_size=placed.min_size)
    print(json.dumps(result), flush=True)
    if result["end"] == "left":
        return int(chosen.left_status)
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
