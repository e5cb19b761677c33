"""Topology files: TOML that says which hosts, switches and links there are.

name = "two sites"
overhead = "10 us"                  # optional: of a rank's time, per message

[[hosts]]                           # one host; or many, with prefix = "h" and count = 8: h0 to h7
name = "a"
nic = "10 Gbit/s"                   # or up = ..., down = ...; may be left out for hosts with links of their own
attach = "west"                     # the switch that the card is plugged into; optional
latency = "50 us"                   # of that cable; jitter = "1 ms": by which messages may be later
ranks = 2                           # optional: on each of these hosts
site = "Oslo"                       # optional: a label
compute = "8 GB/s"                  # optional: at which a rank reduces
local = "4 GB/s"                    # optional: between the ranks of the host, all together

[[hosts]]                           # attach = "leaf*" with per_switch = 40: the first 40 at the first leaf, and so on
prefix = "h"
count = 10000
attach = "leaf*"
per_switch = 40
nic = "10 Gbit/s"

[[switches]]
prefix = "leaf"                     # or name = "west"
count = 250

[[links]]                           # names, or all that begin so: "leaf*" with "spine*" joins each with each
a = "leaf*"
b = "spine*"
rate = "40 Gbit/s"                  # or a_to_b = ..., b_to_a = ...; or oversubscription = 4: what the hosts at a switch a
latency = "2 us"                    # could send or receive at once, divided by 4, is spread over that switch's links
parallel = 2                        # optional: that many side by side

[[failures]]
link = ["west", "east"]             # or host = "a"
at = "2 s"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .failure import Failure
from .quantities import parse_rate, parse_time
from .topology import (
    COMPUTE,
    LOCAL_RATE,
    MOST_HOSTS,
    MOST_LINKS,
    MOST_SWITCHES,
    OVERHEAD,
    Host,
    Link,
    Topology,
    TopologyError,
)

MOST_BYTES = 1 << 22  # of a file
_TOP = {"name", "overhead", "hosts", "switches", "links", "failures"}
_HOST = {"name", "prefix", "count", "nic", "up", "down", "attach", "per_switch", "latency", "jitter", "ranks", "site"}
_HOST |= {"compute", "local"}
_LINK = {"a", "b", "rate", "a_to_b", "b_to_a", "oversubscription", "latency", "jitter", "parallel"}


def load_topology(path: Path | str) -> Topology:
    """Raises OSError, or TopologyError that names the file and its entry."""
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise TopologyError(f"{path.name}: larger than {MOST_BYTES >> 20} MiB: write hosts as prefix and count")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise TopologyError(f"{path.name}: not UTF-8 text: {error}") from None
    return parse_topology(text, path.name)


def parse_topology(text: str, name: str = "topology") -> Topology:
    """``name``: by which errors call the file. Raises TopologyError."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TopologyError(f"{name}: not TOML: {error}") from None
    return _Reader(name).read(document)


class _Reader:
    def __init__(self, file: str):
        self._file = file
        self._where = ""
        self._hosts: dict[str, Host] = {}
        self._switches: dict[str, None] = {}
        self._links: list[Link] = []
        self._summed: dict[str, tuple[float, float]] | None = None

    def read(self, document: Mapping[str, Any]) -> Topology:
        self._where = "top level"
        self._known(document, _TOP)
        overhead = self._time(document, "overhead", OVERHEAD)
        for entry in self._entries(document, "switches"):
            self._known(entry, {"name", "prefix", "count"})
            names = self._names(entry)
            if len(self._switches) + len(names) > MOST_SWITCHES:
                raise self._wrong(f"more than {MOST_SWITCHES:,} switches")
            for name in names:
                self._new(name)
                self._switches[name] = None
        for entry in self._entries(document, "hosts"):
            self._add_hosts(entry)
        for entry in self._entries(document, "links"):
            self._add_links(entry)
        title = document.get("name", self._file)
        topology = Topology(str(title), list(self._hosts.values()), list(self._switches), self._links, overhead)
        topology.failures = tuple(self._failure(entry, topology) for entry in self._entries(document, "failures"))
        return topology

    def _wrong(self, what: str) -> TopologyError:
        return TopologyError(f"{self._file}: {self._where}: {what}")

    def _entries(self, document: Mapping[str, Any], table: str) -> Iterable[Mapping[str, Any]]:
        entries = document.get(table, [])
        self._where = table
        if not isinstance(entries, list):
            raise self._wrong(f"write each as [[{table}]]")
        for number, entry in enumerate(entries, 1):
            self._where = f"{table} entry {number}"
            if not isinstance(entry, dict):
                raise self._wrong(f"write each as [[{table}]]")
            label = entry.get("name") or entry.get("prefix") or entry.get("link") or entry.get("host")
            if label or "a" in entry:
                self._where += f" ({label or str(entry.get('a')) + ' - ' + str(entry.get('b'))})"
            yield entry

    def _known(self, entry: Mapping[str, Any], keys: set[str]) -> None:
        for key in entry:
            if key not in keys:
                raise self._wrong(f"unknown key {key!r}; there are {', '.join(sorted(keys))}")

    def _count(self, entry: Mapping[str, Any], key: str, default: int, most: int) -> int:
        value = entry.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self._wrong(f"{key} is a whole number from 1 to {most:,}, not {value!r}")
        return value

    def _text(self, entry: Mapping[str, Any], key: str, default: str = "") -> str:
        value = entry.get(key, default)
        if not isinstance(value, str) or (key in entry and not 1 <= len(value) <= 200):
            raise self._wrong(f"{key} is a text of 1 to 200 characters, not {value!r}")
        return value

    def _time(self, entry: Mapping[str, Any], key: str, default: float) -> float:
        try:
            return parse_time(entry[key]) if key in entry else default
        except ValueError as error:
            raise self._wrong(f"{key}: {error}") from None

    def _rate(self, entry: Mapping[str, Any], key: str) -> float:
        try:
            return parse_rate(entry[key])
        except ValueError as error:
            raise self._wrong(f"{key}: {error}") from None

    def _names(self, entry: Mapping[str, Any]) -> list[str]:
        if ("name" in entry) == ("prefix" in entry):
            raise self._wrong("give a name, or a prefix and a count")
        if "name" in entry:
            if "count" in entry:
                raise self._wrong("a count goes with a prefix, not with a name")
            return [self._text(entry, "name")]
        prefix = self._text(entry, "prefix")
        return [f"{prefix}{number}" for number in range(self._count(entry, "count", 1, MOST_HOSTS))]

    def _new(self, name: str) -> None:
        if name in self._hosts or name in self._switches:
            raise self._wrong(f"{name!r} is there already")
        if "*" in name:
            raise self._wrong(f"{name!r}: * is for patterns")

    def _directions(self, entry: Mapping[str, Any], both: str, one: str, other: str) -> tuple[float, float] | None:
        """Rates of an entry that gives one for both directions, or one for each."""
        if both in entry:
            if one in entry or other in entry:
                raise self._wrong(f"give {both}, or {one} and {other}")
            rate = self._rate(entry, both)
            return rate, rate
        if one in entry and other in entry:
            return self._rate(entry, one), self._rate(entry, other)
        if one in entry or other in entry:
            raise self._wrong(f"give both {one} and {other}")
        return None

    def _add_hosts(self, entry: Mapping[str, Any]) -> None:
        self._known(entry, _HOST)
        names = self._names(entry)
        card = self._directions(entry, "nic", "up", "down")
        gates = self._gates(entry, len(names))
        if gates and card is None:
            raise self._wrong("what is attached to a switch needs a nic, like '10 Gbit/s'")
        if not gates and ("latency" in entry or "jitter" in entry):
            raise self._wrong(
                "latency and jitter are of the cable to a switch: say which with attach, or give them to links"
            )
        common: dict[str, Any] = {
            "ranks": self._count(entry, "ranks", 1, 1024),
            "site": self._text(entry, "site"),
            "up": card and card[0],
            "down": card and card[1],
            "latency": self._time(entry, "latency", 0.0),
            "jitter": self._time(entry, "jitter", 0.0),
            "compute": self._rate(entry, "compute") if "compute" in entry else COMPUTE,
            "local": self._rate(entry, "local") if "local" in entry else LOCAL_RATE,
        }
        if len(self._hosts) + len(names) > MOST_HOSTS:
            raise self._wrong(f"more than {MOST_HOSTS:,} hosts")
        for number, name in enumerate(names):
            self._new(name)
            self._hosts[name] = Host(name, gate=gates[number] if gates else "", **common)

    def _gates(self, entry: Mapping[str, Any], count: int) -> list[str]:
        """The switch of each of ``count`` hosts; empty if they are attached to none."""
        if "attach" not in entry:
            if "per_switch" in entry:
                raise self._wrong("per_switch goes with attach")
            return []
        switches = self._matching(self._text(entry, "attach"), self._switches)
        per_switch = self._count(entry, "per_switch", -(-count // len(switches)), MOST_HOSTS)
        if per_switch * len(switches) < count:
            raise self._wrong(f"{count:,} hosts do not fit on {len(switches)} switches with {per_switch} on each")
        return [switches[number // per_switch] for number in range(count)]

    def _matching(self, pattern: str, *among: Mapping[str, Any]) -> list[str]:
        if pattern.endswith("*"):
            found = [name for names in among for name in names if name.startswith(pattern[:-1])]
        else:
            found = [pattern] if any(pattern in names for names in among) else []
        if not found:
            raise self._wrong(f"nothing is called {pattern!r}")
        return found

    def _add_links(self, entry: Mapping[str, Any]) -> None:
        self._known(entry, _LINK)
        for end in ("a", "b"):
            if end not in entry:
                raise self._wrong("a link has two ends, a and b")
        ones = self._matching(self._text(entry, "a"), self._hosts, self._switches)
        others = self._matching(self._text(entry, "b"), self._hosts, self._switches)
        parallel = self._count(entry, "parallel", 1, 64)
        if len(self._links) + len(ones) * len(others) * parallel > MOST_LINKS:
            raise self._wrong(f"more than {MOST_LINKS:,} links")
        latency, jitter = self._time(entry, "latency", 0.0), self._time(entry, "jitter", 0.0)
        rates = self._directions(entry, "rate", "a_to_b", "b_to_a")
        if (rates is None) == ("oversubscription" not in entry):
            raise self._wrong("give a rate, or a_to_b and b_to_a, or an oversubscription")
        for a in ones:
            there, back = rates or self._share(entry, a, len(others) * parallel)
            for b in others:
                if a == b:
                    raise self._wrong(f"{a!r} is linked to itself")
                self._links += [Link(a, b, there, back, latency, jitter)] * parallel

    def _share(self, entry: Mapping[str, Any], switch: str, links: int) -> tuple[float, float]:
        """What a link of ``switch`` carries when its ``links`` together fall short of its hosts by the factor given."""
        factor = entry["oversubscription"]
        if not isinstance(factor, int | float) or isinstance(factor, bool) or not 1e-3 <= factor <= 1e6:
            raise self._wrong(f"oversubscription is a number from 0.001 to 1,000,000, not {factor!r}")
        up, down = self._demand.get(switch, (0.0, 0.0))
        if not up:
            raise self._wrong(f"no host is attached to {switch!r}: say what its links carry with a rate")
        return up / factor / links, down / factor / links

    @property
    def _demand(self) -> dict[str, tuple[float, float]]:
        """What the hosts at each switch could send and receive at once."""
        if self._summed is None:
            self._summed = {}
            for host in self._hosts.values():
                up, down = self._summed.get(host.gate, (0.0, 0.0))
                self._summed[host.gate] = up + (host.up or 0.0), down + (host.down or 0.0)
        return self._summed

    def _failure(self, entry: Mapping[str, Any], topology: Topology) -> Failure:
        self._known(entry, {"link", "host", "at"})
        if "at" not in entry or ("link" in entry) == ("host" in entry):
            raise self._wrong("give a link or a host, and at")
        at = self._time(entry, "at", 0.0)
        if "host" in entry:
            name = self._text(entry, "host")
            if name not in self._hosts:
                raise self._wrong(f"no host is called {name!r}")
            host = topology.node_of[name]
            return Failure(at, f"host {name} fails", topology.resources_of(host), topology.ranks_of(host))
        ends = entry["link"]
        if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, str) for end in ends):
            raise self._wrong('link is a pair of names, like ["west", "east"]')
        found = [
            resource
            for link, pair in zip(topology.links, topology.link_resources, strict=True)
            if {link.a, link.b} == set(ends)
            for resource in pair
        ]
        for number, each in enumerate(topology.all_hosts):
            if each.gate and {each.name, each.gate} == set(ends):
                found += topology.card(number)
        if not found:
            raise self._wrong(f"no link joins {ends[0]!r} and {ends[1]!r}")
        return Failure(at, f"link {ends[0]} - {ends[1]} fails", tuple(found))
