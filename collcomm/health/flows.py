"""What flows between members: seconds per byte of each direction of each link, and how long receivers let senders stand.

The matrix is C4D's: D[source][target] is the time in which data was on its way, without that in which the receiver took nothing,
per byte. A cell is compared with what is usual for it under the same work, and with how all others fare at the moment.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from statistics import median

from .baseline import Baseline, Watch
from .breaks import Breaks
from .company import Company
from .culprits import Edge
from .gathering import Class
from .keeping import Keeping
from .limits import Limits
from .observation import FlowReport, Observation
from .probes import Probes

MOST_FLOWS = 65536  # directions of links
MOST_CLASSES = 8  # kinds of work that one flow is compared under
SPREAD_FLOOR = 0.1  # of seconds per byte: congestion control is never steadier
LOADED = (
    8  # a flow that carries so many times less than the busiest of its sender tells nothing of how fast that could send
)
LOADED_INTERVALS = 4.0  # for which a flow counts as loaded
BROKEN_FOR = 10.0  # seconds after a break in which a link is not judged by its speed


class Amount:
    """What has moved since a flow was judged: whole operations are, since a single one may last through many observations."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.busy = 0.0
        self.observations = 0
        self.completed = 0


class Flow:
    """One direction of one link. ``factor``: how many times as long as usual a byte takes."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.speeds: Keeping[tuple[Class | None, int], Watch] = Keeping(self._speed_watch, MOST_CLASSES)
        self.speed: Watch | None = None  # the one of the present work
        self.regime: tuple[Class | None, int] = (None, 0)  # the key of that
        self.holds: Keeping[Class | None, Watch] = Keeping(self._held_watch, MOST_CLASSES)
        self.held: Watch | None = None
        self.report: FlowReport | None = None
        self.at = -math.inf
        self.covers = 0.0
        self.moved_at = -math.inf
        self.judged_at = -math.inf
        self.loaded_at = -math.inf  # when it carried about as much as others of its sender
        self.slow_since = math.inf  # of its last values, the first that deviated came then
        self.factor = 1.0
        self.standing = False
        self.pending = Amount()

    def _speed_watch(self) -> Watch:
        limits = self._limits
        usual = Baseline(limits.history, limits.flow_least, limits.flow_warmup, SPREAD_FLOOR)
        return Watch(usual, limits.flow_window, limits.flow_sustained, limits.flow_operations)

    def _held_watch(self) -> Watch:
        limits = self._limits
        usual = Baseline(limits.history, limits.least, limits.flow_warmup)
        return Watch(usual, limits.held_window, limits.held_sustained)

    def under(self, work: Class | None, fan: int, probed: float | None) -> Watch:
        """Its speed under this work, while its sender sends to about 2 ** ``fan`` others. Traffic may begin to go another way
        just when it gets slow: what is usual there is, at first, assumed to be what was usual elsewhere, or the bytes per second
        that a probe has found."""
        watch = self.speeds.of((work, fan))
        if watch.usual.assumable and not watch.usual.ready:
            known = [
                other.usual.median
                for (others_work, _), other in self.speeds.items()
                if others_work == work and other.usual.ready
            ]
            if not known and probed:
                known = [1.0 / probed]
            if known:
                watch.usual.assume(max(known))
        self.regime = work, fan
        return watch

    def learn(self) -> None:
        """What was assumed is not so: what is usual under this work is found out."""
        self.speeds.pop(self.regime)
        self.speed = self.speeds.of(self.regime)
        self.speed.usual.assumable = False
        self.factor, self.slow_since = 1.0, math.inf

    @property
    def is_held(self) -> bool:
        """Its receiver takes nothing."""
        return self.report is not None and self.report.held >= 0.5 * max(self.covers, 1e-3)

    def stands_still(self, limit: float) -> bool:
        """Something has been unacknowledged for so long, and not because the receiver takes nothing."""
        report = self.report
        return report is not None and report.nbytes == 0 and report.silent >= limit and not self.is_held


class Flows:
    def __init__(self, limits: Limits, company: Company, breaks: Breaks, probes: Probes):
        self._limits = limits
        self._company = company
        self._breaks = breaks
        self._probes = probes
        self._flows: Keeping[Edge, Flow] = Keeping(lambda: Flow(limits), MOST_FLOWS)

    def view_changed(self) -> None:
        """Links stay what they are; buffers and windows are not."""
        ids = self._company.ids
        for edge, flow in list(self._flows.items()):
            if not (edge[0] in ids and edge[1] in ids):
                self._flows.pop(edge)
            flow.holds.clear()  # who lets whom wait depends on how work is dealt out
            flow.held = None
            for _, watch in flow.speeds.items():
                watch.usual.skip(self._limits.flow_warmup)

    def told(self, observation: Observation, work: Class | None, completed: int, slow: bool) -> None:
        """``work``: what most of the bytes were for; ``completed``: operations since the member has told last; ``slow``: they,
        or the one that it is in, took longer than usual."""
        if observation.covers <= 0.0:
            return
        others = self._others(observation)
        most = max((report.nbytes for report in observation.flows), default=0)
        fan = sum(LOADED * report.nbytes >= most > 0 for report in observation.flows).bit_length()
        for report in observation.flows:
            if report.target not in self._company.ids:
                continue
            edge = (observation.member, report.target)
            flow = self._flows.of(edge)
            flow.report, flow.at, flow.covers = report, observation.at, observation.covers
            if report.nbytes:
                flow.moved_at = observation.at
            if LOADED * report.nbytes >= most > 0:
                flow.loaded_at = observation.at
            self._note_breaks(edge, flow)
            if completed > 0:  # else, who takes nothing may wait like all others
                self._note_held(flow, work)
            self._note_speed(edge, flow, work, fan, completed, slow, others)

    def _others(self, observation: Observation) -> float:
        """By what factor all flows of others fare worse than usual; at least 1."""
        recent = observation.at - 2.5 * self._limits.interval
        factors = [
            flow.factor
            for edge, flow in self._flows.items()
            if edge[0] != observation.member and flow.judged_at >= recent
        ]
        return max(1.0, median(factors)) if factors else 1.0

    def _note_breaks(self, edge: Edge, flow: Flow) -> None:
        standing = flow.stands_still(self._limits.silent_least)
        if standing and not flow.standing and flow.report is not None:
            self._breaks.stood_still(flow.at - flow.report.silent, edge)
        flow.standing = standing

    def _note_held(self, flow: Flow, work: Class | None) -> None:
        assert flow.report is not None
        watch = flow.held = flow.holds.of(work)
        share = min(1.0, flow.report.held / flow.covers)
        usual = watch.usual
        deviates = usual.beyond(share, self._limits.deviations) and share - usual.median >= self._limits.held_share
        watch.add(flow.at, share, deviates)

    def _note_speed(
        self,
        edge: Edge,
        flow: Flow,
        work: Class | None,
        fan: int,
        completed: int,
        operations_slow: bool,
        others: float,
    ) -> None:
        """``fan``: to how many at a time, about, the sender sends: what else is under way takes its share."""
        report, limits, pending = flow.report, self._limits, flow.pending
        assert report is not None
        if self._breaks.broke_lately(flow.at, edge, BROKEN_FOR):
            flow.pending = Amount()
            return  # that is another syndrome
        pending.nbytes += report.nbytes
        pending.busy += report.busy - report.held
        pending.observations += 1
        pending.completed += completed
        if pending.observations < limits.flow_patience and (
            pending.completed == 0 or pending.nbytes < limits.flow_bytes
        ):
            return
        flow.pending = Amount()
        if pending.nbytes < limits.flow_least_bytes or pending.busy <= 0.0:
            return
        if work is None and flow.speed is not None:
            watch = flow.speed  # no operation has ended meanwhile: the work is the one of before
        else:
            watch = flow.speed = flow.under(work, fan, self._probes.best(edge))
        each = pending.busy / pending.nbytes
        usual = watch.usual
        if usual.ready:
            flow.factor = each / usual.median
            flow.judged_at = flow.at
        slow = flow.factor >= limits.flow_slow and flow.factor >= limits.flow_apart * others and operations_slow
        watch.add(flow.at, each, slow and usual.beyond(each, limits.deviations), max(1, pending.completed))
        flow.slow_since = min(flow.slow_since, flow.at) if watch.deviating else math.inf

    def slow(self, now: float) -> set[Edge]:
        """Those that have been for a while: by the rule of `Watch`, or, when they are plainly so, for two values in a row."""
        found = set()
        for edge, flow in self._flows.items():
            watch = flow.speed
            if watch is None or not self._is_recent(now, watch.at):
                continue
            plain = watch.warm and watch.is_plain and flow.factor >= self._limits.flow_plain
            if watch.departed or plain:
                found.add(edge)
        return found

    def warm(self, now: float) -> set[Edge]:
        """Those that are at the moment."""
        return {
            edge
            for edge, flow in self._flows.items()
            if flow.speed is not None and flow.speed.warm and now - flow.speed.at < 3.0 * self._limits.interval
        }

    def unknown(self, now: float) -> list[Edge]:
        """Those that carry much, and of which nothing tells what is usual: not how they were, nor a probe."""
        return [
            edge
            for edge, flow in self._flows.items()
            if now - flow.loaded_at < LOADED_INTERVALS * self._limits.interval
            and not (flow.speed is not None and flow.speed.usual.ready)
            and self._probes.best(edge) is None
        ]

    def slow_since(self, edges: Collection[Edge]) -> float:
        """When the first of these began to be slow."""
        return min(
            (flow.slow_since for edge in edges if (flow := self._flows.get(edge)) is not None), default=-math.inf
        )

    def judged(self, now: float, since: float = -math.inf) -> set[Edge]:
        """Those that carry enough to be judged, and were ``since`` then: operations may go another way than they did a while
        ago, and how a flow was before others got slow says nothing of how it is now."""
        return {
            edge
            for edge, flow in self._flows.items()
            if flow.speed is not None
            and flow.speed.usual.ready
            and flow.judged_at >= since
            and now - flow.judged_at < self._limits.forget / 4
            and now - flow.loaded_at < LOADED_INTERVALS * self._limits.interval
        }

    def carrying(self, now: float) -> set[Edge]:
        """Those on which something moved, or should have, within the last minute."""
        horizon = now - self._limits.forget
        return {
            edge
            for edge, flow in self._flows.items()
            if flow.moved_at >= horizon or (flow.at >= horizon and flow.report is not None and flow.report.silent > 0.0)
        }

    def moved_at(self, edge: Edge) -> float:
        """When something of it was told of as acknowledged, last."""
        flow = self._flows.get(edge)
        return -math.inf if flow is None else flow.moved_at

    def still(self, limit: float, since: float) -> dict[Edge, float]:
        """Those that stand still, told since then, with the seconds."""
        return {
            edge: flow.report.silent
            for edge, flow in self._flows.items()
            if flow.report is not None and flow.at >= since and flow.stands_still(limit)
        }

    def is_held(self, edge: Edge) -> bool:
        flow = self._flows.get(edge)
        return flow is not None and flow.is_held

    def holding_up(self, now: float) -> set[Edge]:
        """Those whose receivers have let the senders stand for longer than usual, for a while."""
        return {
            edge
            for edge, flow in self._flows.items()
            if flow.held is not None and flow.held.departed and now - flow.held.at < 3.0 * self._limits.interval
        }

    def factor(self, edge: Edge) -> float:
        flow = self._flows.get(edge)
        if flow is None or flow.speed is None or not flow.speed.usual.ready:
            return 1.0
        return flow.speed.present / flow.speed.usual.median

    def is_assumed(self, edge: Edge) -> bool:
        """Whether it is compared with what others tell of it, not with what it was."""
        flow = self._flows.get(edge)
        return flow is not None and flow.speed is not None and flow.speed.usual.assumed

    def learn(self, edges: Collection[Edge]) -> None:
        """Of what was assumed of these, nothing holds."""
        for edge in edges:
            if self.is_assumed(edge):
                self._flows.of(edge).learn()

    def deviating(self, edge: Edge) -> int:
        flow = self._flows.get(edge)
        return 0 if flow is None or flow.speed is None else flow.speed.deviating

    def of(self, edge: Edge) -> Flow | None:
        return self._flows.get(edge)

    def _is_recent(self, now: float, at: float) -> bool:
        return now - at < self._limits.forget
