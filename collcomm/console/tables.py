"""A page as rich draws it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .page import Page, Sheet, narrowed

RIGHT = frozenset({"rank", "age", "waited for by", "op/s", "sent", "received", "late", "heard", "rtt", "sure"})


def drawn(page: Page, notice: str = "") -> RenderableType:
    """``notice``: something to be seen first."""
    parts: list[RenderableType] = [Text(notice, style="bold red")] if notice else []
    parts += [Text(line, style="bold" if number == 0 else "") for number, line in enumerate(page.headline)]
    parts += [_table(narrowed(sheet)) for sheet in page.sheets]
    return Group(*parts)


def _table(sheet: Sheet) -> Table:
    table = Table(title=sheet.title, title_justify="left", box=SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for column in sheet.columns:
        numeric = column in RIGHT
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric or column in ("name", "at"))
    for number, row in enumerate(sheet.rows):  # as Text: names are no markup
        table.add_row(*(Text(cell) for cell in row), style="red" if number in sheet.grave else "")
    return table
