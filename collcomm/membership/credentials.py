"""Who may talk on the control connections: CURVE keys, from a shared secret or from files that `collcomm keys` has made.

CURVE (CurveZMQ, after CurveCP) encrypts both connections of a peer, shows the peer that it talks to the right coordinator,
and lets the coordinator know each peer's key before it hears a message. With a shared secret all keys follow from it through
scrypt, so knowing it is all that one needs. With files each peer may have a key of its own.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from ..errors import AuthenticationFailed, CollcommError

SECRET_VARIABLE, KEYS_VARIABLE = "COLLCOMM_SECRET", "COLLCOMM_KEYS"
KEY_CHARACTERS = 40  # 32 bytes in z85
MOST_KEYS = 10_000
MOST_FILE_BYTES = 4096
RELOAD_SECONDS = 1.0  # how often files are looked at again, at most
_DOMAIN = b"collcomm"
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 64 << 20}  # some 40 ms and 16 MiB for each guess at a secret

CURVE_KEY, COORDINATOR_KEY, PEERS = "curve.key", "coordinator.pub", "peers"  # names of files and of a directory
CA_CERTIFICATE, CERTIFICATE, CERTIFICATE_KEY = "ca.crt", "tls.crt", "tls.key"


@dataclass(frozen=True)
class PeerCredentials:
    """``secret``, ``public``: this peer's key pair; ``coordinator``: the public key that the coordinator has to have."""

    source: str
    coordinator: bytes
    public: bytes
    secret: bytes = field(repr=False)
    certificates: Path | None = None  # a directory with those for data connections

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Make ``socket``, not yet connected, talk to that coordinator only."""
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        socket.curve_serverkey = self.coordinator


@dataclass(frozen=True)
class CoordinatorCredentials:
    """``allowed()``: the public keys of the peers, as raw bytes."""

    source: str
    secret: bytes = field(repr=False)
    allowed: Callable[[], frozenset[bytes]] = field(repr=False)

    def protect(self, context: zmq.Context[Any], socket: zmq.Socket[bytes]) -> None:
        """Make ``socket``, not yet bound, hear the allowed peers only. Ends with ``context.term()``."""
        asked = context.socket(zmq.REP)
        asked.bind("inproc://zeromq.zap.01")
        threading.Thread(target=self._judge, args=(asked,), name="collcomm-keys", daemon=True).start()
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.curve_secretkey = self.secret
        socket.curve_server = True

    def _judge(self, asked: zmq.Socket[bytes]) -> None:
        """Answer libzmq's questions about clients (ZeroMQ RFC 27)."""
        try:
            while True:
                frames = asked.recv_multipart()
                known = len(frames) == 7 and frames[5] == b"CURVE" and frames[6] in self.allowed()
                status = (b"200", b"OK") if known else (b"400", b"unknown key")
                asked.send_multipart([b"1.0", frames[1] if len(frames) > 1 else b"", *status, b"", b""])
        except zmq.ZMQError:
            pass  # the context was terminated: the coordinator is closing
        finally:
            asked.close(0)


def peer_credentials(secret: str | None = None, keys: str | os.PathLike[str] | None = None) -> PeerCredentials | None:
    """What a peer was given, as arguments or else in the environment; None: nothing. Raises CollcommError, ValueError."""
    secret, keys = _given(secret, keys)
    if keys is not None:
        return _peer_files(Path(keys))
    if secret is None:
        return None
    coordinator, peer = _derived(secret)
    return PeerCredentials("the shared secret", _public(coordinator), _public(peer), peer)


def coordinator_credentials(
    secret: str | None = None, keys: str | os.PathLike[str] | None = None
) -> CoordinatorCredentials | None:
    """The same for a coordinator."""
    secret, keys = _given(secret, keys)
    if keys is not None:
        return _coordinator_files(Path(keys))
    if secret is None:
        return None
    coordinator, peer = _derived(secret)
    known = frozenset([z85.decode(_public(peer))])
    return CoordinatorCredentials("the shared secret", coordinator, lambda: known)


def _given(secret: str | None, keys: str | os.PathLike[str] | None) -> tuple[str | None, str | os.PathLike[str] | None]:
    if secret is None and keys is None:
        secret, keys = os.environ.get(SECRET_VARIABLE) or None, os.environ.get(KEYS_VARIABLE) or None
    if secret is not None and keys is not None:
        raise ValueError(f"give secret= ({SECRET_VARIABLE}) or keys= ({KEYS_VARIABLE}), not both")
    if secret is not None and (not isinstance(secret, str) or not 0 < len(secret) <= MOST_FILE_BYTES):
        raise ValueError(f"secret must be a string of 1 to {MOST_FILE_BYTES} characters")
    return secret, keys


# -- a shared secret -----------------------------------------------------------------------------------------------------


@lru_cache(4)
def _derived(secret: str) -> tuple[bytes, bytes]:
    """Secret keys of the coordinator and of the peers."""
    raw = hashlib.scrypt(secret.encode(), salt=b"collcomm control keys 1", dklen=64, **_SCRYPT)
    return z85.encode(raw[:32]), z85.encode(raw[32:])


def _public(secret: bytes) -> bytes:
    return bytes(zmq.curve_public(secret))


# -- files ---------------------------------------------------------------------------------------------------------------


def parse_key(text: bytes, where: str) -> bytes:
    """A key in z85, as files hold it. Raises AuthenticationFailed, whatever ``text`` is."""
    key = text.strip()
    try:
        if len(key) == KEY_CHARACTERS and len(z85.decode(key)) == 32 and z85.encode(z85.decode(key)) == key:
            return key
    except Exception:  # z85 raises what its lookups raise
        pass
    raise AuthenticationFailed(
        f"{where} holds no key of {KEY_CHARACTERS} characters; make keys with: collcomm keys DIR"
    )


def read_small(path: Path) -> bytes:
    """A file's content, up to a limit. Raises AuthenticationFailed."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise AuthenticationFailed(f"cannot read {path}: {error.strerror}; make keys with: collcomm keys DIR") from None
    if len(data) > MOST_FILE_BYTES:
        raise AuthenticationFailed(f"{path} is longer than {MOST_FILE_BYTES} bytes: not a file of collcomm keys")
    return data


def read_secret(path: Path) -> str:
    """A shared secret from a file: its text, without the white space around it."""
    try:
        return read_small(path).decode().strip()
    except UnicodeDecodeError:
        raise AuthenticationFailed(f"{path} is not text") from None


def _key_in(path: Path) -> bytes:
    return parse_key(read_small(path), str(path))


def _peer_files(folder: Path) -> PeerCredentials:
    """``folder``: a peer's own, or the one that `collcomm keys` has made if there is one peer in it."""
    if not (folder / COORDINATOR_KEY).exists():
        found = sorted(path.parent for path in folder.glob(f"*/{COORDINATOR_KEY}"))
        if len(found) != 1:
            which = (
                f"one of {', '.join(path.name for path in found[:8])} in it" if found else "what collcomm keys makes"
            )
            raise AuthenticationFailed(f"keys: {folder} is not the directory of one peer; give {which}")
        folder = found[0]
    secret = _key_in(folder / CURVE_KEY)
    certificates = folder if (folder / CERTIFICATE).exists() else None
    return PeerCredentials(str(folder), _key_in(folder / COORDINATOR_KEY), _public(secret), secret, certificates)


def _coordinator_files(folder: Path) -> CoordinatorCredentials:
    if not (folder / PEERS).is_dir() and (folder / "coordinator" / PEERS).is_dir():
        folder = folder / "coordinator"
    secret = _key_in(folder / CURVE_KEY)
    return CoordinatorCredentials(str(folder), secret, _Allowed(folder / PEERS))


class _Allowed:
    """The public keys in a directory, read again now and then: a key is added and revoked while the coordinator runs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._known = self._read()
        self._read_at = time.monotonic()

    def __call__(self) -> frozenset[bytes]:
        if time.monotonic() - self._read_at > RELOAD_SECONDS:
            self._read_at = time.monotonic()
            try:
                self._known = self._read()
            except CollcommError:
                pass  # somebody writes there just now: what was known stays
        return self._known

    def _read(self) -> frozenset[bytes]:
        files = sorted(self._folder.glob("*.pub"))[:MOST_KEYS]
        if not files:
            raise AuthenticationFailed(f"{self._folder} holds no peer's public key (*.pub): nobody could join")
        return frozenset(z85.decode(_key_in(path)) for path in files)
