"""A small net on a surface that it has to learn: numpy alone, so that the launch files need nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
WIDTH, BATCH, HELD_OUT = 32, 64, 1024
RATE, INNER_MOMENTUM = 0.03, 0.9
SHAPES = ((2, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH, 1), (1,))
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)


def first_weights(seed: int) -> Vector:
    random = np.random.default_rng(seed)
    parts = [random.normal(0, 1 / np.sqrt(shape[0]), shape) if len(shape) == 2 else np.zeros(shape) for shape in SHAPES]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def draw(random: np.random.Generator, count: int) -> tuple[Vector, Vector]:
    """Points of a square, and the height of the surface there."""
    x = random.uniform(-1, 1, (count, 2)).astype(np.float32)
    return x, np.sin(3 * x[:, :1]) * np.cos(2 * x[:, 1:])


def train(weights: Vector, steps: int, random: np.random.Generator) -> None:
    """Move ``weights`` by ``steps`` steps of SGD with momentum, in place."""
    drift = np.zeros_like(weights)
    for _ in range(steps):
        drift *= INNER_MOMENTUM
        drift += _slope(weights, *draw(random, BATCH))
        weights -= RATE * drift


def held_out_loss(weights: Vector) -> float:
    x, y = draw(np.random.default_rng(1), HELD_OUT)
    return float(np.mean((_heights(_parts(weights), x)[-1] - y) ** 2))


def _parts(vector: Vector) -> list[Any]:
    """Views of its parts, in their shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), SHAPES, strict=True)]


def _heights(parts: list[Any], x: Vector) -> list[Any]:
    first = np.tanh(x @ parts[0] + parts[1])
    second = np.tanh(first @ parts[2] + parts[3])
    return [first, second, second @ parts[4] + parts[5]]


def _slope(weights: Vector, x: Vector, y: Vector) -> Vector:
    """Of the mean squared error."""
    parts = _parts(weights)
    first, second, out = _heights(parts, x)
    slope = np.empty_like(weights)
    of = _parts(slope)
    error = 2 * (out - y) / len(y)
    of[4][:], of[5][:] = second.T @ error, error.sum(0)
    error = error @ parts[4].T * (1 - second**2)
    of[2][:], of[3][:] = first.T @ error, error.sum(0)
    error = error @ parts[2].T * (1 - first**2)
    of[0][:], of[1][:] = x.T @ error, error.sum(0)
    return slope
