"""What one peer does: inner AdamW steps on its own share of the text, DiLoCo rounds with whoever is there."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from bytegpt import ByteGPT, Shape, Text, windows_at

import collcomm
from collcomm.diloco import DiLoCo, UnevenSteps

Emit = Callable[..., None]  # emit("step", round=3, step=7, loss=2.5)

WARM_UP_STEPS = 30  # of this peer's own, so that a newcomer's fresh Adam moments settle at a low rate, too
FINAL_RATE = 0.1  # of the inner learning rate, where the cosine ends
STEP_EVENT_SECONDS = 0.2
NEWCOMER_SECONDS = 60.0


@dataclass(frozen=True)
class PeerSettings:
    """One peer's part. What all must agree on (``rounds`` to ``inner_lr``, ``least_steps``) is taken over from the group."""

    coordinator: str
    name: str | None
    min_size: int
    shape: Shape
    rounds: int
    inner_steps: int
    batch: int
    inner_lr: float
    held_out: int  # windows
    seed: int
    least_steps: int = 0  # of uneven machines, of which the fastest take inner_steps; 0: all take those
    newcomer: str = ""  # wait for this peer ...
    newcomer_round: int = 0  # ... after this round, if it is not there yet


class InnerLoop:
    """The model, its AdamW, and the text; knows nothing of other peers but its share of the text."""

    def __init__(self, settings: PeerSettings):
        self.settings = settings
        self.text = Text()
        self.model = ByteGPT(settings.shape, settings.seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.inner_lr, betas=(0.9, 0.95), weight_decay=0.1
        )
        self._held_out = torch.from_numpy(self.text.held_out_windows(settings.held_out, settings.shape.context))
        self._own_steps = 0

    def train(self, finished: int, plan: Plan, steps: int, member: int, part: int, parts: int, emit: Emit) -> float:
        """The ``steps`` inner steps of one round, on share ``part`` of ``parts``. Returns the mean loss.

        Shares move on by one each round, so that a dead peer's is not lost; batches are drawn by (seed, member,
        round), so that no two peers ever see the same.
        """
        shard = self.text.shard((part + finished) % parts, parts)
        random = np.random.default_rng([self.settings.seed, member, finished])
        context = self.settings.shape.context
        total, shown = 0.0, 0.0
        for step in range(steps):
            starts = random.integers(0, len(shard) - context - 1, plan.batch)
            loss = self.model.loss(torch.from_numpy(windows_at(shard, starts, context)))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = plan.rate(finished, step / steps) * min(1.0, (self._own_steps + 1) / WARM_UP_STEPS)
            self.optimizer.step()
            self._own_steps += 1
            total += loss.item()
            if time.monotonic() - shown > STEP_EVENT_SECONDS:
                shown = time.monotonic()
                emit("step", round=finished + 1, step=step + 1, loss=loss.item())
        return total / steps

    @torch.no_grad()
    def held_out_loss(self, rank: int, size: int) -> tuple[float, int]:
        """Sum of losses over this rank's share of the held-out windows, and how many those are."""
        windows = self._held_out[rank::size]
        losses = [self.model.loss(some).item() * len(some) for some in windows.split(32)]
        return sum(losses), len(windows)

    def digest(self) -> str:
        """sha256 over the bits of all parameters."""
        digest = hashlib.sha256()
        for name, array in sorted(self.model.arrays().items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()


class Plan:
    """The schedule of the run, kept in arrays that `DiLoCo.sync` shares: a newcomer trains as the group does."""

    def __init__(self, rounds: int, inner_steps: int, batch: int, inner_lr: float, least_steps: int = 0):
        self.shared = {
            "plan.counts": np.array([rounds, inner_steps, batch, least_steps], np.int64),
            "plan.inner_lr": np.array([inner_lr], np.float64),
        }

    @property
    def rounds(self) -> int:
        return int(self.shared["plan.counts"][0])

    @property
    def inner_steps(self) -> int:
        return int(self.shared["plan.counts"][1])

    @property
    def batch(self) -> int:
        return int(self.shared["plan.counts"][2])

    @property
    def least_steps(self) -> int:
        return int(self.shared["plan.counts"][3])

    def rate(self, finished: int, part: float) -> float:
        """Inner learning rate when ``part`` of a round is done: a cosine over the whole run, without the warm-up."""
        progress = (finished + part) / self.rounds
        falling = 0.5 * (1 + math.cos(math.pi * progress))
        return float(self.shared["plan.inner_lr"][0]) * (FINAL_RATE + (1 - FINAL_RATE) * falling)


def run_peer(settings: PeerSettings, emit: Emit) -> bool:
    """Take part in the run until its last round. Returns whether all peers ended with the same bits."""
    torch.set_num_threads(1)  # peers share this machine's cores
    inner = InnerLoop(settings)
    plan = Plan(settings.rounds, settings.inner_steps, settings.batch, settings.inner_lr, settings.least_steps)
    emit("ready")
    with collcomm.join(settings.coordinator, name=settings.name, min_size=settings.min_size) as comm:
        emit("joined", member=comm.view[comm.rank].id)
        diloco = DiLoCo(comm, inner.model.arrays(), extra=plan.shared)
        shown_epoch = -1
        train_loss = np.nan
        pace: UnevenSteps | None = None
        while True:
            if comm.view.epoch != shown_epoch:
                shown_epoch = comm.view.epoch
                emit("view", epoch=shown_epoch, members=[member.name for member in comm.view.members])
            with Stopwatch() as syncing:
                diloco.sync()
            emit("synced", round=diloco.rounds, seconds=syncing.seconds, **_traffic(comm))
            emit("evaluated", round=diloco.rounds, **evaluate(inner, comm, train_loss))
            if diloco.rounds >= plan.rounds:
                break
            if plan.least_steps and pace is None:
                pace = UnevenSteps(comm, plan.least_steps, plan.inner_steps)
            steps = pace.agree() if pace else plan.inner_steps
            rank, size = comm.rank, comm.size
            with Stopwatch() as training:
                train_loss = inner.train(diloco.rounds, plan, steps, comm.view[rank].id, rank, size, emit)
            if pace:
                pace.trained(steps, training.seconds)
            emit("reducing", round=diloco.rounds + 1, loss=train_loss, steps=steps)
            report = diloco.round()
            emit(
                "round",
                round=report.number,
                peers=report.peers,
                reduce_seconds=report.reduce_seconds,
                seconds_lost=report.seconds_lost,
                retries=report.retries,
                **_traffic(comm),
            )
            if settings.newcomer and report.number == settings.newcomer_round:
                _await_newcomer(comm, settings.newcomer, emit)
            with Stopwatch() as stepping:
                comm.step()
            emit("stepped", round=report.number, seconds=stepping.seconds, epoch=comm.view.epoch)
        return compare(inner, comm, emit)


def evaluate(inner: InnerLoop, comm: collcomm.Communicator, train_loss: float) -> dict[str, float]:
    """Held-out loss of the common parameters, each peer doing a share, and the mean of the peers' training losses.

    A newcomer has no training loss yet: NaN, and it counts in the held-out part only.
    """
    held_sum, held_count = inner.held_out_loss(comm.rank, comm.size)
    trained = not math.isnan(train_loss)
    sums = np.array([held_sum, held_count, train_loss if trained else 0.0, trained], np.float64)
    comm.all_reduce(sums, out=sums)
    return {"held_out": sums[0] / sums[1], "train": sums[2] / sums[3] if sums[3] else sums[0] / sums[1]}


def compare(inner: InnerLoop, comm: collcomm.Communicator, emit: Emit) -> bool:
    """Show everybody everybody's hash of the final parameters. Returns whether they are one."""
    digest = inner.digest()
    digests = comm.all_gather_object(digest)
    identical = len(set(digests)) == 1
    emit("finished", digest=digest, identical=identical, peers=len(digests), **_traffic(comm))
    return identical


class Stopwatch:
    """``with Stopwatch() as watch: ...``; then ``watch.seconds``."""

    def __enter__(self) -> Stopwatch:
        self.seconds = -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()


def _traffic(comm: collcomm.Communicator) -> dict[str, int]:
    stats = comm.stats()
    return {"bytes_sent": int(stats["bytes_sent"]), "bytes_received": int(stats["bytes_received"])}


def _await_newcomer(comm: collcomm.Communicator, name: str, emit: Emit) -> None:
    """On a fast machine the run could be over before a fresh process has imported torch: hold it for the newcomer."""
    deadline = time.monotonic() + NEWCOMER_SECONDS
    if any(member.name == name for member in comm.view.members):
        return
    with Stopwatch() as holding:
        while not comm.pending and time.monotonic() < deadline:
            time.sleep(0.01)
    emit("held", seconds=holding.seconds)
