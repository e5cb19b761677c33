"""The contract between the engine and a transport that moves messages.

A *link* joins this peer with one other for one communicator; it has one or more *streams*, each an ordered,
reliable byte stream that carries frames (`frames`). Streams may be added to a living link, and die without it. The engine
asks the transport for a link when a plan needs it and then talks to the streams directly, from whichever thread runs the
operation; one thread at a time uses a link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import CommunicatorClosed

Buffer = Any  # anything with the buffer protocol: bytes, memoryview, a numpy array of bytes
MAX_BUFFERS = 1024  # in one call; what Linux, macOS and the BSDs take (IOV_MAX)


class LinkBroken(Exception):
    """A link to ``member`` has failed. ``evidence`` is "closed" (end of stream, reset, refused) or "unacked"
    (bytes were sent and nothing came back for too long)."""

    def __init__(self, member: int, evidence: str, text: str):
        super().__init__(text)
        self.member = member
        self.evidence = evidence
        self.text = text


class TransportClosed(CommunicatorClosed):
    """The transport was closed while a link was being made."""


class PathReport(NamedTuple):
    """What the kernel has measured on a connection. ``app_limited``: the rate is what it was given to send, not what the path
    carries; ``retransmits``: segments that were sent again, since it was made."""

    rtt: float  # seconds, smoothed
    rate: float  # delivered, bytes per second
    app_limited: bool
    retransmits: int
    acknowledged: int  # bytes


class Stream(Protocol):
    """One ordered byte stream to a peer. Byte counts are payload and headers together."""

    member: int
    serial: int  # both ends call it so
    retired: bool  # it has died, or been given up, while its link lives on
    rate: float  # bytes per second, as the other end took them lately; 0.0: not known. Whoever uses the stream keeps it

    @property
    def gathers(self) -> bool:
        """Whether many buffers go out, and come in, in one call and without being joined first."""

    def fileno(self) -> int:
        """Raises LinkBroken when it was closed here."""

    def send(self, header: Buffer, payload: Buffer | None = None) -> int:
        """Hand over a whole frame; waits a few milliseconds at most. Returns the bytes that were taken."""

    def send_several(self, buffers: Sequence[Buffer]) -> int:
        """As `send`, one buffer behind the other, `MAX_BUFFERS` of them at most."""

    def try_send(self, header: Buffer, payload: Buffer) -> int:
        """Hand over what is taken at once; 0 when nothing is."""

    def receive(self, target: memoryview) -> int:
        """Read up to ``len(target)`` bytes; waits a few milliseconds at most; 0 when nothing came."""

    def receive_whole(self, target: memoryview) -> int:
        """As `receive`, of bytes that are on their way: sleeps, a few milliseconds at most, until all of ``target`` has come."""

    def receive_several(self, targets: Sequence[memoryview]) -> int:
        """As `receive`, into one after the other, `MAX_BUFFERS` of them at most, none empty; perhaps into the first only."""

    def try_receive(self, target: memoryview) -> int:
        """Read what is there; 0 when nothing is. Raises LinkBroken at the end of the stream."""

    def unread(self, data: Buffer) -> None:
        """Put back bytes; the next receive gets them first."""

    def check_open(self) -> None:
        """Raise LinkBroken when the other side has closed; for connections on which nothing comes."""

    def skip(self, count: int) -> None:
        """The next ``count`` bytes are of no interest to anybody."""

    def owe(self, count: int) -> None:
        """The last frame lacks ``count`` bytes that its sender no longer wants to send."""

    @property
    def has_unread(self) -> bool:
        """Whether a receive may succeed although the descriptor is not readable."""

    def unacknowledged_for(self) -> float:
        """Seconds for which the other host has owed an acknowledgement; 0.0 when it owes none."""

    def path_report(self) -> PathReport | None:
        """What the kernel knows of the path; None where it does not tell."""

    def retire(self) -> None:
        """Close it at once, whatever is under way, while the link's other streams go on."""


class Window(Protocol):
    """Memory of one member that others on its host see, see `window`. ``words``: its header; ``spins``: looks before sleeping."""

    words: memoryview
    spins: int

    @property
    def data(self) -> Any: ...

    def settle(self) -> None:
        """Owner: wait until what it has been told to write and read is written and read."""

    def signal(self) -> None:
        """Owner: all that was written so far may be seen."""

    def sleep(self, count: int) -> None:
        """Others: until its count is no longer ``count``, a few milliseconds at most."""

    def close(self) -> None:
        """Owner: whoever has it keeps it."""


class Link(Protocol):
    """This peer's connection with one other, for one communicator."""

    @property
    def member(self) -> int: ...

    @property
    def streams(self) -> Sequence[Stream]:
        """In an order that both ends agree on, save for a moment. When one is added, or replaced, this becomes another object; a
        running operation may go by that. Those that are ``retired`` stay in their place."""

    def close(self) -> None: ...


LinkKey = tuple[int, int, int]  # communicator, purpose, member
COLLECTIVES, MESSAGES, PROBES, GLANCES = 0, 1, 4, 5  # purposes of a link, as in a greeting
MEASURING = (PROBES, GLANCES)  # what these links move is nobody's traffic


class DropsLinks:
    """Which of its links a transport closes, and when."""

    _links: Mapping[LinkKey, Any]
    striped = False  # links have, or have had, several streams

    def keep_only(self, members: Iterable[int]) -> None:
        """Close the links to all others: they have left."""
        keep = set(members)
        self._drop(lambda key: key[2] not in keep)

    def drop_member(self, member: int) -> None:
        """Close all links with ``member``, which stays: they are to be made anew."""
        self._drop(lambda key: key[2] == member)

    def drop_group(self, gid: int) -> None:
        """Close all links of one communicator."""
        self._drop(lambda key: key[0] == gid)

    def drop_link(self, gid: int, purpose: int, member: int, stream: Stream | None = None) -> None:
        """Close one link; the next use makes a new one. ``stream``: only if it is still that one's."""

        def unwanted(key: LinkKey) -> bool:
            if key != (gid, purpose, member):
                return False
            return stream is None or (key in self._links and self._links[key].streams[0] is stream)

        self._drop(unwanted)

    def _drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        raise NotImplementedError


class Poller(Protocol):
    """Waits for streams, which are known by their descriptors; events are those of poll(2)."""

    def want(self, descriptor: int, events: int) -> None: ...

    def forget(self, descriptor: int, events: int) -> None: ...

    def poll(self, certain: list[int]) -> list[tuple[int, int]]:
        """Ready descriptors after a few milliseconds at most; ``certain`` ones are readable whatever the kernel says."""


class Transport(Protocol):
    """Makes links, over which messages go, or windows are exchanged."""

    striped: bool  # links have, or have had, several streams

    @property
    def offers(self) -> Sequence[str]:
        """Names, in order of preference."""

    def link(self, gid: int, purpose: int, member: Any, check: Callable[[], None]) -> Link:
        """The link to ``member``, made now if there is none. ``check`` is called every few milliseconds while waiting,
        and ends the wait by raising."""

    def makes_link(self, member: int) -> bool:
        """Whether a link with ``member`` is this peer's to make; else `link` waits for the other end."""

    def links_at_once(self, gid: int, purpose: int, member: int) -> bool:
        """Whether `link` need not wait for the other end to make it."""

    def route_of(self, member: int) -> str | tuple[str, int]:
        """How bytes get to ``member``: "direct", "reversed" (the earlier one dials), or ("relay", the member in between)."""

    def is_gone(self, member: Any) -> bool:
        """Whether it is certain that nobody listens any more where ``member`` did. Takes a moment."""

    def make_window(self, nbytes: int) -> Window:
        """A window of this peer. Raises OSError when there is no memory for it."""

    def exchange(self, link: Any, own: Any, check: Callable[[], None]) -> Window:
        """Give ``own`` to the other end of a link that is used for nothing else; returns the window of the other end."""

    def poller(self) -> Poller: ...

    def close(self) -> None: ...
