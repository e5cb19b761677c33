"""Loss against time and against bytes, of `streaming_diloco.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

COLOURS = ("#444444", "#b2182b", "#e08214", "#1b7837", "#1f4e9c", "#762a83")
SMOOTHED_OVER = 15  # steps
LEAST_BYTES = 1e5  # where the steps before the first exchange are drawn


def save_picture(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """PNG: training loss, mean of the peers, smoothed, over seconds and over bytes that a peer has sent; exposed time."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    for colour, (method, row) in zip(COLOURS, rows.items(), strict=False):
        losses = _smoothed(row["losses"])
        left.plot(row["times"], losses, color=colour, label=method)
        middle.plot(np.maximum(row["bytes"], LEAST_BYTES) / 1e6, losses, color=colour, label=method)
    names = list(rows)
    right.barh(names, [100 * rows[name]["exposed"] for name in names], color=COLOURS[: len(names)])
    left.set(title="training loss against time", xlabel="seconds", ylabel="nats per byte")
    middle.set(title="training loss against bytes", xlabel="MB sent by a peer", xscale="log")
    right.set(title="time that a peer stands still for others", xlabel="% of a step")
    right.invert_yaxis()
    left.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _smoothed(losses: list[float]) -> list[float]:
    """The mean of the last few."""
    return [float(np.mean(losses[max(0, at - SMOOTHED_OVER) : at + 1])) for at in range(len(losses))]
