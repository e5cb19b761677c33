"""The plan of a group's traffic at its coordinator: when it is made anew, and who hears of it.

    event                                     effect
    ----------------------------------------  -----------------------------------------------------------------
    a report that changes what is known       (due)
    a new view with known links               (due)
    tick, due, and quiet for a moment         Replan: a planner works on it, apart
    planned, for the present members          `plan` to all members, who adopt it together at a safe point
    planned, for others                       (none; due again)

Members take a plan into use in one of two ways only, and both are the same for all of them: it comes with a view, or all of
them hold it at the same `step()`. So two members never run one collective by different plans. A plan that comes late, or
not at all, costs speed and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..types import View
from .effects import Replan
from .linktable import LinkTable, Row
from .messages import Message

QUIET_SECONDS = 0.25  # after a report, for the next one to come
PAUSE_SECONDS = 1.0  # between two plans
MOST_EFFORT = 3  # a large group's order is searched for again, longer each time
LARGE = 16  # members, beyond which the best order is searched for and not found at once


class Traffic:
    """``plan``: the newest, as a message, for whoever is in the next view; ``told``: what the present members were told since
    their view came."""

    def __init__(self, plan: Message | None = None):
        self.plan = plan
        self.told: Message | None = None
        self.links = LinkTable()
        self._due = False
        self._effort = 0
        self._asked_at = float("-inf")
        self._working = False
        self._revision = 0 if plan is None else int(plan["revision"])

    def report(self, now: float, member: int, present: Collection[int], rows: Sequence[Row]) -> None:
        """``member`` has measured links; those with others than ``present`` are passed over."""
        here = set(present)
        self.links.report(now, member, [row for row in rows if here.issuperset(row[:2])])
        if self.links.changed:
            self.links.changed = False
            self._due, self._effort = True, 0

    def doubt(self, factors: Mapping[tuple[int, int], float]) -> None:
        """These links are so many times as slow as they were measured, until something else is said of them."""
        if self.links.doubt(factors):
            self._due, self._effort = True, 0

    def view_changed(self, gone: Sequence[int]) -> None:
        """The next view is made; it carries ``plan``."""
        self.told = None
        for member in gone:
            self.links.forget(member)
        self._due, self._effort = len(self.links) > 0, 0

    def tick(self, now: float, group: str, view: View) -> list[Replan]:
        if not self._due or self._working or view.size < 2:
            return []
        if now - self.links.reported_at < QUIET_SECONDS or now - self._asked_at < PAUSE_SECONDS * (1 + self._effort):
            return []
        rows = self.links.rows(view.ids)
        self._due = False
        if not rows:
            return []
        self._working, self._asked_at = True, now
        order = list(self.plan["order"]) if self.plan is not None else []
        return [Replan(group, view, tuple(map(tuple, rows)), tuple(order), self._effort)]

    def planned(self, asked_for: View, present: View, plan: Message | None) -> Message | None:
        """A planner has come to an end; the message to all members, if there is something new to tell. ``plan`` lacks its
        revision."""
        self._working = False
        if asked_for != present:
            self._due = True
            return None
        if plan is None:
            return None
        if present.size > LARGE and self._effort < MOST_EFFORT:
            self._due, self._effort = True, self._effort + 1
        if self.plan is not None and _what_to_do(plan) == _what_to_do(self.plan):
            return None  # only the times differ
        self._revision += 1
        self.plan = {**plan, "revision": self._revision}
        self.told = {"t": "plan", "epoch": present.epoch, "plan": self.plan}
        return self.told


def _what_to_do(plan: Message) -> list[object]:
    """The part of a plan by which members act: frames go by typical bandwidths per connection, in steps of two."""
    return [
        *(plan[name] for name in ("order", "sites", "hub")),
        [row[:4] for row in plan["choices"]],
        [(plan[name][1] // plan[name][2]).bit_length() for name in ("within", "across")],
    ]
