"""The links of one peer: those that are there, those of which some connections are there yet, and what they have moved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from .base import MEASURING, MESSAGES, LinkKey
from .frames import Greeting
from .link import SocketLink
from .stream import SocketStream

MAX_PARTIAL = 1024  # links of which some streams are there and some are not
MAX_LINGERING = 64  # links with peers that have left


class OpenLinks(Mapping[LinkKey, SocketLink]):
    """``changed`` guards them, and is notified of each new one."""

    def __init__(self, changed: threading.Condition):
        self._changed = changed
        self._links: dict[LinkKey, SocketLink] = {}
        self._partial: dict[LinkKey, dict[int, SocketStream]] = {}
        self._lingering: list[LinkKey] = []
        self._gone = (0, 0)  # bytes sent and received on links that are no more

    def __getitem__(self, key: LinkKey) -> SocketLink:
        return self._links[key]

    def __iter__(self) -> Iterator[LinkKey]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    def put(self, link: SocketLink) -> SocketLink:
        """Take in ``link``, unless there is one of a later age. Returns the one that holds; the other is closed."""
        with self._changed:
            other = self._links.get(link.key)
            if other is not None and other.age > link.age:
                link.close()
                return other
            if other is not None:
                self._retire(other)
            self._links[link.key] = link
            self._changed.notify_all()
            return link

    def assemble(self, key: LinkKey, greeting: Greeting, stream: SocketStream) -> SocketLink | None:
        """Take in one connection of a link that the other end makes; the link once it is whole, and holds."""
        with self._changed:
            parts = self._partial.pop(key, {})
            if any(index >= greeting.streams for index in parts):
                _close_all(parts)  # a link of another shape was begun and given up
            elif greeting.stream in parts:
                parts.pop(greeting.stream).close()
            parts[greeting.stream] = stream
            if len(parts) < greeting.streams:
                self._partial[key] = parts
                while len(self._partial) > MAX_PARTIAL:
                    _close_all(self._partial.pop(next(iter(self._partial))))
                return None
            link = SocketLink(key, [parts[index] for index in sorted(parts)], (greeting.epoch, greeting.way))
            return link if self.put(link) is link else None

    def remove(self, link: SocketLink) -> None:
        """Drop that one, unless it is no longer here."""
        with self._changed:
            if self._links.get(link.key) is link:
                self._retire(self._links.pop(link.key))

    def drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        with self._changed:
            for key in [key for key in self._links if unwanted(key)]:
                self._retire(self._links.pop(key))
            for key in [key for key in self._partial if unwanted(key)]:
                _close_all(self._partial.pop(key))

    def keep_only(self, members: Collection[int]) -> None:
        """Drop those with all others; but what those have sent in messages may be read yet, up to `MAX_LINGERING` links back."""
        with self._changed:
            left = [key for key in self._links if key[1] == MESSAGES and key[2] not in members]
            self._lingering = (self._lingering + [key for key in left if key not in self._lingering])[-MAX_LINGERING:]
        self.drop(lambda key: key[2] not in members and key not in self._lingering)

    def for_purpose(self, purpose: int) -> list[SocketLink]:
        with self._changed:
            return [link for key, link in self._links.items() if key[1] == purpose]

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, headers included, over all links but those that probe."""
        with self._changed:
            moved = [link.traffic() for key, link in self._links.items() if key[1] not in MEASURING]
            return (
                self._gone[0] + sum(sent for sent, _ in moved),
                self._gone[1] + sum(received for _, received in moved),
            )

    def _retire(self, link: SocketLink) -> None:
        if link.key[1] not in MEASURING:
            sent, received = link.traffic()
            self._gone = (self._gone[0] + sent, self._gone[1] + received)
        link.close()


def _close_all(parts: dict[int, SocketStream]) -> None:
    for stream in parts.values():
        stream.close()
    parts.clear()
