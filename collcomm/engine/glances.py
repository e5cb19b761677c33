"""Links of a member that is suspected are measured at once, and shortly, although they are in use.

The prober may be in the middle of a probe that rests for long between its trains, as may the other end's; so glances have a
thread of their own, from the first one on, and links of their own. As with probes, only the member that dials asks: who waits
for an answer waits for an earlier member, so nobody waits in a circle.
"""

from __future__ import annotations

import logging
import threading
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

log = logging.getLogger("collcomm.prober")
ANSWER_SECONDS = 10.0  # the other end is in other glances, each of a fraction of a second
AHEAD_SECONDS, LEAST_AHEAD = 0.02, 64 << 10  # of a train, on its way: at the rate that is known, and bytes
MOST_WAITING = 64  # links on which somebody wants to be answered
END_SECONDS = 5.0


class _Closed(Exception):
    """No more glances."""


class Glances:
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
        self._transport = transport
        self._known = known
        self._report = report
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._member = -1
        self._view = View(-1, ())
        self._to_look: deque[int] = deque()
        self._to_answer: deque[SocketLink] = deque()
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

    def accept(self, link: SocketLink) -> None:
        """Somebody has made it to look at this peer."""
        with self._changed:
            welcome = not self._closed and len(self._to_answer) < MOST_WAITING
            if welcome:
                self._to_answer.append(link)
                self._start()
        if not welcome:
            hang_up(self._transport, link)

    def close(self) -> None:
        """End the thread; what it is in the middle of breaks off."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, waiting = self._thread, list(self._to_answer)
        for link in waiting:
            link.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(END_SECONDS)

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            name = f"collcomm-glances-{self._member}"
            self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._to_answer or self._to_look)
                if self._closed:
                    return
                link = self._to_answer.popleft() if self._to_answer else None
                other = self._to_look.popleft() if link is None else None
                rank = None if other is None else self._view.rank_of(other)
                member = None if rank is None else self._view[rank]
            try:
                if link is not None:
                    self._answer(link)
                elif member is not None and self._transport.makes_link(member.id):
                    self._look(member)
            except _Closed:
                return

    def _check(self) -> None:
        if self._closed:
            raise _Closed

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
