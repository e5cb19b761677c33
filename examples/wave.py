"""A wave in a periodic box, by finite differences that look at all (2r + 1)^3 cells around each cell.

    u(t + 1) = 2 u(t) - u(t - 1) + COURANT^2 L u(t)

L adds the second derivatives along the three axes, each smoothed along the other two. So cells at the corners of the cube count
as well, and a halo without its edges and corners gives another answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Field = np.ndarray[Any, np.dtype[np.float32]]

COURANT = 0.6  # cells that the wave goes in a step; stable up to 0.8
SECOND_DERIVATIVE = {  # central, of order 2 r
    1: (1.0, -2.0, 1.0),
    2: (-1 / 12, 16 / 12, -30 / 12, 16 / 12, -1 / 12),
    3: (2 / 180, -27 / 180, 270 / 180, -490 / 180, 270 / 180, -27 / 180, 2 / 180),
}
SMOOTHING = {  # binomial
    1: (1 / 4, 2 / 4, 1 / 4),
    2: (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16),
    3: (1 / 64, 6 / 64, 15 / 64, 20 / 64, 15 / 64, 6 / 64, 1 / 64),
}
BUMPS = ((0.30, 0.30, 0.50), (0.75, 0.55, 0.45), (0.45, 0.80, 0.55))  # where the wave begins, in shares of the box
BUMP_WIDTH = 0.06


def beginning(size: int, block: tuple[slice, ...]) -> Field:
    """The field at rest, with some bumps: the cells of ``block`` in a box of ``size`` cells along each edge."""
    field = np.zeros([side.stop - side.start for side in block])
    for centre in BUMPS:
        x, y, z = (_bump(size, at)[side] for at, side in zip(centre, block, strict=True))
        field += x[:, None, None] * y[:, None] * z
    return field.astype(np.float32)


def following(u: Field, before: Field, radius: int) -> Field:
    """The field one step later. ``u``: now, with a halo of ``radius`` cells around it; ``before``: one step ago, without.

    The same additions in the same order for each cell, whatever block it lies in: so the answer of many processes is that of
    one, to the last bit.
    """
    now = u[radius:-radius, radius:-radius, radius:-radius]
    return 2 * now - before + COURANT**2 * laplacian(u, radius)


def laplacian(u: Field, radius: int) -> Field:
    """L u of the cells within the halo, one axis after the other."""
    smooth, curve = SMOOTHING[radius], SECOND_DERIVATIVE[radius]
    smooth_z, curve_z = filtered(u, smooth, 2), filtered(u, curve, 2)
    smooth_yz = filtered(smooth_z, smooth, 1)
    curve_yz = filtered(smooth_z, curve, 1) + filtered(curve_z, smooth, 1)
    return filtered(smooth_yz, curve, 0) + filtered(curve_yz, smooth, 0)


def filtered(u: Field, weights: tuple[float, ...], axis: int) -> Field:
    """Each cell and its neighbours along ``axis``, weighted and added; what has too few neighbours is left out."""
    length = u.shape[axis] - len(weights) + 1
    shifted = [u[(slice(None),) * axis + (slice(start, start + length),)] for start in range(len(weights))]
    total = shifted[0] * np.float32(weights[0])
    for part, weight in zip(shifted[1:], weights[1:], strict=True):
        total += part * np.float32(weight)
    return total


def alone(size: int, radius: int, steps: int) -> Field:
    """The answer of a single process, which needs no halo exchange: numpy wraps the box around."""
    now = before = beginning(size, (slice(0, size),) * 3)
    for _ in range(steps):
        now, before = following(np.pad(now, radius, mode="wrap"), before, radius), now
    return now


def _bump(size: int, centre: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A bell along one edge of the box, round its sides. Computed whole, so that all blocks cut the same numbers from it."""
    away = np.abs(np.arange(size) / size - centre)
    return np.exp(-0.5 * (np.minimum(away, 1 - away) / BUMP_WIDTH) ** 2)
