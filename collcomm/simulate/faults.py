"""What goes wrong in a history, and when: drawn from the seed."""

from __future__ import annotations

from functools import partial

from .host import SimPeer
from .world import World

KINDS = (
    *("crash", "crash", "crash midway", "crash midway", "crash midway", "stopped", "stopped", "stalled"),
    *("reset", "reset", "cut", "one way", "partition", "join", "join", "join", "leave", "odd", "slow", "blip"),
    *("coordinator stalls", "coordinator dies", "coordinator dies midway", "coordinator dies midway", "store cut off"),
)
PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0)


def cause_faults(world: World) -> None:
    """Plan them; they happen as time passes."""
    random = world.random
    for _ in range(random.randint(1, world.options.faults)):
        world.scheduler.after(random.uniform(0.0, world.options.fault_seconds), lambda: _fault(world))


def _fault(world: World) -> None:
    random = world.random
    kind = random.choice(KINDS)
    running = [peer for peer in world.peers if peer.running]
    members = [peer for peer in running if peer.comm is not None and not peer.paused]
    coordinator = random.choice(world.coordinators)
    if kind == "join":
        world.spawn()
    elif kind == "coordinator stalls":
        seconds = random.choice(PAUSES)
        coordinator.busy_until = world.now + seconds
        world.log(f"coordinator {coordinator.number} is held up for {seconds} s")
    elif kind == "coordinator dies":
        world.crash_coordinator(coordinator, random.choice((0.1, 1.0, 3.0)))
    elif kind == "coordinator dies midway":
        coordinator.crash_after = random.randint(0, 3 * len(running))
    elif kind == "store cut off":
        seconds = random.choice((1.0, 2.0, 4.0))  # a lease survives the first
        coordinator.cut_off = True
        world.log(f"coordinator {coordinator.number} cannot reach its store for {seconds} s")

        def reach() -> None:
            coordinator.cut_off = False

        world.scheduler.after(seconds, reach)
    elif kind == "crash" and running:
        world.crash(random.choice(running))
    elif kind == "partition" and len(members) >= 2:
        _partition(world, random.sample(members, random.randint(1, len(members) - 1)))
    elif len(members) >= 2 and kind in ("reset", "cut", "one way"):
        _break_link(world, kind, *random.sample(members, 2))
    elif members:
        _upset(world, kind, random.choice(members))


def _upset(world: World, kind: str, peer: SimPeer) -> None:
    random = world.random
    if kind == "crash midway":
        peer.crash_after = random.randint(0, 12)
    elif kind in ("stopped", "stalled"):
        seconds = random.choice(PAUSES)
        world.log(f"{peer.name} is {kind} for {seconds} s")
        peer.paused = kind
        world.scheduler.after(seconds, peer.resume)
    elif kind == "leave":
        world.log(f"{peer.name} leaves")
        peer.leave()
    elif kind == "blip":
        seconds = random.uniform(0.05, 0.3)
        world.log(f"{peer.name} loses its lines for {seconds:.2f} s")
        for coordinator in world.coordinators:
            world.lose_line(peer, coordinator, seconds)
    elif kind == "odd":
        peer.odd = world.odd = True
    elif kind == "slow":
        peer.think = 8 * random.random()


def _break_link(world: World, kind: str, peer: SimPeer, other: SimPeer) -> None:
    """A reset, or nothing gets through any more for a while: both ways, or one way only."""
    world.log(f"link {peer.name}-{other.name}: {kind}")
    if kind == "reset":
        world.network.break_links(peer, other)
        return
    pairs = [(peer, other)] if kind == "one way" else [(peer, other), (other, peer)]
    for source, target in pairs:
        world.network.cut(source, target)
        world.scheduler.after(world.random.uniform(0.1, 12.0), partial(world.network.heal, source, target))


def _partition(world: World, island: list[SimPeer]) -> None:
    """``island`` reaches neither the others nor the coordinators; the links come back one by one."""
    world.log(f"{', '.join(peer.name for peer in island)} cut off from the rest")
    longest = world.random.choice(PAUSES)
    for peer in island:
        for other in world.peers:
            if other not in island and other.running:
                for source, target in ((peer, other), (other, peer)):
                    world.network.cut(source, target)
                    seconds = world.random.uniform(0.5, 1.0) * longest
                    world.scheduler.after(seconds, partial(world.network.heal, source, target))
        for coordinator in world.coordinators:
            world.lose_line(peer, coordinator, world.random.uniform(0.5, 1.0) * longest)
