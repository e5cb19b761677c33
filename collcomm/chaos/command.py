"""The command line of `collcomm chaos`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import CollcommError
from .report import goodput, print_summary, summarise
from .runner import WORKLOAD, Run, Settings
from .schedule import KINDS, Fault, make_schedule, parse_kinds, read_schedule, write_schedule

DEFAULT_KINDS = "kill:4,stop,partition,slow,corrupt,coordinator"
DESCRIPTION = """
Starts peers of your program and a coordinator on this machine, hurts them by a seeded schedule, and reports how fast that
was noticed, how fast work went on, and how much was done meanwhile. The program needs no change where it calls
collcomm.join() without an address: address and name come from the environment (COLLCOMM_COORDINATOR, COLLCOMM_NAME, ...).
Its loop should call step(), so that replacements come in, and count as steps.
"""
EPILOG = (
    "faults:\n"
    + "\n".join(f"  {kind:12} {text}" for kind, text in KINDS.items())
    + """

A corrupt frame is one whose header is changed (its first four bytes), which the receiver has to notice. Payload is left alone:
a change there passes TCP's checksum, which covers what the relay sends, and only an encrypted connection would notice.
Whose link breaks three times within 30 s is evicted by the coordinator; that is no failure where so many were corrupted.

Exit code: 0; 1 when a peer fails that was not hit, or completes nothing for --stuck seconds; 2 for wrong arguments.

  collcomm chaos -- python train.py
  collcomm chaos --kinds kill --every 15 --seconds 120 --baseline 40 -- python -m collcomm.chaos.workload --compute 0.2
                                                                       goodput with a death each 15 s
  collcomm chaos --kinds kill,spawn --every 0.5 --seconds 1800 --peers 6 --most 10 --no-replace --spare 1
"""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "collcomm chaos [options] [-- PROGRAM [ARGUMENT ...]]"
    parser.add_argument("--peers", type=int, default=4, metavar="N", help="at the beginning; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run; default: %(default)s")
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="mean time between faults; %(default)s"
    )
    parser.add_argument("--kinds", default=DEFAULT_KINDS, metavar="KIND[:WEIGHT],...", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule; default: %(default)s")
    parser.add_argument("--schedule", type=Path, metavar="FILE", help="inflict the faults in this file instead")
    parser.add_argument(
        "--print-schedule", action="store_true", help="print the schedule, for --schedule, and do nothing"
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="until an ended peer is replaced; default: %(default)s",
    )
    parser.add_argument("--no-replace", action="store_true", help="peers that end are not replaced (see spawn)")
    parser.add_argument("--least", type=int, default=2, metavar="N", help="members that are left in peace; %(default)s")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="peers that spawn goes up to; %(default)s")
    parser.add_argument("--spare", type=int, default=0, metavar="N", help="never hit the first N peers")
    parser.add_argument(
        "--stuck",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="without a completed operation: failed; %(default)s",
    )
    parser.add_argument(
        "--baseline",
        type=float,
        nargs="?",
        const=20.0,
        metavar="SECONDS",
        help="run so long (20) without faults, half before and half after",
    )
    parser.add_argument("--journal", action="store_true", help="the coordinator writes its views down")
    parser.add_argument("--network", default="lan", help="the coordinator's time limits; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the peers' output and event logs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, times in seconds")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    faults = _schedule(options)
    if options.print_schedule:
        sys.stdout.write(write_schedule(faults))
        return 0
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        return _run(options, faults, options.out)
    with tempfile.TemporaryDirectory(prefix="collcomm-chaos-") as place:
        return _run(options, faults, Path(place))


def _schedule(options: argparse.Namespace) -> list[Fault]:
    if options.seconds <= 0 or options.every <= 0:
        raise ValueError("--seconds and --every are positive numbers of seconds")
    if options.schedule is None:
        return make_schedule(options.seed, parse_kinds(options.kinds), options.every, options.seconds)
    try:
        return read_schedule(options.schedule.read_text())
    except OSError as error:
        raise ValueError(f"--schedule {options.schedule}: {error.strerror}") from None


def _run(options: argparse.Namespace, faults: list[Fault], place: Path) -> int:
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    settings = Settings(
        place / "run",
        command=program or WORKLOAD,
        peers=options.peers,
        least=options.least,
        most=max(options.most, options.peers),
        pause=None if options.no_replace else options.pause,
        spare=options.spare,
        stuck=options.stuck,
        coordinator=("--network", options.network),
    )
    calm = [] if options.baseline is None else [_calm(settings, place / "before", options.baseline / 2)]
    journal = ("--journal", str(place / "journal")) if options.journal else ()
    one = Run(replace(settings, coordinator=(*settings.coordinator, *journal)), faults, options.seconds)
    one.execute()
    if calm and not one.failures:  # before and after: what else the machine does changes meanwhile
        calm.append(_calm(settings, place / "after", options.baseline / 2))
    baseline = sum(calm) / len(calm) if calm else None
    summary = {"seed": options.seed, "schedule": write_schedule(faults), **summarise(one, baseline)}
    print_summary(summary)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1))
    if one.failures:
        print(f"\nReplay: --seed {options.seed} and the same options, or --print-schedule and --schedule FILE")
    return 1 if one.failures else 0


def _calm(settings: Settings, place: Path, seconds: float) -> float:
    """The goodput of a run without faults."""
    run = Run(replace(settings, directory=place), [], seconds)
    run.execute()
    if run.failures:
        raise CollcommError("a run without faults has failed: " + "\n".join(run.failures))
    found = goodput(run.records, run.began, run.ended)
    print(f"without faults, {seconds:g} s: {found:.2f} steps x peers per second")
    return found
