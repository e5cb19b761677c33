"""What a peer of a group observes of itself: its communicators, operations and connections, for `collcomm.health`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .engine import Group, Session
from .errors import CollcommError, CommunicatorClosed
from .health.dump import Header, Peer
from .health.observation import OpenOperation
from .health.observer import Observer, Sent, Standing
from .health.recorder import FlightRecorder
from .health.records import Recorder
from .health.wire import message_of
from .transports.base import COLLECTIVES


def recorded(session: Session, group: str, name: str) -> Callable[[], dict[str, Any]]:
    """From now on the operations of ``session``, this peer ``name`` of ``group``, are recorded, and written down when it fails or
    is told to (`health.recorder`). Returns what makes a message of how this peer is."""
    recorder = session.recorder = Recorder()
    describe = partial(_header, session, group, name)
    flight = FlightRecorder.from_environment(recorder, describe)
    kept = None if flight is None else flight.observations
    session.dump = lambda directory: FlightRecorder(recorder, directory, describe, observations=kept).dump("asked for")
    if flight is not None:
        recorder.on_failure = partial(_failed, flight)
        session.at_failure.append(partial(_ended, flight))
        session.at_close.append(flight.close)
    observer = Observer(
        recorder,
        lambda: (session.member, session.view.epoch),
        lambda: _standings(session),
        lambda: _sent(session),
        session.clock.monotonic,
    )

    def tell() -> dict[str, Any]:
        observation = observer.observe()
        if flight is not None:
            flight.observed(observation)
        return message_of(observation)

    return tell


def _failed(flight: FlightRecorder, outcome: str) -> None:
    """An operation has; what was under way when this peer itself closed or left is none."""
    if outcome != CommunicatorClosed.__name__:
        flight.dump(outcome)


def _ended(flight: FlightRecorder, error: CollcommError) -> None:
    """The membership has, perhaps while this peer was in no operation: who is set aside hears of it that way."""
    if not isinstance(error, CommunicatorClosed):
        flight.ask(type(error).__name__)


def _header(session: Session, group: str, name: str) -> Header:
    view, standings = session.view, list(_standings(session))
    return Header(
        group,
        session.member,
        name,
        view.rank_of(session.member) or 0,
        view.epoch,
        tuple(Peer(one.id, one.name, one.host) for one in view.members),
        entered={one.gid: one.entered for one in standings},
        open=tuple(one.open for one in standings if one.open is not None),
    )


def _standings(session: Session) -> Iterator[Standing]:
    for gid, group in list(session.groups.items()):
        yield Standing(gid, group.progress.entered, _open(gid, group, session.clock.monotonic()))


def _open(gid: int, group: Group, now: float) -> OpenOperation | None:
    """The operation that ``group`` is in. It goes on meanwhile: what is read here may be a moment apart."""
    progress, marks = group.progress, group.marks
    request, view = marks.request, progress.view
    if request is None or progress.entered <= progress.committed:
        return None
    idle_since = marks.idle_since
    waiting_on = tuple(view.ids[rank] for rank in marks.waiting_on if rank < view.size) if idle_since else ()
    return OpenOperation(
        gid,
        progress.epoch,
        progress.entered,
        request.kind,
        request.nbytes(),
        max(0.0, now - marks.enter),
        max(0.0, now - idle_since) if idle_since else 0.0,
        waiting_on,
    )


def _sent(session: Session) -> Iterator[Sent]:
    for link in session.transport.open_links(COLLECTIVES):
        for stream in link.streams:
            delivery = None if stream.retired else stream.delivery()
            if delivery is not None:
                busy = delivery.seconds + delivery.held
                silent = stream.unacknowledged_for()
                yield Sent(link.member, id(stream), delivery.nbytes, busy, delivery.held, silent, delivery.lost)
