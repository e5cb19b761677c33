"""What one peer of `moe.py` does: its part of the experts, and of the tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from collcomm.planner.experts import TokenExchange, sparse
from moemodel import HELD_OUT, RATE, Model, mean_square

import collcomm
from collcomm.experts import (
    Arrived,
    exchange_tokens,
    plan_dispatch,
    return_tokens,
    sparse_all_gather,
    sparse_reduce_scatter,
)

Array = npt.NDArray[Any]


@dataclass
class Tally:
    """Of all layers of all steps. ``formula``: bytes between peers as planned, of all peers together."""

    computing: float = 0.0
    imbalances: list[float] = field(default_factory=list)
    formula: int = 0
    copies: int = 0


@dataclass
class Passed:
    """What the way back through a layer needs."""

    plan: TokenExchange
    order: Array
    arrived: Arrived
    weights: dict[int, Array]
    inner: dict[int, Array]


class Peer:
    """One peer's training. ``threshold``: load over the mean from which tokens and weights are spread; infinite for plain
    expert parallelism. ``chunk``: tokens that are worth a copy of the weights."""

    def __init__(self, comm: collcomm.Communicator, model: Model, threshold: float, chunk: int):
        self.comm, self.model = comm, model
        self.options = {"threshold": threshold, "chunk": chunk}
        self.home = [expert * comm.size // model.experts for expert in range(model.experts)]
        self.owned = [[device == home for device in range(comm.size)] for home in self.home]
        self.weights: list[dict[int, Array]] = [
            {e: model.weights(layer, e) for e in range(model.experts) if self.home[e] == comm.rank}
            for layer in range(model.layers)
        ]
        self.tally = Tally()

    def train(self, step: int) -> float:
        """One step of gradient descent; returns the loss over everybody's tokens."""
        model = self.model
        tokens, routes = model.batch(step, self.comm.rank)
        goal = model.goal(tokens, routes)
        self.comm.barrier()
        self.began = time.perf_counter()
        passed = []
        for layer in range(model.layers):
            tokens, one = self.forward(layer, tokens, routes[layer])
            passed.append(one)
        loss, slope = mean_square(tokens, goal, self.comm.size * model.tokens)
        moves = []
        for layer in reversed(range(model.layers)):
            slope, gradients = self.backward(passed[layer], slope)
            moves.append((layer, gradients))
        for layer, gradients in moves:
            for expert, gradient in gradients.items():
                self.weights[layer][expert] -= np.float32(RATE) * gradient
        return float(self.comm.all_reduce(np.array(loss)))

    def outputs(self) -> Array:
        """Of the batch that nobody trains on."""
        tokens, routes = self.model.batch(HELD_OUT, self.comm.rank)
        for layer in range(self.model.layers):
            tokens, _ = self.forward(layer, tokens, routes[layer])
        return tokens

    def forward(self, layer: int, tokens: Array, experts: Array) -> tuple[Array, Passed]:
        model, comm = self.model, self.comm
        plan = plan_dispatch(comm, np.bincount(experts, minlength=model.experts), self.home, **self.options)
        sizes = [model.size] * model.experts
        spread = sparse.gather(self.owned, plan.dispatch.placement, sizes, epoch=comm.view.epoch)
        weights = self.weights[layer]
        if spread.moves:  # the same at all peers
            weights = sparse_all_gather(comm, weights, spread)
        order = np.argsort(experts, kind="stable")
        arrived = exchange_tokens(comm, tokens[order], plan)
        began = time.thread_time()
        results, inner = {}, {}
        for expert, rows in arrived.tokens.items():
            results[expert], inner[expert] = model.forward(weights[expert], rows)
        self.tally.computing += time.thread_time() - began
        after = np.empty_like(tokens)
        after[order] = return_tokens(comm, results, plan, (model.width,))
        self.tally.imbalances.append(plan.dispatch.imbalance)
        self.tally.copies += len(plan.dispatch.copies)
        self.tally.formula += plan.token_bytes(4 * model.width) + plan.weight_bytes(4 * model.size)
        return after, Passed(plan, order, arrived, weights, inner)

    def backward(self, passed: Passed, slope: Array) -> tuple[Array, dict[int, Array]]:
        """Gradients of the layer's inputs, and of the weights of the experts that are at home here."""
        model, comm, plan = self.model, self.comm, passed.plan
        slopes = exchange_tokens(comm, slope[passed.order], plan)
        began = time.thread_time()
        results, gradients = {}, {}
        for expert, rows in passed.arrived.tokens.items():
            results[expert], gradients[expert] = model.backward(
                passed.weights[expert], rows, passed.inner[expert], slopes.tokens[expert]
            )
        self.tally.computing += time.thread_time() - began
        before = np.empty_like(slope)
        before[passed.order] = return_tokens(comm, results, plan, (model.width,))
        self.tally.formula += plan.token_bytes(4 * model.width) + plan.weight_bytes(4 * model.size)
        if not plan.dispatch.copies:
            return before, gradients
        for expert in self.weights[0]:
            gradients.setdefault(expert, np.zeros(model.size, np.float32))
        home = sparse.scatter(plan.dispatch.placement, self.owned, [model.size] * model.experts, epoch=comm.view.epoch)
        return before, sparse_reduce_scatter(comm, gradients, home)


def run(comm: collcomm.Communicator, model: Model, steps: int, threshold: float, chunk: int) -> dict[str, Any]:
    """Train, and tell what it took: seconds of each step, bytes sent, and the sums of `Tally`."""
    peer = Peer(comm, model, threshold, chunk)
    losses, seconds = [], []
    sent = comm.stats()["bytes_sent"]
    for step in range(steps):
        losses.append(peer.train(step))
        seconds.append(time.perf_counter() - peer.began)
    told = {
        "losses": losses,
        "seconds": seconds,
        "sent": comm.stats()["bytes_sent"] - sent,
        "computing": peer.tally.computing,
        "imbalances": peer.tally.imbalances,
        "formula": peer.tally.formula,
        "copies": peer.tally.copies,
    }
    return {**told, "outputs": peer.outputs()}
