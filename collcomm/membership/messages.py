"""The control messages: msgpack maps with a version and a type, checked field by field at the border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

VERSION = 4
MAX_BYTES = 1 << 20
MAX_VIEW_BYTES = 8 << 20  # a view of as many members as may join; peers take it from their coordinators only
MAX_REPORT_BYTES = 2 << 20  # ... and what a coordinator takes: ten thousand members of usual names
MAX_TEXT = 1024
MAX_MEMBERS = 10_000
MAX_GROUPS = 10_000
MAX_ROWS = 4096  # measured links in one message
MAX_CHOICES = 512
MAX_SEGMENTS = 4096
MAX_STREAMS = 64
MAX_OBSERVED = 1024  # operations, or communicators, in one report of health
MAX_LISTED = 1000  # groups
MAX_LOAD_BYTES = 64 << 10  # of one message in a train that measures the way to a coordinator
MAX_FACTS = 32
TOKEN_BYTES = 16
UNPRIVILEGED = 1024  # the first port that a coordinator dials on request
MAX_WAYS = 10_000  # pairs of members that are not linked the usual way

Message = dict[str, Any]


class BadMessage(ValueError):
    """Bytes on a control connection that are no message of this version."""


Check = Callable[[Any], bool]


def _integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _text(most: int = MAX_TEXT, least: int = 0) -> Check:
    return lambda value: isinstance(value, str) and least <= len(value) <= most


def _list_of(check: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(check(item) for item in value)


def _row(*checks: Check) -> Check:
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(checks)
        and all(check(item) for check, item in zip(checks, value, strict=True))
    )


def _map_of(key: Check, check: Check, most: int) -> Check:
    return lambda value: (
        isinstance(value, dict) and len(value) <= most and all(key(k) and check(v) for k, v in value.items())
    )


def _fields(checks: Mapping[str, Check]) -> Check:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= 2 * len(checks)
        and all(name in value and check(value[name]) for name, check in checks.items())
    )


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _bytes(length: int) -> Check:
    return lambda value: isinstance(value, bytes) and len(value) == length


def _load(most: int) -> Check:
    return lambda value: isinstance(value, bytes) and len(value) <= most


def _on_failure(value: Any) -> bool:
    return value in ("retry", "raise")


_number = _integer(0, 2**62)
_epoch = _integer(0, 2**32 - 1)  # as wide as in a frame
_gid = _integer(0, 2**32 - 1)
_id = _integer(0, 2**31)
_ids = _list_of(_id, MAX_MEMBERS)
_port = _integer(1, 65535)
_profile: dict[str, Check] = {  # of a member, in the order of its row
    "name": _text(128, 1),
    "host": _text(256, 1),
    "port": _port,
    "host_id": _text(128),
    "offers": _text(64),
    "site": _text(64),
}
PROFILE = tuple(_profile)
_member = _row(_id, *_profile.values())
_verdict = _row(_text(16), _text(4096), _list_of(_text(128), MAX_MEMBERS))
_outcome = _row(_number, _number, _optional(_verdict))
_call = _row(_gid, _text())  # fingerprint, text
_operation: dict[str, Check] = {"epoch": _epoch, "gid": _gid, "seq": _number}
_options: dict[str, Check] = {"min_size": _integer(1, MAX_MEMBERS), "on_failure": _on_failure}
_span = _integer(0, 10**13)  # microseconds
_latency = _integer(0, 600 * 10**9)  # nanoseconds
_rate = _integer(1, 10**13)  # bytes/s
_link_class = _row(_latency, _rate, _integer(1, MAX_STREAMS))
_plan: dict[str, Check] = {
    "revision": _number,
    "order": _ids,
    "sites": _list_of(_integer(0, MAX_MEMBERS), MAX_MEMBERS),
    "hub": _id,
    "within": _link_class,
    "across": _link_class,
    # kind, from how many bytes on, algorithm, segments, nanoseconds
    "choices": _list_of(
        _row(_text(16), _number, _text(16), _integer(0, MAX_SEGMENTS), _integer(0, 10**15)), MAX_CHOICES
    ),
}
_way = _row(_id, _id, _number, _integer(0, 2), _id)  # the pair, number, kind, relay
_wanted: dict[str, Check] = {  # a link: of which member, for what, and its streams from ``stream`` on
    "epoch": _epoch,
    "member": _id,
    "gid": _gid,
    "purpose": _integer(0, 255),
    "stream": _integer(0, 63),
    "streams": _integer(1, 64),
}
_view: dict[str, Check] = {
    "epoch": _epoch,
    "members": _list_of(_member, MAX_MEMBERS),
    "admitted": _flag,
    "outcomes": _map_of(_gid, _outcome, MAX_GROUPS),
    "broken": _list_of(_row(_id, _id), MAX_MEMBERS),
    "plan": _optional(_fields(_plan)),
    "ways": _list_of(_way, MAX_WAYS),
}
_secrets: dict[str, Check] = {
    "keys": _list_of(_bytes(32), MAX_MEMBERS),  # shared by the recipient with each of the members
    "booth": _optional(_row(_port, _epoch, _bytes(32))),  # the coordinator's relay: port, the group's number there, key
}
SECRETS = tuple(_secrets)
_run: dict[str, Check] = {"incarnation": _text(64), "token": _bytes(8)}


FIELDS: dict[str, dict[str, Check]] = {
    # peer to coordinator
    "join": {
        "group": _text(128, 1),
        **_profile,
        **_options,
    },
    "report": {  # to a coordinator that asked `who`: what it needs to take the group over
        "group": _text(128, 1),
        "member": _member,
        "next": _epoch,  # of the last halt: the epoch it has spoken of, its round, and its heirs
        "round": _number,
        "heirs": _ids,
        "view": _optional(_fields(_view)),  # the last one adopted
        **_options,
        **_run,
    },
    "here": {},
    "ready": {"epoch": _epoch},
    "leave": {},
    "state": {
        "epoch": _epoch,
        "round": _number,
        "groups": _map_of(_gid, _row(_number, _number, _ids), MAX_GROUPS),
    },
    "accuse": {
        "epoch": _epoch,
        "member": _id,
        "evidence": lambda value: value in ("closed", "unacked"),
        "text": _text(),
    },
    "unreachable": {  # no connection with ``member`` came about by way ``number``, since ``dialled`` did not answer
        "epoch": _epoch,
        "member": _id,
        "number": _number,
        "dialled": _id,
        "text": _text(),
    },
    "call_me": _wanted,  # ``member`` should make that link, or come to the relay for it
    "stalled": {**_operation, "call": _call, "members": _ids, "waiting_on": _ids},
    "expired": {**_operation, "call": _call, "members": _ids, "waiting_on": _ids},
    "mismatch": {**_operation, "call": _call, "members": _ids},
    "links": {  # measured: source, target, latency, bandwidth, streams
        "epoch": _epoch,
        "rows": _list_of(_row(_id, _id, _latency, _rate, _integer(1, MAX_STREAMS)), MAX_ROWS),
    },
    "call": {**_operation, "call": _call},
    "health": {  # what a member sees of itself (`collcomm.health.wire`); spans in microseconds
        "epoch": _epoch,
        "covers": _span,
        "computed": _span,
        "operations": _number,
        "ended": _number,
        "entered": _map_of(_gid, _number, MAX_OBSERVED),
        # communicator, epoch, operation, kind, bytes, age, silent, waits for
        "open": _list_of(_row(_gid, _epoch, _number, _text(16), _number, _span, _span, _ids), MAX_OBSERVED),
        # communicator, epoch, operation, kind, bytes, took, waited
        "samples": _list_of(_row(_gid, _epoch, _number, _text(16), _number, _span, _span), MAX_OBSERVED),
        # to whom, bytes, busy, held, silent, packets lost
        "flows": _list_of(_row(_id, _number, _span, _span, _span, _integer(0, 2**31)), MAX_ROWS),
    },
    # whoever only watches, to coordinator; the answers have the number of what was asked
    "watch": {"group": _text(128), "number": _number},  # "": the only one, or a list
    "hail": {"number": _number},
    "train": {"number": _number, "load": _load(MAX_LOAD_BYTES), "back": _integer(0, MAX_LOAD_BYTES)},
    "dial": {"number": _number, "port": _integer(UNPRIVILEGED, 65535), "token": _bytes(TOKEN_BYTES)},
    # ... and back
    "snapshot": {"number": _number, "body": _load(MAX_VIEW_BYTES)},  # JSON, see collcomm.health.snapshot
    "groups": {  # name, state, epoch, members, pending
        "number": _number,
        "rows": _list_of(_row(_text(128), _text(16), _epoch, _number, _number), MAX_LISTED),
    },
    "hailed": {
        "number": _number,
        "wall": _number,  # nanoseconds since 1970
        "seen": _text(256),  # the address from which the asker comes
        "leads": _flag,
        "relay_port": _integer(0, 65535),  # 0: none
        "facts": _map_of(_text(64, 1), _text(256), MAX_FACTS),
    },
    "trained": {"number": _number, "load": _load(MAX_LOAD_BYTES)},
    "dialled": {"number": _number, "outcome": _text(32), "text": _text()},
    "unseen": {"number": _number, "text": _text(4096)},  # why there is no other answer
    "corrupt": {  # a check of results has found it: ranks named, the operation, how sure that is in thousandths
        "epoch": _epoch,
        "gid": _gid,
        "seq": _number,
        "members": _ids,
        "confidence": _integer(0, 1000),
        "text": _text(),
    },
    # coordinator to peer
    "welcome": {"member": _id, **_run},
    "rejected": {"text": _text(4096)},
    "pending": {"count": _number},
    "halt": {"epoch": _epoch, "round": _number, "next": _epoch, "heirs": _ids},  # who is to go on
    "view": {**_view, **_secrets},
    "way": {"epoch": _epoch, "way": _way},
    "called": _wanted,  # by ``member``
    "inquire": _operation,
    "plan": {"epoch": _epoch, "plan": _fields(_plan)},  # for the next safe point
    "look": {"epoch": _epoch, "members": _ids},  # at the links with these
    "evicted": {"cause": _text(4096)},
    "left": {},
    "alive": {},
    "who": {},
    "standby": {"leader": _text(256)},
    # a coordinator to itself, through its store
    "record": {"view": _fields(_view), "next_id": _id, "next_epoch": _epoch, **_options, **_run},
}
LIMITS = {"view": MAX_VIEW_BYTES, "report": MAX_REPORT_BYTES, "record": MAX_VIEW_BYTES, "snapshot": MAX_VIEW_BYTES}
WATCHING = ("watch", "hail", "train", "dial")  # said by watchers, who are no members


def encode(message: Mapping[str, Any]) -> bytes:
    """``message``: "t" and its fields."""
    data: bytes = msgpack.packb({"v": VERSION, **message})
    limit = LIMITS.get(message["t"], MAX_BYTES)
    if len(data) > limit:
        raise BadMessage(f"a {message['t']} message of {len(data)} bytes is longer than {limit}")
    return data


def decode(data: bytes, watching: bool = False) -> Message:
    """The fields of a message, all present and in range. ``watching``: whether it may be a snapshot. Raises BadMessage,
    whatever ``data`` is."""
    if len(data) > MAX_VIEW_BYTES:
        raise BadMessage(f"{len(data)} bytes are more than {MAX_VIEW_BYTES}")
    try:
        found = msgpack.unpackb(
            data,
            strict_map_key=False,
            max_str_len=8192,
            max_bin_len=MAX_VIEW_BYTES if watching else MAX_LOAD_BYTES,
            max_array_len=MAX_MEMBERS,
            max_map_len=MAX_GROUPS,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises many kinds, also RecursionError-like ones of its own
        raise BadMessage(f"not msgpack: {type(error).__name__}") from None
    if not isinstance(found, dict) or not isinstance(found.get("t"), str):
        raise BadMessage("not a map with a type")
    kind = found["t"]
    if found.get("v") != VERSION:
        spoken = found["v"] if type(found.get("v")) is int else "unknown"
        raise BadMessage(f"control protocol version {spoken}, this side speaks {VERSION}")
    fields = FIELDS.get(kind)
    if fields is None:
        raise BadMessage(f"unknown type {kind[:32]!r}")
    if len(data) > LIMITS.get(kind, MAX_BYTES):
        raise BadMessage(f"a {kind} message of {len(data)} bytes is too long")
    for name, check in fields.items():
        if name not in found or not check(found[name]):
            raise BadMessage(f"{kind}: field {name!r} is missing or out of range")
    return {"t": kind, **{name: found[name] for name in fields}}


def checked_plan(found: Any) -> Message:
    """A plan that a planner has made, as `plan` messages carry it. Raises BadMessage."""
    if not _fields(_plan)(found):
        raise BadMessage("not a plan, or one with impossible numbers")
    return {name: found[name] for name in _plan}


def is_other_version(data: bytes) -> bool:
    """Whether ``data`` is what somebody with another protocol version says first, which deserves an answer."""
    try:
        found = msgpack.unpackb(data, max_str_len=8192, max_array_len=1024, max_map_len=1024, max_ext_len=0)
    except Exception:
        return False
    return isinstance(found, dict) and found.get("t") in ("join", "watch", "hail") and found.get("v") != VERSION
