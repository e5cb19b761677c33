"""Peers as processes that take snapshots of their shards, while some are killed in the midst of it and others join."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any

import ml_dtypes
import numpy as np

import collcomm
from collcomm.snapshots import Recovery, Shard, Snapshots

HEAR_SECONDS = 30.0
ELEMENTS = 500_000
ARRAYS = 6  # each of 2 MB
LOOK_SECONDS = 0.0002

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["collcomm", "collcomm.snapshots"])


def shard_of(owner: str, step: int) -> dict[str, Any]:
    """What the shard of ``owner`` is at ``step``; no two are alike."""
    chance = np.random.default_rng([*owner.encode(), step])
    found = {f"w{number}": chance.standard_normal(ELEMENTS, np.float32) for number in range(ARRAYS)}
    found["half"] = chance.standard_normal((3, 1000), np.float32).astype(ml_dtypes.bfloat16)
    found["every other"] = np.arange(step, step + 20)[::2]
    return found


def is_whole(shard: Shard, owner: str, step: int) -> bool:
    """Whether it is bit-identical to what it should be."""
    expected = shard_of(owner, step)
    return (
        (shard.owner, shard.step, shard.meta) == (owner, step, {"step": step})
        and shard.arrays.keys() == expected.keys()
        and all(
            found.dtype == expected[name].dtype and found.tobytes() == expected[name].tobytes()
            for name, found in shard.arrays.items()
        )
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(HEAR_SECONDS)  # the signal takes a moment


def die_after_bytes(comm: collcomm.Communicator, nbytes: int) -> None:
    """In the midst of what is being sent, when so many bytes of it have gone."""
    began = comm.stats()["bytes_sent"]

    def watch() -> None:
        while comm.stats()["bytes_sent"] < began + nbytes:
            time.sleep(LOOK_SECONDS)
        die()

    threading.Thread(target=watch, daemon=True).start()


def die_in_call(name: str, number: int) -> None:
    """In the ``number``-th call of that name of any communicator of this process, from now."""
    original = getattr(collcomm.Communicator, name)
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            die()
        return original(*arguments, **options)

    setattr(collcomm.Communicator, name, call)


def until_broken(
    comm: collcomm.Communicator, snapshots: Snapshots, first: int, about_to: Callable[[int], None] = lambda step: None
) -> None:
    """Take snapshots from step ``first`` on, until somebody has gone or come. ``about_to``: called before each."""
    step = first
    while not snapshots.broken:
        shard = shard_of(comm.name, step)
        about_to(step)
        assert snapshots.take(step, shard, {"step": step}) != snapshots.broken
        snapshots.wait()
        for array in shard.values():
            array[:] = 0  # the update
        meet(comm)
        step += 1


def meet(comm: collcomm.Communicator) -> None:
    """A safe point; who dies in it is seen in the view."""
    try:
        comm.step()
    except collcomm.PeerLost:
        pass


def outlive(comm: collcomm.Communicator, tell: Connection, copy: str) -> None:
    """Snapshots without pause until two are left; tells of each recovery, of which all must be bit-identical."""
    with Snapshots(comm, copy, timeout=HEAR_SECONDS / 2) as snapshots:
        snapshots.recover()
        snapshots.take(0, shard_of(comm.name, 0), {"step": 0})
        snapshots.finish()
        comm.barrier()
        tell.send("running")
        step = 1
        while comm.size > 2:
            until_broken(comm, snapshots, step)
            try:
                found = snapshots.recover(partial=True)
                taken = snapshots.take_over()
            except collcomm.PeerLost:
                continue
            assert found.step is not None
            right = own_is_whole(comm, found) and all(is_whole(one, name, found.step) for name, one in taken.items())
            tell.send((found.step, found.orphans, found.lost, right))
            step = found.step + 1


def own_is_whole(comm: collcomm.Communicator, found: Recovery) -> bool:
    return found.step is not None and found.own is not None and is_whole(found.own, comm.name, found.step)


class Company:
    """Processes, by name, that run ``body(comm, tell, ...)``. All are gone at the end."""

    def __init__(self, address: str):
        self._address = address
        self._children: dict[str, Any] = {}
        self._pipes: dict[str, Connection] = {}

    def start(self, name: str, body: Callable[..., None], *arguments: Any, **options: Any) -> None:
        self._pipes[name], tell = CONTEXT.Pipe(duplex=False)
        settings = {"timeout": 30.0, "op_timeout": 30.0, "name": name, **options}
        target = self._address, body, tell, arguments, settings
        self._children[name] = CONTEXT.Process(target=_live, args=target, daemon=True)
        self._children[name].start()
        tell.close()

    def hear(self, name: str) -> Any:
        """The next thing that ``name`` tells. Raises AssertionError for an error, or if it says nothing more."""
        assert self._pipes[name].poll(HEAR_SECONDS), f"{name} says nothing"
        try:
            said = self._pipes[name].recv()
        except EOFError:
            raise AssertionError(f"{name} has ended") from None
        assert not (isinstance(said, str) and said.startswith("Traceback")), said
        return said

    def until(self, names: Iterable[str], last: Any) -> list[Any]:
        """All that ``names`` tell, until each has told ``last`` or was killed."""
        told: list[Any] = []
        listening = {self._pipes[name]: name for name in names}
        while listening:
            ready = wait(list(listening), HEAR_SECONDS)
            assert ready, f"{sorted(listening.values())} say nothing; so far: {told}"
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    said = pipe.recv()
                except EOFError:
                    said = last
                assert not (isinstance(said, str) and said.startswith("Traceback")), said
                if said == last:
                    del listening[pipe]
                else:
                    told.append(said)
        return told

    def kill(self, *names: str) -> None:
        """All at once."""
        for name in names:
            os.kill(self._children[name].pid, signal.SIGKILL)

    def __enter__(self) -> Company:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.kill()
            child.join(10)
        for pipe in self._pipes.values():
            pipe.close()


def _live(address: str, body: Callable[..., None], tell: Connection, arguments: Any, settings: dict[str, Any]) -> None:
    try:
        with collcomm.join(address, **settings) as comm:
            body(comm, tell, *arguments)
            comm.barrier()
    except BaseException:
        tell.send(traceback.format_exc())
