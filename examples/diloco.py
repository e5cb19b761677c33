"""DiLoCo training of a small byte-level GPT while peers are killed and join.

    python examples/diloco.py

starts a coordinator and four peers on this machine, kills one with SIGKILL, starts a fresh one later, and ends with a
loss curve, tables of views, traffic and lost time, and the check that all peers hold the same parameters, bit for bit.

    python examples/diloco.py --bind 192.0.2.7:48148        # the same, open to other machines
    python examples/diloco.py --join 192.0.2.7:48148        # one more peer, from anywhere

Exit code: 0 if the run finished and the parameters are identical, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from children import Children, EventStream
from entry import fill_in, positive, run

SILENCE_SECONDS = 180.0  # without a word from any peer, the run is given up
GROUP = "default"
FULL = {
    "rounds": 20, "inner_steps": 50, "kill_round": 7, "join_round": 12, "batch": 8, "inner_lr": 4e-3, "held_out": 192
}  # fmt: skip
QUICK = {
    "rounds": 8, "inner_steps": 8, "kill_round": 3, "join_round": 4, "batch": 4, "inner_lr": 2e-3, "held_out": 32
}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--join", metavar="HOST:PORT", help="be one peer of the run at this coordinator, start nothing")
    parser.add_argument(
        "--bind",
        metavar="HOST:PORT",
        default="127.0.0.1:0",
        help="address of the coordinator: this machine's in the network, if others are to join; then give all of them the same "
        "COLLCOMM_SECRET in the environment (default: %(default)s)",
    )
    parser.add_argument("--peers", type=positive, default=4, help="peers that begin the run (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, help=f"outer rounds (default: {FULL['rounds']})")
    parser.add_argument("--inner-steps", type=positive, help=f"AdamW steps a round (default: {FULL['inner_steps']})")
    parser.add_argument(
        "--least-steps",
        type=positive,
        help="machines differ: the fastest takes --inner-steps, slower ones what takes as long, but no less than this",
    )
    parser.add_argument("--kill-round", type=int, help=f"kill a peer in this round; 0: none ({FULL['kill_round']})")
    parser.add_argument("--join-round", type=int, help=f"start one in this round; 0: none ({FULL['join_round']})")
    parser.add_argument("--inner-lr", type=float, help=f"AdamW's learning rate (default: {FULL['inner_lr']})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("diloco-out"), help="directory for results and logs")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few rounds: seconds, for tests")
    parser.add_argument("--name", help="this peer's name, with --join")
    parser.add_argument("--newcomer", default="", help=argparse.SUPPRESS)
    parser.add_argument("--newcomer-round", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--events", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    fill_in(chosen, QUICK if chosen.quick else FULL)
    if chosen.bind.startswith(("0.0.0.0:", "[::]:")):
        parser.error("--bind: give this machine's own address, not a wildcard: the peers here are reached at it, too")
    if chosen.kill_round and chosen.peers < 2:
        parser.error("--kill-round: nobody would be left of one peer; give --kill-round 0")
    if chosen.least_steps and chosen.least_steps > chosen.inner_steps:
        parser.error(f"--least-steps: must be at most the {chosen.inner_steps} of --inner-steps")
    return chosen


# -- one peer --------------------------------------------------------------------------------------------------------


def be_peer(chosen: argparse.Namespace) -> int:
    emit = EventStream() if chosen.events else _say
    from bytegpt import Shape  # torch is slow to import: only where it is needed
    from trainer import PeerSettings, run_peer

    settings = PeerSettings(
        coordinator=chosen.join,
        name=chosen.name,
        min_size=chosen.peers,
        shape=Shape(context=64, width=32, layers=1) if chosen.quick else Shape(),
        rounds=chosen.rounds,
        inner_steps=chosen.inner_steps,
        batch=chosen.batch,
        inner_lr=chosen.inner_lr,
        held_out=chosen.held_out,
        seed=chosen.seed,
        least_steps=chosen.least_steps or 0,
        newcomer=chosen.newcomer,
        newcomer_round=chosen.newcomer_round,
    )
    return 0 if run_peer(settings, emit) else 1


def _say(event: str, **fields: Any) -> None:
    """What a person who joins a run by hand sees."""
    if event not in ("step", "synced", "stepped", "reducing"):
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()
        )
        print(f"{event}: {', '.join(shown)}", flush=True)


# -- the whole job -----------------------------------------------------------------------------------------------------


class Job:
    """Starts the peers, kills one, starts another, and follows what they tell."""

    def __init__(self, chosen: argparse.Namespace, address: str, children: Children, record: Any):
        self.chosen = chosen
        self.address = address
        self.children = children
        self.record = record
        self.newcomer = f"peer-{chosen.peers + 1}" if chosen.join_round else ""
        self._unkilled = bool(chosen.kill_round)
        self._unjoined = bool(chosen.join_round)

    def start(self) -> None:
        for number in range(1, self.chosen.peers + 1):
            self._start_peer(f"peer-{number}")

    def follow(self, display: Any) -> None:
        """Until all peers have ended."""
        for event in self.children.until_ended(SILENCE_SECONDS):
            if event is not None:
                self.record.add(event)
                self._act(event)
                if event["event"] == "step":
                    continue  # drawn with the next quiet moment
            display.update()

    def _act(self, event: dict[str, Any]) -> None:
        """The script of the play: death in an all_reduce, then a fresh peer."""
        if self._unkilled and event["event"] == "reducing" and event["round"] == self.chosen.kill_round:
            inside = self.record.rounds[event["round"]].reducing
            if len(inside) >= max(1, self.chosen.peers // 2):  # some wait inside the all_reduce, some still train
                self._unkilled = False
                self.record.killed(inside[0], event["round"], self.children.kill(inside[0]))
        if self._unjoined and event["event"] == "evaluated" and event["round"] + 1 >= self.chosen.join_round:
            self._unjoined = False
            self._start_peer(self.newcomer)
            self.record.tell(time.monotonic(), f"{self.newcomer} started in round {event['round'] + 1}")

    def _start_peer(self, name: str) -> None:
        chosen = self.chosen
        options: dict[str, Any] = {
            "join": self.address,
            "name": name,
            "peers": chosen.peers,
            "rounds": chosen.rounds,
            "inner-steps": chosen.inner_steps,
            "inner-lr": chosen.inner_lr,
            "seed": chosen.seed,
        }
        if chosen.least_steps:
            options["least-steps"] = chosen.least_steps
        if self.newcomer and name != self.newcomer:
            options |= {"newcomer": self.newcomer, "newcomer-round": min(chosen.join_round + 1, chosen.rounds - 1)}
        command = [sys.executable, str(Path(__file__).resolve()), "--events", *(["--quick"] if chosen.quick else [])]
        self.record.peer_started(name, time.monotonic())
        self.children.start(name, command + [f"--{option}={value}" for option, value in options.items()])


def run_job(chosen: argparse.Namespace) -> int:
    from curve import save_curve
    from record import Record
    from show import Display, print_report, print_verdict, save_report

    import collcomm

    chosen.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    record = Record(chosen.rounds, chosen.inner_steps, began)
    with collcomm.Coordinator(chosen.bind) as coordinator, Children(chosen.out / "logs") as children:
        job = Job(chosen, coordinator.address, children, record)
        display = Display(record)
        display.console.print(
            f"Coordinator at {coordinator.address}; {chosen.peers} peers start. Logs: {chosen.out}/logs"
        )
        with display:
            job.start()
            job.follow(display)
        history = coordinator.snapshot().get(GROUP, {}).get("history", [])
        failed = [peer.name for peer in record.peers.values() if peer.state.startswith("failed")]
        for name in failed:
            display.console.print(f"[red]{name} failed:[/]\n{children.last_words(name)}")
    noticed = {name: at for at, _, name, cause in reversed(history) if cause not in ("joined", "left")}
    costs = record.costs(noticed)
    picture = chosen.out / "loss.png"
    save_curve(picture, record)
    print_report(display.console, record, costs, picture)
    digests = {peer.name: peer.digest for peer in record.peers.values() if peer.digest}
    identical = print_verdict(display.console, digests)
    complete = record.latest == chosen.rounds and not failed
    save_report(chosen.out / "report.json", record, costs, identical)
    display.console.print(f"Took {time.monotonic() - began:.0f} s.")
    return 0 if identical and complete else 1


if __name__ == "__main__":
    sys.exit(run(arguments, be_peer, run_job))
