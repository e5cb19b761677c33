"""The loss curve as a picture, with the moments at which peers were killed and joined."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from record import Record

HELD_OUT, TRAIN, KILLED, JOINED = "#1f4e9c", "#e08214", "#b2182b", "#1b7837"


def save_curve(path: Path, record: Record) -> None:
    """Losses over rounds above, seconds per round below; PNG."""
    figure, (losses, seconds) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 6.5), height_ratios=(3, 1), constrained_layout=True
    )
    _draw_losses(losses, record)
    _draw_seconds(seconds, record)
    for axes in (losses, seconds):
        for incident in record.incidents:
            colour = KILLED if incident.kind == "killed" else JOINED
            axes.axvline(incident.round - 0.5, color=colour, linestyle="--", linewidth=1.3, zorder=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    for incident in record.incidents:
        losses.annotate(
            f"{incident.name} {incident.kind}",
            (incident.round - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            color=KILLED if incident.kind == "killed" else JOINED,
            fontsize=9,
        )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_losses(axes: Axes, record: Record) -> None:
    for index, peer in enumerate(record.peers.values()):
        label = "training, each peer" if index == 0 else None
        axes.plot(*_columns(peer.losses), color=TRAIN, alpha=0.4, linewidth=0.9, marker=".", markersize=3, label=label)
    means = {number: this.train for number, this in record.rounds.items() if number and this.train is not None}
    axes.plot(*_columns(means), color=TRAIN, linewidth=1.8, label="training, mean of the peers")
    held_out = dict(record.held_out())
    axes.plot(*_columns(held_out), color=HELD_OUT, linewidth=2.4, marker="o", markersize=4, label="held-out")
    if held_out:
        for number in (min(held_out), max(held_out)):
            axes.annotate(
                f"{held_out[number]:.2f}",
                (number, held_out[number]),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                color=HELD_OUT,
            )
    axes.set_ylabel("loss, nats per byte")
    axes.set_title("DiLoCo on the source of Python's standard library, while peers die and join", loc="left")
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.93))


def _draw_seconds(axes: Axes, record: Record) -> None:
    taken = record.round_seconds()
    bars = axes.bar(list(taken), list(taken.values()), width=0.7, color="#9db4d3")
    peers = [str(record.rounds[number].peers) for number in taken]
    axes.bar_label(bars, peers, fontsize=8, padding=1, color="#555555")
    axes.set_ylabel("seconds per round")
    axes.set_xlabel("round (number above a bar: peers that contributed)")
    axes.margins(y=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _columns(points: dict[int, float]) -> tuple[list[int], list[float]]:
    return sorted(points), [points[number] for number in sorted(points)]
