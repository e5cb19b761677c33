"""What a flight recorder leaves behind of one peer, as bytes, and the check of such bytes.

A dump is a msgpack map:

    format, version      "collcomm flight record", 1
    group, member, name, rank, epoch
    members              [[id, name, host], ...] of that view, by rank
    offset               seconds by which the coordinator's wall clock is ahead of the peer's, or null
    entered              by communicator, the last operation that was called
    open                 [[communicator, epoch, operation, kind, bytes, age, silent, [member, ...]], ...]: what it was in
    monotonic, wall      both clocks of the peer when it was made, in seconds
    reason, library, python, host, pid
    operations           a table (`columns`) with the fields of `OperationRecord`; times are of the monotonic clock
    transfers            a table with the fields of `TransferRecord`
    observations         [[monotonic, control message "health"], ...]: what the peer has told of itself, if that was kept

Everything has a bound, also what is written: of too much, the newest is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

import msgpack

from ..membership.messages import BadMessage, decode, encode
from .columns import FLAG, INTEGER, MOST_NUMBER, MOST_SECONDS, SECONDS, WORD, from_columns, to_columns
from .observation import Observation, OpenOperation
from .records import OperationRecord, TransferRecord
from .wire import MOST_AWAITED, MOST_GROUPS, MOST_OPEN, message_of, observation_of

FORMAT, VERSION = "collcomm flight record", 1
MOST_BYTES = 96 << 20
MOST_OPERATIONS = 1 << 17
MOST_TRANSFERS = 1 << 19
MOST_OBSERVATIONS = 600  # ten minutes
MOST_OBSERVED_BYTES = 16 << 20  # of all of them
MOST_MEMBERS = 10_000
MOST_TEXT = 1024
LAST_SHOWN = 50  # operations in the summary

_OPERATION_KINDS = dict(
    zip(OperationRecord._fields, [INTEGER] * 3 + [WORD, INTEGER, WORD] + [SECONDS] * 6 + [WORD], strict=True)
)
_TRANSFER_KINDS = dict(zip(TransferRecord._fields, [INTEGER] * 5 + [FLAG] + [SECONDS] * 3 + [INTEGER], strict=True))


class Peer(NamedTuple):
    """A member, as dumps name it."""

    id: int
    name: str
    host: str


@dataclass(frozen=True)
class Header:
    """Who a peer is, and where it stands at this moment. ``members``: by rank; ``offset``: seconds by which the coordinator's
    wall clock is ahead of this peer's, if that is known; ``entered``: by communicator, the last operation that was called."""

    group: str
    member: int
    name: str
    rank: int
    epoch: int
    members: tuple[Peer, ...]
    offset: float | None = None
    entered: Mapping[int, int] = field(default_factory=dict)
    open: tuple[OpenOperation, ...] = ()


@dataclass(frozen=True)
class Dump:
    """``monotonic`` and ``wall``: the peer's clocks when it was made; all other times are of the former. ``source``: where it
    was read from."""

    header: Header
    monotonic: float
    wall: float
    reason: str
    library: str
    python: str
    host: str
    pid: int
    operations: Sequence[OperationRecord] = field(default_factory=list)
    transfers: Sequence[TransferRecord] = field(default_factory=list)
    observations: Sequence[Observation] = field(default_factory=list)
    source: str = ""


def encode_dump(dump: Dump) -> bytes:
    header = dump.header
    found: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "group": header.group[:MOST_TEXT],
        "member": max(0, header.member),
        "name": header.name[:MOST_TEXT],
        "rank": max(0, header.rank),
        "epoch": max(0, header.epoch),
        "members": [[one.id, one.name[:MOST_TEXT], one.host[:MOST_TEXT]] for one in header.members[:MOST_MEMBERS]],
        "offset": header.offset,
        "entered": dict(list(header.entered.items())[:MOST_GROUPS]),
        "open": [[*one[:-1], list(one.waiting_on[:MOST_AWAITED])] for one in header.open[:MOST_OPEN]],
        **{name: getattr(dump, name)[:MOST_TEXT] for name in _TEXTS},
        **{name: getattr(dump, name) for name in _NUMBERS},
        "operations": to_columns(dump.operations[-MOST_OPERATIONS:], _OPERATION_KINDS),
        "transfers": to_columns(dump.transfers[-MOST_TRANSFERS:], _TRANSFER_KINDS),
        "observations": _observed(dump.observations),
    }
    data: bytes = msgpack.packb(found, unicode_errors="replace")
    return data


def decode_dump(data: bytes, source: str) -> Dump:
    """``source``: the file's name, for what is wrong with it. Raises ValueError, whatever ``data`` is."""
    try:
        return _decoded(data, source)
    except ValueError as error:
        raise ValueError(f"{source} is not a dump that can be read: {error}") from None


def summary(dump: Dump) -> dict[str, Any]:
    """What a person looks at first, for JSON."""
    header = dump.header
    return {
        "group": header.group,
        "member": header.member,
        "name": header.name,
        "rank": header.rank,
        "epoch": header.epoch,
        "members": [one._asdict() for one in header.members],
        "offset": header.offset,
        "entered": {str(gid): seq for gid, seq in header.entered.items()},
        **{name: getattr(dump, name) for name in (*_TEXTS, *_NUMBERS)},
        "operations": len(dump.operations),
        "transfers": len(dump.transfers),
        "open": [one._asdict() for one in header.open],
        "last": [one._asdict() for one in dump.operations[-LAST_SHOWN:]],
    }


# -- the check ---------------------------------------------------------------------------------------------------------

_TEXTS = ("reason", "library", "python", "host")
_NUMBERS = ("monotonic", "wall", "pid")


def _decoded(data: bytes, source: str) -> Dump:
    found = _unpacked(data)
    members = tuple(Peer(*_row(row, _number, _text, _text)) for row in _list(found, "members", MOST_MEMBERS))
    header = Header(
        _take(found, "group", _text),
        _take(found, "member", _number),
        _take(found, "name", _text),
        _take(found, "rank", _number),
        _take(found, "epoch", _number),
        members,
        None if found.get("offset") is None else _take(found, "offset", _span),
        _entered(found),
        tuple(_open(row) for row in _list(found, "open", MOST_OPEN)),
    )
    return Dump(
        header,
        _take(found, "monotonic", _span),
        _take(found, "wall", _span),
        _take(found, "reason", _text),
        _take(found, "library", _text),
        _take(found, "python", _text),
        _take(found, "host", _text),
        _take(found, "pid", _number),
        [OperationRecord(*row) for row in _table(found, "operations", _OPERATION_KINDS, MOST_OPERATIONS)],
        [TransferRecord(*row) for row in _table(found, "transfers", _TRANSFER_KINDS, MOST_TRANSFERS)],
        _observations(found, header.member),
        source,
    )


def _unpacked(data: bytes) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES:,} bytes")
    try:
        found = msgpack.unpackb(
            data,
            strict_map_key=False,
            max_str_len=MOST_TEXT * 4,
            max_bin_len=8 * MOST_TRANSFERS,
            max_array_len=MOST_MEMBERS,
            max_map_len=MOST_GROUPS,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises many kinds
        raise ValueError(f"it is cut short, or no msgpack ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError("it is something else")
    if found.get("version") != VERSION:
        raise ValueError(f"it has version {found.get('version')!r} of the format; this library reads {VERSION}")
    return found


def _take(found: Mapping[str, Any], name: str, check: Callable[[Any], bool]) -> Any:
    value = found.get(name)
    if not check(value):
        raise ValueError(f"its field {name!r} is missing, or cannot be {str(value)[:80]!r}")
    return value


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_NUMBER


def _span(value: Any) -> bool:
    return type(value) in (float, int) and isfinite(value) and abs(value) <= MOST_SECONDS


def _list(found: Mapping[str, Any], name: str, most: int) -> list[Any]:
    return list(_take(found, name, lambda value: isinstance(value, list) and len(value) <= most))


def _row(row: Any, *checks: Callable[[Any], bool]) -> list[Any]:
    if not isinstance(row, list) or len(row) != len(checks):
        raise ValueError(f"{str(row)[:80]!r} is no row of {len(checks)} fields")
    return [_take({"row": value}, "row", check) for value, check in zip(row, checks, strict=True)]


def _ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_AWAITED and all(map(_number, value))


def _open(row: Any) -> OpenOperation:
    fields = _row(row, _number, _number, _number, _text, _number, _span, _span, _ids)
    return OpenOperation._make([*fields[:-1], tuple(fields[-1])])


def _entered(found: Mapping[str, Any]) -> dict[int, int]:
    entered = _take(found, "entered", lambda value: isinstance(value, dict))
    if not all(_number(gid) and _number(seq) for gid, seq in entered.items()):
        raise ValueError("its field 'entered' is no map of numbers to numbers")
    return dict(entered)


def _table(found: Mapping[str, Any], name: str, kinds: Mapping[str, str], most: int) -> list[tuple[Any, ...]]:
    try:
        return from_columns(found.get(name), kinds, most)
    except ValueError as error:
        raise ValueError(f"in its {name}: {error}") from None


# -- observations: as control messages carry them, which have a check of their own ----------------------------------------


def _observed(observations: Sequence[Observation]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    room = MOST_OBSERVED_BYTES
    for one in reversed(observations[-MOST_OBSERVATIONS:]):
        data = encode(message_of(one))
        room -= len(data)
        if room < 0:
            break
        rows.append([one.at, data])
    return rows[::-1]


def _observations(found: Mapping[str, Any], member: int) -> list[Observation]:
    observations = []
    for row in _list(found, "observations", MOST_OBSERVATIONS):
        at, data = _row(row, _span, lambda value: isinstance(value, bytes))
        try:
            message = decode(data)
        except BadMessage as error:
            raise ValueError(f"one of its observations is none: {error}") from None
        if message["t"] != "health":
            raise ValueError("one of its observations is another message")
        observations.append(observation_of(message, member, at))
    return observations
