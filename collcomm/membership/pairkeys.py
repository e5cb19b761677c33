"""The keys with which members of a view prove to each other that they are in it.

Each pair of members has a key of its own, in each view another one. A member gets those that it shares with the others, so it
can prove who it is, and cannot pass for anybody else. All come from one secret that only the coordinator holds.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

_EPOCH = struct.Struct("<Q")
_PAIR = struct.Struct("<QQ")


def view_secret(secret: bytes, epoch: int) -> bytes:
    """What the keys of view ``epoch`` are made from; tells nothing of the group's ``secret`` or of other views."""
    return hmac.digest(secret, b"collcomm view" + _EPOCH.pack(epoch), "sha256")


def pair_keys(view: bytes, member: int, members: Sequence[int]) -> list[bytes]:
    """The key that ``member`` shares with each of ``members``, in their order. ``view``: a `view_secret`."""
    pack, digest = _PAIR.pack, hmac.digest
    return [digest(view, pack(member, other) if member < other else pack(other, member), "sha256") for other in members]


def booth_key(secret: bytes, member: int) -> bytes:
    """The key that ``member`` shares with its coordinator, in whatever view, for connections that this relays."""
    return hmac.digest(secret, b"collcomm booth" + _EPOCH.pack(member), "sha256")
