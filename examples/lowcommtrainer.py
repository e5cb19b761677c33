"""One peer of streaming_diloco.py: the same model, from the same start, with one method after the other."""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from bytegpt import ByteGPT, Shape, Text, windows_at

import collcomm
from collcomm.diloco import (
    CO2,
    EagerDiLoCo,
    FlatParameters,
    Method,
    OneStepDelayedDiLoCo,
    StreamingDiLoCo,
    SynchronousDiLoCo,
    Training,
)

Emit = Callable[..., None]

WARM_UP_SHARE = 0.08
FINAL_RATE = 0.1  # of the inner learning rate, where the cosine ends
MOST_POINTS = 400  # of a curve
JOIN_SECONDS = 120.0  # peers import torch at the same time
OUTER = {"lr": 0.7, "momentum": 0.8}  # of DiLoCo and Streaming DiLoCo, so that they can be compared


def run_peer(chosen: argparse.Namespace, methods: Mapping[str, str | None], emit: Emit) -> None:
    torch.set_num_threads(1)  # peers share this machine's cores
    text = Text()
    options = {"name": chosen.name, "min_size": chosen.peers, "timeout": JOIN_SECONDS, "transports": ["tcp"]}
    with collcomm.join(chosen.join, **options) as comm:
        for method, codec in methods.items():
            if codec is not None and (why := without_codec(comm, codec)):
                emit("left out", method=method, rank=comm.rank, why=why)
                continue
            part = comm.split(range(comm.size))  # a count of revisions of its own
            assert part is not None
            run = Run(part, chosen, text)
            if method == "data-parallel":
                run.data_parallel()
            else:
                run.low_communication(method, codec)
            emit("trained", method=method, rank=comm.rank, **run.told())
            part.close()
        comm.barrier()


def without_codec(comm: collcomm.Communicator, codec: Any) -> str:
    """Why there is no such codec here; empty where there is."""
    try:
        comm.all_reduce(np.ones(64, np.float32), codec=codec)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


@dataclass
class Curve:
    """``exposed``: seconds that this peer stood still."""

    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    exposed: float = 0.0
    averaged: int = 0  # bytes of all that was averaged


class Run:
    """One method's training."""

    def __init__(self, comm: collcomm.Communicator, chosen: argparse.Namespace, text: Text):
        self.comm, self.chosen, self.text = comm, chosen, text
        self.shape = Shape(context=64, width=32, layers=2) if chosen.quick else Shape()
        self.model = ByteGPT(self.shape, chosen.seed)
        self.params = self.model.arrays()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=chosen.inner_lr, betas=(0.9, 0.95), weight_decay=0.1
        )
        self.chance = np.random.default_rng([chosen.seed, comm.rank])
        self.shard = text.shard(comm.rank, comm.size)
        self.curve = Curve()
        self.sent = 0

    def data_parallel(self) -> None:
        gradients = FlatParameters(
            {name: self._gradient(parameter) for name, parameter in self.model.named_parameters()}
        )
        vector = np.empty(gradients.size, np.float32)
        self._begin()
        for step in range(self.chosen.parallel_steps):
            loss = self._backward(step)
            gradients.read(vector)
            began = time.perf_counter()
            self.comm.all_reduce(vector, "avg", vector)
            self.curve.exposed += time.perf_counter() - began
            self.curve.averaged += vector.nbytes
            gradients.write(vector)
            self._update(step)
            self._note(loss)
        self._end()

    def low_communication(self, method: str, codec: Any) -> None:
        training = Training(self.comm, self._method(method), codec)
        training.sync()
        before = training.report
        self._begin()
        while training.steps < self.chosen.steps:
            step = training.steps
            loss = self._backward(step)
            self._update(step)
            training.step()
            self._note(loss)
        report = training.report
        self.curve.exposed = report.exposed_seconds - before.exposed_seconds
        training.finish()
        self.curve.averaged = report.launched_bytes
        self._end()

    def told(self) -> dict[str, Any]:
        """Of this run; the model's loss on the held-out text, each peer doing a share."""
        held_out = torch.from_numpy(self.text.held_out_windows(self.chosen.held_out, self.shape.context))
        mine = held_out[self.comm.rank :: self.comm.size]
        with torch.no_grad():
            sums = np.array([sum(self.model.loss(some).item() * len(some) for some in mine.split(32)), len(mine)])
        self.comm.all_reduce(sums, out=sums)
        curve, every = self.curve, -(-len(self.curve.losses) // MOST_POINTS)
        return {
            "steps": len(curve.losses),
            "seconds": curve.times[-1],
            "exposed": curve.exposed,
            "averaged": curve.averaged,
            "sent": self.sent,
            "held_out": float(sums[0] / sums[1]),
            "digest": hashlib.sha256(b"".join(self.params[name].tobytes() for name in sorted(self.params))).hexdigest(),
            "losses": [round(loss, 4) for loss in curve.losses[::every]],
            "times": [round(seconds, 3) for seconds in curve.times[::every]],
            "bytes": curve.bytes[::every],
        }

    def _method(self, name: str) -> Method:
        chosen, params = self.chosen, self.params
        if name == "diloco":
            return SynchronousDiLoCo(params, chosen.every, **OUTER)
        if name == "one-step-delayed":
            return OneStepDelayedDiLoCo(params, chosen.every, lr=OUTER["lr"], momentum=0.0)  # late, it would overshoot
        if name == "eager":
            return EagerDiLoCo(params, chosen.every, lr=0.5, momentum=0.5)
        if name == "co2":
            return CO2(params, chosen.every)
        return StreamingDiLoCo(params, chosen.every, chosen.tau, fragments=chosen.fragments, **OUTER)

    def _backward(self, step: int) -> float:
        """Gradients of a batch that no other peer has; takes as long as the machine that is played."""
        began = time.monotonic()
        context = self.shape.context
        starts = self.chance.integers(0, len(self.shard) - context - 1, self.chosen.batch)
        loss = self.model.loss(torch.from_numpy(windows_at(self.shard, starts, context)))
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        left = self.chosen.step_seconds - (time.monotonic() - began)
        if left > 0:
            time.sleep(left)
        return float(loss.item())

    def _update(self, step: int) -> None:
        done = step / self.chosen.steps
        rate = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.chosen.inner_lr * rate * min(1.0, (done + 1 / self.chosen.steps) / WARM_UP_SHARE)
        self.optimizer.step()

    def _begin(self) -> None:
        self.comm.barrier()
        self._began, self._sent_before = time.monotonic(), self._traffic()

    def _note(self, loss: float) -> None:
        self.curve.losses.append(loss)
        self.curve.times.append(time.monotonic() - self._began)
        self.curve.bytes.append(self._traffic() - self._sent_before)

    def _end(self) -> None:
        self.sent = self._traffic() - self._sent_before

    def _traffic(self) -> int:
        return int(self.comm.stats()["bytes_sent"])

    @staticmethod
    def _gradient(parameter: torch.nn.Parameter) -> Any:
        """A numpy view of the gradient, which stays where it is."""
        parameter.grad = torch.zeros_like(parameter)
        return parameter.grad.numpy()
