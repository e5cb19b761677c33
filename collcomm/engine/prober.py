"""Probes the links of a group beside its operations: one thread for each peer of a group that spans hosts.

The planner says whom to probe and how long (`survey`, `estimate`), the transport how (`probe`). A peer is in one probe at a
time: its thread either asks or answers. Who waits for an answer waits for an earlier member, so nobody waits in a circle.
While operations run, the links rest for nineteen times as long as each train took.

Links get the streams that were worth it, and again when one of these has died. Between two probes the kernel tells how fast
the traffic of the run itself is acknowledged (`traffic`); that costs the operations nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import CollcommError
from ..planner.estimate import (
    GAIN,
    LONG_SECONDS,
    NEAR_GAIN,
    NEAR_STREAMS,
    STREAMS,
    fewest_streams,
    pause_after,
    train_budget,
    worth_it,
)
from ..planner.meter import TrafficMeter
from ..planner.survey import REFRESH_SECONDS, Pair, dialled_by, pair, plausible, survey, to_refresh
from ..transports import SocketTransport
from ..transports.base import COLLECTIVES, GLANCES, PROBES, LinkBroken
from ..transports.probe import Asker, Measurement, Surroundings, Train, answer
from ..transports.sockets import SocketLink
from ..types import LinkRow, Member, View
from .asking import ESTIMATES, ask, hang_up
from .glances import Glances
from .sideline import Ended, Sideline

log = logging.getLogger("collcomm.prober")
TICK_SECONDS = 1.0  # between two looks at what the traffic tells and what is to be measured again
BUSY_SECONDS = 1.0  # after an operation began
ANSWER_SECONDS = 60.0  # until the other end has time: it may be in a slow probe, or wait for somebody who is
MOST_REST_SECONDS = 10.0  # the other end waits meanwhile
RETRY_SECONDS = 15.0  # times the number of failures
MOST_FAILURES = 4
AGAIN_SECONDS = 60.0  # after a measurement of a link that was in use ...
MOST_CONTENDED = 3  # ... so many times
AWAIT_QUIET_SECONDS = 1.0  # for a moment without traffic before a train ...
QUIET_SECONDS = 0.003  # ... which lasts so long


class Prober(Sideline):
    """``activity()``: a number that changes when an operation begins; ``report(rows)``: hears of both directions of each
    link that was probed, as this end sees it, on the prober's thread."""

    def __init__(
        self,
        transport: SocketTransport,
        activity: Callable[[], int],
        report: Callable[[Sequence[LinkRow]], None] = lambda rows: None,
    ):
        super().__init__(transport, "collcomm-prober")
        self.report = report
        self.asked = self.answered = 0  # probes that came to their end
        self.survey_seconds = 0.0  # from the first view to the end of its survey
        self._activity = activity
        self._began = 0.0
        self._to_ask: deque[int] = deque()
        self._to_plan = False
        self._rows: dict[tuple[int, int], LinkRow] = {}  # by source and target
        self._measured_at: dict[Pair, float] = {}
        self._contended: dict[Pair, int] = {}  # how often a link was measured while operations used it
        self._failures: dict[int, tuple[int, float]] = {}  # how many, and when to try again
        self._seen_activity, self._active_at = activity(), -BUSY_SECONDS
        self._meter = TrafficMeter()
        self._delivered: dict[int, tuple[int, float]] = {}  # bytes and seconds by stream, at the last look
        self._around = Surroundings(self._check, self._busy, self._moved)
        self._glances = Glances(transport, self._busy, self._moved, self._known_of, self._tell)
        transport.on_probe = self._sort

    # -- from other threads; none of these waits ---------------------------------------------------------------------

    def adopt(self, member: int, view: View) -> None:
        """A new view, in which this peer is ``member``."""
        with self._changed:
            self._member, self._view = member, view
            self._glances.adopt(member, view)
            for known in (self._measured_at, self._rows, self._contended):
                for met in [met for met in known if view.rank_of(met[0]) is None or view.rank_of(met[1]) is None]:
                    del known[met]
            self._meter.keep_only(view.ids)
            self._failures = {other: tried for other, tried in self._failures.items() if other in view.ids}
            self._to_plan = True
            if len(set(view.hosts)) > 1:
                self._start()
            self._changed.notify_all()

    def know(self, rows: Sequence[LinkRow]) -> None:
        """Others have measured these: they need not be measured for a while."""
        now = time.monotonic()
        with self._changed:
            for row in rows:
                self._measured_at.setdefault(pair(row.source, row.target), now)
            self._to_plan = True
            self._changed.notify_all()

    def look_at(self, members: Sequence[int]) -> None:
        """Links with these are to be measured at once, and shortly, although they are in use: somebody is suspected."""
        self._glances.look_at(members)

    def rows(self) -> list[LinkRow]:
        """What this end has measured of links to present members."""
        with self._changed:
            return list(self._rows.values())

    def close(self) -> None:
        """End the threads; what they are in the middle of breaks off."""
        self._glances.close()
        super().close()

    def _moved(self) -> int:
        return sum(self._transport.traffic())

    def _tell(self, rows: Sequence[LinkRow]) -> None:
        self.report(rows)

    def _known_of(self, member: int) -> Sequence[LinkRow]:
        return [row for row in self.rows() if member in (row.source, row.target)]

    def _sort(self, link: SocketLink) -> None:
        (self._glances if link.key[1] == GLANCES else self).accept(link)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._began = time.monotonic()
        looked = 0.0
        while True:
            if self._to_plan:
                self._plan()
            with self._changed:
                if not (self._to_answer or self._to_ask or self._to_plan or self._closed):
                    self.survey_seconds = self.survey_seconds or time.monotonic() - self._began
                    self._changed.wait(TICK_SECONDS)
                if self._closed:
                    return
                link = self._to_answer.popleft() if self._to_answer else None
                other = self._to_ask.popleft() if link is None and self._to_ask else None
                member = None if other is None else self._find(other)
            try:
                if link is not None:
                    self._answer(link)
                elif member is not None:
                    self._ask(member)
                if time.monotonic() - looked > TICK_SECONDS:
                    looked = time.monotonic()
                    self._look_at_traffic()
                    self._look_for_work(looked)
                    self._transport.keep_wide(self._view.members, self._check)
            except Ended:
                return

    def _plan(self) -> None:
        """Whom to ask in the present view."""
        with self._changed:
            self._to_plan, view, known = False, self._view, set(self._measured_at)
        makes = self._transport.makes_link
        order = dialled_by(self._member, survey(view.ids, view.hosts, known=known), makes)
        with self._changed:
            self._to_ask = deque(other for other in order if other not in self._failures)

    def _look_for_work(self, now: float) -> None:
        """What is old is measured again, one at a time; who could not be reached is tried again."""
        with self._changed:
            if self._to_ask:
                return
            for other, (count, again) in self._failures.items():
                if again < now and count < MOST_FAILURES:
                    self._to_ask.append(other)
                    return
            ages = {met: now - at for met, at in self._measured_at.items()}
            old = to_refresh(self._member, ages)
            if old is not None and old not in self._failures:
                self._to_ask.append(old)

    def _busy(self) -> bool:
        now, activity = time.monotonic(), self._activity()
        if activity != self._seen_activity:
            self._seen_activity, self._active_at = activity, now
        return now - self._active_at < BUSY_SECONDS

    def _rest(self, asker: Asker, took: float) -> None:
        """After a train that took so long."""
        end = time.monotonic() + min(MOST_REST_SECONDS, pause_after(took, asker.busy or self._busy()))
        with self._changed:
            while not self._closed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        self._check()

    def _answer(self, link: SocketLink) -> None:
        try:
            measured = answer(link, ESTIMATES, self._around)
            self._note(link.member, measured)
            self.answered += 1
        except LinkBroken as broken:
            log.debug("a probe by member %d came to nothing: %s", link.member, broken.text)
        finally:
            hang_up(self._transport, link)

    def _ask(self, member: Member) -> None:
        try:
            asker = self._over(member, NEAR_STREAMS, self._measure_near)
            if asker.measured.latency >= LONG_SECONDS:
                asker = self._over(member, STREAMS[-1], self._measure_far)
            with self._changed:
                self._failures.pop(member.id, None)
            self._note(member.id, asker.measured)
            self.asked += 1
        except (LinkBroken, CollcommError) as error:
            with self._changed:
                count = self._failures.get(member.id, (0, 0.0))[0] + 1
                self._failures[member.id] = count, time.monotonic() + count * RETRY_SECONDS
            log.debug("could not probe the link to %s: %s", member, error)

    def _over(self, member: Member, streams: int, measure: Callable[[Asker], None]) -> Asker:
        return ask(self._transport, PROBES, member, streams, self._around, ANSWER_SECONDS, measure)

    def _measure_near(self, asker: Asker) -> None:
        if asker.measured.latency >= LONG_SECONDS:
            return  # on a link with more streams
        out = self._timed(asker, lambda train: asker.send(1, train))
        back = self._timed(asker, lambda train: asker.receive(1, train))
        if not asker.busy:
            self._timed(asker, asker.both, max(out, back))
            self._timed(asker, lambda train: asker.send(NEAR_STREAMS, train))
            self._timed(asker, lambda train: asker.receive(NEAR_STREAMS, train))

    def _measure_far(self, asker: Asker) -> None:
        best = (0.0, 0.0)
        longest = 0.0
        in_vain = 0
        for streams in STREAMS:
            out = self._timed(asker, lambda train: asker.send(streams, train))
            back = self._timed(asker, lambda train: asker.receive(streams, train))
            if streams == 1:
                longest = max(out, back)
            reached = asker.measured.by_streams[-1][1:]
            if worth_it(best[0], reached[0]) or worth_it(best[1], reached[1]):
                best = max(best[0], reached[0]), max(best[1], reached[1])
                in_vain = 0
            elif in_vain:
                break
            else:
                in_vain += 1  # a packet lost at the wrong moment costs a train a third of its rate
        self._timed(asker, asker.both, longest)

    def _timed(self, asker: Asker, run: Callable[[Train], object], seconds: float = 0.0) -> float:
        """One train, and the rest after it; returns how long the train took. ``seconds``: how long it may take, if that is
        known."""
        budget = train_budget(asker.measured.latency, asker.busy or self._busy())
        most = max(budget.least, min(seconds, budget.enough)) if seconds else budget.most
        if asker.busy or self._busy():
            self._await_quiet()
        began = time.monotonic()
        run(Train(budget.least, budget.enough, most, budget.nbytes, budget.in_flight))
        took = time.monotonic() - began
        self._rest(asker, took)
        return took

    def _await_quiet(self) -> None:
        """A moment in which the run computes rather than communicates; not for ever, since there may be none."""
        end = time.monotonic() + AWAIT_QUIET_SECONDS
        before = -1
        while (moved := self._around.moved()) != before and time.monotonic() < end:
            self._check()
            before = moved
            time.sleep(QUIET_SECONDS)

    def _note(self, other: int, measured: Measurement) -> None:
        """A link that operations have used meanwhile is at least that good, which is better than not to know it; it is measured
        again soon, and the best counts."""
        if not measured.by_streams:
            return
        gain = GAIN if measured.latency >= LONG_SECONDS else NEAR_GAIN
        both = [(streams, out + back) for streams, out, back in measured.by_streams]  # a link has as many either way
        streams, _ = fewest_streams(both, gain)
        out, back = next((out, back) for count, out, back in measured.by_streams if count == streams)
        rows = [
            LinkRow(self._member, other, measured.latency, out, streams),
            LinkRow(other, self._member, measured.latency, back, streams),
        ]
        rows = [row for row in rows if plausible(row)]
        met = pair(self._member, other)
        with self._changed:
            if measured.contended:
                rows = [_better(row, self._rows.get((row.source, row.target), row)) for row in rows]
            times = self._contended.get(met, 0) + 1 if measured.contended else MOST_CONTENDED
            self._contended[met] = min(times, MOST_CONTENDED)
            final = times >= MOST_CONTENDED
            self._measured_at[met] = time.monotonic() - (0.0 if final else REFRESH_SECONDS - AGAIN_SECONDS)
            for row in rows:
                self._rows[row.source, row.target] = row
                self._meter.start(row)
        if rows:
            self.report(rows)

    # -- what the traffic tells --------------------------------------------------------------------------------------

    def _look_at_traffic(self) -> None:
        """A sample counts if this peer has its host for itself and nearly all went to one member: else links shared the
        card."""
        seen: dict[int, tuple[int, float]] = {}
        moved: dict[int, list[tuple[int, float, bool]]] = {}  # by member, of each of its streams
        for link in self._transport.open_links(COLLECTIVES):
            for stream in link.streams:
                delivery = stream.delivery()
                if delivery is not None:
                    nbytes, seconds, limited = delivery[:3]
                    seen[id(stream)] = nbytes, seconds
                    before = self._delivered.get(id(stream), (nbytes, seconds))
                    moved.setdefault(link.member, []).append((nbytes - before[0], seconds - before[1], limited))
        self._delivered = seen
        total = sum(nbytes for streams in moved.values() for nbytes, _, _ in streams)
        if not self._alone():
            return
        for member, streams in moved.items():
            most = sum(nbytes for nbytes, _, _ in streams)
            seconds = max(seconds for _, seconds, _ in streams)
            if seconds <= 0 or most < 0.9 * total:
                continue
            with self._changed:
                limited = any(limited for _, _, limited in streams)
                self._meter.observe(self._member, member, most, most / seconds, limited)
                news = self._meter.news()
                self._rows.update({(row.source, row.target): row for row in news})
            if news:
                self.report(news)

    def _alone(self) -> bool:
        rank = self._view.rank_of(self._member)
        return rank is not None and self._view.hosts.count(self._view.hosts[rank]) == 1


def _better(row: LinkRow, before: LinkRow) -> LinkRow:
    faster = max(row, before, key=lambda one: one.bandwidth)
    return LinkRow(row.source, row.target, min(row.latency, before.latency), faster.bandwidth, faster.streams)
