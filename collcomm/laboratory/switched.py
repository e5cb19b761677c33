"""Laboratories whose hosts share one Ethernet: a switch, two sites and their trunk, pairs with a rate or a delay of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .blueprint import MTU, QUEUE_SECONDS, Blueprint
from .description import describe, square
from .laboratory import (
    CONTROL_ADDRESS,
    HOSTS_NETWORK,
    HUB,
    MAX_HOSTS,
    SWITCH,
    Laboratory,
    RelayedLaboratory,
)
from .relayprocess import HELD_BYTES, RelayProcess

HUB_NUMBER = 200  # the hub's in the network, behind those of all hosts
_ALLOWED = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"

Rates = float | Sequence[float | None] | None


class Network(Laboratory):
    """``hosts`` namespaces on one bridge. ``rate``: bytes/s that each may send, and receive; None: unlimited; several: of each.

    The bridge has a namespace of its own, the hub, with an address: the place for a coordinator.
    """

    def __init__(self, hosts: int, rate: Rates = None, ipv6: bool = False, topology: str = "flat"):
        rates = rates_of(hosts, rate)
        addresses = [_address(index + 1, ipv6) for index in range(hosts)]
        drawn = Blueprint()
        drawn.place(HUB)
        drawn.bridge(HUB, "bridge")
        drawn.address(HUB, "bridge", _with_prefix(_address(HUB_NUMBER, ipv6)))
        for index, address in enumerate(addresses):
            _draw_host(drawn, index, address, rates[index], HUB, "bridge")
        super().__init__(
            drawn,
            describe(topology, hosts, lambda s, t: links(rates, s, t), mtu=drawn.mtu),
            addresses,
            [[(HUB, f"port{index}")] for index in range(hosts)],
            _address(HUB_NUMBER, ipv6),
        )


def flat(n: int, rate: Rates = None) -> Network:
    """``n`` hosts on one switch, each with ``rate`` bytes/s each way."""
    return Network(n, rate)


def one_slow_host(n: int, rate: float, slow_rate: float, slow: int = 0) -> Network:
    """`flat`, but host number ``slow`` has ``slow_rate`` each way."""
    if not 0 <= slow < n:
        raise ValueError(f"the slow host is one of 0 to {n - 1}, not {slow}")
    return Network(n, [slow_rate if index == slow else rate for index in range(n)], topology="one_slow_host")


def asymmetric_ring(bandwidths: Sequence[Sequence[float]]) -> Laboratory:
    """Hosts on one switch whose pairs have planted rates: ``bandwidths[source][target]`` in bytes/s, each direction for itself
    and none shared; the diagonal is not looked at. A class of HTB for each destination at each host, chosen by u32."""
    n = len(bandwidths)
    rates_of(n, None)
    if any(len(row) != n for row in bandwidths):
        raise ValueError(f"the rates of {n} hosts are {n} rows of {n}")
    addresses = [_address(index + 1) for index in range(n)]
    drawn = Blueprint()
    _draw_switch(drawn)
    drawn.bridge(SWITCH, "bridge")
    for index, address in enumerate(addresses):
        _draw_host(drawn, index, address, None, SWITCH, "bridge")
        others = [(addresses[other], bandwidths[index][other]) for other in range(n) if other != index]
        drawn.limit_pairs(f"h{index}", "eth0", others)
    ports = draw_control(drawn, addresses)
    told = describe("asymmetric_ring", n, lambda s, t: [(f"pair {s} to {t}", bandwidths[s][t])], mtu=drawn.mtu)
    return Laboratory(drawn, told, addresses, and_ports(ports, [SWITCH] * len(ports)), CONTROL_ADDRESS)


def two_sites(
    per_site: int,
    rate: float | None,
    trunk_rate: float,
    delay: float,
    loss: float = 0.0,
    *,
    mtu: int = MTU,
    seed: int = 1,
    congestion: str | None = None,
) -> RelayedLaboratory:
    """Two switches with ``per_site`` hosts each, of ``rate`` bytes/s; a trunk of ``trunk_rate`` and ``delay`` seconds each way.

    Hosts 0 to ``per_site`` - 1 are the first site. ``loss``: of the trunk's packets, drawn from ``seed``. ``congestion``: the
    hosts' TCP congestion control; None: the kernel's own.
    """
    n = 2 * per_site
    rates = rates_of(n, rate)
    addresses = [_address(index + 1) for index in range(n)]
    drawn = Blueprint(mtu)
    _draw_switch(drawn)
    for site in (0, 1):
        drawn.bridge(SWITCH, f"bridge{site}")
        _draw_tap(drawn, f"tap{site}", f"bridge{site}")
        drawn.limit(SWITCH, f"tap{site}", trunk_rate, max(QUEUE_SECONDS, 2 * delay))
    for index, address in enumerate(addresses):
        _draw_host(drawn, index, address, rates[index], SWITCH, f"bridge{index // per_site}", 2 * delay, congestion)
    ports = draw_control(drawn, addresses)

    def path(source: int, target: int) -> list[tuple[str, float | None]]:
        one, other = source // per_site, target // per_site
        trunk = [(f"trunk {one} to {other}", trunk_rate)] if one != other else []
        return [*links(rates, source, target), *trunk]

    told = describe("two_sites", n, path, mtu=mtu, site=lambda host: host // per_site)
    relay = _relay(["tap0", "tap1"], delay, loss, seed, trunk_rate)
    places = [index // per_site for index in range(n)]
    return RelayedLaboratory(
        relay, places, drawn, told, addresses, and_ports(ports, [SWITCH] * len(ports)), CONTROL_ADDRESS
    )


def delayed(
    n: int,
    rate: float | None,
    delay: float | Sequence[Sequence[float]],
    loss: float | Sequence[Sequence[float]] = 0.0,
    *,
    mtu: int = MTU,
    seed: int = 1,
    congestion: str | None = None,
) -> RelayedLaboratory:
    """``n`` hosts of ``rate`` bytes/s on one switch, any two ``delay`` seconds apart, one way; or [source][target] seconds.

    ``loss``: the probability for each packet, also by pair if wanted. The rate counts whole frames: TCP has 95.6% of it for data
    at an MTU of 1500, and 99.3% at 9000. ``congestion``: the hosts' TCP congestion control; None: the kernel's own.
    """
    rates = rates_of(n, rate)
    delays, losses = _by_pair(n, delay), _by_pair(n, loss)
    longest = max(max(row) for row in delays)
    addresses = [_address(index + 1) for index in range(n)]
    drawn = Blueprint(mtu)
    _draw_switch(drawn)
    for index, address in enumerate(addresses):
        drawn.bridge(SWITCH, f"bridge{index}")
        _draw_tap(drawn, f"tap{index}", f"bridge{index}")
        _draw_host(drawn, index, address, rates[index], SWITCH, f"bridge{index}", 2 * longest, congestion)
    ports = draw_control(drawn, addresses)
    told = describe("delayed", n, lambda s, t: links(rates, s, t), mtu=mtu)
    relay = _relay([f"tap{index}" for index in range(n)], delays, losses, seed, rate)
    return RelayedLaboratory(
        relay, range(n), drawn, told, addresses, and_ports(ports, [SWITCH] * len(ports)), CONTROL_ADDRESS
    )


def rates_of(n: int, rate: Rates) -> list[float | None]:
    """One for each of ``n`` hosts. Raises ValueError."""
    if not 1 <= n <= MAX_HOSTS:
        raise ValueError(f"a network has 1 to {MAX_HOSTS} hosts, not {n}")
    rates = list(rate) if isinstance(rate, Sequence) else [rate] * n
    if len(rates) != n:
        raise ValueError(f"{n} hosts have {n} rates, not {len(rates)}")
    return rates


def links(rates: Sequence[float | None], source: int, target: int) -> list[tuple[str, float | None]]:
    """The resources of two hosts' own cables."""
    return [(f"host {source} sends", rates[source]), (f"host {target} receives", rates[target])]


def draw_control(drawn: Blueprint, addresses: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The hub, and a control cable from each host to it; returns the hub's ends of them.

    The cables carry no addresses of their own: a host speaks to the hub from the address that the others know.
    """
    drawn.place(HUB)
    drawn.bridge(HUB, "control")
    drawn.address(HUB, "control", f"{CONTROL_ADDRESS}/32")
    drawn.route(HUB, f"{HOSTS_NETWORK} dev control")
    for index, address in enumerate(addresses):
        drawn.cable(HUB, f"control{index}", f"h{index}", "control")
        drawn.join(HUB, f"control{index}", "control")
        drawn.route(f"h{index}", f"{CONTROL_ADDRESS}/32 dev control src {address}")
    return [[(HUB, f"control{index}")] for index in range(len(addresses))]


def and_ports(ports: list[list[tuple[str, str]]], places: Sequence[str]) -> list[list[tuple[str, str]]]:
    """``ports`` of each host, and the one that it has on the switch or router ``places[host]``."""
    return [[*known, (places[index], f"port{index}")] for index, known in enumerate(ports)]


def _draw_switch(drawn: Blueprint) -> None:
    drawn.place(SWITCH)
    drawn.setting(SWITCH, "ipv6/conf/default/disable_ipv6", 1)  # a switch says nothing of its own


def _draw_tap(drawn: Blueprint, device: str, bridge: str) -> None:
    drawn.command(SWITCH, f"link set dev {device} txqueuelen 10000")
    drawn.join(SWITCH, device, bridge)


def _draw_host(
    drawn: Blueprint,
    index: int,
    address: str,
    rate: float | None,
    place: str,
    bridge: str,
    round_trip: float = 0.0,
    congestion: str | None = None,
) -> None:
    """A host, joined to a bridge by a cable whose ends are "eth0" and "port{index}"; queues hold a round trip."""
    host, port = f"h{index}", f"port{index}"
    drawn.place(host)
    if congestion is not None:
        allowed = Path(_ALLOWED).read_text().split()
        if congestion not in allowed:
            raise ValueError(f"namespaces may use {', '.join(allowed)}, not {congestion!r}; add it to {_ALLOWED} first")
        drawn.setting(host, "ipv4/tcp_congestion_control", congestion)
    drawn.cable(place, port, host, "eth0")
    drawn.join(place, port, bridge)
    drawn.address(host, "eth0", _with_prefix(address))
    queue = max(QUEUE_SECONDS, round_trip)
    drawn.limit(host, "eth0", rate, queue)
    drawn.limit(place, port, rate, queue)


def _relay(
    ports: Sequence[str],
    delay: float | Sequence[Sequence[float]],
    loss: float | Sequence[Sequence[float]],
    seed: int,
    rate: float | None,
) -> RelayProcess:
    delays, losses = _by_pair(len(ports), delay), _by_pair(len(ports), loss)
    longest = max(max(row) for row in delays)
    held = HELD_BYTES if rate is None else max(HELD_BYTES, round(2 * rate * longest))
    return RelayProcess(ports, delays, losses, seed, held)


def _by_pair(n: int, value: float | Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    if isinstance(value, Sequence):
        if len(value) != n or any(len(row) != n for row in value):
            raise ValueError(f"what {n} hosts have by pairs is {n} rows of {n}")
        rows = value
        return square(n, lambda s, t: float(rows[s][t]) if s != t else 0.0)
    alike = float(value)
    return square(n, lambda s, t: alike if s != t else 0.0)


def _address(number: int, ipv6: bool = False) -> str:
    return f"[fd00:48::{number:x}]" if ipv6 else f"10.48.0.{number}"


def _with_prefix(address: str) -> str:
    return f"{address.strip('[]')}/64" if ":" in address else f"{address}/24"
