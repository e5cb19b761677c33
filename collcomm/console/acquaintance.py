"""What a coordinator says to a visitor: who it is, what time it is there, and whether it could dial back."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import AuthenticationFailed, CollcommError
from ..membership import Hail, Watch
from ..membership.inquiries import versions
from ..membership.messages import TOKEN_BYTES
from . import units
from .checkup import Deadline, Level, Line
from .reach import Place, local_address

HAIL_SECONDS = 4.0
TRIPS = 8
DIAL_SECONDS = 4.0
CLOCK_SECONDS = 1.0  # a difference beyond that makes logs of several hosts hard to read together
FAR_SECONDS = 0.05  # such round trips want the preset for wide-area networks
MUST_AGREE = ("collcomm", "protocol")


def greet(watch: Watch, deadline: Deadline) -> tuple[Hail | None, list[Line]]:
    """Say who we are, several times: the shortest trip tells most of the clock. A coordinator that stands by answers as well."""
    try:
        hails = [watch.hail(deadline.within(HAIL_SECONDS))]
    except AuthenticationFailed as error:
        advice = "the same secret or keys as the coordinator's: --secret-file, --keys, COLLCOMM_SECRET, COLLCOMM_KEYS"
        return None, [Line("credentials", Level.PROBLEM, str(error), advice)]
    except CollcommError as error:
        advice = "is that the coordinator's port (default 48148), and its collcomm as new as this one?"
        return None, [Line("coordinator", Level.PROBLEM, str(error), advice)]
    with contextlib.suppress(CollcommError):
        while len(hails) < TRIPS and not deadline.over:
            hails.append(watch.hail(deadline.within(1.0)))
    hail = min(hails, key=lambda hail: hail.trip)
    return hail, [_welcome(watch, hail), _versions(hail), _trip(hail, len(hails)), _clock(hail)]


def _welcome(watch: Watch, hail: Hail) -> Line:
    how = "lets us in"
    if hail.leads:
        return Line("coordinator", Level.OK, f"{watch.address} {how}, and leads", "", {"leads": True})
    advice = "name all coordinators to peers, with commas between; they find the one that leads"
    return Line("coordinator", Level.WARNING, f"{watch.address} {how}, but stands by", advice, {"leads": False})


def _versions(hail: Hail) -> Line:
    here, there = versions(), {name: units.printable(text, 60) for name, text in hail.facts.items()}
    differ = [name for name in here if name in there and here[name] != there[name] and name != "system"]
    facts = {"here": here, "there": there}
    if not differ:
        return Line("versions", Level.OK, f"the same on both sides: collcomm {here['collcomm']}", "", facts)
    text = "; ".join(f"{name} {here[name]} here, {there[name]} there" for name in differ)
    if any(name in MUST_AGREE for name in differ):
        return Line("versions", Level.WARNING, text, "install the same collcomm on all hosts", facts)
    return Line("versions", Level.OK, f"{text}: that does not matter", "", facts)


def _trip(hail: Hail, count: int) -> Line:
    facts = {"seconds": hail.trip}
    text = f"{units.seconds(hail.trip)}, the shortest of {count}"
    if hail.trip > FAR_SECONDS:
        return Line("round trip", Level.WARNING, text, "far away: start the coordinator with --network wan", facts)
    return Line("round trip", Level.OK, text, "", facts)


def _clock(hail: Hail) -> Line:
    facts = {"offset": hail.offset, "error": hail.trip / 2}
    side = "ahead" if hail.offset > 0 else "behind"
    text = f"the coordinator's is {units.seconds(abs(hail.offset))} {side}, give or take {units.seconds(hail.trip / 2)}"
    if abs(hail.offset) - hail.trip / 2 > CLOCK_SECONDS:
        advice = "times in logs and reports will not fit together: run chrony or ntpd on both (timedatectl)"
        return Line("clock", Level.WARNING, text, advice, facts)
    return Line("clock", Level.OK, text, "", facts)


def translation(place: Place, hail: Hail) -> Line:
    """Whether an address translation is between."""
    local = local_address(place)
    facts = {"local": local, "seen": hail.seen}
    if hail.seen in ("", local):
        return Line("translation", Level.OK, f"none: the coordinator sees {local}, too", "", facts)
    text = (
        f"the coordinator sees {units.printable(hail.seen, 60)}, this host is {local}: address translation is between"
    )
    advice = (
        "others cannot dial the address that this host advertises: forward a port, join with advertise= and listen="
    )
    return Line(
        "translation", Level.WARNING, text, f"{advice}, or leave it to collcomm, which dials the other way", facts
    )


def dialled_back(watch: Watch, place: Place, port: int, deadline: Deadline) -> Line:
    """Whether the coordinator can dial us, as other peers will. ``port``: to listen on; 0 takes a free one."""
    what, token = "dialled back", secrets.token_bytes(TOKEN_BYTES)
    try:
        with _door(place, port, token) as listening:
            outcome, why = watch.dialled(listening, token, deadline.within(DIAL_SECONDS))
    except OSError as error:
        text = f"cannot listen on port {port} of {local_address(place)}: {error.strerror}"
        return Line(what, Level.PROBLEM, text, "is another program on that port? (ss -ltnp)")
    except CollcommError as error:
        return Line(what, Level.NOTE, f"not tried: {error}")
    facts = {"outcome": outcome, "port": listening}
    if outcome == "reached":
        return Line(
            what, Level.OK, f"the coordinator reached port {listening} of this host: others can, too", "", facts
        )
    if outcome == "busy":
        return Line(what, Level.NOTE, f"not tried: {why}", "ask again in a moment", facts)
    reasons = {
        "silent": "no answer: a firewall of this host or before it drops what comes",
        "refused": "refused: a firewall rejects it, or an address translation has no such port",
        "other": f"somebody else answers in our place ({why}): address translation",
    }
    text = f"the coordinator cannot dial port {listening} of this host: {reasons.get(outcome, why)}"
    advice = (
        "peers here will dial out and be reached over others, which takes seconds to find out: let TCP ports in (choose one with "
        "COLLCOMM_LISTEN), or say COLLCOMM_REACHABLE=0"
    )
    return Line(what, Level.WARNING, text, advice, facts)


@contextmanager
def _door(place: Place, port: int, token: bytes) -> Iterator[int]:
    """Listen, and say ``token`` to whoever comes. Gives the port. Raises OSError."""
    with socket.create_server((local_address(place), port), family=place.family) as listener:
        listener.settimeout(0.1)
        ended = threading.Event()

        def serve() -> None:
            callers: list[socket.socket] = []
            while not ended.is_set() and len(callers) < 8:
                with contextlib.suppress(OSError):  # nobody came just now
                    caller, _ = listener.accept()
                    callers.append(caller)
                    caller.settimeout(0.5)
                    caller.sendall(token)
            ended.wait()
            for caller in callers:
                caller.close()

        thread = threading.Thread(target=serve, name="collcomm-doctor", daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            ended.set()
            thread.join()
