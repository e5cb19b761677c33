"""What one rank of `ddp.py` does: a convolutional net on scikit-learn's handwritten digits, under DistributedDataParallel."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import collcomm.torch

Emit = Callable[..., None]
HELD_OUT = 360  # of 1,797 images
BATCH = 32  # per rank
NEWCOMER_SECONDS = 60.0  # the others wait so long for one that has been announced


@dataclass(frozen=True)
class Plan:
    """``dies_at``: this rank kills itself in that step, in the middle of its backward pass; 0: never. ``waits_at``: before that
    step everybody waits for a newcomer; 0: nobody comes."""

    coordinator: str
    name: str
    size: int
    steps: int
    seed: int
    dies_at: int = 0
    waits_at: int = 0


class Digits:
    """The images, as many by 1 by 8 by 8, and what they show. ``held_out`` has been seen by nobody."""

    def __init__(self) -> None:
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        images = torch.from_numpy(data.images[order] / 16).float()[:, None]
        labels = torch.from_numpy(data.target[order])
        self.images, self.labels = images[HELD_OUT:], labels[HELD_OUT:]
        self.held_out = images[:HELD_OUT], labels[:HELD_OUT]


def make_net(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def train(plan: Plan, emit: Emit) -> None:
    torch.set_num_threads(1)  # the ranks share this machine's cores
    digits, net = Digits(), make_net(plan.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    with collcomm.torch.elastic(plan.coordinator, name=plan.name, min_size=plan.size) as run:
        replica = run.replicate(net)
        run.share(net=net, optimizer=optimizer)
        sampler = run.sampler(digits.labels, BATCH, seed=plan.seed)
        for step in run.steps(plan.steps):
            began, members = time.monotonic(), run.size
            indices = sampler.draw()
            loss = cross_entropy(replica(digits.images[indices]), digits.labels[indices])
            optimizer.zero_grad()
            if step == plan.dies_at > 0:
                _die_in_backward(net)
            loss.backward()
            optimizer.step()
            took = time.monotonic() - began
            emit("step", step=step, loss=loss.item(), began_with=members, over=run.size, seconds=took, rank=run.rank)
            if step + 1 == plan.waits_at > 0:
                _await_newcomer(run, plan.size)
        held_out, correct = evaluate(net, digits)
        emit("done", loss=held_out, accuracy=correct, digest=digest(net))


def _die_in_backward(net: torch.nn.Module) -> None:
    """SIGKILL, when the gradient of the first layer is there: those of the others have been sent or are being sent."""
    first = next(net.parameters())
    first.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))


def _await_newcomer(run: collcomm.torch.Elastic, size: int) -> None:
    until = time.monotonic() + NEWCOMER_SECONDS
    while run.size + run.comm.pending < size and time.monotonic() < until:
        time.sleep(0.02)


@torch.no_grad()
def evaluate(net: torch.nn.Module, digits: Digits) -> tuple[float, float]:
    """Loss and share of the held-out images that are recognised."""
    net.eval()
    images, labels = digits.held_out
    guesses = net(images)
    return cross_entropy(guesses, labels).item(), (guesses.argmax(1) == labels).float().mean().item()


def digest(net: torch.nn.Module) -> str:
    """sha256 over the bits of all parameters."""
    found = hashlib.sha256()
    for parameter in net.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()
