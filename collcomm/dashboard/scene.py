"""A synthetic group: snapshots like a coordinator's, of members that exist nowhere. For people who work on the page, and tests.

Nothing here measures anything: figures are drawn around plausible ones with a seeded generator.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from ..health.finding import Culprit, CulpritKind, Finding, Syndrome
from ..health.snapshot import MOST_EVENTS, MOST_FINDINGS, MOST_HISTORY, VERSION

SITES = ("frankfurt", "oregon", "tokyo", "sydney")
NEAR, FAR = (
    (0.0004, 118e6),
    (0.076, 22e6),
)  # latency in seconds and bandwidth in bytes per second: within a site, between two
OPERATION_BYTES = 16 << 20
RATE = 2.4  # operations per second of a group that is well


@dataclass
class SceneMember:
    id: int
    name: str
    host: str
    site: str | None
    joined: float
    operations: int = 0
    state: str = "communicating"
    waiting_on: list[int] = field(default_factory=list)


class Scene:
    """Whoever stages it calls `advance` for each second that passes, and what happens to members in between.

    :param at: wall-clock time at which it begins, in seconds since 1970.
    :param sites: over how many sites its members are spread.
    :param per_host: how many members share a host.
    """

    def __init__(
        self, at: float, members: int = 8, sites: int = 2, group: str = "demo", seed: int = 0, per_host: int = 1
    ):
        self.at = at
        self.group = group
        self.epoch = 0
        self.since = at
        self.pending = 0
        self.members: list[SceneMember] = []
        self.findings: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.operation = 0
        self._random = random.Random(seed)
        self._sites = sites
        self._per_host = per_host
        self._links: dict[tuple[int, int], tuple[float, float]] = {}
        self._joined = 0
        for _ in range(members):
            self._admit(None)
        if members:
            self._view()

    # ---- what happens ------------------------------------------------------------------------------------------

    def join(self, name: str | None = None) -> int:
        """Returns the newcomer's id."""
        member = self._admit(name)
        self._view(f"; new: {member.name}")
        self._tell("joined", "joined", member)
        return member.id

    def part(self, member: int, kind: str = "died", cause: str = "its connections broke") -> None:
        """``kind``: "died", "left" or "evicted"."""
        gone = self.member(member)
        self.members.remove(gone)
        self._tell(kind, "left" if kind == "left" else cause, gone)
        self._view()

    def find(
        self,
        syndrome: Syndrome,
        kind: CulpritKind,
        members: tuple[int, ...],
        evidence: str,
        action: str | None = None,
        factor: float = 4.2,
        confidence: float = 0.93,
    ) -> int:
        """Returns the number of the finding."""
        since = (0, self.operation)
        found = Finding(syndrome, Culprit(kind, members), self.at, evidence, confidence, since, factor)
        names = [self.member(member).name for member in members]
        number = len(self.findings)
        self.findings.append({"id": number, **found.row(), "names": names, "action": action, "ended": None})
        self._tell(
            "finding", f"{syndrome.value}: {kind.value} {' to '.join(names)}; {evidence}", self.member(members[0])
        )
        if action is not None:
            self._tell("action", action, self.member(members[0]))
        return number

    def end(self, finding: int) -> None:
        row = self.findings[finding]
        row["ended"] = self.at
        self._tell("recovered", f"{row['syndrome']} of {' to '.join(row['names'])} is over", None)

    def member(self, member: int) -> SceneMember:
        return next(found for found in self.members if found.id == member)

    def advance(self, seconds: float = 1.0) -> None:
        self.at += seconds
        slow = self._slowdown()
        moving = 0.0 if slow == 0.0 or len(self.members) < 2 else RATE * self._near(1.0, 0.06) / slow
        self.operation += round(moving * seconds)
        for member in self.members:
            member.operations += round(moving * seconds)
        sent = moving * OPERATION_BYTES * 2 * max(0, len(self.members) - 1)
        self.history.append({"at": self.at, "operations": moving, "sent": sent, "members": len(self.members)})
        del self.history[:-MOST_HISTORY]

    # ---- what is told of it -------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        now = self.history[-1] if self.history else {"operations": 0.0, "sent": 0.0}
        order = [member.id for member in self.members]
        sites = sorted({str(member.site) for member in self.members})
        return {
            "version": VERSION,
            "at": self.at,
            "group": self.group,
            "epoch": self.epoch,
            "since": self.since,
            "members": [self._member_row(rank, member, now) for rank, member in enumerate(self.members)],
            "pending": self.pending,
            "links": [self._link_row(a, b) for a in self.members for b in self.members if a is not b],
            "traffic": self._traffic(now["sent"]),
            "plan": {
                "revision": self.epoch,
                "order": order,
                "sites": [sites.index(str(member.site)) for member in self.members],
            }
            if len(order) > 1
            else None,
            "findings": self.findings[-MOST_FINDINGS:],
            "events": self.events[-MOST_EVENTS:],
            "history": self.history,
        }

    def _member_row(self, rank: int, member: SceneMember, now: dict[str, Any]) -> dict[str, Any]:
        sick = self._sick()
        share = now["sent"] / max(1, len(self.members))
        state, waiting_on = member.state, member.waiting_on
        if sick and state != "silent" and not waiting_on:
            waiting_on = sorted(sick - {member.id})
            state = "computing" if member.id in sick else "waiting"
        busy = state in ("waiting", "communicating")
        return {
            "id": member.id,
            "rank": rank,
            "name": member.name,
            "host": member.host,
            "port": 40000 + member.id,
            "host_id": f"host-{member.host}",
            "site": member.site,
            "joined": member.joined,
            "heard": 7.5 if state == "silent" else self._near(0.4, 0.3),
            "rtt": self._near(0.0006 if member.site == SITES[0] else 0.074, 0.05),
            "state": state,
            "operation": {
                "gid": 0,
                "seq": self.operation,
                "kind": "all_reduce",
                "nbytes": OPERATION_BYTES,
                "age": self._near(0.2, 0.5),
                "waiting_on": waiting_on,
            }
            if busy
            else None,
            "operations": member.operations,
            "rate": now["operations"],
            "sent": share * self._near(1.0, 0.03),
            "received": share * self._near(1.0, 0.03),
            "computed": 0.35,
            "late": self._near(0.9, 0.2) if member.id in sick else abs(self._near(0.004, 0.8)),
        }

    def _link_row(self, source: SceneMember, target: SceneMember) -> dict[str, Any]:
        latency, bandwidth = self._links[source.id, target.id]
        if (source.id, target.id) in self._sick_links():
            bandwidth /= 9
        return {
            "source": source.id,
            "target": target.id,
            "latency": latency,
            "bandwidth": bandwidth,
            "streams": 4 if latency > 0.01 else 1,
            "age": (source.id * 7 + target.id * 3) % 60,
        }

    def _traffic(self, sent: float) -> list[dict[str, Any]]:
        """Along the ring."""
        if len(self.members) < 2:
            return []
        following = [*self.members[1:], self.members[0]]
        share = sent / len(self.members)
        busy = min(1.0, sent / 1e9)
        return [
            {"source": one.id, "target": two.id, "sent": share, "busy": busy}
            for one, two in zip(self.members, following, strict=True)
        ]

    # ---- how it is made up -------------------------------------------------------------------------------------

    def _admit(self, name: str | None) -> SceneMember:
        number = self._joined
        self._joined += 1
        site = SITES[number % self._sites % len(SITES)] if self._sites else None
        host = f"10.{number % max(1, self._sites)}.0.{1 + number // max(1, self._sites) // self._per_host}"
        member = SceneMember(number + 1, name if name is not None else f"lab-{number + 1}", host, site, self.at)
        for other in self.members:
            for pair in ((member.id, other.id), (other.id, member.id)):
                latency, bandwidth = NEAR if other.site == site else FAR
                self._links[pair] = (self._near(latency, 0.15), self._near(bandwidth, 0.2))
        self.members.append(member)
        self.members.sort(key=lambda found: (str(found.site), found.host, found.id))
        return member

    def _view(self, new: str = "") -> None:
        self.epoch += 1
        self.since = self.at
        self._tell("view", f"{len(self.members)} members{new}", None)

    def _tell(self, kind: str, text: str, member: SceneMember | None) -> None:
        who = {"member": None, "name": None} if member is None else {"member": member.id, "name": member.name}
        self.events.append({"at": self.at, "kind": kind, **who, "text": text})

    def _open(self) -> list[dict[str, Any]]:
        return [row for row in self.findings if row["ended"] is None]

    def _sick(self) -> set[int]:
        return {row["members"][0] for row in self._open() if row["culprit"] != CulpritKind.LINK.value}

    def _sick_links(self) -> set[tuple[int, int]]:
        return {(row["members"][0], row["members"][1]) for row in self._open() if len(row["members"]) == 2}

    def _slowdown(self) -> float:
        """How many times as long operations take; 0.0: for ever."""
        hanging = any(row["syndrome"].endswith("hang") for row in self._open())
        return 0.0 if hanging else max([1.0, *(row["factor"] for row in self._open())])

    def _near(self, value: float, spread: float) -> float:
        return value * (1 + spread * self._random.uniform(-1, 1))
