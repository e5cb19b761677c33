"""The proof that opens a data connection: who is let in, who is not, and that no bytes break it."""

from __future__ import annotations

import pytest
from collcomm.transports.frames import GREETING_BYTES, NONCE_BYTES, Greeting
from collcomm.transports.handshake import (
    ANSWER_BYTES,
    PROOF_BYTES,
    Acceptor,
    Dialler,
    Outdated,
    Refused,
    State,
)
from hypothesis import given
from hypothesis import strategies as st

from collcomm.membership.pairkeys import pair_keys, view_secret

SECRET = b"s" * 32
EPOCH = 4
MEMBERS = (1, 2, 3)


def keys_of(member: int, epoch: int = EPOCH, secret: bytes = SECRET) -> dict[int, bytes]:
    return dict(zip(MEMBERS, pair_keys(view_secret(secret, epoch), member, MEMBERS), strict=True))


def greeting(**fields: object) -> Greeting:
    usual = Greeting(EPOCH, 7, 3, 1, 0, 1, 0, b"d" * NONCE_BYTES)
    return usual._replace(**fields)


def dialler(key: bytes | None = None, **fields: object) -> Dialler:
    said = greeting(**fields)
    return Dialler(said, keys_of(3)[1] if key is None else key)


def acceptor(opening: bytes, nonce: bytes = b"a" * NONCE_BYTES) -> Acceptor:
    side = Acceptor(nonce)
    assert side.wants == len(opening)
    assert side.receive(opening) == b"" and side.wants == 0
    return side


def answered(side: Acceptor, member: int = 1, epoch: int = EPOCH) -> bytes:
    answer = side.answer(member, epoch, keys_of(1))
    assert answer is not None
    return answer


def test_members_of_one_view_come_together() -> None:
    near = dialler()
    far = acceptor(near.opening)
    proof = near.receive(answered(far))
    assert len(proof) == far.wants == PROOF_BYTES and not near.done
    counter = far.receive(proof)
    assert near.receive(counter) == b""
    assert near.done and far.state is State.DONE and near.wants == far.wants == 0
    assert far.greeting == greeting()


@given(st.lists(st.integers(1, 7), min_size=1, max_size=40))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    near, far = dialler(), Acceptor(b"a" * NONCE_BYTES)
    turn = 0

    def feed(side: Dialler | Acceptor, data: bytes) -> bytes:
        nonlocal turn
        out = b""
        while data:
            count = min(cuts[turn % len(cuts)], side.wants)
            out += side.receive(data[:count])
            data = data[count:]
            turn += 1
        return out

    assert feed(far, near.opening) == b""
    feed(near, feed(far, feed(near, answered(far))))
    assert near.done and far.state is State.DONE


def test_a_greeting_of_a_later_view_waits_for_it() -> None:
    near = dialler()
    far = acceptor(near.opening)
    assert far.answer(-1, -1, {}) is None
    assert far.answer(1, EPOCH - 1, keys_of(1, EPOCH - 1)) is None
    assert far.state is State.ASKED
    far.receive(near.receive(answered(far)))
    assert far.state is State.DONE


def test_a_greeting_of_an_older_view_is_told_so() -> None:
    near = dialler()
    far = acceptor(near.opening)
    answer = far.answer(1, EPOCH + 1, keys_of(1, EPOCH + 1))
    assert answer is not None and far.state is State.OUTDATED
    with pytest.raises(Outdated):
        near.receive(answer)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_two_ways_the_later_one_counts(number: int) -> None:
    """Who knows of way 2 turns away one that comes by way 1, and lets in one that knows more."""
    near = dialler(way=number)
    far = acceptor(near.opening)
    answer = far.answer(1, EPOCH, keys_of(1), {3: 2, 2: 9})
    assert answer is not None
    if number < 2:
        with pytest.raises(Outdated):
            near.receive(answer)
    else:
        far.receive(near.receive(answer))
        assert far.state is State.DONE


def test_a_relay_serves_members_of_its_view_only() -> None:
    near = dialler(onward=2)
    far = acceptor(near.opening)
    assert far.answer(1, EPOCH, keys_of(1), {3: 2}) is not None and far.state is State.PROOF
    with pytest.raises(Refused, match="looks for member 8, who is not in view"):
        answered(acceptor(dialler(onward=8).opening))
    with pytest.raises(Refused, match="impossible"):
        acceptor(dialler(onward=3).opening)


STRANGERS = {
    "no key of the view": (b"k" * 32, {}),
    "the key of another view": (keys_of(3, EPOCH - 1)[1], {}),
    "the key of another run": (keys_of(3, secret=b"t" * 32)[1], {}),
    "the name of another member": (keys_of(3)[1], {"caller": 2}),
    "its key with another member": (keys_of(3)[2], {}),
}


@pytest.mark.parametrize(("key", "fields"), STRANGERS.values(), ids=STRANGERS.keys())
def test_who_cannot_prove_it_is_refused(key: bytes, fields: dict[str, int]) -> None:
    near = dialler(key, **fields)
    far = acceptor(near.opening)
    with pytest.raises(Refused, match="could not prove"):
        far.receive(near.receive(answered(far)))
    assert far.state is not State.DONE


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"caller": 9}, "who is not in view 4"), ({"caller": 1}, "member 1"), ({"called": 2}, "looks for member 2")],
)
def test_who_is_no_member_or_looks_for_another_is_refused(fields: dict[str, int], text: str) -> None:
    far = acceptor(dialler(**fields).opening)
    with pytest.raises(Refused, match=text):
        far.answer(1, EPOCH, keys_of(1))


def test_what_was_heard_of_one_connection_opens_no_other() -> None:
    near = dialler()
    first = acceptor(near.opening)
    proof = near.receive(answered(first))
    counter = first.receive(proof)
    second = acceptor(near.opening, nonce=b"b" * NONCE_BYTES)
    answered(second)
    with pytest.raises(Refused):
        second.receive(proof)
    again = dialler(nonce=b"e" * NONCE_BYTES)
    again.receive(answered(acceptor(again.opening)))
    with pytest.raises(Refused):
        again.receive(counter)


def test_a_proof_sent_back_proves_nothing() -> None:
    near = dialler()
    proof = near.receive(answered(acceptor(near.opening)))
    with pytest.raises(Refused):
        near.receive(proof)


@given(st.integers(0, GREETING_BYTES - 1), st.integers(1, 255))
def test_every_field_of_a_greeting_is_under_the_proof(position: int, flip: int) -> None:
    near = dialler()
    changed = bytearray(near.opening)
    changed[position] ^= flip
    far = Acceptor(b"a" * NONCE_BYTES)
    try:
        far.receive(bytes(changed))
        answer = far.answer(1, EPOCH, keys_of(1))
        if answer is None or far.state is State.OUTDATED:
            return
        far.receive(near.receive(answer))
    except Refused:
        return
    raise AssertionError(f"byte {position} may be changed unnoticed")


@given(st.integers(0, ANSWER_BYTES - 1), st.integers(1, 255))
def test_every_field_of_an_answer_is_under_the_proof(position: int, flip: int) -> None:
    near = dialler()
    far = acceptor(near.opening)
    changed = bytearray(answered(far))
    changed[position] ^= flip
    with pytest.raises((Refused, Outdated)):
        far.receive(near.receive(bytes(changed)))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_let_anybody_in_or_raise_anything_else(first: bytes, second: bytes) -> None:
    far, near = Acceptor(b"a" * NONCE_BYTES), dialler()
    good = acceptor(dialler().opening)
    answered(good)
    for side, data in ((far, first), (near, first), (near, second), (good, second)):
        try:
            while data and side.wants:
                count = side.wants
                side.receive(data[:count])
                data = data[count:]
        except (Refused, Outdated):
            pass
    assert not near.done and good.state is not State.DONE and far.state in (State.GREETING, State.ASKED)


def test_each_pair_has_a_key_of_its_own_in_each_view() -> None:
    keys = {epoch: {member: keys_of(member, epoch) for member in MEMBERS} for epoch in (1, 2)}
    pairs = {(epoch, frozenset((a, b))): keys[epoch][a][b] for epoch in (1, 2) for a in MEMBERS for b in MEMBERS}
    assert len(set(pairs.values())) == len(pairs)
    assert all(keys[epoch][a][b] == keys[epoch][b][a] for epoch in (1, 2) for a in MEMBERS for b in MEMBERS)
