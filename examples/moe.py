"""A mixture of experts whose popular experts share a device: plain expert parallelism, and tokens and weights that are spread.

    python examples/moe.py

starts a coordinator and four peers on this machine, which train a small mixture of experts twice: each token computed where its
expert is at home, and with least-loaded expert parallelism (LLEP), where an overloaded device's tokens go to others, with the
weights. It ends with a table of both, the check that the outputs are those of a single process, the placement of experts that
keeps most tokens on their device from layer to layer (ExFlow), and a picture (moe-out/moe.png).

Exit code: 0 if the run finished with the right outputs, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from children import Children, EventStream
from collcomm.planner.experts import exflow
from entry import fill_in, positive, run
from moemodel import Model, alone

import collcomm

SILENCE_SECONDS = 120.0  # without a word from any peer, the run is given up
TOLERANCE = 1e-4  # of the largest output: sums of gradients are added in another order, in float32
MODES = {"plain": math.inf, "LLEP": 1.3}  # load over the mean from which experts are spread
FULL = {"steps": 8, "tokens": 2048, "width": 96, "hidden": 256, "chunk": 256, "solver_seconds": 3.0}
QUICK = {"steps": 3, "tokens": 256, "width": 24, "hidden": 48, "chunk": 32, "solver_seconds": 1.0}
LAYERS, EXPERTS_OF_A_PEER, PLACED_ON = 3, 4, 4  # batches that tell where tokens go


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=positive, default=4, help="processes (default: %(default)s)")
    for name, what in (
        ("steps", "steps of training, in each mode"),
        ("tokens", "of a peer, in a step"),
        ("width", "of a token"),
        ("hidden", "units of an expert"),
        ("chunk", "tokens that are worth a copy of an expert's weights"),
    ):
        parser.add_argument(f"--{name}", type=positive, help=f"{what} (default: {FULL[name]})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("moe-out"), help="directory for results and logs")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps: seconds, for tests")
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    fill_in(chosen, QUICK if chosen.quick else FULL)
    return chosen


def model_of(chosen: argparse.Namespace) -> Model:
    experts = EXPERTS_OF_A_PEER * chosen.peers
    return Model(LAYERS, experts, chosen.width, chosen.hidden, chosen.tokens, chosen.peers, chosen.seed)


# -- one peer --------------------------------------------------------------------------------------------------------


def be_peer(chosen: argparse.Namespace) -> int:
    from moetrainer import run

    emit = EventStream()
    # A peer's experts are gone with it: a call that a death hits is not to go on among the survivors. TCP, as between machines.
    comm = collcomm.join(chosen.join, name=chosen.name, min_size=chosen.peers, on_failure="raise", transports=["tcp"])
    try:
        with comm:
            for mode, threshold in MODES.items():
                told = run(comm, model_of(chosen), chosen.steps, threshold, chosen.chunk)
                np.save(chosen.out / f"outputs-{mode}-{comm.rank}.npy", told.pop("outputs"))
                emit("trained", mode=mode, rank=comm.rank, **told)
    except (collcomm.PeerLost, collcomm.ViewChanged) as lost:
        emit("lost", text=str(lost))
        return 1
    return 0


# -- the whole job -----------------------------------------------------------------------------------------------------


def run_job(chosen: argparse.Namespace) -> int:
    chosen.out.mkdir(parents=True, exist_ok=True)
    model = model_of(chosen)
    print(
        f"{chosen.peers} peers share {model.layers} layers of {model.experts} experts; most tokens go to two, both of one peer."
    )
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Children(chosen.out / "logs") as children:
        for number in range(1, chosen.peers + 1):
            start_peer(chosen, coordinator.address, children, f"peer-{number}")
        trained, failed = follow(chosen, children)
        for name in failed:
            print(f"{name} ended early. {children.last_words(name)}".rstrip())
    if failed or any(len(trained[mode]) < chosen.peers for mode in MODES):
        print("Experts are lost with their peer: there is no answer. Start again, or from a checkpoint.")
        return 1
    return report(chosen, model, trained)


def start_peer(chosen: argparse.Namespace, address: str, children: Children, name: str) -> None:
    options = {"join": address, "name": name, "peers": chosen.peers, "out": chosen.out, "seed": chosen.seed}
    options |= {option: getattr(chosen, option) for option in ("steps", "tokens", "width", "hidden", "chunk")}
    command = [sys.executable, str(Path(__file__).resolve())]
    children.start(name, command + [f"--{option}={value}" for option, value in options.items()])


def follow(chosen: argparse.Namespace, children: Children) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Until all peers have ended: what they told, by mode, and the names of those that failed."""
    trained: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    failed = []
    for event in children.until_ended(SILENCE_SECONDS):
        if event is None:
            continue
        if event["event"] == "trained":
            trained[event["mode"]].append(event)
        elif event["event"] == "lost":
            print(f"{event['peer']} stopped: {event['text']}", flush=True)
        elif event["event"] == "exit" and event["code"]:
            failed.append(event["peer"])
    return trained, failed


# -- what came of it ---------------------------------------------------------------------------------------------------


def report(chosen: argparse.Namespace, model: Model, trained: dict[str, list[dict[str, Any]]]) -> int:
    from moepicture import save_picture  # matplotlib is slow to import: only where it is needed

    rows = {mode: _row(chosen, events) for mode, events in trained.items()}
    print(f"{'':8}{'max/mean':>10}{'computing':>12}{'a step':>10}{'copies':>9}{'MB sent':>10}{'formula':>10}")
    for mode, row in rows.items():
        print(
            f"{mode:8}{row['imbalance']:10.2f}{row['computing_imbalance']:12.2f}{row['step'] * 1e3:7.0f} ms"
            f"{row['copies']:9.1f}{row['sent'] / 1e6:10.2f}{row['formula'] / 1e6:10.2f}"
        )
    print(
        "Of a step: load of the fullest peer over the mean, in tokens and in seconds of computing; median time; experts copied;"
    )
    print("bytes sent by all peers, and tokens and weights by the formula, without headers, counts and commits.")
    losses, expected = alone(model, chosen.steps, chosen.peers)
    print(f"Loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {chosen.steps} steps.")
    right = True
    for mode, row in rows.items():
        row["error"] = _error(chosen.out, mode, expected)
        good = row["error"] <= TOLERANCE and np.allclose(row["losses"], losses, rtol=1e-3)
        right &= good
        print(
            f"{mode}: outputs are {'' if good else 'NOT '}those of a single process,"
            f" off by {row['error']:.1e} of the largest (tolerance {TOLERANCE:.0e})."
        )
    flow = placement(chosen, model)
    print(
        f"ExFlow ({flow['method']}): {flow['placed']:.1%} of the tokens change peer between layers, {flow['usual']:.1%} with"
        f" the usual placement: {1 - flow['placed'] / flow['usual']:.0%} fewer."
        if flow["usual"]
        else "One peer: no crossings."
    )
    picture = chosen.out / "moe.png"
    save_picture(picture, rows, losses, flow)
    (chosen.out / "report.json").write_text(json.dumps({"modes": rows, "losses": losses, "exflow": flow}, indent=1))
    print(f"Picture: {picture}")
    return 0 if right else 1


def _row(chosen: argparse.Namespace, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one step, all peers together."""
    steps, computing = chosen.steps, [event["computing"] for event in events]
    return {
        "imbalance": mean(events[0]["imbalances"]),
        "computing_imbalance": max(computing) / mean(computing),
        "computing": sorted(seconds / steps for seconds in computing),
        "step": median(max(times) for times in zip(*(event["seconds"] for event in events), strict=True)),
        "copies": events[0]["copies"] / steps,
        "sent": sum(event["sent"] for event in events) / steps,
        "formula": events[0]["formula"] / steps,
        "losses": events[0]["losses"],
    }


def _error(out: Path, mode: str, expected: list[Any]) -> float:
    """The largest deviation of any peer's outputs, over the largest output."""
    worst = max(np.abs(np.load(out / f"outputs-{mode}-{rank}.npy") - one).max() for rank, one in enumerate(expected))
    return float(worst / max(np.abs(one).max() for one in expected))


def placement(chosen: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Experts placed by where tokens of some batches went, judged by batches that were not looked at."""
    seen, unseen = (
        [model.batch(step, peer) for step in range(first, first + PLACED_ON) for peer in range(chosen.peers)]
        for first in (0, PLACED_ON)
    )
    found = exflow.place(model.affinity(seen), chosen.peers, time_limit=chosen.solver_seconds)
    flows = model.affinity(unseen)
    usual = exflow.contiguous(model.layers, model.experts, chosen.peers)
    total = int(flows.sum())
    return {
        "method": found.method,
        "placed": exflow.crossings(flows, found.device) / total,
        "usual": exflow.crossings(flows, usual) / total,
    }


if __name__ == "__main__":
    sys.exit(run(arguments, be_peer, run_job))
