"""Every state that a protocol can reach, breadth first, so that a counterexample is a shortest one."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from .protocol import Broken, Protocol
from .state import Known, Life, Peer, Peers, State, World

Key = tuple[int, ...]


class Numbering:
    """Small numbers for peers and worlds: states share most of theirs."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.worlds: list[World] = []
        self._peer: dict[Peer, int] = {}
        self._world: dict[World, int] = {}

    def key(self, state: State) -> Key:
        """The same for states that differ in the names of peers only."""
        world, peers = state
        number = self._world.setdefault(world, len(self.worlds))
        if number == len(self.worlds):
            self.worlds.append(world)
        rows = []
        for peer in peers:
            row = self._peer.setdefault(peer, len(self.peers))
            if row == len(self.peers):
                self.peers.append(peer)
            rows.append(row)
        rows.sort()
        return (number, *rows)

    def state(self, key: Key) -> State:
        return self.worlds[key[0]], [self.peers[row] for row in key[1:]]


@dataclass
class Result:
    states: int = 0
    steps: int = 0
    endings: int = 0
    depth: int = 0
    seconds: float = 0.0
    wrong: str = ""
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.states} states, {self.steps} steps, {self.endings} endings, depth {self.depth}"
        said += f", {self.seconds:.1f} s"
        return "\n".join([said, *([self.wrong, *self.trace] if self.wrong else [])])


def explore(protocol: Protocol, most: int = 50_000_000) -> Result:
    began = time.monotonic()
    numbering = Numbering()
    start = numbering.key(protocol.first())
    parents: dict[Key, Key | None] = {start: None}
    level, result = [start], Result()
    while level and not result.wrong:
        following: list[Key] = []
        for key in level:
            ends = True
            for _, fault, after in protocol.steps(numbering.state(key)):
                ends = ends and fault
                result.steps += 1
                if isinstance(after, Broken):
                    result.wrong = str(after)
                    result.trace = _trace(protocol, numbering, parents, key, broken=True)
                    break
                found = numbering.key(after)
                if found not in parents:
                    parents[found] = key
                    following.append(found)
            if ends and not result.wrong:
                result.endings += 1
                result.wrong = _unsettled(protocol, *numbering.state(key))
                if result.wrong:
                    result.trace = _trace(protocol, numbering, parents, key)
            if result.wrong:
                break
        level = following
        result.depth += 1
        assert len(parents) < most, f"more than {most} states"
    result.states = len(parents)
    result.seconds = time.monotonic() - began
    return result


def _unsettled(protocol: Protocol, world: World, peers: Peers) -> str:
    """Why a group in which nothing can happen any more, but faults, is not at its goal."""
    here = [p for p in peers if p.life == Life.ALIVE]
    inside = [p for p in here if p.epoch] or []
    if not inside:
        return ""  # nobody is left; newcomers make a new group
    if len(inside) < len(here):
        return "a newcomer is not let in"
    if len({p.epoch for p in inside}) > 1:
        return f"stuck in different views: {sorted({p.epoch for p in inside})}"
    if any(p.halted for p in inside):
        return "stuck: halted for ever"
    if any(p.committed < protocol.operations for p in inside):
        return "stuck: operations do not end"
    if any(p.known != Known.MEMBER for p in inside):
        return "stuck: the coordinator does not know its members"
    return ""


def _trace(
    protocol: Protocol, numbering: Numbering, parents: dict[Key, Key | None], key: Key, broken: bool = False
) -> list[str]:
    """The steps from the first state to ``key``, and one that breaks an invariant, with the same names for peers
    throughout: the path is walked again, for keys have forgotten the names."""
    path = [key]
    while (parent := parents[path[-1]]) is not None:
        path.append(parent)
    state, labels = protocol.first(), []
    for wanted in reversed(path[:-1]):
        for label, _, after in protocol.steps(state):
            if not isinstance(after, Broken) and numbering.key(after) == wanted:
                labels.append(label)
                state = after
                break
    if broken:
        labels.append(next(label for label, _, after in protocol.steps(state) if isinstance(after, Broken)))
    return labels


if __name__ == "__main__":
    settings = dict(word.split("=") for word in sys.argv[1:])
    numbers = {name: value if name == "mutant" else int(value) for name, value in settings.items()}
    print(explore(Protocol(**numbers)), flush=True)  # type: ignore[arg-type]
