"""How a run looks: live while it goes on, then tables and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from record import Cost, Record
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

NEWS_SHOWN = 8
PLAIN_WIDTH = 110  # where the output is a file or a pipe
STATE_COLOURS = {"training": "green", "averaging": "cyan", "killed": "red", "joining": "yellow", "finished": "blue"}


class Display:
    """Live tables on a terminal; on anything else one line for each round and each piece of news."""

    def __init__(self, record: Record):
        console = Console()
        self.console = console if console.is_terminal else Console(width=PLAIN_WIDTH, soft_wrap=True)
        self._record = record
        self._live = Live(console=console, refresh_per_second=5) if console.is_terminal else None
        self._news_printed = 0.0
        self._rounds_printed = -1

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._picture())
            self._live.stop()

    def update(self) -> None:
        if self._live is not None:
            self._live.update(self._picture())
        else:
            self._print_lines()

    def _print_lines(self) -> None:
        for at, text in self._record.news:
            if at > self._news_printed:
                self._news_printed = at
                self.console.print(f"{at:7.1f} s  {text}", highlight=False)
        for number, held_out in self._record.held_out():
            if number > self._rounds_printed:
                self._rounds_printed = number
                this = self._record.rounds[number]
                what = (
                    f"round {number:2}: {this.peers} peers, training loss {this.train:.3f}" if number else "untrained"
                )
                self.console.print(f"           {what}, held-out loss {held_out:.3f}", highlight=False)

    def _picture(self) -> RenderableType:
        record = self._record
        view = record.views[-1] if record.views else None
        held_out = record.held_out()
        head = Text.assemble(
            (f"round {min(record.latest + 1, record.rounds_wanted)} of {record.rounds_wanted}", "bold"),
            f"   view {view.epoch}: {len(view.members)} members" if view else "   waiting for the group to form",
            f"   held-out loss {held_out[-1][1]:.3f}" if held_out else "",
            f"   {_megabytes(record.bytes_sent)} sent",
        )
        table = Table(box=None, padding=(0, 2))
        for column in ("peer", "rank", "state", "round", "inner steps", "loss", "sent"):
            table.add_column(column, justify="left" if column in ("peer", "state", "inner steps") else "right")
        for peer in record.peers.values():
            dead = peer.state == "killed" or peer.state.startswith("failed")
            done = ProgressBar(record.inner_steps, peer.step, width=24, complete_style="red" if dead else "green")
            table.add_row(
                peer.name,
                "-" if peer.rank is None or dead else str(peer.rank),
                Text(peer.state, STATE_COLOURS.get(peer.state, "red" if dead else "")),
                str(peer.round),
                done,
                "" if peer.loss is None else f"{peer.loss:.3f}",
                _megabytes(peer.bytes_sent),
            )
        news = [Text(f"{at:7.1f} s  {text}", "dim") for at, text in record.news[-NEWS_SHOWN:]]
        return Group(head, table, Text(""), *news)


def print_report(console: Console, record: Record, costs: list[Cost], picture: Path) -> None:
    """The tables at the end."""
    console.print()
    console.print(_views_table(record))
    console.print(_peers_table(record))
    for cost in costs:
        console.print(_cost_table(cost))
    losses = record.held_out()
    if losses:
        console.print(
            f"Held-out loss: {losses[0][1]:.3f} nats per byte before, {losses[-1][1]:.3f} after "
            f"{losses[-1][0]} rounds of {record.inner_steps_taken()} inner steps."
        )
    console.print(f"Loss curve: {picture}")


def print_verdict(console: Console, digests: dict[str, str]) -> bool:
    """The hashes of the final parameters, and whether they are one."""
    for name, digest in digests.items():
        console.print(f"  sha256 of {name}'s parameters: {digest}", highlight=False)
    if digests and len(set(digests.values())) == 1:
        console.print(f"[green]All {len(digests)} peers ended with bit-identical parameters.[/]")
        return True
    console.print("[red]The peers' final parameters are NOT identical.[/]")
    return False


def _views_table(record: Record) -> Table:
    table = Table(title="Views", title_justify="left")
    for column in ("epoch", "at", "members", "cause"):
        table.add_column(column, justify="right" if column in ("epoch", "at") else "left")
    for row in record.views:
        table.add_row(str(row.epoch), f"{row.at:.1f} s", " ".join(row.members), row.cause)
    return table


def _peers_table(record: Record) -> Table:
    table = Table(title="Peers", title_justify="left")
    for column in ("peer", "end", "rounds", "steps", "sent", "received", "last loss"):
        table.add_column(column, justify="left" if column in ("peer", "end") else "right")
    for peer in record.peers.values():
        table.add_row(
            peer.name,
            peer.state,
            str(len(peer.losses)),
            str(sum(peer.steps.values())),
            _megabytes(peer.bytes_sent),
            _megabytes(peer.bytes_received),
            "" if peer.loss is None else f"{peer.loss:.3f}",
        )
    return table


def _cost_table(cost: Cost) -> Table:
    incident = cost.incident
    what = f"{incident.name} {incident.kind} in round {incident.round}"
    table = Table(title=f"Time lost: {what}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for line, seconds in cost.lines:
        table.add_row(line, _duration(seconds))
    table.add_row("[bold]time lost by the group", f"[bold]{_duration(cost.lost)}")
    return table


def save_report(path: Path, record: Record, costs: list[Cost], identical: bool) -> None:
    """The same as JSON, for programs."""
    path.write_text(
        json.dumps(
            {
                "held_out": record.held_out(),
                "views": [row.__dict__ for row in record.views],
                "peers": {
                    peer.name: {"end": peer.state, "bytes_sent": peer.bytes_sent, "sha256": peer.digest}
                    for peer in record.peers.values()
                },
                "time_lost": [{**cost.incident.__dict__, "seconds": cost.lost, "parts": cost.lines} for cost in costs],
                "identical": identical,
            },
            indent=1,
        )
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"
