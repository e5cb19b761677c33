"""Pictures of what dumps say: timelines, lateness, what a byte takes from whom to whom, durations."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..health.review import Review
from . import units

INK, PAPER, GRID = "#22303c", "#ffffff", "#e3e8ed"
HUES = ["#2f6fde", "#2a9d8f", "#8e5bd0", "#7a5c3e", "#4f7f3a", "#c65f8f", "#5c6f82"]
TROUBLE, OPEN = "#d62839", "#f2a541"
HEAT = LinearSegmentedColormap.from_list("heat", ["#eaf2fb", "#f2c14e", "#e4572e", "#7d1128"])
MOST_NAMED = 32  # members whose names or figures fit
MOST_CLASSES = 12
MOST_MARKED = 10  # times the least: over a wider range of colours only powers of ten are marked
SHORTEST = 1e-7  # seconds; what took no time at all is drawn as that

Draw = Callable[[Axes, Review], None]


def draw_timeline(axes: Axes, review: Review) -> None:
    """When each peer was in which operation; at the right end, the dump."""
    spans = [span for one in review.timeline.values() for span in one]
    if not spans:
        return _say(axes, "no operations")
    origin = max(span.end for span in spans)
    begin = min(span.start for span in spans)
    kinds = sorted({span.kind for span in spans})
    hue = {kind: HUES[number % len(HUES)] for number, kind in enumerate(kinds)}
    for row, member in enumerate(review.timeline):
        shown = review.timeline[member]
        colors = [OPEN if one.outcome == "open" else TROUBLE if one.outcome else hue[one.kind] for one in shown]
        bars = [(one.start - origin, max(one.end - one.start, SHORTEST)) for one in shown]
        axes.broken_barh(bars, (row - 0.38, 0.76), facecolors=colors, edgecolors=PAPER, linewidth=0.2)
    axes.set_xlim(begin - origin, (origin - begin) * 0.01 or 1e-3)
    _name_rows(axes, [_name(review, member) for member in review.timeline])
    axes.set_xlabel("seconds before the last record")
    marks = [Line2D([], [], color=hue[kind], linewidth=6, label=kind) for kind in kinds[: len(HUES)]]
    marks += [Line2D([], [], color=OPEN, linewidth=6, label="open")] * any(one.outcome == "open" for one in spans)
    failed = any(one.outcome not in ("", "open") for one in spans)
    marks += [Line2D([], [], color=TROUBLE, linewidth=6, label="failed")] * failed
    axes.legend(handles=marks, ncols=len(marks), loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=8)


def draw_lateness(axes: Axes, review: Review) -> None:
    if not review.lateness:
        return _say(axes, "nothing to compare: operations of two peers or more are needed")
    rows = range(len(review.lateness))
    axes.barh(rows, [one.high * 1e3 for one in review.lateness], color="#c9d8ee", label="99 in 100 are less")
    axes.barh(rows, [one.median * 1e3 for one in review.lateness], height=0.45, color=HUES[0], label="median")
    _name_rows(axes, [_name(review, one.member) for one in review.lateness])
    axes.set_xlabel("ms later than the first")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)


def draw_costs(axes: Axes, review: Review) -> None:
    if not review.costs:
        return _say(axes, "no transfers")
    members = sorted({member for cell in review.costs for member in cell})
    place = {member: number for number, member in enumerate(members)}
    table = [[float("nan")] * len(members) for _ in members]
    for (source, target), cost in review.costs.items():
        table[place[source]][place[target]] = max(cost, 1e-15) * 1e9
    shown = [cost for row in table for cost in row if cost == cost]
    low, high = min(shown), max(shown)
    norm = LogNorm(low / 1.01, max(high, 4 * low))  # what is nearly equal looks so
    wide = high > MOST_MARKED * low
    image = axes.imshow(table, cmap=HEAT, norm=norm)
    axes.grid(visible=False)
    names = [_name(review, member) for member in members]
    if len(members) <= MOST_NAMED:
        axes.set_xticks(range(len(members)), names, rotation=45, ha="right", fontsize=8)
        _name_rows(axes, names)
        for row, costs in enumerate(table):
            for column, cost in enumerate(costs):
                if cost == cost and len(members) <= MOST_NAMED // 2:
                    red, green, blue, _ = HEAT(norm(cost))
                    ink = INK if red * 0.3 + green * 0.6 + blue * 0.1 > 0.55 else PAPER
                    axes.text(column, row, f"{cost:.3g}", ha="center", va="center", fontsize=7, color=ink)
    axes.set_xlabel("to")
    axes.set_ylabel("from")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, label="ns per byte")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.yaxis.set_minor_formatter(lambda value, _: "" if wide else f"{value:.3g}")
    bar.ax.tick_params(which="both", labelsize=8)


def draw_durations(axes: Axes, review: Review) -> None:
    """Of the most frequent classes."""
    often = sorted(review.durations, key=lambda one: -one.operations)[:MOST_CLASSES]
    shown = sorted(often, key=lambda one: (one.kind, one.nbytes))
    if not shown:
        return _say(axes, "no operations have been completed")
    for row, one in enumerate(shown):
        middle, high, longest = (max(value, SHORTEST) for value in (one.median, one.high, one.longest))
        axes.plot([middle, longest], [row, row], color=GRID, linewidth=3, zorder=1)
        axes.plot([middle, high], [row, row], color="#c9d8ee", linewidth=6, zorder=2, solid_capstyle="butt")
        axes.plot([middle], [row], "o", color=HUES[0], zorder=3)
        axes.plot([longest], [row], "|", color=INK, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: units.seconds(value))
    axes.xaxis.set_minor_formatter(lambda *_: "")
    _name_rows(axes, [f"{one.kind} {units.size(one.nbytes)}" for one in shown])
    axes.set_xlabel("median, 99 in 100, longest")


PANELS: dict[str, tuple[Draw, tuple[float, float]]] = {
    "Timeline": (draw_timeline, (12.0, 0.0)),  # the height follows from the number of peers
    "Durations": (draw_durations, (6.0, 4.2)),
    "Lateness": (draw_lateness, (6.0, 4.2)),
    "What a byte takes": (draw_costs, (6.0, 5.0)),
}


def panel(review: Review, title: str) -> bytes:
    """One of `PANELS`, as PNG."""
    draw, (width, height) = PANELS[title]
    figure, axes = plt.subplots(figsize=(width, height or _height(review)), constrained_layout=True)
    _dress(axes)
    draw(axes, review)
    return _png(figure)


def save_picture(path: Path, review: Review, title: str) -> None:
    """All panels in one PNG. Raises OSError."""
    high = _height(review)
    figure = plt.figure(figsize=(15, high + 5.5), constrained_layout=True)
    grid = figure.add_gridspec(2, 3, height_ratios=[high, 5.0])
    places = [grid[0, :], grid[1, 0], grid[1, 1], grid[1, 2]]
    for (name, (draw, _)), place in zip(PANELS.items(), places, strict=True):
        axes = figure.add_subplot(place)
        _dress(axes)
        draw(axes, review)
        axes.set_title(name, loc="right", color=INK, fontsize=11)
    figure.suptitle(title, color=INK, fontsize=14, parse_math=False)
    path.write_bytes(_png(figure))


def _height(review: Review) -> float:
    return 1.6 + 0.32 * min(max(1, len(review.timeline)), 64)


def _name(review: Review, member: int) -> str:
    return review.names.get(member, f"member {member}")[:24].replace("$", r"\$")


def _name_rows(axes: Axes, names: list[str]) -> None:
    step = max(1, len(names) // MOST_NAMED)
    axes.set_yticks(range(0, len(names), step), names[::step], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _say(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=INK, transform=axes.transAxes)


def _dress(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    try:
        figure.savefig(data, format="png", dpi=110, facecolor=PAPER)
    finally:
        plt.close(figure)
    return data.getvalue()
