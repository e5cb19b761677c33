"""Hosts, switches and links as a network: which way a transfer goes, and what it shares with others.

Routes have the fewest hops. Where several are as short, over links side by side or over several spines, a hash of source, target
and stream picks one (equal-cost multipath; Hopps, RFC 2992, 2000). Hosts do not pass on what is not theirs. Routes are worked
out when they are asked for, from one search for each switch that is a target's: 10,000 hosts on 250 switches take 250 of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .chance import mixed
from .failure import Failure

COMPUTE = 8e9  # bytes/s at which a rank reduces, unless a file says otherwise
OVERHEAD = 10e-6  # seconds of a rank's time per message
LOCAL_RATE = 4e9  # bytes/s between the ranks of a host, all together
LOCAL_LATENCY = 20e-6
MOST_HOSTS = 100_000
MOST_SWITCHES = 10_000
MOST_RANKS = 100_000
MOST_LINKS = 400_000
KEPT_ROUTES = 1 << 20


class TopologyError(ValueError):
    """A topology that cannot be; says which entry of which file."""


@dataclass(frozen=True)
class Host:
    """``up``, ``down``: bytes/s of its network card, None if only its links limit it; ``gate``: the switch that the card is
    plugged into, empty for a host with links of its own; ``latency`` and ``jitter``: seconds of that cable."""

    name: str
    ranks: int = 1
    site: str = ""
    up: float | None = None
    down: float | None = None
    gate: str = ""
    latency: float = 0.0
    jitter: float = 0.0
    compute: float = COMPUTE
    local: float = LOCAL_RATE


@dataclass(frozen=True)
class Link:
    """``there``: bytes/s from a to b; ``back``: from b to a."""

    a: str
    b: str
    there: float
    back: float
    latency: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """``resources``: that it passes, in order; ``latency`` and ``jitter``: seconds."""

    resources: tuple[int, ...]
    latency: float
    jitter: float


@dataclass(frozen=True)
class Plug:
    """One end of a link, as seen from the other."""

    node: int
    resource: int
    latency: float
    jitter: float


@dataclass
class Topology:
    """A `Network`. Ranks are numbered host by host. ``names``: of the resources, in words; ``failures``: that the file foresees;
    ``computes``: bytes/s at which each rank reduces; ``link_resources``: of each link, there and back."""

    name: str
    all_hosts: Sequence[Host]
    switches: Sequence[str]
    links: Sequence[Link]
    overhead: float = OVERHEAD
    failures: tuple[Failure, ...] = ()
    n: int = field(init=False)
    hosts: tuple[int, ...] = field(init=False)
    capacities: Sequence[float] = field(init=False)
    names: list[str] = field(init=False)
    compute: float = field(init=False)
    computes: list[float] = field(init=False)

    def __post_init__(self) -> None:
        if not self.all_hosts:
            raise TopologyError(f"{self.name}: no hosts; a topology has at least one [[hosts]] entry")
        for what, given, most in (
            ("hosts", self.all_hosts, MOST_HOSTS),
            ("switches", self.switches, MOST_SWITCHES),
            ("links", self.links, MOST_LINKS),
        ):
            if len(given) > most:
                raise TopologyError(f"{self.name}: more than {most:,} {what}")
        if sum(host.ranks for host in self.all_hosts) > MOST_RANKS:
            raise TopologyError(f"{self.name}: more than {MOST_RANKS:,} ranks")
        self.hosts = tuple(number for number, host in enumerate(self.all_hosts) for _ in range(host.ranks))
        self.n = len(self.hosts)
        self.computes = [self.all_hosts[number].compute for number in self.hosts]
        self.compute = min(self.computes)
        self._rates: list[float] = []
        self.capacities, self.names = self._rates, []
        self.node_names = [*(host.name for host in self.all_hosts), *self.switches]
        self.node_of: dict[str, int] = {}
        for number, name in enumerate(self.node_names):
            if name in self.node_of:
                raise TopologyError(f"{self.name}: two hosts or switches are called {name!r}")
            self.node_of[name] = number
        self._first_switch = len(self.all_hosts)
        self._gates: list[int] = []
        self._up: list[int] = []
        self._down: list[int] = []
        self._local: list[int] = []
        for host in self.all_hosts:
            self._gates.append(self._node(host.gate, f"host {host.name!r}") if host.gate else -1)
            if self._gates[-1] >= 0 and (self._gates[-1] < self._first_switch or host.up is None or host.down is None):
                raise TopologyError(
                    f"{self.name}: host {host.name!r} is attached to {host.gate!r}: that needs a switch and a nic"
                )
            self._up.append(-1 if host.up is None else self._resource(host.up, f"{host.name} up"))
            self._down.append(-1 if host.down is None else self._resource(host.down, f"{host.name} down"))
            self._local.append(self._resource(host.local, f"within {host.name}") if host.ranks > 1 else -1)
        self._plugs: list[list[Plug]] = [[] for _ in self.node_names]
        self.link_resources: list[tuple[int, int]] = []  # of each link, there and back
        for link in self.links:
            a, b = (self._node(name, f"link {link.a} - {link.b}") for name in (link.a, link.b))
            if a == b:
                raise TopologyError(f"{self.name}: link {link.a} - {link.b} joins a node to itself")
            there = self._resource(link.there, f"{link.a} -> {link.b}")
            back = self._resource(link.back, f"{link.b} -> {link.a}")
            self._plugs[a].append(Plug(b, there, link.latency, link.jitter))
            self._plugs[b].append(Plug(a, back, link.latency, link.jitter))
            self.link_resources.append((there, back))
        self._hops: dict[int, dict[int, int]] = {}
        self._options: dict[tuple[int, int], list[Plug]] = {}
        self._routes: dict[tuple[int, int, int], Route] = {}
        self._check()

    def _node(self, name: str, what: str) -> int:
        if name not in self.node_of:
            raise TopologyError(f"{self.name}: {what}: nothing is called {name!r}")
        return self.node_of[name]

    def _resource(self, rate: float, name: str) -> int:
        if not 0.0 < rate < float("inf"):
            raise TopologyError(f"{self.name}: {name}: a rate is above 0 and finite, not {rate}")
        self._rates.append(rate)
        self.names.append(name)
        return len(self._rates) - 1

    def _check(self) -> None:
        """Every host reaches every other: by way of one switch, or else pair by pair."""
        entries = {self._entry(host): host for host in range(len(self.all_hosts))}
        if self.switches and self._hops_to(self._first_switch).keys() >= entries.keys():
            return
        for goal, target in entries.items():
            reached = self._hops_to(goal)
            for entry, source in entries.items():
                if entry not in reached:
                    ours, theirs = self.all_hosts[source].name, self.all_hosts[target].name
                    raise TopologyError(f"{self.name}: no way from {ours!r} to {theirs!r}: a link is missing")

    def latency(self, source: int, target: int, stream: int = 0) -> float:
        return self.route(source, target, stream).latency

    def jitter(self, source: int, target: int) -> float:
        """Seconds by which a message may come later."""
        return self.route(source, target).jitter

    def path(self, source: int, target: int, stream: int = 0) -> tuple[int, ...]:
        return self.route(source, target, stream).resources

    def route(self, source: int, target: int, stream: int = 0) -> Route:
        """Between two ranks. Raises TopologyError where there is no way."""
        key = (source, target, stream)
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= KEPT_ROUTES:
                self._routes.clear()
            found = self._routes[key] = self._walk(self.hosts[source], self.hosts[target], key)
        return found

    def _walk(self, a: int, b: int, key: tuple[int, int, int]) -> Route:
        if a == b:
            return Route((self._local[a],) if self._local[a] >= 0 else (), LOCAL_LATENCY, 0.0)
        ours, theirs = self.all_hosts[a], self.all_hosts[b]
        resources = [self._up[a]] if self._up[a] >= 0 else []
        latency, jitter = ours.latency + theirs.latency, ours.jitter + theirs.jitter
        node, goal = self._entry(a), self._entry(b)
        hop = 0
        while node != goal:
            options = self._towards(node, goal)
            if not options:
                raise TopologyError(f"{self.name}: no way from {ours.name!r} to {theirs.name!r}")
            plug = options[0] if len(options) == 1 else options[_mix(*key, hop) % len(options)]
            resources.append(plug.resource)
            latency, jitter = latency + plug.latency, jitter + plug.jitter
            node, hop = plug.node, hop + 1
        if self._down[b] >= 0:
            resources.append(self._down[b])
        return Route(tuple(resources), latency, jitter)

    def _entry(self, host: int) -> int:
        """The node at which what a host sends is first switched: itself, if it has links of its own."""
        return self._gates[host] if self._gates[host] >= 0 else host

    def _towards(self, node: int, goal: int) -> list[Plug]:
        key = (node, goal)
        found = self._options.get(key)
        if found is None:
            hops = self._hops_to(goal)
            nearer = hops.get(node, 0) - 1
            found = self._options[key] = [
                plug
                for plug in self._plugs[node]
                if hops.get(plug.node) == nearer and (plug.node >= self._first_switch or plug.node == goal)
            ]
        return found

    def _hops_to(self, goal: int) -> dict[int, int]:
        """From every node that reaches ``goal``, by breadth-first search that hosts end."""
        found = self._hops.get(goal)
        if found is None:
            found = self._hops[goal] = {goal: 0}
            queue = [goal]
            for node in queue:
                if node < self._first_switch and node != goal:
                    continue
                for plug in self._plugs[node]:
                    if plug.node not in found:
                        found[plug.node] = found[node] + 1
                        queue.append(plug.node)
        return found

    def ranks_of(self, host: int) -> tuple[int, ...]:
        return tuple(rank for rank, number in enumerate(self.hosts) if number == host)

    def resources_of(self, host: int) -> tuple[int, ...]:
        """What fails with it."""
        own = [number for number in (self._up[host], self._down[host], self._local[host]) if number >= 0]
        for link, pair in zip(self.links, self.link_resources, strict=True):
            if self.all_hosts[host].name in (link.a, link.b):
                own += pair
        return tuple(own)

    def card(self, host: int) -> tuple[int, int]:
        """The resources of its network card, up and down; -1 where only links limit it."""
        return self._up[host], self._down[host]

    def uplinks(self, node: int) -> list[Plug]:
        """The links of a node."""
        return self._plugs[node]


def _mix(source: int, target: int, stream: int, hop: int) -> int:
    """The same everywhere, and spread evenly whatever the pattern of the ranks."""
    return mixed(source * 0x9E3779B97F4A7C15 + target * 0xC2B2AE3D27D4EB4F + stream * 0x165667B19E3779F9 + hop)
