"""Buddy copies while peers are killed: what comes back is bit-identical, or a clear error."""

from __future__ import annotations

import random
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest

import collcomm
from collcomm.snapshots import ShardLost, Snapshots
from tests.support.shards import (
    ARRAYS,
    ELEMENTS,
    Company,
    die,
    die_after_bytes,
    die_in_call,
    is_whole,
    meet,
    outlive,
    own_is_whole,
    shard_of,
    until_broken,
)

FOUNDERS = ("p0", "p1", "p2", "p3")
DEATH = 3  # the step of the snapshot in which one dies
SNAPSHOT_SECONDS = 20.0


def ring(comm: collcomm.Communicator) -> list[str]:
    """Who is whose buddy: the next one."""
    return [member.name for member in comm.view.members]


def after(names: list[str], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


def train(comm: collcomm.Communicator, tell: Connection, dies: str, copy: str) -> None:
    """One dies in the midst of sending its shard; a newcomer goes on with that."""
    newcomer = comm.name not in FOUNDERS
    with Snapshots(comm, copy, timeout=SNAPSHOT_SECONDS) as snapshots:
        if not newcomer:
            tell.send(ring(comm))
            assert snapshots.recover().step is None

            def about_to(step: int) -> None:
                if step == DEATH and comm.name == "p2":
                    snapshots.finish()
                    tell.send("dying")
                    if dies == "between messages":
                        die_in_call("send", 2)  # the first tells what comes
                    else:
                        die_after_bytes(comm, ELEMENTS * ARRAYS)  # a fourth of its shard, and of what it passes on

            until_broken(comm, snapshots, 0, about_to)
            found = snapshots.recover()
            mine = snapshots.take_over()
            right = all(is_whole(shard, "p2", found.step) for shard in mine.values() if found.step is not None)
            tell.send((found.step, found.orphans, found.lost, sorted(mine), own_is_whole(comm, found) and right))
            while comm.size < 4:
                comm.step()
        found = snapshots.recover()
        assert found.step is not None
        mine = snapshots.take_over({"p2": "newcomer"})
        right = own_is_whole(comm, found) != newcomer and all(is_whole(s, "p2", found.step) for s in mine.values())
        tell.send((found.step, found.orphans, sorted(mine), right))
        for step in (50, 51):
            snapshots.take(step, {})
        assert snapshots.finish() == 51
        nbytes = snapshots.nbytes
    tell.send(nbytes)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("dies", "copy"), [("within a message", "now"), ("within a message", "later"), ("between messages", "now")]
)
def test_a_peer_dies_in_the_midst_of_its_transfer_and_a_newcomer_takes_its_shard_over(
    dies: str, copy: str, each_transport: str
) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Company(coordinator.address) as peers:
        for name in FOUNDERS:
            peers.start(name, train, dies, copy, min_size=4)
        (buddy,) = {after(peers.hear(name), "p2") for name in FOUNDERS}
        assert peers.hear("p2") == "dying"
        found: dict[str, Any] = {name: peers.hear(name) for name in ("p0", "p1", "p3")}
        steps = {said[0] for said in found.values()}
        assert len(steps) == 1 and steps <= {DEATH - 1, DEATH}, found
        assert dies == "within a message" or steps == {DEATH - 1}, "the message that is missing was counted in"
        for name, (_, orphans, lost, taken, right) in found.items():
            assert right and lost == () and orphans == {"p2": buddy}
            assert taken == (["p2"] if name == buddy else [])
        peers.start("newcomer", train, dies, copy, min_size=4)
        for name in ("newcomer", "p0", "p1", "p3"):
            step, orphans, taken, right = peers.hear(name)
            assert right and {step} == steps and orphans == {"p2": buddy}
            assert taken == (["p2"] if name == "newcomer" else [])
        for name in ("newcomer", "p0", "p1", "p3"):
            assert peers.hear(name) == 0, "the empty shards of the end took the place of all others"


def lose(comm: collcomm.Communicator, tell: Connection) -> None:
    with Snapshots(comm, timeout=SNAPSHOT_SECONDS) as snapshots:
        snapshots.recover()

        def about_to(step: int) -> None:
            if step == DEATH:
                snapshots.finish()
                tell.send(ring(comm))

        until_broken(comm, snapshots, 0, about_to)
        try:
            snapshots.recover()
        except ShardLost as error:
            tell.send((str(error), error.owners))
        found = snapshots.recover(partial=True)
        tell.send((found.orphans, found.lost, own_is_whole(comm, found)))
        try:
            snapshots.take_over({found.lost[0]: comm.view[0].name})
        except ShardLost:
            tell.send("lost")
        taken = snapshots.take_over()
        assert found.step is not None
        tell.send({name: is_whole(shard, name, found.step) for name, shard in taken.items()})


@pytest.mark.timeout(60)
def test_an_owner_and_its_buddy_both_die() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Company(coordinator.address) as peers:
        for name in FOUNDERS:
            peers.start(name, lose, min_size=4)
        ((one, owner, buddy, other),) = {tuple(peers.hear(name)) for name in FOUNDERS}
        peers.kill(owner, buddy)
        for name in (one, other):
            text, owners = peers.hear(name)
            assert owners == (owner,)
            assert f"{owner} has gone, and so has its buddy {buddy}" in text
            assert "neighbour_mean" in text and "checkpoint" in text
            assert peers.hear(name) == ({buddy: other}, (owner,), True)
            assert peers.hear(name) == "lost"
            assert peers.hear(name) == ({buddy: True} if name == other else {})


def die_while_taking_over(comm: collcomm.Communicator, tell: Connection) -> None:
    with Snapshots(comm, timeout=SNAPSHOT_SECONDS) as snapshots:
        snapshots.recover()
        for step in (0, 1):
            snapshots.take(step, shard_of(comm.name, step), {"step": step})
        snapshots.finish()
        _, owner, buddy, taker = members = ring(comm)
        tell.send(members)
        comm.barrier()
        if comm.name == owner:
            die()
        while comm.size == 4:
            meet(comm)
        assert snapshots.recover().orphans == {owner: buddy}
        if comm.name == taker:
            die_in_call("recv", 3)  # the first two tell what comes
        with pytest.raises(collcomm.PeerLost):
            snapshots.take_over({owner: taker})
        while not snapshots.broken:
            meet(comm)
        found = snapshots.recover()
        taken = snapshots.take_over()
        assert found.step is not None
        right = own_is_whole(comm, found) and all(is_whole(shard, name, found.step) for name, shard in taken.items())
        tell.send((found.step, found.orphans, sorted(taken), right))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("on_failure", ["retry", "raise"])
def test_the_taker_dies_while_the_shard_is_handed_over(on_failure: str, over_tcp: None) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Company(coordinator.address) as peers:
        for name in FOUNDERS:
            peers.start(name, die_while_taking_over, min_size=4, on_failure=on_failure)
        ((one, owner, buddy, taker),) = {tuple(peers.hear(name)) for name in FOUNDERS}
        orphans = {owner: buddy, taker: one}
        assert peers.hear(one) == (1, orphans, [taker], True)
        assert peers.hear(buddy) == (1, orphans, [owner], True)


def check_deaths(seed: int) -> None:
    """Two of five are killed at some instant, the second after the recovery from the first."""
    chance = random.Random(seed)
    options = {
        "min_size": 5,
        "on_failure": chance.choice(["retry", "raise"]),
        "transports": [chance.choice(["shm", "tcp"])],
    }
    copy = chance.choice(["now", "later"])
    alive = [f"p{number}" for number in range(5)]
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Company(coordinator.address) as peers:
        for name in alive:
            peers.start(name, outlive, copy, **options)
        assert {peers.hear(name) for name in alive} == {"running"}
        for _ in range(2):
            time.sleep(chance.uniform(0.0, 0.5))  # the death comes anywhere in a snapshot
            victim = chance.choice(alive)
            alive.remove(victim)
            peers.kill(victim)
            told = [peers.hear(name) for name in alive]
            assert all(said == told[0] for said in told)
            step, orphans, lost, right = told[0]
            assert right and step >= 0 and victim in {*orphans, *lost}, told


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(2))
def test_deaths_at_any_instant(seed: int) -> None:
    check_deaths(seed)


@pytest.mark.campaign
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(2, 100))
def test_more_deaths_at_any_instant(seed: int) -> None:
    check_deaths(seed)
