"""Loads, losses and crossings of `moe.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

COLOURS = ("#b2182b", "#1f4e9c")


def save_picture(path: Path, rows: dict[str, dict[str, Any]], losses: list[float], flow: dict[str, Any]) -> None:
    """PNG: computing by peer in each mode, losses of both and of a single process, tokens that change peer."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for number, (mode, row) in enumerate(rows.items()):
        seconds = [1e3 * each for each in reversed(row["computing"])]
        places = [peer + 0.4 * number for peer in range(len(seconds))]
        left.bar(places, seconds, 0.38, color=COLOURS[number], label=f"{mode}: max/mean {row['imbalance']:.2f}")
        middle.plot(row["losses"], color=COLOURS[number], linewidth=3 - number, label=mode)
    left.set(title="computing in a step", xlabel="peers, the busiest first", ylabel="ms", xticks=[])
    middle.plot(losses, "k--", linewidth=0.8, label="a single process")
    middle.set(title="training loss", xlabel="step")
    right.bar(["usual", f"ExFlow\n({flow['method']})"], [100 * flow["usual"], 100 * flow["placed"]], 0.5, color=COLOURS)
    right.set(title="tokens that change peer between layers", ylabel="%")
    left.legend(frameon=False)
    middle.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
