"""Runs a plan of large messages: all streams at once, frame by frame, reducing while more arrives.

One loop, one thread: a frame goes out on whichever stream of its link has room, and comes in on any; it starts when the
frames that it depends on are done. A frame that was just received and reduced is sent on while it is still in cache. `flows`
says why several streams do not lock each other, and what becomes of those that die.
"""

from __future__ import annotations

import select
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .attempt import Attempt
from .cutting import Frame
from .flows import PARK_SECONDS, Flows
from .original import Original
from .plan import Plan
from .undo import UndoLog
from .work import Bytes, Work


def run_streaming(
    plan: Plan,
    buffers: Mapping[str, Bytes],
    dtype: np.dtype[Any],
    ufunc: np.ufunc | None,
    attempt: Attempt,
    undo: UndoLog | None = None,
    incoming: Mapping[str, Original] = MappingProxyType({}),
    outgoing: Original | None = None,
) -> None:
    """``buffers``: flat bytes by name; ``undo``: hears of what is overwritten in "out"; ``incoming``: by buffer, what is to be
    asked for it before it is touched; ``outgoing``: hears of what is final in "out".

    When links have several streams (``attempt.striped``), what went over them may have to go again in the commit round:
    ``attempt.flows``, which needs the buffers until then.

    Raises Halted, Mismatch, LinkBroken.
    """
    order = plan.frames()
    work = Work(buffers, dtype, ufunc, attempt, order.count, undo if plan.saves else None, incoming, outgoing)
    flows = Flows(work, order, attempt, attempt.partners if attempt.striped else ())
    try:
        _loop(work, flows, list(order.local))
    except BaseException:
        flows.record()
        flows.abandon()
        attempt.flows = None
        raise
    flows.complete = True
    flows.record()


def _loop(work: Work, flows: Flows, copies: list[Frame]) -> None:
    attempt = work.attempt
    while True:
        if copies:
            copies = _copy_ready(work, copies)
        for flow in flows.all:
            if flow.link.streams is not flow.seen:
                flows.refresh(flow)
        flows.send()
        moved = flows.several and flows.finish_parked()
        if flows.held:
            flows.listen_again()
        if not copies and (flows.several or not flows.listening) and all(flow.done for flow in flows.all):
            return
        attempt.check()
        for descriptor, events in flows.poller.poll(flows.certain()):
            if events & ~select.POLLIN and descriptor in flows.waiting:
                flows.writable(descriptor)
                moved = True
            if events & ~select.POLLOUT and descriptor in flows.listening:
                moved |= flows.receive(descriptor)
        if flows.several:
            moved = _look_after(flows, moved)
        if moved:
            attempt.moved()
        else:
            attempt.idle(flows.awaited)


def _look_after(flows: Flows, moved: bool) -> bool:
    """What several streams need beyond what one does. True when something has moved."""
    now = flows.attempt.now()
    if moved or not flows.moved_at:
        flows.moved_at = now
    elif now - flows.moved_at > PARK_SECONDS:
        moved = flows.park()
    flows.look(now)
    return moved


def _copy_ready(work: Work, copies: list[Frame]) -> list[Frame]:
    """Do the local copies whose turn has come; returns the others."""
    later = []
    for frame in copies:
        if work.ready(frame):
            work.target(frame)[:] = work.source(frame)
            work.end(frame)
        else:
            later.append(frame)
    return later
