"""One probe of one link, from its making to its end: what the prober and glances do in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..planner.estimate import RateEstimate, believed
from ..transports import SocketTransport
from ..transports.base import LinkBroken
from ..transports.probe import Asker, Estimates, Surroundings
from ..transports.sockets import SocketLink
from ..types import Member

PROBE_GID = 0
MEET_SECONDS = 15.0  # for a link to be made
ESTIMATES = Estimates(RateEstimate, believed)


def ask(
    transport: SocketTransport,
    purpose: int,
    member: Member,
    streams: int,
    around: Surroundings,
    patience: float,
    measure: Callable[[Asker], None],
) -> Asker:
    """One that has done ``measure`` on a link of its own, of ``streams`` connections. ``patience``: seconds until the other end
    has time. Raises LinkBroken, CollcommError, and whatever ``around.check`` raises."""
    deadline = time.monotonic() + MEET_SECONDS

    def check() -> None:
        around.check()
        if time.monotonic() > deadline:
            raise LinkBroken(member.id, "unacked", "no link to probe was made in time")

    link = transport.link(PROBE_GID, purpose, member, check, streams)
    try:
        asker = Asker(link, ESTIMATES, around)
        asker.begin(patience)
        asker.ping()
        measure(asker)
        asker.end()
        return asker
    finally:
        hang_up(transport, link)


def hang_up(transport: SocketTransport, link: SocketLink) -> None:
    transport.drop_link(*link.key, link.streams[0])
    link.close()
