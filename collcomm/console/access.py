"""How commands that ask a coordinator are told where it is, and by which credentials."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..membership import Watch, read_secret

COORDINATOR_VARIABLE = "COLLCOMM_COORDINATOR"


def add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "coordinator", nargs="?", metavar="HOST:PORT", help=f"of the coordinator; default: {COORDINATOR_VARIABLE}"
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--secret-file", type=Path, metavar="FILE", help="with the secret of the group's peers")
    who.add_argument("--keys", type=Path, metavar="DIR", help="a peer's keys, as 'collcomm keys' has made them")


def coordinator_of(options: argparse.Namespace) -> str:
    """Raises ValueError when none is named."""
    address: str | None = options.coordinator or os.environ.get(COORDINATOR_VARIABLE)
    if not address:
        raise ValueError(f"which coordinator? Give HOST:PORT, or set {COORDINATOR_VARIABLE}")
    return address


def watch_of(options: argparse.Namespace) -> Watch:
    secret = None if options.secret_file is None else read_secret(options.secret_file)
    return Watch(coordinator_of(options), secret=secret, keys=options.keys)
