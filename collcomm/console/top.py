"""The command line of `collcomm top`: a group, live. Members for whom most others wait come first."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any

from ..errors import AuthenticationFailed, CollcommError
from ..membership import Watch
from . import units
from .access import add_access, coordinator_of, watch_of
from .keyboard import Keyboard
from .page import Page, page_of
from .status import page_of_groups

DESCRIPTION = """
What 'collcomm status' shows, once a second: members for whom most others wait come first. q or ctrl-C ends it. When the
coordinator is gone that is said, and it goes on when one is back.
"""
LOOK_SECONDS = 0.25  # between two looks for a signal
ASK_SECONDS = 2.0  # a coordinator that has not answered by then is said to be away
LINES_AROUND = 22  # of a screen, that are not rows of the members' table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_access(parser)
    parser.add_argument("--group", default="", metavar="NAME", help="which of several")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="default: %(default)s")
    parser.set_defaults(run=run)


class Feed:
    """What is to be seen now: the newest page that came, and how things stand with the coordinator.

    ``rows``: how many members there is room for.
    """

    def __init__(self, watch: Watch, address: str, group: str):
        self.page = Page((f"asking the coordinator at {address} ...",), ())
        self.notice = ""
        self._watch = watch
        self._address = address
        self._group = group
        self._seen_at: float | None = None

    def refresh(self, timeout: float, rows: int) -> None:
        """Ask once. Raises AuthenticationFailed: no use in asking again."""
        try:
            found = self._watch.look(self._group, timeout)
        except AuthenticationFailed:
            raise
        except CollcommError as error:  # away, a standby, or the group is not there (yet)
            age = None if self._seen_at is None else time.monotonic() - self._seen_at
            since = "" if age is None else f"; what is shown is {units.seconds(age)} old"
            self.notice = f"{error}{since}; asking again"
            return
        self._seen_at, self.notice = time.monotonic(), ""
        self.page = page_of_groups(found) if isinstance(found, list) else _page(found, rows)


def _page(snapshot: dict[str, Any], rows: int) -> Page:
    page = page_of(snapshot, by_waits=True, most_rows=max(4, rows))
    at = snapshot.get("at")
    when = f"   {units.clock(at)}" if isinstance(at, int | float) and 0 <= at < 1e11 else ""
    return Page((page.headline[0] + when, *page.headline[1:]), page.sheets)


def run(options: argparse.Namespace) -> int:
    if not 0.2 <= options.interval <= 3600:
        raise ValueError("--interval is a number of seconds from 0.2 to 3600")
    try:
        from rich.console import Console
        from rich.live import Live

        from .tables import drawn
    except ImportError as error:
        raise CollcommError(f"collcomm top needs {error.name}: pip install 'collcomm[cli]'") from None
    if not sys.stdout.isatty():
        raise CollcommError("collcomm top needs a terminal; 'collcomm status' prints the same once, also as --json")
    told: list[int] = []  # signals: exceptions out of a handler may get lost in others' callbacks
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    console = Console()
    with watch_of(options) as watch, Keyboard() as keyboard:
        feed = Feed(watch, coordinator_of(options), options.group)
        with Live(drawn(feed.page), console=console, screen=True, auto_refresh=False, transient=True) as live:
            due = 0.0
            while not told:
                if time.monotonic() >= due:
                    live.update(drawn(feed.page, feed.notice), refresh=True)
                    due = time.monotonic() + options.interval
                    feed.refresh(min(ASK_SECONDS, max(1.0, options.interval)), console.size.height - LINES_AROUND)
                    live.update(drawn(feed.page, feed.notice), refresh=True)
                if keyboard.pressed(min(LOOK_SECONDS, max(0.05, due - time.monotonic()))) in ("q", "Q", "\x03"):
                    break
    return 0
