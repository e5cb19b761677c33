"""How the examples begin: one program that is the whole job, or one of its peers."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from children import die_with_owner

Part = Callable[[argparse.Namespace], int]


def run(arguments: Callable[[], argparse.Namespace], be_peer: Part, run_job: Part) -> int:
    """The exit status of the peer that ``--join`` asks for, or of the job."""
    die_with_owner()
    chosen = arguments()
    if chosen.join:
        return be_peer(chosen)
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        return run_job(chosen)
    except KeyboardInterrupt:
        print("interrupted; all peers are stopped", file=sys.stderr)
        return 130
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return 1


def fill_in(chosen: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Where nothing was chosen."""
    for name, value in settings.items():
        if getattr(chosen, name, None) is None:
            setattr(chosen, name, value)


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def positive(text: str) -> int:
    """For argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
