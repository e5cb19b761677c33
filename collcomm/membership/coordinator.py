"""The coordinator's state machine: which group a message is for, groups that it knows nothing of, and whether it leads at all.

Events in (each with the time), effects out. A coordinator that does not lead answers `standby` and remembers nothing;
when it comes to lead it begins with nothing, like one that was restarted: peers that it does not know are asked `who`,
and groups are rebuilt from their reports and from its store's records (`collcomm.membership.recovery`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any

from .attendance import Order
from .effects import CoordinatorEffect, Note, Probe, Replan, Send
from .group import GroupMachine
from .messages import Message
from .presets import Limits
from .showing import snapshot_of
from .takeover import Takeover

MAX_GROUPS = 1000
MAX_PEERS = 20_000
IDLE_SECONDS = 1.0
SECRET_BYTES = 32

Draw = Callable[[int], bytes]
Load = Callable[[str], Message | None]


class CoordinatorMachine:
    """``draw(n)``: n random bytes; ``load(group)``: the store's record of a group.

    ``known``: whether old groups can be told from new ones at once, by the store or because nobody can have known this
    coordinator's address before. Otherwise new groups wait until old ones have had time to report.
    """

    def __init__(self, limits: Limits, draw: Draw, load: Load, known: bool):
        self.groups: dict[str, GroupMachine | Takeover] = {}
        self.leads = False
        self.leader = ""  # who leads, as far as is known
        self._limits = limits
        self._draw = draw
        self._load = load
        self._known = known
        self._led_since = 0.0
        self._home: dict[bytes, str] = {}  # connection -> group
        self._strangers: dict[bytes, None] = {}  # who has spoken while we stood by
        self.booth_port: int | None = None  # where this process relays, if it does
        self._booths: dict[int, str] = {}  # groups by their numbers there

    def lead(self, now: float) -> list[CoordinatorEffect]:
        """From now on this coordinator decides. Whoever has said something while it stood by is asked at once."""
        self.leads = True
        self._led_since = now
        strangers, self._strangers = self._strangers, {}
        return [Send(key, {"t": "who"}) for key in strangers]

    def step_down(self) -> None:
        """Forget everything: somebody else decides from now on."""
        self.leads = False
        self.groups.clear()
        self._home.clear()

    # -- events -----------------------------------------------------------------------------------------------------

    def receive(self, now: float, key: bytes, message: Message) -> list[CoordinatorEffect]:
        """A valid message from the connection ``key``."""
        if not self.leads:
            self._strangers[key] = None
            if len(self._strangers) > MAX_PEERS:
                del self._strangers[next(iter(self._strangers))]
            return [Send(key, {"t": "standby", "leader": self.leader})]
        name = self._home.get(key)
        if name is None and message["t"] in ("join", "report"):
            refusal = self._place(now, key, message)
            if refusal is not None:
                return refusal
            name = message["group"]
        if name not in self.groups:
            return [Send(key, {"t": "left"} if message["t"] == "leave" else {"t": "who"})]
        return self._step(name, lambda group: group.receive(now, key, message))

    def disconnected(self, now: float, key: bytes) -> list[CoordinatorEffect]:
        return self._step(self._home.get(key), lambda group: group.disconnected(now, key))

    def echo(self, now: float, key: bytes, number: int) -> list[CoordinatorEffect]:
        return self._step(self._home.get(key), lambda group: group.echo(now, key, number))

    def probed(self, now: float, probe: Probe, refused: bool) -> list[CoordinatorEffect]:
        return self._step(probe.group, lambda group: group.probed(now, probe.member.id, refused))

    def planned(self, now: float, replan: Replan, plan: Message | None) -> list[CoordinatorEffect]:
        """What a planner has made of ``replan``; None: nothing."""
        return self._step(replan.group, lambda group: group.planned(now, replan.view, plan))

    def ordered(self, now: float, name: str, order: Order) -> list[CoordinatorEffect]:
        """Whoever watches over the health of group ``name`` wants it."""
        return self._step(name, lambda group: group.ordered(now, order) if isinstance(group, GroupMachine) else [])

    def happened(
        self, now: float, name: str, kind: str, text: str, member: int = 0, cause: str = ""
    ) -> list[CoordinatorEffect]:
        """An event of a group that others found out or did; of one that is not (yet) known here it is passed over."""
        group = self.groups.get(name)
        return group.happened(now, kind, text, member, cause) if isinstance(group, GroupMachine) else []

    def tick(self, now: float, name: str) -> list[CoordinatorEffect]:
        """Let time pass in one of ``groups``; to be done in each of them every ``tick_seconds``."""
        return self._step(name, lambda group: group.tick(now))

    @property
    def tick_seconds(self) -> float:
        return min((group.tick_seconds for group in self.groups.values() if not group.empty), default=IDLE_SECONDS)

    # -- groups -----------------------------------------------------------------------------------------------------

    def _place(self, now: float, key: bytes, message: Message) -> list[CoordinatorEffect] | None:
        """Find or make the group that a newcomer names. Returns what to answer instead when there can be none (yet)."""
        name = message["group"]
        self._make_room()
        if (name not in self.groups and len(self.groups) >= MAX_GROUPS) or len(self._home) >= MAX_PEERS:
            return [Send(key, {"t": "rejected", "text": "this coordinator is full"})]
        if name not in self.groups:
            record = self._load(name)
            if record is not None:
                self.groups[name] = self._take_over(name, record, record, now)
            elif message["t"] == "report":
                self.groups[name] = self._take_over(name, None, message, now)
            elif not self._known and now - self._led_since < self._limits.recover:
                return []  # it says its join again
            else:
                self.groups[name] = GroupMachine(name, *self._fresh(), self._limits, self._draw(SECRET_BYTES))
        self._home[key] = name
        return None

    def _take_over(self, name: str, record: Message | None, told: Message, now: float) -> Takeover:
        run = (told["incarnation"], told["token"])
        return Takeover(name, record, run, self._fresh(), self._limits, self._draw(SECRET_BYTES), now)

    def _fresh(self) -> tuple[str, bytes]:
        """Names for a new run."""
        return self._draw(8).hex(), self._draw(8)

    def _make_room(self) -> None:
        if len(self.groups) >= MAX_GROUPS:
            self.groups = {name: group for name, group in self.groups.items() if not group.empty}
            self._home = {key: name for key, name in self._home.items() if name in self.groups}
        if len(self._home) >= MAX_PEERS:
            self._home = {key: name for key, name in self._home.items() if self.groups[name].knows(key)}

    def _step(
        self, name: str | None, event: Callable[[GroupMachine | Takeover], list[CoordinatorEffect]]
    ) -> list[CoordinatorEffect]:
        """Let an event happen to a group. A broken invariant ends what is known of that group, which is rebuilt from its peers'
        reports; the other groups go on."""
        group = self.groups.get(name or "")
        if group is None:
            return []
        if self.booth_port is not None and isinstance(group, GroupMachine) and group.booth is None:
            number = int.from_bytes(self._draw(4))
            self._booths = {n: of for n, of in self._booths.items() if of in self.groups and of != group.name}
            self._booths[number] = group.name
            group.booth = self.booth_port, number
        try:
            effects = event(group)
            if isinstance(group, Takeover) and group.whole is not None:
                self.groups[group.name] = group.whole
            return effects
        except Exception:
            self.forget(group.name)
            text = f"group {name!r} has broken an invariant, and is rebuilt from its peers' reports"
            return [Note(f"{text}:\n{traceback.format_exc()}")]

    def booth_keys(self, number: int, members: Iterable[int]) -> dict[int, bytes]:
        """The keys of those of ``members`` who are in the group with that number, for the relay of this process."""
        group = self.groups.get(self._booths.get(number, ""))
        return group.booth_keys(members) if isinstance(group, GroupMachine) else {}

    def shown(self, name: str, now: float, wall: float) -> dict[str, Any] | None:
        """What whoever watches sees of a group, see `showing`; None if there is none of that name."""
        group = self.groups.get(name)
        return None if group is None else snapshot_of(group, now, wall, self._limits)

    def forget(self, name: str) -> None:
        """Know nothing of a group any more: its peers will be asked."""
        self.groups.pop(name, None)
        self._home = {key: home for key, home in self._home.items() if home != name}

    def snapshot(self, now: float) -> dict[str, Any]:
        """Groups, members, links and history as plain values, for people and tests."""
        return {
            name: {
                "state": group.state.value if isinstance(group, GroupMachine) else "recovering",
                "epoch": group.view.epoch,
                "members": [str(member) for member in group.view.members],
                "waiting": [str(peer.member) for peer in group.waiting] if isinstance(group, GroupMachine) else [],
                "ways": [way.row for way in group.ways] if isinstance(group, GroupMachine) else [],
                "links": [
                    (link.source, link.target, link.latency, link.bandwidth, link.streams, age)
                    for link, age in (group.measured(now) if isinstance(group, GroupMachine) else [])
                ],
                "plan": group.plan if isinstance(group, GroupMachine) else 0,
                "history": list(group.history),
            }
            for name, group in self.groups.items()
        }
