"""The command line of `collcomm status`: one look at what a coordinator's groups are doing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ..membership import GroupLine
from .access import add_access, watch_of
from .page import Page, Sheet, open_findings, page_of, plain

DESCRIPTION = """
One look at a group: its members, what each does and for whom it waits, how fast, what is wrong, and what has happened last.
Without --group the only group is shown; if there are several, they are listed.
"""
EPILOG = "Exit code: 0; 1 when something is found to be wrong now; 2 when the coordinator cannot be asked."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add_access(parser)
    parser.add_argument("--group", default="", metavar="NAME", help="which of several")
    parser.add_argument("--json", action="store_true", help="print it all as JSON, times in seconds")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if not 0 < options.timeout <= 3600:
        raise ValueError("--timeout is a positive number of seconds, at most 3600")
    with watch_of(options) as watch:
        found = watch.look(options.group, options.timeout)
    if isinstance(found, list):
        print(json.dumps([asdict(line) for line in found]) if options.json else plain(page_of_groups(found)))
        return 0
    if options.json:
        print(json.dumps(found))
    else:
        show(page_of(found))
    return 1 if open_findings(found) else 0


def page_of_groups(groups: Sequence[GroupLine]) -> Page:
    if not groups:
        return Page(("this coordinator has no group: nobody has joined",), ())
    rows = tuple((line.name, line.state, str(line.epoch), str(line.members), str(line.pending)) for line in groups)
    sheet = Sheet("groups", ("name", "state", "view", "members", "waiting"), rows)
    return Page((f"{len(groups)} groups; name one with --group",), (sheet,))


def show(page: Page) -> None:
    """On a terminal as tables, if rich is there, otherwise as plain lines."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console

            from .tables import drawn
        except ImportError:
            pass
        else:
            Console().print(drawn(page))
            return
    print(plain(page))
