"""Links of a member that is suspected are measured at once, and shortly, although they are in use.

The prober may be in the middle of a probe that rests for long between its trains, as may the other end's; so glances have a
thread of their own, from the first one on, and links of their own. As with probes, only the member that dials asks: who waits
for an answer waits for an earlier member, so nobody waits in a circle.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import CollcommError
from ..planner.estimate import train_budget
from ..planner.survey import plausible
from ..transports import SocketTransport
from ..transports.base import GLANCES, LinkBroken
from ..transports.probe import Asker, Surroundings, Train, answer
from ..transports.sockets import SocketLink
from ..types import LinkRow, Member, View
from .asking import ESTIMATES, ask, hang_up
from .sideline import Ended, Sideline

log = logging.getLogger("collcomm.prober")
ANSWER_SECONDS = 10.0  # the other end is in other glances, each of a fraction of a second
AHEAD_SECONDS, LEAST_AHEAD = 0.02, 64 << 10  # of a train, on its way: at the rate that is known, and bytes


class Glances(Sideline):
    """``known(member)``: what is known of links with it; ``report(rows)``: hears of both directions, on this thread; ``busy()``,
    ``moved()``: see `Surroundings`."""

    def __init__(
        self,
        transport: SocketTransport,
        busy: Callable[[], bool],
        moved: Callable[[], int],
        known: Callable[[int], Sequence[LinkRow]],
        report: Callable[[Sequence[LinkRow]], None],
    ):
        super().__init__(transport, "collcomm-glances")
        self._known = known
        self._report = report
        self._to_look: deque[int] = deque()
        self._around = Surroundings(self._check, busy, moved)

    # -- from other threads; none of these waits ---------------------------------------------------------------------

    def adopt(self, member: int, view: View) -> None:
        with self._changed:
            self._member, self._view = member, view

    def look_at(self, members: Sequence[int]) -> None:
        with self._changed:
            known = {other for other in members if self._view.rank_of(other) is not None}
            self._to_look = deque(dict.fromkeys([*self._to_look, *sorted(known)]))
            self._start()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._to_answer or self._to_look)
                if self._closed:
                    return
                link = self._to_answer.popleft() if self._to_answer else None
                other = self._to_look.popleft() if link is None else None
                member = None if other is None else self._find(other)
            try:
                if link is not None:
                    self._answer(link)
                elif member is not None and self._transport.makes_link(member.id):
                    self._look(member)
            except Ended:
                return

    def _answer(self, link: SocketLink) -> None:
        try:
            answer(link, ESTIMATES, self._around)
        except LinkBroken as broken:
            log.debug("a glance of member %d came to nothing: %s", link.member, broken.text)
        finally:
            hang_up(self._transport, link)

    def _look(self, member: Member) -> None:
        """One train each way over as many connections as usual; no rest in between. Little of it is on its way at a time: what
        waits before a slow link holds up the run's own bytes, which would look like a link without an answer."""
        known = self._known(member.id)
        streams = max((row.streams for row in known), default=1)
        fastest = max((row.bandwidth for row in known), default=0.0)

        def measure(asker: Asker) -> None:
            budget = train_budget(asker.measured.latency, busy=True)
            ahead = int(fastest * (AHEAD_SECONDS + 2 * asker.measured.latency))
            in_flight = min(budget.in_flight, max(LEAST_AHEAD, ahead))
            train = Train(budget.least, budget.enough, budget.most, budget.nbytes, in_flight)
            asker.send(streams, train)
            asker.receive(streams, train)

        try:
            asker = ask(self._transport, GLANCES, member, streams, self._around, ANSWER_SECONDS, measure)
        except (LinkBroken, CollcommError) as error:
            log.debug("could not look at the link to %s: %s", member, error)
            return
        _, out, back = asker.measured.by_streams[-1]
        latency = asker.measured.latency
        rows = [
            LinkRow(self._member, member.id, latency, out, streams),
            LinkRow(member.id, self._member, latency, back, streams),
        ]
        self._report([row for row in rows if plausible(row)])
