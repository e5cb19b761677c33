"""What a coordinator shows of a group to whoever watches it: made from what the membership machines know.

The schema is that of `collcomm.health.snapshot`. What only the peers could tell (rates, what each computes) is null here, and
filled in by whoever hears it from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..types import WayKind
from .chronicle import Chronicle, Event
from .group import GroupMachine
from .presets import Limits
from .roster import Peer
from .takeover import Takeover

SCHEMA = 1  # the version of the schema
SILENT_PULSES = 4  # so many without an echo, and a member is shown as silent
MOST_BYTES = 4 << 20  # of a snapshot as JSON
LEFT_OUT_FIRST = ("traffic", "links", "history", "events")  # of one that is longer

Snapshot = dict[str, Any]


def snapshot_of(group: GroupMachine | Takeover, now: float, wall: float, limits: Limits) -> Snapshot:
    """``now``: on the coordinator's monotonic clock, ``wall``: the same moment in seconds since 1970."""
    lag = wall - now
    shown: Snapshot = {
        "version": SCHEMA,
        "at": wall,
        "group": group.name,
        "state": "recovering",
        "epoch": group.view.epoch,
        "since": None,
        "members": [],
        "pending": 0,
        "links": [],
        "relayed": [],
        "traffic": [],
        "plan": None,
        "findings": [],
        "events": [],
        "totals": [],
        "history": [],
    }
    return shown if isinstance(group, Takeover) else {**shown, **_of_whole(group, now, lag, limits)}


def row_of(group: GroupMachine | Takeover) -> list[Any]:
    """Of a list of groups: name, state, epoch, members, pending."""
    if isinstance(group, Takeover):
        return [group.name, "recovering", group.view.epoch, group.view.size, 0]
    return [group.name, group.state.value, group.view.epoch, group.view.size, len(group.waiting)]


def _of_whole(group: GroupMachine, now: float, lag: float, limits: Limits) -> Snapshot:
    plan = group.traffic_plan
    operations = _operations(group)
    return {
        "state": group.state.value,
        "since": _view_since(group.chronicle, group.view.epoch, lag),
        "members": [
            _member(rank, peer, operations.get(peer.member.id), now, lag, limits)
            for rank, peer in enumerate(map(group.peer, group.view.ids))
            if peer is not None
        ],
        "pending": len(group.waiting),
        "links": [
            {
                "source": link.source,
                "target": link.target,
                "latency": link.latency,
                "bandwidth": link.bandwidth,
                "streams": link.streams,
                "age": round(age, 3),
            }
            for link, age in group.measured(now)
        ],
        "relayed": [{"members": list(way.pair), "relay": way.relay} for way in group.ways if way.kind is WayKind.RELAY],
        "plan": None if plan is None else {name: plan[name] for name in ("revision", "order", "sites")},
        "events": [_event(event, lag) for event in group.chronicle.events],
        "totals": [
            {"kind": kind, "cause": cause, "count": count}
            for (kind, cause), count in sorted(group.chronicle.totals.items())
        ],
    }


def _view_since(chronicle: Chronicle, epoch: int, lag: float) -> float | None:
    came = (event.at for event in reversed(chronicle.events) if event.kind == "view" and event.epoch == epoch)
    at = next(came, None)
    return None if at is None else at + lag


def _member(
    rank: int, peer: Peer, operation: Mapping[str, Any] | None, now: float, lag: float, limits: Limits
) -> Snapshot:
    member, health = peer.member, peer.health
    heard = max(0.0, now - health.heard_at)
    silent = health.disconnected_at is not None or heard > SILENT_PULSES * limits.pulse
    return {
        "id": member.id,
        "rank": rank,
        "name": member.name,
        "host": member.host,
        "port": member.port,
        "host_id": member.host_id,
        "site": member.site,
        "joined": None if peer.came is None else peer.came + lag,
        "heard": round(heard, 3),
        "rtt": health.round_trip.smoothed or None,
        "state": "silent" if silent else "waiting" if operation is not None and operation["waiting_on"] else None,
        "operation": operation,
        "operations": None,
        "rate": None,
        "sent": None,
        "received": None,
        "computed": None,
        "late": None,
    }


def _operations(group: GroupMachine) -> dict[int, Snapshot]:
    """By member, the operation of which it has said that it does not move."""
    found: dict[int, Snapshot] = {}
    for dispute in group.stalled:
        for member, call in dispute.calls.items():
            found[member] = {
                "gid": dispute.gid,
                "seq": dispute.seq,
                "kind": call.text.partition("(")[0],
                "nbytes": None,
                "age": None,
                "waiting_on": list(dispute.waiting_on.get(member, ())),
            }
    return found


def _event(event: Event, lag: float) -> Snapshot:
    named = {"member": event.member or None, "name": event.name or None}
    return {"at": event.at + lag, "kind": event.kind, **named, "text": event.text}


def encoded(shown: Snapshot) -> bytes:
    """As JSON; of one that is too long, lists are left out, and which these are is said. Raises ValueError if that is not
    enough, or if there is something in it that JSON has no word for."""
    data = json.dumps(shown, allow_nan=False, separators=(",", ":")).encode()
    left_out: list[str] = []
    for name in LEFT_OUT_FIRST:
        if len(data) <= MOST_BYTES:
            return data
        left_out.append(name)
        shown = {**shown, name: [], "left_out": left_out}
        data = json.dumps(shown, allow_nan=False, separators=(",", ":")).encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a snapshot of {len(data)} bytes is longer than {MOST_BYTES}")
    return data
