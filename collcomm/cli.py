"""The `collcomm` command."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from . import __version__
from .bench import command as bench
from .errors import CollcommError
from .membership import PRESETS, run_coordinator
from .simulate import command as simulate


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="collcomm", description="Collective communication over changing groups.")
    parser.add_argument("--version", action="version", version=f"collcomm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    coordinator = commands.add_parser("coordinator", help="run the rendezvous that peers join")
    coordinator.add_argument("--bind", default="0.0.0.0:48148", metavar="HOST:PORT", help="default: %(default)s")
    coordinator.add_argument("--network", choices=sorted(PRESETS), default="lan", help="time limits to go by")
    coordinator.set_defaults(run=_coordinator)
    bench.add_arguments(commands.add_parser("bench", help="time collectives, also against torch's Gloo"))
    simulate.add_arguments(commands.add_parser("simulate", help="attack the protocol with seeded random histories"))
    options = parser.parse_args(arguments)
    try:
        result: int = options.run(options)
    except (CollcommError, ValueError, PermissionError) as error:
        print(f"collcomm: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return result


def _coordinator(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run_coordinator(options.bind, PRESETS[options.network])
    return 0
