"""Who is in a group, at its coordinator: its members, those who wait to become members, and those who are out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..types import Member
from .suspicion import Health

MOST_OUT = 1000  # remembered, of those who are out


@dataclass
class Peer:
    """Somebody who has joined; a member once it is in the view."""

    key: bytes
    member: Member
    health: Health
    is_member: bool = False
    ready: bool = False
    came: float | None = None  # when it joined; None if that was at a coordinator that was lost


class Roster:
    """Each peer is known by its connection, and by the number of the member that it is or will be, which is not used again.

    ``options``: min_size and on_failure, on which all agree; None before the first has joined. ``next_id``: of the next newcomer.
    """

    def __init__(self) -> None:
        self.options: tuple[int, str] | None = None
        self.next_id = 1
        self._peers: dict[bytes, Peer] = {}
        self._keys: dict[int, bytes] = {}  # by member
        self._out: dict[bytes, str] = {}  # why a peer that may still come back is out

    def __iter__(self) -> Iterator[Peer]:
        """In the order in which they came. Whoever is removed meanwhile is passed as well."""
        return iter(list(self._peers.values()))

    def at(self, key: bytes) -> Peer | None:
        """Whose connection ``key`` is."""
        return self._peers.get(key)

    def of(self, member: int) -> Peer | None:
        """Who has that number, or will have it."""
        key = self._keys.get(member)
        return None if key is None else self._peers[key]

    def peer(self, member: int) -> Peer:
        """As `of`, of somebody who is certainly here."""
        return self._peers[self._keys[member]]

    def __contains__(self, peer: Peer) -> bool:
        return peer.key in self._peers

    @property
    def members(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.is_member]

    @property
    def waiting(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if not peer.is_member]

    @property
    def all_ready(self) -> bool:
        """Whether there are members, and all of them would take newcomers in."""
        members = self.members
        return bool(members) and all(peer.ready for peer in members)

    @property
    def empty(self) -> bool:
        return not self._peers

    def knows(self, key: bytes) -> bool:
        """Whether a connection belongs to somebody who is here, or who may come back to ask why not."""
        return key in self._peers or key in self._out

    def why_out(self, key: bytes) -> str | None:
        return self._out.get(key)

    def enter(self, now: float, key: bytes, member: Member, is_member: bool = False) -> Peer:
        self._out.pop(key, None)
        peer = self._peers[key] = Peer(key, member, Health(now), is_member, came=None if is_member else now)
        self._keys[member.id] = key
        return peer

    def remove(self, peer: Peer) -> None:
        del self._peers[peer.key]
        del self._keys[peer.member.id]

    def shut_out(self, key: bytes, cause: str) -> None:
        """Whoever comes by that connection hears why it is out, until it joins anew."""
        self._out[key] = cause
        while len(self._out) > MOST_OUT:
            del self._out[next(iter(self._out))]
