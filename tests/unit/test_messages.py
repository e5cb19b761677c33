"""Control messages: what goes out comes back, and nothing from outside raises anything but BadMessage."""

from __future__ import annotations

import struct
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collcomm.membership.messages import (
    FIELDS,
    MAX_BYTES,
    MAX_GROUPS,
    MAX_MEMBERS,
    MAX_STREAMS,
    VERSION,
    BadMessage,
    decode,
    encode,
    is_other_version,
)

# ---- messages by hand, one per type, so that a type without a line here is noticed ------------------------------

CALL = [7, "all_reduce(sum, float32, 1024 elements)"]
OPERATION = {"epoch": 3, "gid": 2, "seq": 9}
PLAN = {
    "revision": 3,
    "order": [1, 3],
    "sites": [0, 1],
    "hub": 3,
    "within": [100_000, 125_000_000, 1],
    "across": [10_000_000, 12_500_000, 1],
    "choices": [["all_reduce", 0, "star", 1, 20_000_000], ["all_reduce", 65536, "ring", 0, 90_000_000]],
}
VIEW = {
    "epoch": 4,
    "members": [[1, "a", "10.0.0.1", 4711, "", "shm,tcp", ""], [3, "c", "::1", 4712, "host/net", "", "rack-2"]],
    "admitted": False,
    "outcomes": {0: [8, 8, None], 2: [1, 2, ["mismatch", "a differs", ["a"]]]},
    "broken": [[1, 3]],
    "plan": PLAN,
    "ways": [[1, 3, 2, 2, 4]],
}
RUN = {"incarnation": "5f", "token": b"8 bytes!", "min_size": 2, "on_failure": "retry"}
EXAMPLES: dict[str, dict[str, Any]] = {
    "join": {
        "group": "run-7",
        "name": "lab-3",
        "host": "10.0.0.3",
        "port": 4711,
        "host_id": "",
        "offers": "",
        "site": "",
        "min_size": 2,
        "on_failure": "retry",
    },
    "here": {},
    "ready": {"epoch": 3},
    "leave": {},
    "state": {"epoch": 3, "round": 1, "groups": {0: [8, 9, [1, 2, 3]]}},
    "accuse": {"epoch": 3, "member": 2, "evidence": "closed", "text": "connection reset"},
    "unreachable": {"epoch": 3, "member": 2, "number": 1, "dialled": 4, "text": "connection refused"},
    "call_me": {"epoch": 3, "member": 2, "gid": 0, "purpose": 1, "stream": 0, "streams": 4},
    "called": {"epoch": 3, "member": 1, "gid": 0, "purpose": 1, "stream": 0, "streams": 4},
    "way": {"epoch": 3, "way": [1, 3, 2, 2, 4]},
    "stalled": {**OPERATION, "call": CALL, "members": [1, 2, 3], "waiting_on": [2]},
    "expired": {**OPERATION, "call": CALL, "members": [1, 2, 3], "waiting_on": []},
    "mismatch": {**OPERATION, "call": CALL, "members": [1, 2, 3]},
    "call": {**OPERATION, "call": CALL},
    "links": {"epoch": 3, "rows": [[1, 3, 100_000, 125_000_000, 1], [3, 1, 100_000, 1, 64]]},
    "plan": {"epoch": 3, "plan": PLAN},
    "welcome": {"member": 4, "incarnation": "5f", "token": b"8 bytes!"},
    "rejected": {"text": "a peer called 'lab-3' is in group 'run-7' already"},
    "pending": {"count": 1},
    "halt": {"epoch": 3, "round": 1, "next": 4, "heirs": [1, 3]},
    "view": {**VIEW, "keys": [b"k" * 32, b"l" * 32], "booth": [48149, 7, b"b" * 32]},
    "inquire": OPERATION,
    "evicted": {"cause": "evicted from view 7: silent for 1.3 s"},
    "left": {},
    "alive": {},
    "who": {},
    "standby": {"leader": "10.0.0.2:48148"},
    "report": {
        "group": "run-7",
        "member": [1, "a", "::1", 4711, "", "shm,tcp", ""],
        "next": 5,
        "round": 2,
        "heirs": [1],
        "view": VIEW,
        **RUN,
    },
    "record": {"view": VIEW, "next_id": 4, "next_epoch": 5, **RUN},
    "watch": {"group": "run-7", "number": 1},
    "hail": {"number": 2},
    "train": {"number": 3, "load": b"x" * 1000, "back": 2000},
    "dial": {"number": 4, "port": 40_000, "token": b"t" * 16},
    "snapshot": {"number": 1, "body": b"{}"},
    "groups": {"number": 1, "rows": [["run-7", "steady", 3, 2, 0]]},
    "hailed": {
        "number": 2,
        "wall": 1_700_000_000 * 10**9,
        "seen": "10.0.0.3",
        "leads": True,
        "relay_port": 0,
        "facts": {"numpy": "2.1"},
    },
    "trained": {"number": 3, "load": b"y" * 2000},
    "dialled": {"number": 4, "outcome": "reached", "text": ""},
    "unseen": {"number": 1, "text": "there is no group 'x'"},
    "health": {
        "epoch": 3,
        "covers": 1_000_000,
        "computed": 400_000,
        "operations": 812,
        "ended": 12,
        "entered": {0: 812, 7: 3},
        "open": [[0, 3, 813, "all_reduce", 1 << 20, 5000, 0, [1, 3]]],
        "samples": [[0, 3, 812, "all_reduce", 1 << 20, 9000, 0]],
        "flows": [[1, 1 << 24, 300_000, 0, 0, 2]],
    },
    "corrupt": {"epoch": 3, "gid": 0, "seq": 812, "members": [3], "confidence": 900, "text": "its copy differs"},
    "look": {"epoch": 3, "members": [1]},
}
TYPES = sorted(FIELDS)

# ---- the same by hypothesis --------------------------------------------------------------------------------------

number = st.integers(0, 2**62)
epoch = st.integers(0, 2**32 - 1)
gid = st.integers(0, 2**32 - 1)
member_id = st.integers(0, 2**31)
ids = st.lists(member_id, max_size=8)
port = st.integers(1, 65535)
call = st.tuples(gid, st.text(max_size=40)).map(list)
verdict = st.tuples(st.text(max_size=16), st.text(max_size=80), st.lists(st.text(max_size=20), max_size=4)).map(list)
member = st.tuples(
    member_id,
    st.text("abc", min_size=1),
    st.text("abc", min_size=1),
    port,
    st.text("abc"),
    st.text("abc"),
    st.text("abc"),
).map(list)
latency, rate = st.integers(0, 600 * 10**9), st.integers(1, 10**13)
link_class = st.tuples(latency, rate, st.integers(1, MAX_STREAMS)).map(list)
choice = st.tuples(
    st.text(max_size=16), number, st.text(max_size=16), st.integers(0, 4096), st.integers(0, 10**15)
).map(list)
plan = st.fixed_dictionaries(
    {
        "revision": number,
        "order": ids,
        "sites": st.lists(st.integers(0, MAX_MEMBERS), max_size=8),
        "hub": member_id,
        "within": link_class,
        "across": link_class,
        "choices": st.lists(choice, max_size=5),
    }
)
way = st.tuples(member_id, member_id, number, st.integers(0, 2), member_id).map(list)
wanted = {
    "epoch": epoch,
    "member": member_id,
    "gid": gid,
    "purpose": st.integers(0, 255),
    "stream": st.integers(0, 63),
    "streams": st.integers(1, 64),
}
operation = {"epoch": epoch, "gid": gid, "seq": number}
span, name = st.integers(0, 10**13), st.text(max_size=16)
view = {
    "epoch": epoch,
    "members": st.lists(member, max_size=5),
    "admitted": st.booleans(),
    "outcomes": st.dictionaries(gid, st.tuples(number, number, st.none() | verdict).map(list), max_size=5),
    "broken": st.lists(st.tuples(member_id, member_id).map(list), max_size=4),
    "plan": st.none() | plan,
    "ways": st.lists(way, max_size=4),
}
run = {
    "incarnation": st.text(max_size=64),
    "token": st.binary(min_size=8, max_size=8),
    "min_size": st.integers(1, MAX_MEMBERS),
    "on_failure": st.sampled_from(["retry", "raise"]),
}
STRATEGIES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "join": {
        "group": st.text(min_size=1, max_size=128),
        "name": st.text(min_size=1, max_size=128),
        "host": st.text(min_size=1, max_size=256),
        "port": port,
        "host_id": st.text(max_size=128),
        "offers": st.text(max_size=64),
        "site": st.text(max_size=64),
        "min_size": st.integers(1, MAX_MEMBERS),
        "on_failure": st.sampled_from(["retry", "raise"]),
    },
    "ready": {"epoch": epoch},
    "plan": {"epoch": epoch, "plan": plan},
    "links": {
        "epoch": epoch,
        "rows": st.lists(st.tuples(member_id, member_id, latency, rate, st.integers(1, 64)).map(list), max_size=5),
    },
    "state": {
        "epoch": epoch,
        "round": number,
        "groups": st.dictionaries(gid, st.tuples(number, number, ids).map(list), max_size=5),
    },
    "accuse": {
        "epoch": epoch,
        "member": member_id,
        "evidence": st.sampled_from(["closed", "unacked"]),
        "text": st.text(max_size=1024),
    },
    "unreachable": {
        "epoch": epoch,
        "member": member_id,
        "number": number,
        "dialled": member_id,
        "text": st.text(max_size=1024),
    },
    **dict.fromkeys(("call_me", "called"), wanted),
    "way": {"epoch": epoch, "way": way},
    "stalled": {**operation, "call": call, "members": ids, "waiting_on": ids},
    "expired": {**operation, "call": call, "members": ids, "waiting_on": ids},
    "mismatch": {**operation, "call": call, "members": ids},
    "call": {**operation, "call": call},
    "health": {
        "epoch": epoch,
        **dict.fromkeys(("covers", "computed"), span),
        **dict.fromkeys(("operations", "ended"), number),
        "entered": st.dictionaries(gid, number, max_size=4),
        "open": st.lists(st.tuples(gid, epoch, number, name, number, span, span, ids).map(list), max_size=4),
        "samples": st.lists(st.tuples(gid, epoch, number, name, number, span, span).map(list), max_size=4),
        "flows": st.lists(st.tuples(member_id, number, span, span, span, st.integers(0, 2**31)).map(list), max_size=4),
    },
    "corrupt": {**operation, "members": ids, "confidence": st.integers(0, 1000), "text": st.text(max_size=1024)},
    "look": {"epoch": epoch, "members": ids},
    "welcome": {"member": member_id, "incarnation": st.text(max_size=64), "token": st.binary(min_size=8, max_size=8)},
    "rejected": {"text": st.text(max_size=200)},
    "pending": {"count": number},
    "halt": {"epoch": epoch, "round": number, "next": epoch, "heirs": ids},
    "view": {
        **view,
        "keys": st.lists(st.binary(min_size=32, max_size=32), max_size=5),
        "booth": st.none() | st.tuples(port, epoch, st.binary(min_size=32, max_size=32)).map(list),
    },
    "inquire": operation,
    "evicted": {"cause": st.text(max_size=200)},
    "standby": {"leader": st.text(max_size=256)},
    "report": {
        "group": st.text(min_size=1, max_size=128),
        "member": member,
        "next": epoch,
        "round": number,
        "heirs": ids,
        "view": st.none() | st.fixed_dictionaries(view),
        **run,
    },
    "record": {"view": st.fixed_dictionaries(view), "next_id": member_id, "next_epoch": epoch, **run},
    "watch": {"group": st.text(max_size=128), "number": number},
    "hail": {"number": number},
    "train": {"number": number, "load": st.binary(max_size=200), "back": st.integers(0, 65536)},
    "dial": {"number": number, "port": st.integers(1024, 65535), "token": st.binary(min_size=16, max_size=16)},
    "snapshot": {"number": number, "body": st.binary(max_size=200)},
    "groups": {
        "number": number,
        "rows": st.lists(
            st.tuples(st.text(max_size=128), st.text(max_size=16), epoch, number, number).map(list), max_size=4
        ),
    },
    "hailed": {
        "number": number,
        "wall": number,
        "seen": st.text(max_size=200),
        "leads": st.booleans(),
        "relay_port": st.integers(0, 65535),
        "facts": st.dictionaries(st.text(min_size=1, max_size=64), st.text(max_size=256), max_size=4),
    },
    "trained": {"number": number, "load": st.binary(max_size=200)},
    "dialled": {"number": number, "outcome": st.text(max_size=32), "text": st.text(max_size=200)},
    "unseen": {"number": number, "text": st.text(max_size=200)},
}
MESSAGE = st.sampled_from(TYPES).flatmap(
    lambda kind: st.fixed_dictionaries({"t": st.just(kind), **STRATEGIES.get(kind, {})})
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
KEYS = st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.booleans()
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=12)


def refused(data: bytes) -> str:
    """The text of the BadMessage that ``data`` must raise."""
    with pytest.raises(BadMessage) as caught:
        decode(data)
    return str(caught.value)


def accepted_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except BadMessage:
        return
    assert set(message) == {"t", *FIELDS[message["t"]]}


# ---- what is right ----------------------------------------------------------------------------------------------


def test_every_type_has_an_example() -> None:
    assert sorted(EXAMPLES) == TYPES


@pytest.mark.parametrize("kind", TYPES)
def test_an_example_of_each_type_survives_the_wire(kind: str) -> None:
    message = {"t": kind, **EXAMPLES[kind]}
    assert decode(encode(message)) == message


@given(MESSAGE)
def test_what_goes_out_comes_back(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


def test_fields_of_later_versions_are_left_out() -> None:
    """A newer minor revision may add fields; they do not reach a machine that knows nothing of them."""
    assert decode(encode({"t": "here", "colour": "blue"})) == {"t": "here"}


# ---- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in TYPES for field in FIELDS[kind]])
def test_a_missing_field_is_named(kind: str, field: str) -> None:
    message = {"t": kind, **EXAMPLES[kind]}
    del message[field]
    assert field in refused(encode(message))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ready", "epoch", -1),
        ("ready", "epoch", 2**63),
        ("ready", "epoch", True),  # an int in Python, no number on the wire
        ("ready", "epoch", 3.0),
        ("ready", "epoch", "3"),
        ("inquire", "gid", 2**32),
        ("join", "port", 0),
        ("join", "port", 65536),
        ("join", "name", ""),
        ("join", "name", "x" * 129),
        ("join", "name", b"lab"),
        ("join", "min_size", 0),
        ("join", "on_failure", "panic"),
        ("join", "on_failure", ["retry"]),
        ("accuse", "evidence", "hearsay"),
        ("accuse", "text", "x" * 1025),
        ("state", "groups", []),
        ("state", "groups", {"0": [0, 0, []]}),
        ("state", "groups", {0: [0, 0]}),
        ("state", "groups", {0: [0, 0, 1]}),
        ("state", "groups", {-1: [0, 0, []]}),
        ("welcome", "token", b"7 bytes"),
        ("welcome", "token", "8 bytes!"),
        ("view", "admitted", 1),
        ("view", "members", [[1, "a", "h", 1]]),
        ("view", "outcomes", {0: [1, 1]}),
        ("view", "broken", [[1]]),
        ("view", "ways", [[1, 3, 2, 3, 4]]),
        ("way", "way", [1, 3, 2, 2]),
        ("call_me", "streams", 0),
        ("view", "keys", [b"k" * 31]),
        ("view", "keys", ["k" * 32]),
        ("dial", "port", 22),  # nobody is made to dial a system's own services
        ("dial", "token", b"short"),
        ("train", "back", 65537),
        ("watch", "group", "x" * 129),
        ("stalled", "call", [1]),
        ("stalled", "call", {"fingerprint": 1, "text": ""}),
    ],
)
def test_a_value_out_of_range_is_refused_and_named(kind: str, field: str, value: Any) -> None:
    assert field in refused(encode({"t": kind, **EXAMPLES[kind], field: value}))


@pytest.mark.parametrize("wire", [{"t": "here"}, {"v": VERSION + 1, "t": "here"}, {"v": "1", "t": "here"}])
def test_another_version_is_refused(wire: dict[str, Any]) -> None:
    assert "version" in refused(msgpack.packb(wire))


def test_a_join_of_another_version_is_told_apart() -> None:
    join = {**EXAMPLES["join"], "t": "join"}
    assert is_other_version(msgpack.packb({"v": VERSION + 1, **join}))
    assert not is_other_version(encode(join))
    assert not is_other_version(msgpack.packb({"v": VERSION + 1, "t": "here"}))
    assert not is_other_version(b"GET / HTTP/1.1\r\n\r\n")


def test_an_unknown_type_is_refused() -> None:
    assert "unknown type" in refused(msgpack.packb({"v": VERSION, "t": "gossip"}))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x90", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100])
def test_rubbish_is_refused(data: bytes) -> None:
    refused(data)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_bad_message(data: bytes) -> None:
    accepted_or_refused(data)
    is_other_version(data)


@given(ANYTHING)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_msgpack_value_raises_anything_but_bad_message(value: Any) -> None:
    data = msgpack.packb(value)
    accepted_or_refused(data)
    is_other_version(data)


@given(st.sampled_from(TYPES), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_value_in_any_field_raises_anything_but_bad_message(kind: str, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(["t", "v", *FIELDS[kind]]))
    wire = {"v": VERSION, "t": kind, **EXAMPLES[kind], field: data.draw(ANYTHING)}
    packed = msgpack.packb(wire)
    accepted_or_refused(packed)
    is_other_version(packed)


@given(MESSAGE, st.data())
def test_a_damaged_message_raises_nothing_but_bad_message(message: dict[str, Any], data: st.DataObject) -> None:
    packed = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)))
    accepted_or_refused(bytes(packed))
    accepted_or_refused(bytes(packed[:cut]))


# ---- what is too large ------------------------------------------------------------------------------------------

UNPACKER_DEPTH = 1022  # lists within lists that msgpack still takes apart in a map


def nested(field: str, depth: int) -> bytes:
    """A message whose ``field`` is lists within lists."""
    key = msgpack.packb(field)
    other = b"" if field == "v" else msgpack.packb("v") + msgpack.packb(VERSION)
    other += b"" if field == "t" else msgpack.packb("t") + msgpack.packb("here")
    count = 1 + (field != "v") + (field != "t")
    return bytes([0x80 | count]) + other + key + b"\x91" * depth + b"\x90"


BOMBS = {
    "a string of 4 GiB": b"\x81\xdb" + struct.pack(">I", 2**32 - 1),
    "bytes of 4 GiB": b"\x81\xa1t\xc6" + struct.pack(">I", 2**32 - 1),
    "a list of 4 billion": b"\xdd" + struct.pack(">I", 2**32 - 1),
    "a map of 4 billion": b"\xdf" + struct.pack(">I", 2**32 - 1),
    "an extension of 4 GiB": b"\xc9" + struct.pack(">I", 2**32 - 1) + b"\x01",
    "a million lists within lists": b"\x91" * 1_000_000,
    "lists of lists of a map": (b"\xdc" + struct.pack(">H", MAX_MEMBERS)) + b"\x81\xa1t\x90" * MAX_MEMBERS,
    "one byte too long": b"\xc0" * (MAX_BYTES + 1),
    "a list one too long": msgpack.packb([0] * (MAX_MEMBERS + 1)),
    "a map one too long": msgpack.packb(dict.fromkeys(range(MAX_GROUPS + 1), 0)),
    "a long string": msgpack.packb("x" * 8193),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_refused_at_little_cost(name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    began = time.process_time()
    try:
        refused(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 2.0  # generous: tracing slows allocation down
    assert peak < 32 << 20


@pytest.mark.parametrize("depth", [10, 900, UNPACKER_DEPTH, UNPACKER_DEPTH + 1])
@pytest.mark.parametrize("field", ["x", "t", "v"])
def test_lists_within_lists_raise_nothing_but_bad_message(
    field: str, depth: int, request: pytest.FixtureRequest
) -> None:
    is_other_version(nested(field, depth))
    accepted_or_refused(nested(field, depth))


def test_too_long_a_message_is_not_sent() -> None:
    with pytest.raises(BadMessage, match="longer than"):
        encode({"t": "evicted", "cause": "x" * MAX_BYTES})
