"""The command lines of `collcomm trace` and `collcomm report`: what flight recorders have left behind, for people to look at."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ..errors import CollcommError
from ..health.dump import Dump
from ..health.dumpfiles import find_dumps, newest, read_dump
from ..health.replay import diagnose
from ..health.review import Review, review
from ..health.trace import MOST_EVENTS, chrome_trace
from .units import printable

MOST_SHOWN = 2000  # characters of what dumps say, on a terminal
HINT = "Peers write dumps into the directory that COLLCOMM_DUMP_DIR names: when they fail, and when they get SIGUSR1."


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Makes a trace, for https://ui.perfetto.dev or chrome://tracing, of all peers on one clock. {HINT}"
    )
    _add_common(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("trace.json"), metavar="FILE", help="%(default)s")
    parser.add_argument("--last", type=_seconds, metavar="SECONDS", help="only so many; default: all that are kept")
    parser.add_argument(
        "--most", type=int, default=MOST_EVENTS, metavar="EVENTS", help="of too many, the last ones; %(default)s"
    )
    parser.set_defaults(run=run_trace)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"Makes a report in one file that can be attached to an issue. {HINT}"
    _add_common(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="%(default)s")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the pictures alone, too")
    parser.set_defaults(run=run_report)


def run_trace(options: argparse.Namespace) -> int:
    if options.most < 1:
        raise ValueError(f"--most is 1 or more, not {options.most}")
    dumps = _dumps(options)
    trace = chrome_trace(dumps, options.last, options.most)
    options.output.write_text(json.dumps(trace, separators=(",", ":")))
    about = trace["otherData"]
    print(f"{options.output}: {len(trace['traceEvents']):,} events of {_peers(dumps)}")
    if about["left out"]:
        print(f"left out: {about['left out']:,} earlier records; --most takes more, --last fewer")
    print("open it at https://ui.perfetto.dev (nothing is uploaded) or chrome://tracing")
    return 0


def run_report(options: argparse.Namespace) -> int:
    try:
        from .plots import save_picture
        from .report import in_words, page
    except ImportError as error:
        raise CollcommError(f"collcomm report needs {error.name}: pip install 'collcomm[report]'") from None
    dumps = _dumps(options)
    found: Review = review(dumps)
    findings = diagnose(dumps)
    options.output.write_text(page(found, findings), encoding="utf-8")
    print(f"{options.output}: {_peers(dumps)}")
    if found.missing:
        names = ", ".join(found.names.get(member, f"member {member}") for member in found.missing)
        print(printable(f"no dump of: {names}", MOST_SHOWN))
    for finding in findings:
        print(printable(f"{in_words(found, finding)}; {finding.evidence}", MOST_SHOWN))
    if options.png:
        save_picture(options.png, found, f"Group {dumps[0].header.group}")
        print(f"drawn: {options.png}")
    return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dumps", nargs="+", type=Path, metavar="DUMP", help="files, or directories with such files")
    parser.add_argument("--group", help="where there are dumps of several: of this one")


def _dumps(options: argparse.Namespace) -> list[Dump]:
    """The newest of each peer. Says which files are not used."""
    found = []
    for path in find_dumps(options.dumps):
        try:
            found.append(read_dump(path))
        except ValueError as error:
            print(printable(f"left out: {error}", MOST_SHOWN))
    if options.group is not None:
        found = [dump for dump in found if dump.header.group == options.group]
    if not found:
        raise ValueError("there is no dump that can be used")
    used = newest(found)
    if len(used) < len(found):
        print(f"left out: {len(found) - len(used)} of {len(found)} dumps, which later ones of the same peers replace")
    return used


def _peers(dumps: list[Dump]) -> str:
    return f"{len(dumps)} {'peer' if len(dumps) == 1 else 'peers'} of group '{printable(dumps[0].header.group)}'"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return seconds
