"""The transport of simulated peers: as `SocketTransport`, over connections in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..types import Booth, Member, Way
from .base import DropsLinks, LinkBroken, LinkKey, TransportClosed
from .reach import Asker
from .simnet import LOOK_SECONDS, Host, Network, SimPoller, SimSocket, Waiter
from .simwindow import SimWindow
from .stream import TcpStream

CONNECT_SECONDS = 5.0
_REFUSED, _OUTDATED = object(), object()


class SimLink:
    """``gid`` and ``transport``: of the other end."""

    def __init__(self, gid: int, member: int, transport: SimTransport, streams: tuple[TcpStream, ...]):
        self.gid = gid
        self.member = member
        self.transport = transport
        self.streams = streams

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


def _streams(ends: Sequence[SimSocket], member: int) -> tuple[TcpStream, ...]:
    return tuple(TcpStream(end, member, spins=0, serial=end.serial) for end in ends)  # type: ignore[arg-type]


class SimTransport(DropsLinks):
    """As `SocketTransport`: the later member dials."""

    offers = ("sim",)

    def __init__(self, network: Network, host: Host, streams: int = 1):
        self.host = host
        self.port = network.register(self)
        self.striped = streams > 1
        self._streams = streams  # per link
        self._network = network
        self._scheduler = network.scheduler
        self._member = -1
        self._epoch = -1
        self._keys: dict[int, bytes] = {}
        self._early: list[Callable[[], None]] = []  # greetings of views to come
        self._links: dict[LinkKey, SimLink] = {}
        self._shown: dict[int, SimWindow] = {}  # by communicator
        self._closed = False
        self._waiting: list[Waiter] = []

    def introduce(self, member: int) -> None:
        self._member = member

    def admit(
        self,
        epoch: int,
        keys: Mapping[int, bytes],
        members: Sequence[Member] = (),
        ways: Sequence[Way] = (),
        booth: Booth | None = None,
    ) -> None:
        self._epoch, self._keys = epoch, dict(keys)
        early, self._early = self._early, []
        for greeting in early:
            greeting()
        self._wake()

    def ask(self, asker: Asker) -> None:
        """Whoever runs here can be dialled."""

    def reroute(self, way: Way) -> None: ...

    def called(self, member: Member, gid: int, purpose: int, stream: int, streams: int) -> None: ...

    def route_of(self, member: int) -> str | tuple[str, int]:
        return "direct"

    def is_gone(self, member: Member) -> bool:
        return False

    def make_window(self, nbytes: int) -> SimWindow:
        return SimWindow(self._network, self.host, nbytes)

    def exchange(self, link: SimLink, own: SimWindow, check: Callable[[], None]) -> SimWindow:
        self.host.step()
        self._shown[link.gid] = own
        while link.gid not in link.transport._shown:
            link.streams[0].check_open()
            self._park()
            check()
        return link.transport._shown[link.gid]

    def poller(self) -> SimPoller:
        return SimPoller(self._network)

    def link(self, gid: int, purpose: int, member: Member, check: Callable[[], None]) -> SimLink:
        key = (gid, purpose, member.id)
        if key not in self._links and self.makes_link(member.id):
            self._dial(key, member, check)
        while key not in self._links:
            if self._closed:
                raise TransportClosed("the communicator was closed while waiting for a connection")
            self._park()
            check()
        return self._links[key]

    def want_streams(self, member: int, streams: int) -> None:
        """Simulated links have one."""

    def makes_link(self, member: int) -> bool:
        return self._member > member

    def links_at_once(self, gid: int, purpose: int, member: int) -> bool:
        return self.makes_link(member) or (gid, purpose, member) in self._links

    def _drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        for key in [key for key in self._links if unwanted(key)]:
            self._links.pop(key).close()

    def traffic(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        self._closed = True
        self._drop(lambda key: True)

    # -- dialling ------------------------------------------------------------------------------------------------

    def _dial(self, key: LinkKey, member: Member, check: Callable[[], None]) -> None:
        """Ends, since each turn takes a later view."""
        gid = key[0]
        while True:
            epoch, secret = self._epoch, self._keys.get(member.id)
            if secret is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            answer = self._greet(key, member, epoch, secret, check)
            if isinstance(answer, list):
                target = self._network.transports[member.port]
                self._put(key, SimLink(gid, member.id, target, _streams(answer, member.id)))
                return
            if answer is _REFUSED:
                check()
                if self._epoch == epoch:
                    raise LinkBroken(member.id, "closed", f"cannot connect to {member}: refused")
            self._until(lambda: self._epoch > epoch, member, check)

    def _greet(
        self, key: LinkKey, member: Member, epoch: int, secret: bytes, check: Callable[[], None]
    ) -> list[SimSocket] | object:
        """One connection attempt: an end of each stream, or `_REFUSED`, or `_OUTDATED` when the other side is in a later view."""
        answer: list[list[SimSocket] | object] = []
        network, deadline = self._network, self._scheduler.now + CONNECT_SECONDS
        target = network.transports[member.port]
        calling = (key[0], key[1], self._member)

        def reply(found: list[SimSocket] | object) -> None:
            answer.append(found)
            self._wake()

        def send_back(found: list[SimSocket] | object) -> None:
            network.carry(target.host, self.host, network.delay(), lambda: reply(found))

        def arrive() -> None:
            if target.host.crashed or target._closed:
                send_back(_REFUSED)
            else:
                target.host.when_running(meet)

        def meet() -> None:
            if target._closed or target._scheduler.now > deadline:
                send_back(_REFUSED)
            elif target._epoch < epoch:
                target._early.append(meet)  # it hears of that view soon
            elif target._epoch > epoch:
                send_back(_OUTDATED)
            elif target._member != member.id or target._keys.get(self._member) != secret:
                send_back(_REFUSED)
            else:
                pairs = [network.connect(self.host, target.host) for _ in range(self._streams)]
                theirs = _streams([far for _, far in pairs], self._member)
                target._put(calling, SimLink(key[0], self._member, self, theirs))
                send_back([near for near, _ in pairs])

        network.carry(self.host, target.host, 2 * network.delay(), arrive)
        try:
            self._until(lambda: bool(answer), member, check)
        except BaseException:
            if answer and isinstance(answer[0], list):
                for end in answer[0]:
                    end.close()
            raise
        return answer[0]

    def _until(self, condition: Callable[[], bool], member: Member, check: Callable[[], None]) -> None:
        deadline = self._scheduler.now + CONNECT_SECONDS
        while not condition():
            if self._closed:
                raise TransportClosed("the communicator was closed while dialling")
            if self._scheduler.now > deadline:
                raise LinkBroken(member.id, "unacked", f"cannot connect to {member}: no answer")
            self._park()
            check()

    def _put(self, key: LinkKey, link: SimLink) -> None:
        old = self._links.pop(key, None)
        if old is not None:
            old.close()
        self._links[key] = link
        self._wake()

    def _park(self) -> None:
        waiter = self._scheduler.waiter()
        self._waiting.append(waiter)
        self._scheduler.park(waiter, LOOK_SECONDS)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()
