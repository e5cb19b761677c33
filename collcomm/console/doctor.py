"""The command line of `collcomm doctor`: finds out what is wrong between this host and a coordinator, step by step."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from ..errors import CollcommError
from ..membership import Hail, Watch
from ..transports.addresses import format_address, parse_addresses
from . import limits
from .access import add_access, coordinator_of, watch_of
from .acquaintance import dialled_back, greet, translation
from .checkup import Deadline, Level, Line, in_words, worst
from .path import TRAIN_SECONDS, bandwidth, packets
from .reach import RESOLVE_SECONDS, Place, card_towards, dial, judge_port, local_address, resolve

CONNECT_SECONDS = 4.0
PACKET_SECONDS = 5.0
LONGEST = 600.0
DESCRIPTION = """
Looks, from this host, at all that a peer needs: the coordinator's name and port, the card and address that are used, the size
of packets, credentials and versions, the clock, bandwidth, whether others can dial this host, and what the kernel allows. Each
line says ok, note, warning or problem, and what to do next.
"""
EPILOG = "Exit code: 0; 1 when there is a problem; 2 for wrong arguments."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add_access(parser)
    parser.add_argument("--json", action="store_true", help="as JSON: seconds, bytes, bytes per second")
    parser.add_argument(
        "--timeout", type=float, default=20.0, metavar="SECONDS", help="for all of it; default: %(default)s"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="to be dialled back on, such as the one in COLLCOMM_LISTEN; default: a free one",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if not 1 <= options.timeout <= LONGEST:
        raise ValueError(f"--timeout is a number of seconds from 1 to {LONGEST:g}")
    if options.port and not 1024 <= options.port <= 65535:
        raise ValueError("--port is a number from 1024 to 65535: a coordinator dials no others")
    host, port = parse_addresses(coordinator_of(options))[0]
    options.coordinator = format_address(host, port)  # one at a time
    lines = list(examine(options, host, port, Deadline(options.timeout)))
    level = worst(lines)
    if options.json:
        rows = [line.row() for line in lines]
        print(json.dumps({"coordinator": options.coordinator, "level": level.value, "lines": rows}))
    else:
        print(in_words(lines))
    return 1 if level is Level.PROBLEM else 0


def examine(options: argparse.Namespace, host: str, port: int, deadline: Deadline) -> Iterator[Line]:
    """Step by step; what needs an earlier step that has failed is left out."""
    place, line = resolve(host, port, deadline.within(RESOLVE_SECONDS))
    yield line
    if place is not None:
        yield from _towards(options, place, deadline)
    yield from limits.of_this_host()


def _towards(options: argparse.Namespace, place: Place, deadline: Deadline) -> Iterator[Line]:
    line = card_towards(place)
    yield line
    if line.level is Level.PROBLEM:
        return
    where = format_address(place.address, place.port)
    sock, outcome, took = dial(place, place.port, deadline.within(CONNECT_SECONDS))
    yield judge_port("port", where, outcome, took, local_address(place))
    if sock is None:
        return
    with sock:
        yield packets(place, sock, deadline.within(PACKET_SECONDS))
    try:
        watch = watch_of(options)
    except (CollcommError, ValueError) as error:
        yield Line("credentials", Level.PROBLEM, str(error))
        return
    with watch:
        hail, lines = greet(watch, deadline)
        yield from lines
        if hail is not None:
            yield from _acquainted(options, watch, place, hail, deadline)


def _acquainted(
    options: argparse.Namespace, watch: Watch, place: Place, hail: Hail, deadline: Deadline
) -> Iterator[Line]:
    yield translation(place, hail)
    yield dialled_back(watch, place, options.port, deadline)
    yield _relay(place, hail, deadline)
    for upwards in (True, False):
        if deadline.left < TRAIN_SECONDS / 4:
            yield Line("rate", Level.NOTE, "not measured: no time was left (--timeout)")
            return
        yield bandwidth(watch, upwards, deadline.left)


def _relay(place: Place, hail: Hail, deadline: Deadline) -> Line:
    """Of members that cannot dial each other."""
    if not hail.relay_port:
        return Line("relay", Level.NOTE, "the coordinator does not relay for peers that cannot dial each other")
    sock, outcome, took = dial(place, hail.relay_port, deadline.within(CONNECT_SECONDS / 2))
    if sock is not None:
        sock.close()
    line = judge_port("relay", format_address(place.address, hail.relay_port), outcome, took, local_address(place))
    if line.level is Level.OK:
        return line
    advice = (
        f"fix it with --relay-port there, and let it in; only needed where peers cannot dial each other. {line.advice}"
    )
    return Line(line.what, Level.WARNING, line.text, advice, line.facts)
