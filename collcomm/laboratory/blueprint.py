"""A network as it is drawn before it is built: places, cables, bridges, routes, shapers.

A *place* is a namespace by its short name ("h0", "hub", "router1"). Commands are collected by place, so that building takes one
``ip -batch`` for all namespaces and cables and one process for each place, however many commands it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .description import FRAME_HEADER
from .namespaces import execute

MTU = 1500
BUCKET_SECONDS = 0.004  # what a shaper lets through at once: short, so that a small probe meets the rate, too
BUCKET_BYTES = 256 << 10  # and never more than this: two full-sized segments of the kernel's offloading, and some
QUEUE_SECONDS = 0.05
LEAST_QUEUE_BYTES = 128 << 10  # room for a full-sized segment of the offloading, whatever the rate
SUPER_PACKET = 65536


@dataclass
class _Place:
    ip: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    tc: list[str] = field(default_factory=list)
    sysctl: list[str] = field(default_factory=list)
    nft: list[str] = field(default_factory=list)

    def script(self) -> str:
        """Of a shell in the namespace; stops at the first command that fails."""
        lines = ["set -e", *(f"echo {setting}" for setting in self.sysctl)]
        for program, commands in (("ip", self.ip + self.routes), ("tc", self.tc)):
            if commands:
                lines += [f"{program} -batch - <<'END'", *commands, "END"]
        if self.nft:
            lines += ["nft -f - <<'END'", *self.nft, "END"]
        return "\n".join(lines) + "\n"


class Blueprint:
    """``mtu``: of all devices."""

    def __init__(self, mtu: int = MTU) -> None:
        if not 576 <= mtu <= 9216:
            raise ValueError(f"an MTU is 576 to 9216 bytes, not {mtu}")
        self.mtu = mtu
        self._places: dict[str, _Place] = {}
        self._cables: list[tuple[str, str, str, str]] = []

    @property
    def places(self) -> list[str]:
        return list(self._places)

    def place(self, name: str) -> None:
        """A namespace, with its loopback up; addresses are not checked against the way by which packets come."""
        drawn = self._places[name] = _Place()
        drawn.ip.append("link set lo up")
        drawn.sysctl.append("0 | tee /proc/sys/net/ipv4/conf/*/rp_filter > /dev/null")

    def cable(self, place: str, device: str, other: str, other_device: str) -> None:
        """A link between two places, up at both ends."""
        self._cables.append((place, device, other, other_device))
        for where, name in ((place, device), (other, other_device)):
            self._places[where].ip.append(f"link set dev {name} mtu {self.mtu} up")

    def bridge(self, place: str, device: str) -> None:
        self._places[place].ip.append(f"link add dev {device} mtu {self.mtu} up type bridge")

    def join(self, place: str, device: str, bridge: str) -> None:
        """Make a device a port of a bridge."""
        self._places[place].ip.append(f"link set dev {device} mtu {self.mtu} master {bridge} up")

    def address(self, place: str, device: str, address: str) -> None:
        """``address`` with its prefix length; usable at once, also in IPv6."""
        self._places[place].ip.append(f"addr add {address} dev {device}{' nodad' if ':' in address else ''}")

    def command(self, place: str, command: str) -> None:
        """A command of ``ip``, without that word."""
        self._places[place].ip.append(command)

    def route(self, place: str, route: str) -> None:
        self._places[place].routes.append(f"route add {route}")

    def setting(self, place: str, name: str, value: str | int) -> None:
        """A sysctl under net/, as a path: "ipv4/ip_forward"."""
        self._places[place].sysctl.append(f"{value} > /proc/sys/net/{name}")

    def rules(self, place: str, ruleset: str) -> None:
        """Lines of nft."""
        self._places[place].nft.append(ruleset)

    def limit(self, place: str, device: str, rate: float | None, queue_seconds: float = QUEUE_SECONDS) -> None:
        """Shape what leaves a device to ``rate`` bytes/s, Ethernet headers included; None: not at all."""
        if rate is not None:
            bucket = bucket_bytes(rate, self.mtu)
            queue = bucket + max(round(rate * queue_seconds), LEAST_QUEUE_BYTES)
            shape = f"rate {rate * 8:.0f}bit burst {bucket} limit {queue}"
            self._places[place].tc.append(f"qdisc add dev {device} root tbf {shape}")

    def limit_pairs(self, place: str, device: str, rates: Sequence[tuple[str, float]]) -> None:
        """Shape what leaves a device to a rate of its own for each IPv4 destination; the rest passes.

        HTB sends a packet of the offloading whole, however slow the class; the device is told to make none that is longer than
        the slowest class's bucket.
        """
        drawn = self._places[place]
        drawn.tc.append(f"qdisc add dev {device} root handle 1: htb default 0")
        for number, (address, rate) in enumerate(rates, 16):
            bucket = bucket_bytes(rate, self.mtu)
            queue = bucket + max(round(rate * QUEUE_SECONDS), LEAST_QUEUE_BYTES)
            shape = f"rate {rate * 8:.0f}bit burst {bucket} cburst {bucket} quantum {max(bucket, self.mtu * 2)}"
            drawn.tc.append(f"class add dev {device} parent 1: classid 1:{number:x} htb {shape}")
            drawn.tc.append(f"qdisc add dev {device} parent 1:{number:x} bfifo limit {queue}")
            drawn.tc.append(
                f"filter add dev {device} parent 1: protocol ip prio 1 u32 match ip dst {address}/32 flowid 1:{number:x}"
            )
        least = min((bucket_bytes(rate, self.mtu) for _, rate in rates), default=SUPER_PACKET)
        drawn.ip.append(f"link set dev {device} gso_max_size {min(least, SUPER_PACKET)}")

    def build(self, name: Callable[[str], str], between: Callable[[], None]) -> None:
        """Make it; ``name``: of the namespace of a place; ``between``: called when namespaces and cables are there, and before
        the places are furnished (relays make their devices then). Raises RuntimeError."""
        lines = [f"netns add {name(place)}" for place in self._places]
        lines += [
            f"link add {device} netns {name(place)} type veth peer name {other_device} netns {name(other)}"
            for place, device, other, other_device in self._cables
        ]
        execute(["ip", "-batch", "-"], "\n".join(lines) + "\n")
        between()
        for place, drawn in self._places.items():
            execute(["ip", "netns", "exec", name(place), "sh", "-s"], drawn.script())


def bucket_bytes(rate: float, mtu: int) -> int:
    """How much a shaper of ``rate`` bytes/s lets through at once."""
    if not rate >= 1:
        raise ValueError(f"a rate is at least one byte per second, not {rate}")
    return max(2 * (mtu + FRAME_HEADER), min(BUCKET_BYTES, round(rate * BUCKET_SECONDS)))
