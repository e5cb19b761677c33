"""The way to a coordinator up to an open connection: its name, the card that is used towards it, and its port."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import units
from .checkup import Level, Line

RESOLVE_SECONDS = 5.0
SIOCGIFADDR = 0x8915  # Linux
SLOW_NAME_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """Where a coordinator is: ``address`` is the one that is dialled."""

    family: int
    address: str
    port: int


def resolve(host: str, port: int, seconds: float) -> tuple[Place | None, Line]:
    """The address that peers use; they take the first IPv4 address of a name, and IPv6 only where it is written out. On a
    thread of its own, since the system's resolver cannot be told when to give up."""
    found: list[tuple[int, str]] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append((int(family), str(where[0])))
        except (OSError, UnicodeError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(str(error)))

    began = time.monotonic()
    thread = threading.Thread(target=ask, name="resolver", daemon=True)
    thread.start()
    thread.join(seconds)
    took = time.monotonic() - began
    if thread.is_alive():
        text = f"no answer about {host} within {units.seconds(took)}"
        return None, Line(
            "name", Level.PROBLEM, text, "the name server does not answer: look at /etc/resolv.conf, or use an address"
        )
    if failed or not found:
        why = failed[0].strerror or str(failed[0]) if failed else "no address"
        advice = "check the spelling, /etc/hosts and the name server, or use an address"
        return None, Line("name", Level.PROBLEM, f"{host} has no address: {why}", advice)
    addresses = sorted({address for _, address in found})
    facts = {"addresses": addresses, "seconds": took}
    usable = [place for place in found if place[0] == socket.AF_INET or ":" in host]
    if not usable:
        text = f"{host} has IPv6 addresses only: {', '.join(addresses[:6])}"
        advice = f"peers use IPv6 where it is written out: [{found[0][1]}]:{port}"
        return None, Line("name", Level.PROBLEM, text, advice, facts)
    family, address = usable[0]
    others = sorted({other for _, other in found} - {address})
    text = f"{host} is {address}" if host != address else f"{address} is an address"
    if others:
        text += f"; it has also {', '.join(others[:6])}"
    level, advice = Level.OK, ""
    if took > SLOW_NAME_SECONDS:
        level, advice = Level.WARNING, f"resolving took {units.seconds(took)}: each joining peer waits so long"
    elif len([place for place in set(found) if place[0] == family]) > 1:
        level, advice = Level.WARNING, "several addresses: peers take the first, which may differ from host to host"
    return Place(family, address, port), Line("name", level, text, advice, facts)


def card_towards(place: Place) -> Line:
    """Which of this host's addresses and cards is used towards ``place``. Sends nothing."""
    try:
        local = local_address(place)
    except OSError as error:
        advice = "no route: is the network up, and is there a default route? (ip route)"
        return Line("address", Level.PROBLEM, f"nothing leads to {place.address}: {error.strerror}", advice)
    name = _card_of(local)
    facts: dict[str, object] = {"local": local, "card": name}
    version = "IPv6" if place.family == socket.AF_INET6 else "IPv4"
    text = f"{local} on {name or 'an unknown card'} is used towards it ({version}); peers advertise it"
    if name is None:
        return Line("address", Level.OK, text, "", facts)
    speed, mtu = _number(name, "speed"), _number(name, "mtu")
    facts |= {"mtu": mtu, "bandwidth": None if not speed or speed < 0 else speed * 1e6 / 8}
    if speed is not None and speed > 0:
        text += f"; the card says {units.rate(speed * 1e6 / 8)}"
    if (Path("/sys/class/net") / name / "wireless").exists():
        return Line(
            "address", Level.WARNING, text, "a wireless card: expect jitter, or name a wired one (advertise=)", facts
        )
    return Line("address", Level.OK, text, "", facts)


def local_address(place: Place) -> str:
    with socket.socket(place.family, socket.SOCK_DGRAM) as probe:
        probe.connect((place.address, place.port or 9))
        return str(probe.getsockname()[0])


def dial(place: Place, port: int, seconds: float) -> tuple[socket.socket | None, str, float]:
    """A TCP connection to ``port``: the socket, or what became of the attempt ("refused", "silent", "unreachable", or the
    error's text); and the seconds it took."""
    began = time.monotonic()
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    sock.settimeout(seconds)
    try:
        sock.connect((place.address, port))
    except TimeoutError:
        outcome = "silent"
    except OSError as error:
        outcomes = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "silent", errno.EHOSTUNREACH: "unreachable"}
        outcome = outcomes.get(error.errno or 0, error.strerror or str(error))
    else:
        return sock, "open", time.monotonic() - began
    sock.close()
    return None, outcome, time.monotonic() - began


def judge_port(what: str, where: str, outcome: str, took: float, local: str) -> Line:
    """In words, with what to do next."""
    facts = {"outcome": outcome, "seconds": took}
    if outcome == "open":
        return Line(what, Level.OK, f"{where} takes connections, in {units.seconds(took)}", "", facts)
    port = where.rpartition(":")[2]
    if outcome == "refused":
        text = f"{where} refuses connections: nothing listens there, or a firewall answers in its place"
        advice = f"is the coordinator running, and not on 127.0.0.1 only (--bind 0.0.0.0:{port})? There: ss -ltn sport = :{port}"
    elif outcome == "silent":
        text = f"{where} gives no answer within {units.seconds(took)}: a firewall drops what comes, or the host is off"
        advice = f"let TCP port {port} in there, from {local}: nft / ufw / the provider's security group"
    elif outcome == "unreachable":
        text = f"{where} cannot be reached: no host there, or a firewall on the way says so"
        advice = "is the host up, is the route right (ip route get), does a firewall reject with ICMP?"
    else:
        text, advice = (
            f"{where} cannot be dialled: {outcome}",
            "if not permitted: a firewall of this host (nft list ruleset)",
        )
    return Line(what, Level.PROBLEM, text, advice, facts)


def _card_of(address: str) -> str | None:
    """The name of the card that has ``address``; None where that cannot be told."""
    try:
        if ":" in address:
            return _ipv6_card(address.partition("%")[0])
        wanted = socket.inet_aton(address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", os.fsencode(name)[:15])
                try:
                    if fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24] == wanted:
                        return name
                except OSError:
                    pass  # it has no IPv4 address
    except (OSError, AttributeError, ValueError):
        pass
    return "lo" if address.startswith("127.") and Path("/sys/class/net/lo").exists() else None


def _ipv6_card(address: str) -> str | None:
    wanted = socket.inet_pton(socket.AF_INET6, address).hex()
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        fields = line.split()
        if fields[0] == wanted:
            return fields[-1]
    return None


def _number(card: str, name: str) -> int | None:
    try:
        return int((Path("/sys/class/net") / card / name).read_text())
    except (OSError, ValueError):
        return None  # loopback and virtual cards have no speed
