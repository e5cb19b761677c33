"""How a coordinator without memory takes a group over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .state import Known, Life, Peers, World, members

if TYPE_CHECKING:
    from .protocol import Protocol

JUMP = 8  # stands for 2**16: more than the views that any run of the model can have


class Recovery:
    """What a coordinator without memory makes of the reports that it has."""

    def __init__(self, protocol: Protocol, world: World, peers: Peers):
        self.protocol, self.peers = protocol, peers
        reports = [p.told for p in peers if p.known == Known.REPORTED]
        epochs = [epoch for epoch, _ in reports if epoch] + [world.record] * (world.record > 0)
        self.best = min(epochs, default=0) if protocol.mutant == "a lower view" else max(epochs, default=0)
        self.next = max((n for _, n in reports), default=0)
        self.of_best = members(peers, self.best) if self.best else []
        later = [n for epoch, n in reports if epoch == self.best and n > self.best]
        self.expected = self.of_best
        if protocol.heirs and later:
            self.expected = [i for i in self.of_best if peers[i].heirs >> max(later) & 1]
        self.heard = [i for i in self.expected if peers[i].known == Known.REPORTED]
        self.missing = [i for i in self.expected if i not in self.heard]

    @property
    def complete(self) -> bool:
        return bool(self.heard) and not self.missing

    def missing_live(self) -> bool:
        return any(self.peers[i].life == Life.ALIVE for i in self.missing)

    def may_give_up(self) -> bool:
        if not self.missing:
            return False
        if self.protocol.record:
            return True  # also when nobody of the recorded view has reported: then the group has ended
        if not self.heard:
            return False
        if self.protocol.mutant == "no majority":
            return True
        return 2 * len(self.heard) > len(self.of_best) or not self.missing_live()

    def epoch(self) -> int:
        """For the view that comes of it."""
        if self.protocol.mutant == "an epoch again":
            return self.best + 1
        incomplete = any(self.peers[i].known != Known.REPORTED for i in self.of_best)
        return max(self.best, self.next) + 1 + (JUMP if incomplete and not self.protocol.record else 0)
