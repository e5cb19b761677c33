"""`collcomm keys DIR`: a directory for the coordinator and one for each peer, to be carried to where each runs.

    DIR/ca.crt, DIR/ca.key                        signs certificates; stays where it is
    DIR/coordinator/curve.key, peers/NAME.pub     for Coordinator(keys=...)
    DIR/NAME/curve.key, coordinator.pub           for join(keys=...), one for all peers or one for each
    DIR/NAME/ca.crt, tls.crt, tls.key             ... and its data connections, unless --no-tls

Called again with other names it adds peers. What is there is never overwritten. Who loses ``peers/NAME.pub`` may not join again.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

import zmq

from .errors import CollcommError
from .membership.credentials import (
    CA_CERTIFICATE,
    CERTIFICATE,
    CERTIFICATE_KEY,
    COORDINATOR_KEY,
    CURVE_KEY,
    PEERS,
    parse_key,
    read_small,
)

CA_KEY = "ca.key"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="made if need be; nothing in it is overwritten")
    parser.add_argument("peers", nargs="*", metavar="NAME", help="peers with a key each; default: one for all, 'peer'")
    parser.add_argument("--no-tls", action="store_true", help="no certificates: data connections are not encrypted")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    made = make_keys(options.directory, options.peers or ["peer"], tls=not options.no_tls)
    print(f"coordinator:  collcomm coordinator --keys {options.directory / 'coordinator'} --bind HOST:PORT")
    for folder in made:
        print(f"peer:         collcomm.join(..., keys={str(folder)!r})")
    return 0


def make_keys(directory: Path, peers: Sequence[str], tls: bool = True) -> list[Path]:
    """Make what is missing, and a new directory for each of ``peers``; returns these. Raises CollcommError."""
    for name in peers:
        if not _NAME.fullmatch(name) or name == "coordinator":
            raise CollcommError(f"{name!r} cannot be a peer's name here: letters, digits, '.', '_' and '-', at most 64")
        if (directory / name).exists():
            raise CollcommError(
                f"{directory / name} is there already, and keys are never overwritten: take another name"
            )
    if len(set(peers)) != len(peers):
        raise CollcommError("each peer needs a name of its own")
    _folder(directory)
    public = _coordinator(directory / "coordinator")
    if tls:
        _authority(directory)
    return [_peer(directory, name, public, tls) for name in peers]


def _coordinator(folder: Path) -> bytes:
    """The coordinator's public key."""
    key = folder / CURVE_KEY
    if not key.exists():
        _folder(folder)
        _folder(folder / PEERS)
        _write(key, zmq.curve_keypair()[1])
    return bytes(zmq.curve_public(parse_key(read_small(key), str(key))))


def _authority(directory: Path) -> None:
    from . import certificates

    if not (directory / CA_KEY).exists():
        certificate, key = certificates.make_authority(f"collcomm {directory.name}")
        _write(directory / CA_KEY, key)
        _write(directory / CA_CERTIFICATE, certificate)


def _peer(directory: Path, name: str, coordinator: bytes, tls: bool) -> Path:
    folder = directory / name
    _folder(folder)
    public, secret = zmq.curve_keypair()
    _write(folder / CURVE_KEY, secret)
    _write(folder / COORDINATOR_KEY, coordinator)
    if tls:
        from . import certificates

        authority = read_small(directory / CA_CERTIFICATE)
        try:
            certificate, key = certificates.make_certificate(name, authority, read_small(directory / CA_KEY))
        except ValueError as error:
            raise CollcommError(
                f"{directory / CA_KEY} and {CA_CERTIFICATE} do not make an authority: {error}"
            ) from None
        _write(folder / CA_CERTIFICATE, authority)
        _write(folder / CERTIFICATE_KEY, key)
        _write(folder / CERTIFICATE, certificate)
    _write(directory / "coordinator" / PEERS / f"{name}.pub", public)  # last: now it may join
    return folder


def _folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CollcommError(f"cannot make the directory {path}: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    """A new file that its owner alone may read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.rstrip() + b"\n")
    except OSError as error:
        raise CollcommError(f"cannot write {path}: {error.strerror}; existing keys are never overwritten") from None
