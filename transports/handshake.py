"""How a data connection proves that both its ends are members of the present view, before a frame is read.

    dialler                                    acceptor
    -------                                    --------
    greeting: who calls whom, epoch, nonce --> (waits until it has adopted that epoch)
                                           <-- answer: nonce; or OUTDATED: you will hear of a later view, or way
    proof: HMAC(key, "dialler"  | both)    -->
                                           <-- proof: HMAC(key, "acceptor" | both)

``both`` is greeting and answer, byte for byte: no field can be changed, no proof serves another connection, and a proof
sent back to its author is of the other direction. The key belongs to the pair of members and to the view: the
coordinator gives each member its keys with the view, so nobody can pass for somebody else, and who is not in the view has none.

Bytes in, bytes out: no sockets, no clock, no randomness here (nonces come as arguments).

    state       event                      to         out
    ----------  -------------------------  ---------  ---------------
    GREETING    greeting                   ASKED
    ASKED       answer(), later epoch      ASKED      (None: ask again)
    ASKED       answer(), older epoch      OUTDATED   answer OUTDATED
    ASKED       answer(), older way        OUTDATED   answer OUTDATED
    ASKED       answer(), this epoch       PROOF      answer with nonce
    PROOF       right proof                DONE       proof
    any         anything else              (Refused)
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from enum import Enum

from .frames import GREETING_BYTES, GREETING_MAGIC, NONCE_BYTES, BadFrame, Greeting

KEY_BYTES = 32
PROOF_BYTES = 32
ANSWER = struct.Struct(f"<4sB3x{NONCE_BYTES}s")
ANSWER_BYTES = ANSWER.size
PROCEED, OUTDATED = 1, 2
_DIALLER, _ACCEPTOR = b"collcomm dialler\0", b"collcomm acceptor"


class Refused(Exception):
    """The other end is not who it says, or not one of us."""


class Outdated(Exception):
    """The other end knows of a later view than ours, or of a later way between us: dial again when we know of it, too."""


class State(Enum):
    GREETING = "greeting"
    ASKED = "asked"
    OUTDATED = "outdated"
    PROOF = "proof"
    DONE = "done"


class _Side:
    """Collects exactly what is wanted; what follows on the connection is none of the handshake's business."""

    def __init__(self, wants: int):
        self.wants = wants  # bytes to be read next; 0 when there is nothing to be read now
        self._heard = b""

    def receive(self, data: bytes) -> bytes:
        """Take up to ``wants`` bytes; returns what to send. Raises Refused, at a dialler also Outdated."""
        assert len(data) <= self.wants
        self._heard += data
        self.wants -= len(data)
        if self.wants:
            return b""
        message, self._heard = self._heard, b""
        return self._take(message)

    def _take(self, message: bytes) -> bytes:
        raise NotImplementedError


class Dialler(_Side):
    """Send ``opening``, then feed `receive` until ``done``. ``key``: of this pair of members, in the greeting's epoch."""

    def __init__(self, greeting: Greeting, key: bytes):
        super().__init__(ANSWER_BYTES)
        self.opening = greeting.pack()
        self.done = False
        self._key = key
        self._both = b""

    def _take(self, message: bytes) -> bytes:
        if not self._both:
            magic, verdict, _ = ANSWER.unpack(message)
            if magic != GREETING_MAGIC or verdict not in (PROCEED, OUTDATED):
                raise Refused("what answers is not a collcomm peer of this version")
            if verdict == OUTDATED:
                raise Outdated
            self._both = self.opening + message
            self.wants = PROOF_BYTES
            return _proof(self._key, _DIALLER, self._both)
        if not hmac.compare_digest(message, _proof(self._key, _ACCEPTOR, self._both)):
            raise Refused("what answers could not prove that it is the member we look for")
        self.done = True
        return b""


class Acceptor(_Side):
    """Feed `receive`; in state ASKED call `answer`, again after each change of view, until it does not return None."""

    def __init__(self, nonce: bytes):
        super().__init__(GREETING_BYTES)
        self.state = State.GREETING
        self.greeting: Greeting | None = None
        self._nonce = nonce
        self._opening = b""
        self._key = b""
        self._both = b""

    def answer(
        self, member: int, epoch: int, keys: Mapping[int, bytes], ways: Mapping[int, int] | None = None
    ) -> bytes | None:
        """What to say to a greeting as ``member`` (-1: not known yet) in view ``epoch``, whose members have ``keys``; the present
        way to each has the number ``ways``, 0 if none is given."""
        greeting = self.greeting
        assert self.state is State.ASKED and greeting is not None
        if member < 0 or greeting.epoch > epoch:
            return None
        if greeting.called != member:
            raise Refused(f"it looks for member {greeting.called}, this is member {member}")
        old_way = not greeting.onward and ways is not None and greeting.way < ways.get(greeting.caller, 0)
        if greeting.epoch < epoch or old_way:
            self.state = State.OUTDATED
            return ANSWER.pack(GREETING_MAGIC, OUTDATED, bytes(NONCE_BYTES))
        key = keys.get(greeting.caller)
        if key is None or greeting.caller == member:
            raise Refused(f"it says that it is member {greeting.caller}, who is not in view {epoch}")
        if greeting.onward and greeting.onward not in keys:
            raise Refused(f"it looks for member {greeting.onward}, who is not in view {epoch}")
        answer = ANSWER.pack(GREETING_MAGIC, PROCEED, self._nonce)
        self._key, self._both = key, self._opening + answer
        self.state = State.PROOF
        self.wants = PROOF_BYTES
        return answer

    def _take(self, message: bytes) -> bytes:
        if self.state is State.GREETING:
            try:
                self.greeting = Greeting.unpack(message)
            except BadFrame as error:
                raise Refused(str(error)) from None
            self._opening = message
            self.state = State.ASKED
            return b""
        assert self.greeting is not None
        if not hmac.compare_digest(message, _proof(self._key, _DIALLER, self._both)):
            raise Refused(f"it could not prove that it is member {self.greeting.caller}")
        self.state = State.DONE
        return _proof(self._key, _ACCEPTOR, self._both)


def _proof(key: bytes, label: bytes, both: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise Refused("a pair key of the wrong length")
    return hmac.digest(key, label + both, "sha256")
