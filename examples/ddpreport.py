"""What `ddp.py` shows at its end: the losses as a picture, what happened, and whether all ranks hold the same."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

Event = dict[str, Any]
Change = tuple[int, int, int, float]  # step, ranks before, ranks after, seconds that it took
TRAIN, MEAN, KILLED, JOINED = "#e08214", "#1f4e9c", "#b2182b", "#1b7837"


def report(chosen: argparse.Namespace, size: int, events: list[Event], seconds: float) -> int:
    """Returns the exit code."""
    console = Console(highlight=False)
    steps = [event for event in events if event["event"] == "step"]
    done = [event for event in events if event["event"] == "done"]
    changes = _changes(steps)
    console.print(_table(steps, changes))
    picture = chosen.out / "loss.png"
    _draw(picture, steps, changes)
    for event in sorted(done, key=lambda event: event["peer"]):
        console.print(f"{event['peer']}: parameters {event['digest']}")
    expected = size - (chosen.kill >= 0 and not chosen.join_step)
    identical = len({event["digest"] for event in done}) == 1
    if identical and len(done) == expected:
        first = done[0]
        console.print(f"All {expected} ranks ended with bit-identical parameters.")
        console.print(f"Held-out loss {first['loss']:.4f}, {first['accuracy']:.1%} of the digits recognised.")
    else:
        console.print(
            f"[red]{len(done)} of {expected} ranks ended, with {'the same' if identical else 'different'} bits.[/]"
        )
    console.print(f"Loss curve: {picture}. Took {seconds:.0f} s.")
    return 0 if identical and len(done) == expected else 1


def _changes(steps: list[Event]) -> list[Change]:
    """Where the membership changed."""
    found = []
    by_step: dict[int, list[Event]] = {}
    for event in steps:
        by_step.setdefault(event["step"], []).append(event)
    before = None
    for number, events in sorted(by_step.items()):
        began, over = events[0]["began_with"], events[0]["over"]
        longest = max(event["seconds"] for event in events)
        if before is not None and began > before:
            found.append((number, before, began, longest))
        if over < began:
            found.append((number, began, over, longest))
        before = over
    return found


def _table(steps: list[Event], changes: list[Change]) -> Table:
    table = Table(title="Steps in which the membership changed")
    for column in ("step", "ranks", "what", "took", "steps around it"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for step, before, after, seconds in changes:
        what = "newcomer, has state and data" if after > before else f"a rank was killed; complete over {after}"
        around = statistics.median(e["seconds"] for e in steps if 0 < abs(e["step"] - step) < 20)
        table.add_row(str(step), f"{before} -> {after}", what, f"{seconds * 1e3:.0f} ms", f"{around * 1e3:.0f} ms")
    return table


def _draw(path: Path, steps: list[Event], changes: list[Change]) -> None:
    figure, axes = plt.subplots(figsize=(9, 4.5), constrained_layout=True)
    for number, peer in enumerate(sorted({event["peer"] for event in steps})):
        mine = [(event["step"], event["loss"]) for event in steps if event["peer"] == peer]
        axes.plot(
            *zip(*mine, strict=True), color=TRAIN, alpha=0.45, linewidth=0.8, label=None if number else "each rank"
        )
    by_step: dict[int, list[float]] = {}
    for event in steps:
        by_step.setdefault(event["step"], []).append(event["loss"])
    means = [(step, statistics.mean(losses)) for step, losses in sorted(by_step.items())]
    axes.plot(*zip(*means, strict=True), color=MEAN, linewidth=1.6, label="mean")
    for step, before, after, _ in changes:
        colour = KILLED if after < before else JOINED
        axes.axvline(step, color=colour, linestyle="--", linewidth=1.3)
        axes.annotate(
            "killed" if after < before else "joined",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            color=colour,
        )
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
