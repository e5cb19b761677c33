"""How long operations usually take, class by class: from it follows when one of them hangs, and when it was slow."""

from __future__ import annotations

from collections import Counter
from statistics import median

from .baseline import Baseline, Watch
from .company import Company
from .gathering import Class, Gathered, class_of
from .keeping import Keeping
from .limits import Limits
from .observation import Observation

MOST_CLASSES = 256
HANG_LEAST_SEEN = 5  # operations from which a time limit can be derived


class _Lasting:
    """``seen`` takes whatever comes, since a limit for hangs has to follow; ``watch`` does not learn from what is slow."""

    __slots__ = ("period", "seen", "watch")

    def __init__(self, limits: Limits):
        self.seen = Baseline(limits.history, HANG_LEAST_SEEN, limits.warmup)
        usual = Baseline(limits.history, limits.least, limits.warmup)
        self.watch = Watch(usual, limits.window, limits.sustained, limits.sustained_seconds)
        self.period = 0.0


class Pace:
    def __init__(self, limits: Limits, company: Company):
        self._limits = limits
        self._company = company
        self._classes: Keeping[Class, _Lasting] = Keeping(lambda: _Lasting(limits), MOST_CLASSES)
        self._periods: Keeping[tuple[Class, int], Watch] = Keeping(self._flow_watch, 16 * MOST_CLASSES)
        self._typical: Keeping[tuple[Class, int], Watch] = Keeping(self._flow_watch, 16 * MOST_CLASSES)

    def _flow_watch(self) -> Watch:
        limits = self._limits
        return Watch(
            Baseline(limits.history, limits.flow_least, limits.flow_warmup), limits.flow_window, limits.flow_sustained
        )

    def view_changed(self) -> None:
        """With other members, or without some, operations take another time: how long is found out anew. Until then the old
        limits for hangs serve."""
        for _, lasting in self._classes.items():
            lasting.seen.skip(self._limits.warmup)
            lasting.watch = Watch(
                Baseline(self._limits.history, self._limits.least, self._limits.warmup),
                self._limits.window,
                self._limits.sustained,
                self._limits.sustained_seconds,
            )
        self._periods.clear()
        self._typical.clear()

    def told(self, observation: Observation) -> Class | None:
        """Note how often operations of each class come, and how long one of them takes this member. Returns the class that most
        of the bytes are of, if any; of one under way, as many as came meanwhile if they come evenly."""
        volume: Counter[Class] = Counter()
        for operation in observation.open:
            if operation.nbytes and operation.age > 0.0:
                shorter, longer = sorted((operation.age, observation.covers))
                moved = int(operation.nbytes * shorter / longer)
                volume[class_of(operation.gid, operation.kind, operation.nbytes)] += moved
        if observation.samples:
            volume.update(self._note(observation))
        return max(volume, key=lambda cls: (volume[cls], cls), default=None)

    def _note(self, observation: Observation) -> Counter[Class]:
        """What has ended. Returns the bytes of each class, of all operations as far as the samples tell."""
        classes = [class_of(sample.gid, sample.kind, sample.nbytes) for sample in observation.samples]
        counts = Counter(classes)
        volume: Counter[Class] = Counter()
        for cls, sample in zip(classes, observation.samples, strict=True):
            volume[cls] += sample.nbytes
        period = self._company.period.get(observation.member, 0.0)
        total = len(observation.samples)
        for cls, count in counts.items():
            self._classes.of(cls).period = period * total / count
        main = max(volume, key=lambda cls: (volume[cls], counts[cls], cls))
        if period > 0.0:
            watch = self._periods.of((main, observation.member))
            slow = watch.usual.ready and period > self._limits.slowed * watch.usual.median
            watch.add(observation.at, period, slow)
        typical = median([sample.took for cls, sample in zip(classes, observation.samples, strict=True) if cls == main])
        watch = self._typical.of((main, observation.member))
        watch.add(observation.at, typical, watch.usual.ready and typical > self._limits.slowed * watch.usual.median)
        scale = max(1.0, observation.operations_ended / total)
        return Counter({cls: int(scale * nbytes) for cls, nbytes in volume.items()})

    def is_slow(self, observation: Observation, work: Class | None) -> bool:
        """Whether most operations of ``work`` that ``observation`` tells of took much longer than they usually take that member,
        or, where it tells of none, the one that it is in."""
        watch = None if work is None else self._typical.get((work, observation.member))
        if watch is None:
            return False
        if watch.at == observation.at:
            return watch.warm
        ages = [one.age for one in observation.open if class_of(one.gid, one.kind, one.nbytes) == work]
        return watch.usual.ready and max(ages, default=0.0) > self._limits.slowed * watch.usual.median

    def add(self, at: float, operation: Gathered) -> bool:
        """One more has ended. True when it took much longer than usual."""
        lasting = self._classes.of(operation.cls)
        took = operation.took
        usual = lasting.watch.usual
        slow = usual.beyond(took, self._limits.deviations) and took > self._limits.slowed * usual.median
        lasting.seen.add(took)
        lasting.watch.add(at, took, slow, took, (operation.gid, operation.seq))
        return slow

    def is_longer(self, operation: Gathered) -> bool:
        """Whether it took longer than usual, be it that others do by chance."""
        lasting = self._classes.get(operation.cls)
        usual = None if lasting is None else lasting.watch.usual
        return usual is not None and usual.ready and operation.took > self._limits.slowed * usual.median

    def hang_after(self, cls: Class) -> float:
        """T_hang: seconds after which an operation of ``cls`` counts as hung. Ten times as long as they usually take with
        their jitter, within the limits; where they usually take long, three times."""
        lasting = self._classes.get(cls)
        if lasting is None or not lasting.seen.ready:
            return self._limits.hang_unknown
        usual = lasting.seen.median + self._limits.deviations * lasting.seen.spread
        return max(self._limits.hang_least, min(self._limits.hang_most, 10.0 * usual), 3.0 * usual)

    def is_known(self, cls: Class) -> bool:
        lasting = self._classes.get(cls)
        return lasting is not None and lasting.seen.ready

    def period(self, cls: Class) -> float:
        """Seconds from one operation of ``cls`` to the next; at least what one takes."""
        lasting = self._classes.get(cls)
        return 0.0 if lasting is None else max(lasting.period, lasting.watch.usual.median)

    def usual(self, cls: Class) -> float:
        """Seconds from one operation of ``cls`` to the next when all is well; 0.0 when unknown."""
        lasting = self._classes.get(cls)
        if lasting is None:
            return 0.0
        periods = [watch.usual.median for (of, _), watch in self._periods.items() if of == cls and watch.usual.ready]
        period = median(periods) if periods else 0.0
        return max(period, lasting.watch.usual.median)

    def slowed_for_good(self, now: float) -> bool:
        """Whether operations come less often than usual, and have for several observations, as half of the members say."""
        recent = self._recent(now)
        return bool(recent) and 2 * sum(watch.departed for watch in recent) >= len(recent)

    def _recent(self, now: float) -> list[Watch]:
        horizon = now - 3.0 * self._limits.interval
        return [watch for _, watch in self._periods.items() if watch.at > horizon]
