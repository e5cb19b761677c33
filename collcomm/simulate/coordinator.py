"""Simulated coordinators: the real `CoordinatorMachine`, a store that forgets or remembers, and a lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..membership import CoordinatorMachine, Limits
from ..membership.effects import CoordinatorEffect, Heard, Note, Ping, Probe, Remember, Replan
from ..membership.messages import Message, decode, encode
from .plans import any_plan

if TYPE_CHECKING:
    from .world import World

LEASE_SECONDS = 2.0
MARGIN_SECONDS = 0.4
RENEW_SECONDS = 0.6
TICK_SECONDS = 0.05


class Records:
    """What a store holds, and whose lease it is: for one journal, or for an etcd that several coordinators share."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.holder: SimCoordinator | None = None
        self.expires = 0.0


class SimCoordinator:
    """Number ``number`` of the world's coordinators. ``records``: None for one that remembers nothing."""

    def __init__(self, world: World, number: int, records: Records | None, shared: bool, limits: Limits):
        self.world = world
        self.number = number
        self.crashed = True
        self.busy_until = 0.0
        self.cut_off = False  # from the store
        self.crash_after: int | None = None  # dies in the middle: after so many more messages
        self._records = records
        self._shared = shared
        self._limits = limits
        self._leads_until = 0.0
        self._life = 0
        self.machine: CoordinatorMachine
        self.start()

    def start(self) -> None:
        """A fresh process at the old address."""
        if not self.crashed:
            return
        self.crashed = False
        self._life += 1
        life = self._life
        self.busy_until = 0.0
        self._leads_until = 0.0
        random = self.world.random
        known = self._records is not None or self.world.scheduler.now == 0.0
        self.machine = CoordinatorMachine(self._limits, random.randbytes, self._load, known)
        if not self._shared:
            self.carry_out(self.machine.lead(self.world.now))
        else:
            self._campaign(life)
        self._tick(life)

    def crash(self) -> None:
        self.crashed = True

    # -- time ----------------------------------------------------------------------------------------------------

    def when_running(self, event: Callable[[], list[CoordinatorEffect]]) -> None:
        """``event`` arrives, and is looked at once the coordinator runs, in this life or never."""
        life = self._life
        if self.crashed:
            return
        if self.world.now < self.busy_until:
            wait = self.busy_until - self.world.now

            def later() -> None:
                if life == self._life:
                    self.when_running(event)

            self.world.scheduler.after(wait, later)
            return
        self._follow_lease()
        self.carry_out(event())

    def _tick(self, life: int) -> None:
        if life != self._life or self.crashed:
            return
        if self.world.now < self.busy_until:
            wait = self.busy_until - self.world.now + 1e-6  # after what has arrived meanwhile
            self.world.scheduler.after(wait, lambda: self._tick(life))
            return
        self._follow_lease()
        for name in list(self.machine.groups):
            self.carry_out(self.machine.tick(self.world.now, name))
        self.world.scheduler.after(TICK_SECONDS, lambda: self._tick(life))

    # -- the lease -----------------------------------------------------------------------------------------------

    def _campaign(self, life: int) -> None:
        """Take the lease or keep it. The request travels, and may come too late to count."""
        if life != self._life or self.crashed or self._records is None:
            return
        records, sent, delay = self._records, self.world.now, self.world.delay() * 0.2

        def arrive() -> None:
            now = self.world.now
            if life != self._life or self.crashed or self.cut_off:
                return
            if records.holder is None or now > records.expires or records.holder is self:
                if records.holder is self and now > records.expires:
                    records.holder = None  # it has run out: a new term must be won
                records.holder = self
                records.expires = now + LEASE_SECONDS
                self.world.scheduler.after(delay, lambda: self._granted(life, sent))

        if self.world.now >= self.busy_until:
            self.world.scheduler.after(delay, arrive)
        self.world.scheduler.after(RENEW_SECONDS, lambda: self._campaign(life))

    def _granted(self, life: int, sent: float) -> None:
        if life == self._life:
            self._leads_until = max(self._leads_until, sent + LEASE_SECONDS - MARGIN_SECONDS)

    def _follow_lease(self) -> None:
        if not self._shared:
            return
        leads = self.world.now < self._leads_until
        if leads and not self.machine.leads:
            self.carry_out(self.machine.lead(self.world.now))
            self.world.log(f"coordinator {self.number} leads")
        elif not leads and self.machine.leads:
            self.machine.step_down()
            self.world.log(f"coordinator {self.number} does not lead any more")

    # -- effects -------------------------------------------------------------------------------------------------

    def carry_out(self, effects: list[CoordinatorEffect]) -> None:
        world = self.world
        for effect in effects:
            if isinstance(effect, Remember):
                if not self._save(effect):
                    return
            elif isinstance(effect, Note):
                world.log(f"coordinator {self.number}: {effect.text}")
                assert "broken an invariant" not in effect.text, effect.text
                assert self.world.odd or "called something else" not in effect.text, effect.text
            elif isinstance(effect, Heard):
                pass  # nobody watches over the health of simulated groups
            elif isinstance(effect, Probe):
                self._probe(effect)
            elif isinstance(effect, Replan):
                self._plan(effect)
            elif isinstance(effect, Ping):
                world.pulse(self, effect.key, effect.number)
            else:
                if self._dies_now():
                    return
                world.to_peer(self, effect.key, encode(effect.message))

    def _dies_now(self) -> bool:
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                self.world.crash_coordinator(self, self.world.random.choice((0.1, 1.0, 3.0)))
        return self.crashed

    def _save(self, effect: Remember) -> bool:
        records = self._records
        if records is None:
            return True
        if self._shared and (self.cut_off or records.holder is not self or self.world.now > records.expires):
            self.machine.step_down()
            self.world.log(f"coordinator {self.number} was deposed")
            return False
        records.records[effect.group] = encode({"t": "record", **effect.record})
        return True

    def _load(self, group: str) -> Message | None:
        data = None if self._records is None else self._records.records.get(group)
        return None if data is None else decode(data)

    def _plan(self, replan: Replan) -> None:
        """A planner that is slow, fails at times, and plans anything that can be run: what it is worth does not matter here."""
        life, random = self._life, self.world.random

        def answer() -> None:
            if life == self._life:
                plan = None if random.random() < 0.1 else any_plan(random, replan.view.ids)
                self.when_running(lambda: self.machine.planned(self.world.now, replan, plan))

        self.world.scheduler.after(random.uniform(0.01, 2.0), answer)

    def _probe(self, probe: Probe) -> None:
        life = self._life
        world = self.world
        host = world.network.transports[probe.member.port].host
        refused = host.crashed and not world.unreachable(probe.member.name.encode(), self)

        def answer() -> None:
            if life == self._life:
                self.when_running(lambda: self.machine.probed(self.world.now, probe, refused))

        self.world.scheduler.after(2 * self.world.delay(), answer)
