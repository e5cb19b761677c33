"""Laboratories with routers: several equal paths between two sites, leaves and spines, hosts behind address translation."""

from __future__ import annotations

from collections.abc import Sequence

from .blueprint import Blueprint
from .description import Description, describe
from .laboratory import CONTROL_ADDRESS, HUB, Laboratory
from .namespaces import execute
from .switched import and_ports, draw_control, links, rates_of

GATEWAY = 254  # a router's number in the network of its hosts
HUB_NUMBER = 250
MAX_NETWORKS = 32
FIRST_TRANSLATOR = 201  # the number of the first translating router in the public network


class PathsLaboratory(Laboratory):
    """`two_paths`."""

    def __init__(
        self,
        paths: int,
        blueprint: Blueprint,
        description: Description,
        addresses: Sequence[str],
        ports: Sequence[Sequence[tuple[str, str]]],
    ):
        super().__init__(blueprint, description, addresses, ports, CONTROL_ADDRESS, needs=["nft"])
        self.paths = paths

    def kill_path(self, path: int) -> None:
        """What is sent on this path vanishes, either way; its links stay up and nobody is told."""
        for place in ("router0", "router1"):
            rules = (
                f"add table ip dead{self._known(path)};"
                f"add chain ip dead{path} arriving {{ type filter hook prerouting priority -300; }};"
                f'add rule ip dead{path} arriving iifname "path{path}" drop'
            )
            execute([*self._enter(place), "nft", rules])

    def mend_path(self, path: int) -> None:
        """Undo `kill_path`."""
        for place in ("router0", "router1"):
            execute([*self._enter(place), "nft", f"delete table ip dead{self._known(path)}"])

    def sent_by_path(self, side: int) -> list[int]:
        """Bytes that the router of ``side`` (0 or 1) has sent on each path so far."""
        return [self._sent(f"router{side}", f"path{path}") for path in range(self.paths)]

    def _known(self, path: int) -> int:
        if not 0 <= path < self.paths:
            raise IndexError(f"the paths are 0 to {self.paths - 1}, not {path}")
        return path


def two_paths(rate: float, paths: int = 2, hosts: int = 2) -> PathsLaboratory:
    """Two routers joined by ``paths`` of equal cost and ``rate`` bytes/s each; the first half of the hosts is behind one, the
    rest behind the other, with cables that nothing limits.

    A flow keeps to the path that a hash of its addresses and ports has chosen (RFC 2992); several flows spread.
    """
    rates_of(hosts, None)
    if not 1 <= paths <= MAX_NETWORKS:
        raise ValueError(f"there are 1 to {MAX_NETWORKS} paths, not {paths}")
    half = (hosts + 1) // 2
    sides = [index // half for index in range(hosts)]
    drawn = Blueprint()
    for side in (0, 1):
        _draw_router(drawn, f"router{side}", side)
    addresses = _draw_hosts(drawn, sides, "router", [None] * hosts)
    for path in range(paths):
        drawn.cable("router0", f"path{path}", "router1", f"path{path}")
        for side in (0, 1):
            drawn.address(f"router{side}", f"path{path}", f"10.40.{path}.{side + 1}/30")
            drawn.limit(f"router{side}", f"path{path}", rate)
    for side in (0, 1):
        hops = " ".join(f"nexthop via 10.40.{path}.{2 - side}" for path in range(paths))
        drawn.route(f"router{side}", f"10.48.{1 - side}.0/24 {hops}")
    ports = draw_control(drawn, addresses)

    def path_of(source: int, target: int) -> list[tuple[str, float | None]]:
        one, other = sides[source], sides[target]
        return [(f"paths {one} to {other}", rate * paths)] if one != other else []

    told = describe("two_paths", hosts, path_of, mtu=drawn.mtu, site=sides.__getitem__, flow=lambda s, t: rate)
    return PathsLaboratory(paths, drawn, told, addresses, and_ports(ports, [f"router{side}" for side in sides]))


def leaf_spine(
    leaves: int, hosts_per_leaf: int, host_rate: float | None, uplink_rate: float, spines: int = 2
) -> Laboratory:
    """Hosts of ``host_rate`` bytes/s on leaf switches, each leaf with a link of ``uplink_rate`` to every spine; flows between
    leaves spread over the spines by a hash of their addresses and ports. Oversubscribed where hosts_per_leaf * host_rate is more
    than spines * uplink_rate."""
    if not (1 <= leaves <= MAX_NETWORKS and 1 <= spines <= MAX_NETWORKS):
        raise ValueError(f"there are 1 to {MAX_NETWORKS} leaves and spines, not {leaves} and {spines}")
    n = leaves * hosts_per_leaf
    rates = rates_of(n, host_rate)
    leaf_of = [index // hosts_per_leaf for index in range(n)]
    drawn = Blueprint()
    for leaf in range(leaves):
        _draw_router(drawn, f"leaf{leaf}", leaf)
    addresses = _draw_hosts(drawn, leaf_of, "leaf", rates)
    for spine in range(spines):
        drawn.place(f"spine{spine}")
        drawn.setting(f"spine{spine}", "ipv4/ip_forward", 1)
        for leaf in range(leaves):
            drawn.cable(f"leaf{leaf}", f"up{spine}", f"spine{spine}", f"down{leaf}")
            drawn.address(f"leaf{leaf}", f"up{spine}", f"10.{100 + spine}.{leaf}.2/30")
            drawn.address(f"spine{spine}", f"down{leaf}", f"10.{100 + spine}.{leaf}.1/30")
            drawn.limit(f"leaf{leaf}", f"up{spine}", uplink_rate)
            drawn.limit(f"spine{spine}", f"down{leaf}", uplink_rate)
            drawn.route(f"spine{spine}", f"10.48.{leaf}.0/24 via 10.{100 + spine}.{leaf}.2")
    for leaf in range(leaves):
        hops = " ".join(f"nexthop via 10.{100 + spine}.{leaf}.1" for spine in range(spines))
        for other in range(leaves):
            if other != leaf:
                drawn.route(f"leaf{leaf}", f"10.48.{other}.0/24 {hops}")
    ports = draw_control(drawn, addresses)

    def path(source: int, target: int) -> list[tuple[str, float | None]]:
        one, other = leaf_of[source], leaf_of[target]
        up: list[tuple[str, float | None]] = [
            (f"leaf {one} sends", spines * uplink_rate),
            (f"leaf {other} receives", spines * uplink_rate),
        ]
        return [*links(rates, source, target), *(up if one != other else [])]

    told = describe(
        "leaf_spine",
        n,
        path,
        mtu=drawn.mtu,
        site=leaf_of.__getitem__,
        flow=lambda s, t: uplink_rate if leaf_of[s] != leaf_of[t] else float("inf"),
    )
    return Laboratory(drawn, told, addresses, and_ports(ports, [f"leaf{leaf}" for leaf in leaf_of]), CONTROL_ADDRESS)


def behind_nat(
    public: int,
    behind: Sequence[int],
    rate: float | None = None,
    *,
    inbound: str = "drop",
    symmetric: bool = False,
) -> Laboratory:
    """``public`` hosts that all can dial, then ``behind[k]`` hosts behind the translating router k, which can only dial out.

    The hub is in the public network and routes nothing: what is sent to a private address of another network vanishes there.
    ``inbound``: what a router does with a connection from outside, "drop" or "reject". ``symmetric``: the router takes another
    port for each connection, which defeats hole punching (RFC 5128); else it keeps the host's port where it can.
    """
    if inbound not in ("drop", "reject"):
        raise ValueError(f'inbound connections are "drop" or "reject", not {inbound!r}')
    n = public + sum(behind)
    rates = rates_of(n, rate)
    router_of: list[int | None] = [None] * public + [k for k, count in enumerate(behind) for _ in range(count)]
    if len(behind) > MAX_NETWORKS:
        raise ValueError(f"there are at most {MAX_NETWORKS} routers, not {len(behind)}")
    hub_address = f"10.48.0.{HUB_NUMBER}"
    drawn = Blueprint()
    drawn.place(HUB)
    drawn.bridge(HUB, "bridge")
    drawn.address(HUB, "bridge", f"{hub_address}/24")
    for router in range(len(behind)):
        _draw_translator(drawn, router, hub_address, inbound, symmetric)
    addresses, ports = [], []
    for index, k in enumerate(router_of):
        host = f"h{index}"
        network, place, bridge = (0, HUB, "bridge") if k is None else (100 + k, f"nat{k}", "lan")
        address = f"10.48.0.{index + 1}" if k is None else f"10.49.{network}.{index + 1}"
        drawn.place(host)
        drawn.cable(place, f"port{index}", host, "eth0")
        drawn.join(place, f"port{index}", bridge)
        drawn.address(host, "eth0", f"{address}/24")
        drawn.route(host, f"default via {hub_address if k is None else f'10.49.{network}.{GATEWAY}'}")
        drawn.limit(host, "eth0", rates[index])
        drawn.limit(place, f"port{index}", rates[index])
        addresses.append(address)
        ports.append([(place, f"port{index}")])
    told = describe(
        "behind_nat",
        n,
        lambda s, t: links(rates, s, t),
        mtu=drawn.mtu,
        site=lambda host: 0 if router_of[host] is None else 1 + (router_of[host] or 0),
        dials=lambda s, t: router_of[t] is None or router_of[s] == router_of[t],
    )
    return Laboratory(drawn, told, addresses, ports, hub_address, needs=["nft"])


def _draw_translator(drawn: Blueprint, k: int, hub_address: str, inbound: str, symmetric: bool) -> None:
    place, refuse = f"nat{k}", "reject" if inbound == "reject" else "drop"
    drawn.place(place)
    drawn.setting(place, "ipv4/ip_forward", 1)
    drawn.bridge(place, "lan")
    drawn.address(place, "lan", f"10.49.{100 + k}.{GATEWAY}/24")
    drawn.cable(HUB, f"nat{k}", place, "eth0")
    drawn.join(HUB, f"nat{k}", "bridge")
    drawn.address(place, "eth0", f"10.48.0.{FIRST_TRANSLATOR + k}/24")
    drawn.route(place, f"default via {hub_address}")
    drawn.rules(
        place,
        f"""
        table ip translation {{
            chain leaving {{
                type nat hook postrouting priority 100;
                oifname "eth0" masquerade{" fully-random" if symmetric else ""}
            }}
            chain forwarded {{
                type filter hook forward priority 0;
                ct state established,related accept
                iifname "eth0" {refuse}
            }}
            chain arriving {{
                type filter hook input priority 0;
                ct state established,related accept
                iifname "eth0" {refuse}
            }}
        }}""",
    )


def _draw_router(drawn: Blueprint, place: str, network: int) -> None:
    """One with a bridge for the hosts of its own network, that spreads flows by their addresses and ports."""
    drawn.place(place)
    drawn.setting(place, "ipv4/ip_forward", 1)
    drawn.setting(place, "ipv4/fib_multipath_hash_policy", 1)
    drawn.bridge(place, "lan")
    drawn.address(place, "lan", f"10.48.{network}.{GATEWAY}/24")


def _draw_hosts(drawn: Blueprint, network_of: Sequence[int], router: str, rates: Sequence[float | None]) -> list[str]:
    """Hosts in the networks of their routers; returns their addresses."""
    addresses = []
    for index, network in enumerate(network_of):
        place, host, address = f"{router}{network}", f"h{index}", f"10.48.{network}.{index + 1}"
        drawn.place(host)
        drawn.cable(place, f"port{index}", host, "eth0")
        drawn.join(place, f"port{index}", "lan")
        drawn.address(host, "eth0", f"{address}/24")
        drawn.route(host, f"default via 10.48.{network}.{GATEWAY}")
        drawn.limit(host, "eth0", rates[index])
        drawn.limit(place, f"port{index}", rates[index])
        addresses.append(address)
    return addresses
