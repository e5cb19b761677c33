"""A slice through the field, and how far it is from the single process's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from processgrid import ProcessGrid

Field = np.ndarray[Any, np.dtype[np.float32]]


def save_picture(path: Path, field: Field, expected: Field, grid: ProcessGrid, what: str) -> None:
    """Slices across the last axis, halfway, with the borders of the processes drawn; PNG."""
    middle = field.shape[2] // 2
    difference = np.abs(field.astype(np.float64) - expected)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.5), constrained_layout=True)
    reach = float(np.abs(field[:, :, middle]).max()) or 1.0
    image = left.imshow(field[:, :, middle].T, cmap="RdBu_r", vmin=-reach, vmax=reach, origin="lower")
    figure.colorbar(image, ax=left, shrink=0.85)
    left.set_title(what)
    worst = float(difference.max())
    image = right.imshow(difference[:, :, middle].T, cmap="magma", vmin=0, vmax=worst or 1.0, origin="lower")
    figure.colorbar(image, ax=right, shrink=0.85)
    right.set_title(
        f"difference to a single process: at most {worst:.3g}" if worst else "difference to a single process: none"
    )
    for axes, colour in ((left, "black"), (right, "white")):
        _draw_borders(axes, grid, middle, colour)
        axes.set_xlabel("x")
        axes.set_ylabel("y")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_borders(axes: Axes, grid: ProcessGrid, middle: int, colour: str) -> None:
    for rank in range(grid.processes):
        x, y, z = grid.block(rank)
        if z.start <= middle < z.stop:
            corner = (x.start - 0.5, y.start - 0.5)
            axes.add_patch(Rectangle(corner, x.stop - x.start, y.stop - y.start, fill=False, edgecolor=colour))
            axes.text(x.start + 1, y.start + 1, f"rank {rank}", color=colour, fontsize=9)
