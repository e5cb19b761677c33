"""Peers as processes that train with little communication, while one is killed with a reduction in flight and another joins."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

import collcomm
from collcomm.diloco import (
    CO2,
    AsyncGossip,
    AsyncTraining,
    EagerDiLoCo,
    Gossip,
    LocalSGD,
    Method,
    OneStepDelayedDiLoCo,
    StreamingDiLoCo,
    SynchronousDiLoCo,
    Training,
    ring,
)

WAIT_SECONDS = 60.0
WIDTH = 40_000  # of a layer: 160 KB, some frames on the wire
LAYERS = 6
EVERY = 8
AFTERWARDS = 3 * EVERY + 3  # inner steps from a newcomer's admission to the end

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["collcomm", "collcomm.diloco"])

MAKERS: dict[str, Callable[[dict[str, Any]], Method]] = {
    "local SGD": lambda params: LocalSGD(params, EVERY),
    "DiLoCo": lambda params: SynchronousDiLoCo(params, EVERY),
    "one-step-delayed": lambda params: OneStepDelayedDiLoCo(params, EVERY),
    "eager": lambda params: EagerDiLoCo(params, EVERY),
    "CO2": lambda params: CO2(params, EVERY),
    "streaming": lambda params: StreamingDiLoCo(params, EVERY, tau=5, alpha=0.5),  # two fragments, one always in flight
}


def make(method: str, comm: Any, params: dict[str, Any]) -> Any:
    """The loop of ``method`` over ``comm``, of either face."""
    waits = isinstance(comm, collcomm.aio.AsyncCommunicator)
    if method == "gossip":
        return (AsyncGossip if waits else Gossip)(comm, params, EVERY, rate=1.0, graph=ring)
    return (AsyncTraining if waits else Training)(comm, MAKERS[method](params))


def parameters(value: float) -> dict[str, Any]:
    return {f"blocks.{layer}.weight": np.full(WIDTH, value, np.float32) for layer in range(LAYERS)}


def in_flight(training: Any) -> int:
    return len(training.method.in_flight) if hasattr(training, "method") else 0


def inner_step(params: dict[str, Any], member: int, step: int) -> None:
    """Each member draws the parameters elsewhere."""
    target = np.random.default_rng([member, step]).standard_normal(WIDTH).astype(np.float32)
    for array in params.values():
        array -= np.float32(0.05) * (array - target)


def digest(params: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(params[name].tobytes() for name in sorted(params))).hexdigest()


class Life:
    """What one peer does, step by step; the two loops below differ in how they wait."""

    def __init__(self, comm: Any, name: str, dies_at: int, tell: Connection):
        self.name, self.tell, self.dies_at = name, tell, dies_at
        self.params = parameters(1.0 if name != "newcomer" else -5.0)
        self.member = comm.view[comm.rank].id
        self.ends_at = -1
        self.seen = False

    def synced(self, training: Any) -> None:
        if self.name == "newcomer":
            self.ends_at = training.steps + AFTERWARDS
            self.tell.send(("joined", self.name, training.steps, in_flight(training)))

    def before(self, training: Any) -> None:
        inner_step(self.params, self.member, training.steps)
        if training.steps + 1 == self.dies_at:  # while this step's launches are on their way, or a moment later
            self.tell.send(("dying", self.name))
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGKILL)).start()

    def after(self, training: Any) -> None:
        if training.report.admissions and self.ends_at < 0:
            self.ends_at = training.steps + AFTERWARDS

    def done(self, training: Any) -> bool:
        return training.steps == self.ends_at

    def ended(self, training: Any, size: int) -> None:
        self.tell.send(("ended", self.name, training.steps, size, digest(self.params), training.report.repeated))


def live(address: str, name: str, method: str, dies_at: int, on_failure: str, tell: Connection) -> None:
    try:
        options = {"name": name, "min_size": 4, "timeout": 30, "op_timeout": 30, "on_failure": on_failure}
        with collcomm.join(address, **options) as comm:
            life = Life(comm, name, dies_at, tell)
            training = make(method, comm, life.params)
            training.sync()
            life.synced(training)
            while not life.done(training):
                life.before(training)
                training.step()
                life.after(training)
            training.finish()
            life.ended(training, comm.size)
            comm.barrier()
    except BaseException:
        tell.send(("error", name, traceback.format_exc()))


def live_async(address: str, name: str, method: str, dies_at: int, on_failure: str, tell: Connection) -> None:
    async def body() -> None:
        options = {"name": name, "min_size": 4, "timeout": 30, "op_timeout": 30, "on_failure": on_failure}
        async with await collcomm.aio.join(address, **options) as comm:
            life = Life(comm, name, dies_at, tell)
            training = make(method, comm, life.params)
            await training.sync()
            life.synced(training)
            while not life.done(training):
                life.before(training)
                await training.step()
                life.after(training)
            await training.finish()
            life.ended(training, comm.size)
            await comm.barrier()

    try:
        asyncio.run(body())
    except BaseException:
        tell.send(("error", name, traceback.format_exc()))


def run(
    method: str, on_failure: str = "retry", body: Callable[..., None] = live, dies_at: int = 2 * EVERY
) -> list[Any]:
    """Four peers, of which "p3" dies; then a newcomer is started. Returns what was told, in the order in which it came."""
    heard: list[Any] = []
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        peers: dict[Connection, Any] = {}

        def start(name: str) -> Connection:
            hear, tell = CONTEXT.Pipe(duplex=False)
            arguments = (coordinator.address, name, method, dies_at if name == "p3" else -1, on_failure, tell)
            child = CONTEXT.Process(target=body, args=arguments, daemon=True)
            child.start()
            tell.close()
            peers[hear] = child
            return hear

        try:
            open_pipes = {start(f"p{number}") for number in range(4)}
            while open_pipes:
                ready = wait(list(open_pipes), WAIT_SECONDS)
                assert ready, f"nobody says anything; so far: {heard}"
                for pipe in ready:
                    assert isinstance(pipe, Connection)
                    try:
                        said = pipe.recv()
                    except EOFError:
                        open_pipes.discard(pipe)
                        continue
                    heard.append(said)
                    assert said[0] != "error", said
                    if said[0] == "dying":
                        open_pipes.add(start("newcomer"))
        finally:
            for pipe, child in peers.items():
                child.kill()
                child.join(10)
                pipe.close()
    return heard
