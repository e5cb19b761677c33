"""DistributedDataParallel whose ranks die and join, under torchrun.

    torchrun --nproc-per-node 4 examples/ddp.py

trains a small convolutional net on scikit-learn's digits on four ranks, kills one of them in the middle of a backward pass, and
has it come back later as a newcomer. It ends with a table of what happened, the loss on images that nobody has trained on,
a picture (ddp-out/loss.png), and the check that all ranks hold the same parameters, bit for bit.

torchrun ends all processes when one of them dies. So those that it starts here only keep the one that trains: they start it, see
it die, and start it again. Rank 0's keeps the coordinator, too.

Exit code of rank 0: 0 if the run finished and the parameters are identical, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from children import Children, EventStream, die_with_owner

SILENCE_SECONDS = 120.0  # without a word from the rank that trains, it is given up
KEEPERS_SECONDS = 300.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=240, help="(default: %(default)s)")
    parser.add_argument(
        "--kill", type=int, default=2, metavar="RANK", help="who dies; -1: nobody (default: %(default)s)"
    )
    parser.add_argument("--kill-step", type=int, default=80, help="in which step (default: %(default)s)")
    parser.add_argument("--join-step", type=int, default=140, help="before which it is back; 0: never (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("ddp-out"), help="directory for results and logs")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train is None and "MASTER_ADDR" not in os.environ:
        parser.error("start it with torchrun: torchrun --nproc-per-node 4 examples/ddp.py")
    return chosen


class Keeper:
    """One of torchrun's processes."""

    def __init__(self, chosen: argparse.Namespace, children: Children):
        import torch.distributed as dist

        self.chosen = chosen
        self.children = children
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=KEEPERS_SECONDS)
        self.store = dist.TCPStore(*where, is_master=False, timeout=timeout)  # torchrun's own
        self.events: list[dict[str, Any]] = []

    def run(self) -> None:
        address = self.store.get("ddp/coordinator").decode()
        self._start(f"rank-{self.rank}", address)
        returns = False
        while self.children.running:
            event = self.children.next_event(SILENCE_SECONDS)
            if event is None:
                raise TimeoutError(
                    f"rank {self.rank} has said nothing for {SILENCE_SECONDS:.0f} s: see {self.chosen.out}/logs"
                )
            self.events.append(event)
            if event["event"] == "exit" and event["code"] and not returns and self.rank == self.chosen.kill:
                returns = True
                if self.chosen.join_step:
                    self._start(f"rank-{self.rank}-again", address)

    def _start(self, name: str, address: str) -> None:
        chosen, again = self.chosen, name.endswith("again")
        strikes = chosen.kill >= 0
        plan = {
            "coordinator": address,
            "name": name,
            "size": self.size,
            "steps": chosen.steps,
            "seed": chosen.seed + (100 if again else 0),  # a newcomer has other parameters at first
            "dies_at": chosen.kill_step if self.rank == chosen.kill and not again else 0,
            "waits_at": chosen.join_step if strikes else 0,
        }
        self.children.start(name, [sys.executable, str(Path(__file__).resolve()), "--train", json.dumps(plan)])

    def tell(self) -> None:
        self.store.set(f"ddp/events/{self.rank}", json.dumps(self.events))

    def collect(self) -> list[dict[str, Any]]:
        """All keepers' events."""
        found = []
        for rank in range(self.size):
            found += json.loads(self.store.get(f"ddp/events/{rank}"))
        return found


def keep(chosen: argparse.Namespace) -> int:
    chosen.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with Children(chosen.out / "logs") as children:
        keeper = Keeper(chosen, children)
        if keeper.rank:
            keeper.run()
            keeper.tell()
            keeper.store.get("ddp/end")  # rank 0 still reads
            return 0
        import collcomm

        try:
            with collcomm.Coordinator("127.0.0.1:0") as coordinator:
                keeper.store.set("ddp/coordinator", coordinator.address)
                keeper.run()
                keeper.tell()
                events = keeper.collect()
        finally:
            keeper.store.set("ddp/end", "")
    from ddpreport import report

    return report(chosen, keeper.size, events, time.monotonic() - began)


def main() -> int:
    die_with_owner()
    chosen = arguments()
    if chosen.train is None:
        return keep(chosen)
    emit = EventStream()
    from digits import Plan, train

    train(Plan(**json.loads(chosen.train)), emit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
