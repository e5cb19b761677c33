"""Low-communication training over slow links: a small GPT trained with one method after the other, and what each costs.

    python examples/streaming_diloco.py

starts a coordinator and four peers, each in a network namespace behind a link of 20 Mbit/s with 50 ms one way (needs root;
without it, or with --unshaped, they share this machine's loopback). They train the model of examples/diloco.py with data
parallelism, DiLoCo, DiLoCo one round late, CO2, Streaming DiLoCo, and Streaming DiLoCo with 4 bits an element. It ends with a
table: the time that peers stood still for one another, bytes sent against the formula, losses on text that nobody trained on;
and with a picture of loss against time and against bytes (streaming-out/streaming.png).

An inner step takes --step-seconds at least, as on a machine that computes that fast however many peers share this one.

Exit code: 0 if every method ended with bit-identical parameters at all peers, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from children import Children, EventStream
from entry import fill_in, positive, run

from collcomm.laboratory import Laboratory, delayed, missing_for_namespaces

SILENCE_SECONDS = 300.0  # without a word from any peer, the run is given up
PORT = 48148
BITS = {"e3m0": 4.125}  # of an element on the wire: 4, and 32 for each block of 256
METHODS = {
    "data-parallel": None,
    "diloco": None,
    "one-step-delayed": None,
    "eager": None,
    "co2": None,
    "streaming": None,
    "streaming-4bit": "e3m0",
}  # and the codec of each
USUAL = [method for method in METHODS if method != "eager"]
COLUMNS = {
    "steps": 6,
    "a step": 9,
    "exposed": 9,
    "MB sent": 9,
    "formula": 9,
    "off": 7,
    "less": 7,
    "held-out": 10,
    "diloco": 9,
}
FULL = {
    "steps": 360, "parallel_steps": 30, "every": 30, "tau": 5, "fragments": 3, "batch": 4, "inner_lr": 3e-3,
    "held_out": 192, "step_seconds": 0.2,
}  # fmt: skip
QUICK = {
    "steps": 24, "parallel_steps": 6, "every": 8, "tau": 2, "fragments": 2, "batch": 2, "inner_lr": 2e-3,
    "held_out": 16, "step_seconds": 0.0,
}  # fmt: skip
HELP = {
    "steps": "inner steps of each method",
    "parallel_steps": "of data parallelism, which waits for the wire in each",
    "every": "H, inner steps of a round",
    "tau": "inner steps that a fragment may take to come",
    "fragments": "of the model, in Streaming DiLoCo",
    "batch": "windows of a peer in a step",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=positive, default=4, help="(default: %(default)s)")
    for name, what in HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=f"{what} (default: {FULL[name]})")
    parser.add_argument("--inner-lr", type=float, help=f"AdamW's learning rate (default: {FULL['inner_lr']})")
    parser.add_argument(
        "--step-seconds", type=float, help=f"of an inner step, at least (default: {FULL['step_seconds']})"
    )
    parser.add_argument(
        "--held-out", type=positive, help=f"windows that nobody trains on (default: {FULL['held_out']})"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL, help="(default: all but eager)")
    parser.add_argument(
        "--rate", type=float, default=2.5e6, help="bytes/s of each peer's link (default: %(default).0f)"
    )
    parser.add_argument(
        "--delay", type=float, default=0.05, help="seconds one way between any two (default: %(default)s)"
    )
    parser.add_argument("--unshaped", action="store_true", help="over loopback, as fast as it is; needs no root")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("streaming-out"), help="directory for results and logs")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, unshaped: seconds, for tests")
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    fill_in(chosen, QUICK if chosen.quick else FULL)
    if chosen.tau >= chosen.every:
        parser.error(f"--tau: must be less than the {chosen.every} of --every")
    if not (chosen.rate > 0 and chosen.delay >= 0 and chosen.step_seconds >= 0):
        parser.error("--rate must be positive, --delay and --step-seconds 0 or more")
    chosen.unshaped = chosen.unshaped or chosen.quick
    return chosen


# -- one peer --------------------------------------------------------------------------------------------------------


def be_peer(chosen: argparse.Namespace) -> int:
    emit = EventStream()
    from lowcommtrainer import run_peer  # torch is slow to import: only where it is needed

    run_peer(chosen, {method: METHODS[method] for method in chosen.methods}, emit)
    return 0


# -- the whole job -----------------------------------------------------------------------------------------------------


def run_job(chosen: argparse.Namespace) -> int:
    chosen.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with network(chosen) as lab, coordinator_of(lab) as address, Children(chosen.out / "logs") as children:
        for number in range(chosen.peers):
            start_peer(chosen, address, children, f"peer-{number + 1}", lab.enter(number) if lab else [])
        told, failed = follow(chosen, children)
        for name in failed:
            print(f"{name} ended early. {children.last_words(name)}".rstrip())
    if failed:
        return 1
    identical = report(chosen, told)
    print(f"Took {time.monotonic() - began:.0f} s.")
    return 0 if identical else 1


@contextlib.contextmanager
def network(chosen: argparse.Namespace) -> Iterator[Laboratory | None]:
    missing = None if chosen.unshaped else missing_for_namespaces()
    if chosen.unshaped or missing:
        print(f"Links: loopback, as fast as it is{f' ({missing})' if missing else ''}.", flush=True)
        yield None
        return
    print(f"Links: {chosen.rate * 8 / 1e6:.3g} Mbit/s for each peer, {chosen.delay * 1e3:.3g} ms one way.", flush=True)
    with delayed(chosen.peers, chosen.rate, chosen.delay) as lab:
        yield lab


@contextlib.contextmanager
def coordinator_of(lab: Laboratory | None) -> Iterator[str]:
    """Its address; in a laboratory it runs in the hub."""
    import collcomm
    from collcomm.bench.launch import CoordinatorProcess

    if lab is None:
        with collcomm.Coordinator("127.0.0.1:0") as coordinator:
            yield coordinator.address
    else:
        with CoordinatorProcess(f"{lab.hub_address}:{PORT}", lab.enter(None)) as process:
            yield process.address


def start_peer(chosen: argparse.Namespace, address: str, children: Children, name: str, prefix: list[str]) -> None:
    options = {"join": address, "name": name, "peers": chosen.peers, "seed": chosen.seed}
    options |= {option: getattr(chosen, option) for option in FULL}
    command = [*prefix, sys.executable, str(Path(__file__).resolve()), *(["--quick"] if chosen.quick else [])]
    command += [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
    children.start(name, [*command, "--methods", *chosen.methods])


def follow(chosen: argparse.Namespace, children: Children) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Until all peers have ended: what they told, by method, and the names of those that failed."""
    told: dict[str, list[dict[str, Any]]] = {}
    failed: list[str] = []
    for event in children.until_ended(SILENCE_SECONDS):
        if event is None:
            continue
        if event["event"] == "trained":
            told.setdefault(event["method"], []).append(event)
            if len(told[event["method"]]) == chosen.peers:
                print(
                    f"{event['method']}: held-out loss {event['held_out']:.4f} after {event['seconds']:.0f} s",
                    flush=True,
                )
        elif event["event"] == "left out" and event["rank"] == 0:
            print(f"{event['method']}: left out, {event['why']}", flush=True)
        elif event["event"] == "exit" and event["code"]:
            failed.append(event["peer"])
    return told, failed


# -- what came of it ---------------------------------------------------------------------------------------------------


def report(chosen: argparse.Namespace, told: dict[str, list[dict[str, Any]]]) -> bool:
    from lowcommpicture import save_picture  # matplotlib is slow to import: only where it is needed

    rows = {method: row_of(chosen, method, events) for method, events in told.items()}
    parallel, diloco = rows.get("data-parallel"), rows.get("diloco")
    heads = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())
    print(f"\n{'':18}{heads}")
    for method, row in rows.items():
        less = f"{parallel['sent'] / parallel['steps'] / (row['sent'] / row['steps']):.0f}x" if parallel else ""
        against = f"{row['held_out'] / diloco['held_out'] - 1:+.2%}" if diloco and method != "data-parallel" else ""
        print(
            f"{method:18}{row['steps']:6}{row['step_seconds'] * 1e3:6.0f} ms{row['exposed']:9.2%}{row['sent'] / 1e6:9.2f}"
            f"{row['formula'] / 1e6:9.2f}{row['sent'] / row['formula'] - 1:+7.1%}{less:>7}{row['held_out']:10.4f}{against:>9}"
        )
    print(
        "Exposed: the share of a step in which a peer stands still for others, mean of the peers. MB sent by a peer, with\n"
        "headers. Formula: 2 (n - 1) / n of what was averaged, which is what goes over slow links; over fast ones the library\n"
        "may send more in fewer messages. Less: bytes of a step, against data parallelism. Held-out: nats per byte; data\n"
        f"parallelism had {chosen.parallel_steps} steps."
    )
    identical = all(row["identical"] for row in rows.values())
    print(
        "All peers ended each method with bit-identical parameters." if identical else "Parameters are NOT identical."
    )
    save_picture(chosen.out / "streaming.png", rows)
    (chosen.out / "report.json").write_text(json.dumps(rows, indent=1))
    print(f"Picture: {chosen.out / 'streaming.png'}")
    return identical


def row_of(chosen: argparse.Namespace, method: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    """All peers together."""
    n = len(events)
    codec = METHODS[method]
    ratio = BITS[codec] / 32 if codec else 1.0
    columns = zip(*(event["losses"] for event in events), strict=True)
    return {
        "steps": events[0]["steps"],
        "step_seconds": max(event["seconds"] for event in events) / events[0]["steps"],
        "exposed": sum(event["exposed"] / event["seconds"] for event in events) / n,
        "sent": max(event["sent"] for event in events),
        "formula": 2 * (n - 1) / n * events[0]["averaged"] * ratio,
        "held_out": events[0]["held_out"],
        "identical": len({event["digest"] for event in events}) == 1 == len({event["steps"] for event in events}),
        "losses": [sum(column) / n for column in columns],
        "times": events[0]["times"],
        "bytes": events[0]["bytes"],
    }


if __name__ == "__main__":
    sys.exit(run(arguments, be_peer, run_job))
