"""The mixture of experts of `moe.py`: routes with popular experts planted in them, and the whole training in a single process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

POPULAR = (0, 1)  # experts of each layer, at home on the first device
POPULAR_SHARE = 0.6  # of the tokens that go to them
FAITHFUL = 0.8  # share of the tokens that stay in their group of experts from layer to layer
RATE = 0.5  # of the gradient descent
HELD_OUT = 1 << 20  # the number of the batch that nobody trains on


@dataclass(frozen=True)
class Model:
    """``layers`` blocks x + relu(x W1) W2, W1 and W2 of the one of ``experts`` that the token's route names. ``tokens``: of a
    peer, in a step. ``groups``: of experts that tokens like to stay in."""

    layers: int
    experts: int
    width: int
    hidden: int
    tokens: int
    groups: int
    seed: int

    @property
    def size(self) -> int:
        """Parameters of an expert."""
        return 2 * self.width * self.hidden

    def weights(self, layer: int, expert: int, teacher: bool = False) -> Array:
        """An expert's first parameters, as a vector; the teacher's are others."""
        rng = np.random.default_rng([self.seed, layer, expert, teacher])
        scale = np.sqrt(0.5 / self.hidden if teacher else 0.1 / self.hidden)
        return (scale * rng.standard_normal(self.size)).astype(np.float32)

    def batch(self, step: int, peer: int) -> tuple[Array, Array]:
        """A peer's tokens, and their routes, [layer, token] -> expert. Group by group, experts have any numbers."""
        rng = np.random.default_rng([self.seed, step, peer, 99])
        groups = [self._groups(layer) for layer in range(self.layers)]
        members = [[np.flatnonzero(of == group) for group in range(self.groups)] for of in groups]
        tokens = rng.standard_normal((self.tokens, self.width)).astype(np.float32)
        routes = np.empty((self.layers, self.tokens), np.int64)
        for layer in range(self.layers):
            popular = rng.random(self.tokens) < POPULAR_SHARE
            routes[layer] = np.where(
                popular, rng.choice(POPULAR, self.tokens), rng.integers(0, self.experts, self.tokens)
            )
            if layer:
                group = groups[layer - 1][routes[layer - 1]]
                kin = np.stack(members[layer])[group, rng.integers(0, self.experts // self.groups, self.tokens)]
                kin = np.where(popular & (group == 0), rng.choice(POPULAR, self.tokens), kin)
                routes[layer] = np.where(rng.random(self.tokens) < FAITHFUL, kin, routes[layer])
        return tokens, routes

    def _groups(self, layer: int) -> Array:
        """expert -> group; the popular ones are in the first."""
        rng = np.random.default_rng([self.seed, layer, 98])
        order = np.concatenate([POPULAR, rng.permutation(np.arange(len(POPULAR), self.experts))])
        group = np.empty(self.experts, np.int64)
        group[order] = np.arange(self.experts) * self.groups // self.experts
        return group

    def affinity(self, batches: Sequence[tuple[Array, Array]]) -> Array:
        """[layer, e, f]: tokens that went from expert e of the layer to expert f of the next."""
        flows = np.zeros((self.layers - 1, self.experts, self.experts), np.int64)
        for _, routes in batches:
            for layer in range(self.layers - 1):
                np.add.at(flows[layer], (routes[layer], routes[layer + 1]), 1)
        return flows

    def _matrices(self, weights: Array) -> tuple[Array, Array]:
        half = self.size // 2
        return weights[:half].reshape(self.width, self.hidden), weights[half:].reshape(self.hidden, self.width)

    def forward(self, weights: Array, tokens: Array) -> tuple[Array, Array]:
        """Outputs, and what the way back needs."""
        first, second = self._matrices(weights)
        inner = np.maximum(tokens @ first, 0)
        return tokens + inner @ second, inner

    def backward(self, weights: Array, tokens: Array, inner: Array, slope: Array) -> tuple[Array, Array]:
        """Gradients of the tokens and of the weights."""
        first, second = self._matrices(weights)
        inner_slope = (slope @ second.T) * (inner > 0)
        gradient = np.concatenate([(tokens.T @ inner_slope).ravel(), (inner.T @ slope).ravel()])
        return slope + inner_slope @ first.T, gradient

    def goal(self, tokens: Array, routes: Array) -> Array:
        """What the teacher makes of the tokens."""
        return self.dense(_all_weights(self, True), tokens, routes)

    def dense(self, weights: dict[tuple[int, int], Array], tokens: Array, routes: Array) -> Array:
        """All layers, with every expert at hand."""
        for layer in range(self.layers):
            after = np.empty_like(tokens)
            for expert in np.unique(routes[layer]):
                rows = routes[layer] == expert
                after[rows] = self.forward(weights[layer, expert], tokens[rows])[0]
            tokens = after
        return tokens


@cache
def _all_weights(model: Model, teacher: bool) -> dict[tuple[int, int], Array]:
    places = [(layer, expert) for layer in range(model.layers) for expert in range(model.experts)]
    return {place: model.weights(*place, teacher) for place in places}


def mean_square(outputs: Array, goal: Array, total: int) -> tuple[float, Array]:
    """This part of the loss over ``total`` tokens, and its gradient."""
    error = outputs - goal
    return float(np.square(error, dtype=np.float64).sum()) / (total * error.shape[1]), error * np.float32(2 / total)


def alone(model: Model, steps: int, peers: int) -> tuple[list[float], list[Array]]:
    """The training in a single process, on all peers' tokens: losses, and outputs for each peer's part of the batch that nobody
    trains on."""
    weights = dict(_all_weights(model, False))
    losses = []
    for step in range(steps):
        batches = [model.batch(step, peer) for peer in range(peers)]
        tokens = np.concatenate([tokens for tokens, _ in batches])
        routes = np.concatenate([routes for _, routes in batches], axis=1)
        goal = model.goal(tokens, routes)
        kept = []
        for layer in range(model.layers):
            after = np.empty_like(tokens)
            for expert in np.unique(routes[layer]):
                rows = np.flatnonzero(routes[layer] == expert)
                after[rows], inner = model.forward(weights[layer, expert], tokens[rows])
                kept.append((layer, int(expert), rows, tokens[rows], inner))
            tokens = after
        loss, slope = mean_square(tokens, goal, len(tokens))
        losses.append(loss)
        moves = {}
        for layer in reversed(range(model.layers)):
            before = np.empty_like(slope)
            for _, expert, rows, given, inner in (one for one in kept if one[0] == layer):
                before[rows], moves[layer, expert] = model.backward(weights[layer, expert], given, inner, slope[rows])
            slope = before
        for place, gradient in moves.items():
            weights[place] = weights[place] - np.float32(RATE) * gradient
    return losses, [model.dense(weights, *model.batch(HELD_OUT, peer)) for peer in range(peers)]
