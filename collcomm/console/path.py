"""What the path to a coordinator carries: how large packets may be, and how much in a second."""

from __future__ import annotations

import errno
import select
import socket
import sys

from ..errors import CollcommError
from ..membership import Watch
from . import units
from .checkup import Deadline, Level, Line
from .reach import Place

ANSWER_SECONDS = 0.4
USUAL_MTUS = (1280, 1400, 1420, 1450, 1492)  # what IPv6 guarantees, tunnels, WireGuard, VXLAN, PPPoE
LOAD_BYTES = 64 << 10
FEW, MANY = 4, 60  # messages
QUICK_SECONDS = 0.25  # a few that take less are followed by many
TRAIN_SECONDS = 2.0
LEAST_SECONDS = 100e-6  # less is not measured by so few

# of linux/in.h and in6.h; not in every Python's socket module
_IPV4 = (socket.IPPROTO_IP, 14, 10, 3, 28)  # IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE, headers of IP and UDP
_IPV6 = (socket.IPPROTO_IPV6, 24, 23, 3, 48)
MOST_PAYLOAD = 65507


def packets(place: Place, sock: socket.socket, seconds: float) -> Line:
    """The MTU that this host's kernel goes by towards ``sock``'s other end, and whether packets of that size arrive there without
    being cut: a datagram to a port where nobody listens is answered by ICMP, which proves that it came."""
    if not sys.platform.startswith("linux"):
        return Line("packets", Level.NOTE, "the size of packets is looked at on Linux only")
    level, option, *_, headers = _IPV6 if place.family == socket.AF_INET6 else _IPV4
    try:
        mtu = sock.getsockopt(level, option)
    except OSError as error:
        return Line("packets", Level.NOTE, f"the MTU is not known: {error.strerror}")
    facts = {"mtu": mtu}
    deadline = Deadline(seconds)
    if seconds < 3 * ANSWER_SECONDS:
        return Line("packets", Level.NOTE, f"MTU {mtu} here; no time was left to try it", "", facts)
    if not _arrives(place, 64):
        text = f"MTU {mtu} here; whether the path carries it cannot be told, since nothing answers datagrams"
        return Line("packets", Level.OK, text, "", facts)
    if _arrives(place, min(MOST_PAYLOAD, mtu - headers)):
        return Line("packets", Level.OK, f"MTU {mtu}, and the path carries it", "", facts)
    if not _arrives(place, 64):  # nor do small ones now: who answers by ICMP does so only so often
        return Line(
            "packets", Level.OK, f"MTU {mtu} here; too few answers to tell whether the path carries it", "", facts
        )
    carried = _carried(place, [size for size in USUAL_MTUS if size < mtu], headers, deadline)
    text = f"packets of {mtu} bytes do not arrive, {f'of {carried} bytes do' if carried else 'small ones do'}"
    advice = (
        f"big messages will hang: set the MTU to {carried or 1280} (ip link set dev CARD mtu {carried or 1280}), let ICMP "
        f"through, or sysctl net.ipv4.tcp_mtu_probing=1"
    )
    return Line("packets", Level.WARNING, text, advice, {**facts, "carried": carried})


def _carried(place: Place, sizes: list[int], headers: int, deadline: Deadline) -> int | None:
    """The largest of ``sizes`` (ascending) that arrives, by bisection, since each that does not takes its time."""
    low, high = 0, len(sizes)
    while low < high and not deadline.over:
        middle = (low + high) // 2
        if _arrives(place, sizes[middle] - headers):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def _arrives(place: Place, payload: int) -> bool:
    """Whether a datagram that may not be cut arrives; asked twice, for one may be lost."""
    level, _, discover, probe, _ = _IPV6 if place.family == socket.AF_INET6 else _IPV4
    with socket.socket(place.family, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(level, discover, probe)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
            sock.connect((place.address, place.port))
            for _ in range(2):
                sock.send(bytes(payload))
                if select.select([sock], [], [], ANSWER_SECONDS)[0]:
                    sock.recv(1)
                    return True  # somebody listens there, and answers
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return False


def bandwidth(watch: Watch, upwards: bool, seconds: float) -> Line:
    """By a short train of messages on a control connection, encrypted if that is: less than data connections reach, and bounded
    at some 4 MiB."""
    what = "to it" if upwards else "from it"
    load, back = (LOAD_BYTES, 0) if upwards else (0, LOAD_BYTES)
    try:
        came, took = watch.train(FEW, load, back, min(seconds, TRAIN_SECONDS))
        if came == FEW and took < QUICK_SECONDS and seconds > 2 * TRAIN_SECONDS:
            came, took = watch.train(MANY, load, back, TRAIN_SECONDS)
    except CollcommError as error:
        return Line(f"rate {what}", Level.NOTE, f"not measured: {error}")
    if came < 2:
        text = f"messages of {units.size(LOAD_BYTES)} do not come through within {units.seconds(min(seconds, TRAIN_SECONDS))}"
        advice = "a very thin link, or one that loses big packets: see packets, above"
        return Line(f"rate {what}", Level.PROBLEM, text, advice, {"bandwidth": None})
    measured = (came - 1) * LOAD_BYTES / max(took, LEAST_SECONDS)
    more = "more than " if took < LEAST_SECONDS else ""
    text = f"{more}{units.rate(measured)} over the control connection ({came} messages of {units.size(LOAD_BYTES)})"
    return Line(f"rate {what}", Level.OK, text, "", {"bandwidth": measured})
