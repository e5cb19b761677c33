"""What happened in a run, put together from the peers' events. No clock, no processes: events in, tables out."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

Event = dict[str, Any]
NEWS = 50  # lines of news kept


@dataclass
class Peer:
    """The latest that is known of one peer."""

    name: str
    started: float
    state: str = "starting"
    round: int = 0
    step: int = 0
    loss: float | None = None
    rank: int | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    digest: str | None = None
    times: dict[str, float] = field(default_factory=dict)  # first "ready", "joined", "synced", "round"
    steps: dict[int, int] = field(default_factory=dict)  # round -> inner steps
    losses: dict[int, float] = field(default_factory=dict)  # round -> mean training loss of its inner steps


@dataclass
class Round:
    """One outer round. Times are those of the last peer, seconds the longest of any peer."""

    number: int
    finished: float = 0.0
    peers: int = 0
    held_out: float | None = None  # after the round; round 0 is the untrained model
    train: float | None = None
    reduce_seconds: float = 0.0
    step_seconds: float = 0.0
    sync_seconds: float = 0.0
    seconds_lost: float = 0.0
    held_seconds: float = 0.0  # kept waiting for the newcomer
    reducing: list[str] = field(default_factory=list)  # peers in the order in which they began to average


@dataclass(frozen=True)
class ViewRow:
    epoch: int
    members: tuple[str, ...]
    cause: str
    at: float


@dataclass
class Incident:
    """A peer killed or started by the job: ``kind`` "killed" or "joined", in round ``round``, at ``at``."""

    kind: str
    name: str
    round: int
    at: float


@dataclass(frozen=True)
class Cost:
    """What an incident cost the group. ``lines`` are (what, seconds) for people."""

    incident: Incident
    lost: float
    lines: tuple[tuple[str, float], ...]


class Record:
    """Takes events with `add`; everything else reads."""

    def __init__(self, rounds: int, inner_steps: int, began: float):
        self.rounds_wanted = rounds
        self.inner_steps = inner_steps
        self.began = began
        self.peers: dict[str, Peer] = {}
        self.rounds: dict[int, Round] = {}
        self.views: list[ViewRow] = []
        self.incidents: list[Incident] = []
        self.news: list[tuple[float, str]] = []

    # -- what happens ------------------------------------------------------------------------------------------------

    def tell(self, at: float, text: str) -> None:
        self.news = [*self.news, (at - self.began, text)][-NEWS:]

    def peer_started(self, name: str, at: float) -> None:
        self.peers[name] = Peer(name, at)

    def killed(self, name: str, round_number: int, at: float) -> None:
        self.incidents.append(Incident("killed", name, round_number, at))
        self.peers[name].state = "killed"
        self.tell(at, f"{name} killed with SIGKILL in round {round_number}")

    def add(self, event: Event) -> None:
        """Take in one event of a peer."""
        kind = event["event"]
        peer = self.peers[event["peer"]]
        peer.bytes_sent = event.get("bytes_sent", peer.bytes_sent)
        peer.bytes_received = event.get("bytes_received", peer.bytes_received)
        peer.times.setdefault(kind, event["at"])
        if peer.state != "killed":  # its last words may come after its end
            handler = getattr(self, f"_on_{kind}", None)
            if handler is not None:
                handler(peer, event)

    def _on_ready(self, peer: Peer, event: Event) -> None:
        peer.state = "joining"

    def _on_view(self, peer: Peer, event: Event) -> None:
        members = tuple(event["members"])
        for rank, name in enumerate(members):
            if name in self.peers:
                self.peers[name].rank = rank
        peer.state = "in view"
        if self.views and event["epoch"] <= self.views[-1].epoch:
            return
        before = self.views[-1].members if self.views else ()
        changes = [f"{name} joined" for name in members if name not in before]
        for name in before:
            if name not in members:
                gone = name in self.peers and self.peers[name].state == "killed"
                changes.append(f"{name} was killed" if gone else f"{name} is gone")
        cause = ", ".join(changes) if before else "the group formed"
        self.views.append(ViewRow(event["epoch"], members, cause or "links rebuilt", event["at"] - self.began))
        self.tell(event["at"], f"view {event['epoch']}: {len(members)} members ({cause})")

    def _on_synced(self, peer: Peer, event: Event) -> None:
        this = self._round(event["round"])
        this.sync_seconds = max(this.sync_seconds, event["seconds"])
        peer.state = "evaluating"

    def _on_evaluated(self, peer: Peer, event: Event) -> None:
        this = self._round(event["round"])
        this.held_out, this.train = event["held_out"], event["train"]
        peer.state, peer.round, peer.step = "training", event["round"] + 1, 0

    def _on_step(self, peer: Peer, event: Event) -> None:
        peer.step, peer.loss = event["step"], event["loss"]

    def _on_reducing(self, peer: Peer, event: Event) -> None:
        peer.state, peer.step = "averaging", self.inner_steps
        peer.steps[event["round"]] = event["steps"]
        peer.losses[event["round"]] = peer.loss = event["loss"]
        self._round(event["round"]).reducing.append(peer.name)

    def _on_round(self, peer: Peer, event: Event) -> None:
        this = self._round(event["round"])
        this.finished = max(this.finished, event["at"])
        this.peers = event["peers"]
        this.reduce_seconds = max(this.reduce_seconds, event["reduce_seconds"])
        this.seconds_lost = max(this.seconds_lost, event["seconds_lost"])
        peer.state = "stepping"

    def _on_held(self, peer: Peer, event: Event) -> None:
        this = self._round(self.latest)
        this.held_seconds = max(this.held_seconds, event["seconds"])

    def _on_stepped(self, peer: Peer, event: Event) -> None:
        this = self._round(event["round"])
        this.step_seconds = max(this.step_seconds, event["seconds"])

    def _on_joined(self, peer: Peer, event: Event) -> None:
        if self.latest:
            self.incidents.append(Incident("joined", peer.name, self.latest + 1, event["at"]))

    def _on_finished(self, peer: Peer, event: Event) -> None:
        peer.state, peer.digest = "finished", event["digest"]

    def _on_exit(self, peer: Peer, event: Event) -> None:
        if peer.state != "finished" or event["code"]:
            peer.state = f"failed ({event['code']})"
            self.tell(event["at"], f"{peer.name} ended with exit code {event['code']}")

    # -- what it means -----------------------------------------------------------------------------------------------

    @property
    def latest(self) -> int:
        """Number of the last round that somebody has finished."""
        return max((number for number, this in self.rounds.items() if this.finished), default=0)

    @property
    def bytes_sent(self) -> int:
        return sum(peer.bytes_sent for peer in self.peers.values())

    def inner_steps_taken(self) -> str:
        """Of a peer in a round: "50", or "20 to 50" where peers differ."""
        taken = {steps for peer in self.peers.values() for steps in peer.steps.values()} or {self.inner_steps}
        return f"{min(taken)} to {max(taken)}" if len(taken) > 1 else str(min(taken))

    def held_out(self) -> list[tuple[int, float]]:
        return [(n, this.held_out) for n, this in sorted(self.rounds.items()) if this.held_out is not None]

    def round_seconds(self) -> dict[int, float]:
        """From the end of the round before to its end; without the first, which includes the start of the peers."""
        ends = {number: this.finished for number, this in self.rounds.items() if this.finished}
        return {number: end - ends[number - 1] for number, end in sorted(ends.items()) if number - 1 in ends}

    def costs(self, noticed: dict[str, float]) -> list[Cost]:
        """What each incident cost. ``noticed``: name -> when the coordinator dropped it."""
        struck = {incident.round for incident in self.incidents}
        seconds = self.round_seconds()
        quiet = [n for n in seconds if n not in struck and n - 1 not in struck]
        costs = []
        for incident in self.incidents:
            this = self._round(incident.round)
            if incident.kind == "killed":
                costs.append(self._cost_of_death(incident, this, seconds, quiet, noticed))
            else:
                costs.append(self._cost_of_newcomer(incident, quiet))
        return costs

    def _cost_of_death(
        self, incident: Incident, this: Round, seconds: dict[int, float], quiet: list[int], noticed: dict[str, float]
    ) -> Cost:
        lines = []
        if incident.name in noticed:
            lines.append(("death to the coordinator's decision", noticed[incident.name] - incident.at))
        lines.append(("noticing it to the repeated all_reduce's result", this.seconds_lost))
        lines.append(("death to the finished round", this.finished - incident.at))
        normal = _median(seconds[n] for n in quiet if n < incident.round)
        took = seconds.get(incident.round)
        if normal is None or took is None:
            return Cost(incident, this.seconds_lost, tuple(lines))
        lines += [("that round took", took), ("a quiet round before took", normal)]
        return Cost(incident, max(took - normal, this.seconds_lost), tuple(lines))

    def _cost_of_newcomer(self, incident: Incident, quiet: list[int]) -> Cost:
        """The members wait in step() for its admission and in sync() for its catching up."""
        admitted_after = self._round(incident.round - 1)
        newcomer = self.peers[incident.name]
        lines = [("process start to join()", newcomer.times["ready"] - newcomer.started)]
        lost = 0.0
        for what, taken, usual in (
            ("step() at the members", admitted_after.step_seconds, _median(self.rounds[n].step_seconds for n in quiet)),
            (
                "sync() until all agree",
                admitted_after.sync_seconds,
                _median(self.rounds[n].sync_seconds for n in quiet),
            ),
        ):
            lines += [(what, taken), ("  usually", usual or 0.0)]
            lost += max(0.0, taken - (usual or 0.0))
        if admitted_after.held_seconds > 0.05:
            lines.append(("the run was held for it (not counted)", admitted_after.held_seconds))
        if "round" in newcomer.times:
            lines.append(("join() returned to its first finished round", newcomer.times["round"] - incident.at))
        return Cost(incident, lost, tuple(lines))

    def _round(self, number: int) -> Round:
        return self.rounds.setdefault(number, Round(number))


def _median(values: Any) -> float | None:
    values = list(values)
    return median(values) if values else None
