"""The small figures of a run's page; the page's colours and font are theirs (see ``plots.svg``)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import plots
from .plots import Axes, Figure

DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))  # of more runs than there are colours


def over_epochs(history: list[dict[str, Any]], key: str) -> Figure:
    """Return a page's figure of one column of ``results.csv``: train and val over the epochs."""
    epochs = [row["epoch"] for row in history]
    curves = [
        _Curve(part, epochs, _column(history, f"{part}_{key}"), {"color": colour})
        for part, colour in (("train", plots.MUTED), ("val", plots.VAL))
    ]
    for curve in curves:
        curve.style["label"] = f"{curve.name} {curve.values[-1]:.3f}".replace("nan", "-")
    figure, axes = _drawn(curves, 360, 220, top=26, num_ticks=5, has_markers=len(epochs) <= 40)
    _legend_above(axes)
    return figure


def of_runs(histories: dict[str, list[dict[str, Any]]], key: str) -> Figure:
    """Return a page's figure of one column of ``results.csv``: val of several runs over the epochs.

    Args:
        histories: by a run's name the rows of its ``results.csv``.
        key: the column without ``val_``.
    """
    curves = []
    for number, (name, history) in enumerate(histories.items()):
        dashes = DASHES[number // len(plots.RUNS) % len(DASHES)]
        style = {"color": plots.RUNS[number % len(plots.RUNS)], "ls": dashes}
        epochs = [row["epoch"] for row in history]
        curves.append(_Curve(name, epochs, _column(history, f"val_{key}"), style))
    num_points = sum(map(len, histories.values()))
    return _drawn(curves, 420, 240, num_ticks=6, has_markers=num_points <= 120)[0]


@dataclass(frozen=True)
class _Curve:
    """Values over the epochs, and how their line is drawn."""

    name: str
    epochs: list[int]
    values: NDArray[np.float64]
    style: dict[str, Any]


def _column(history: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """Return a column of ``results.csv``; what is not finite or not there is NaN, a gap."""
    values = np.array([row.get(key, np.nan) for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _drawn(
    curves: list[_Curve],
    width: int,
    height: int,
    *,
    num_ticks: int,
    has_markers: bool,
    top: int = 12,
) -> tuple[Figure, Axes]:
    """Return a figure of curves over the epochs, with axes that end at round numbers."""
    ticks = plots.round_ticks(np.concatenate([curve.values for curve in curves]))
    left = 12 + 6.5 * max(len(f"{tick:.10g}") for tick in ticks)
    figure, axes = plots.panel(width, height, "epoch", left=left, top=top)
    for curve in curves:
        (line,) = axes.plot(curve.epochs, curve.values, lw=2, clip_on=False, **curve.style)
        if has_markers:
            line.set(marker="o", ms=6, mec="white", mew=1.5)
            points = zip(curve.epochs, curve.values, strict=True)
            tips = [f"{curve.name}, epoch {e}: {v:.4f}" for e, v in points if not np.isnan(v)]
            plots.add_tooltips(line, *tips)
    epochs = [epoch for curve in curves for epoch in curve.epochs] or [0]
    first, last = int(min(epochs)), int(max(epochs))
    ends = (first, last) if first < last else (first - 1, last + 1)
    axes.set(xlim=ends, xticks=plots.whole_ticks(*ends, num_ticks))
    axes.set(yticks=ticks, ylim=(ticks[0], ticks[-1]))
    return figure, axes


def precision_recall(
    recall: Sequence[float],
    precision: Sequence[float],
    *,
    at: tuple[float, float] | None,
    tip: str = "",
    label: str = "",
    frequency: float | None = None,
    is_small: bool = False,
) -> Figure:
    """Return a page's figure of precision over recall.

    Args:
        recall, precision: of the cuts, recall ascending.
        at: recall and precision that are reached, a dot; None for none.
        tip, label: what the dot says, as a tooltip and beside it.
        frequency: what guessing reaches, a dashed line.
        is_small: one of many.
    """
    figure, axes = plots.panel(*((260, 200) if is_small else (400, 270)), "recall", "precision")
    if frequency is not None:
        axes.axhline(frequency, color=plots.MUTED, lw=1.5, ls=(0, (3, 3)), clip_on=False)
    edges = [0.0, *recall]
    axes.stairs(precision, edges, fill=True, color=plots.VAL, alpha=0.13, lw=0, clip_on=False)
    axes.stairs(precision, edges, baseline=None, color=plots.VAL, lw=2, clip_on=False)
    if at is not None:
        _mark(axes, *at, tip, label)
    _unit(axes)
    return figure


def trade_off(
    thresholds: Sequence[float],
    lines: dict[str, Sequence[float]],
    marks: dict[str, float],
    reached: float | None,
) -> Figure:
    """Return a page's figure of scores over the threshold.

    Args:
        thresholds: of the points.
        lines: scores by name; the first in full, the others dashed.
        marks: thresholds that are in use, by what a vertical line there says.
        reached: the first score at the only mark, a dot.
    """
    figure, axes = plots.panel(400, 270, "a label is given from this probability on", top=26)
    colours = (plots.RUNS[0], *plots.RUNS[2:])
    for number, (name, values) in enumerate(lines.items()):
        style = {"lw": 1.5, "ls": (0, (3, 3))} if number else {"lw": 2, "zorder": 2.5}
        axes.plot(thresholds, values, color=colours[number], label=name, clip_on=False, **style)
    for tip, place in marks.items():
        line = axes.axvline(place, color=plots.RUNS[1], lw=1.5, ls=(0, (2, 2)), clip_on=False)
        plots.add_tooltips(line, tip)
        if reached is not None:
            _mark(axes, place, reached, tip, f"{place:.4f}: {reached:.4f}")
    _unit(axes)
    _legend_above(axes)
    return figure


def calibration(said: Sequence[float], true: Sequence[float]) -> Figure:
    """Return a page's figure of the share that is true over the mean predicted probability."""
    figure, axes = plots.panel(400, 270, "predicted probability", "share that is true", top=26)
    axes.plot(
        [0, 1],
        [0, 1],
        color=plots.MUTED,
        lw=1.5,
        ls=(0, (3, 3)),
        label="as it should be",
        clip_on=False,
    )
    style: dict[str, Any] = {
        "marker": "o",
        "ms": 7,
        "mec": "white",
        "mew": 1.5,
        "lw": 2,
        "clip_on": False,
    }
    (line,) = axes.plot(said, true, color=plots.VAL, label="this model", **style)
    points = zip(said, true, strict=True)
    plots.add_tooltips(
        line, *(f"said {s:.4f}, true {t:.4f}" for s, t in points if math.isfinite(s + t))
    )
    _unit(axes)
    _legend_above(axes)
    return figure


def histogram(edges: Sequence[float], counts: Sequence[int]) -> Figure:
    """Return a page's figure of counts, on a logarithmic axis, between ``edges`` from 0 to 1."""
    figure, axes = plots.panel(400, 230, "predicted probability", "labels (log)", left=62)
    least = 0.6  # a single label is to be seen
    axes.set_yscale("log")
    axes.set_ylim(least, max(10, 1.6 * max(counts)))
    heights = [max(0, count - least) for count in counts]
    style: dict[str, Any] = {"align": "edge", "color": plots.VAL, "ec": "white", "clip_on": False}
    bars = axes.bar(edges[:-1], heights, np.diff(edges), bottom=least, **style)
    for bar, low, high, count in zip(bars, edges[:-1], edges[1:], counts, strict=True):
        plots.add_tooltips(bar, f"{low:.1f} to {high:.1f}: {count:,}")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(0, 1)
    axes.grid(axis="x", visible=False)
    return figure


def _unit(axes: Axes) -> None:
    """Let both axes go from 0 to 1."""
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=np.arange(6) / 5, yticks=np.arange(5) / 4)


def _mark(axes: Axes, x: float, y: float, tip: str, label: str = "") -> None:
    """Draw a dot that says something, with its label on the side where there is room."""
    style: dict[str, Any] = {
        "marker": "o",
        "ms": 10,
        "mec": "white",
        "mew": 1.5,
        "zorder": 4,
        "clip_on": False,
    }
    plots.add_tooltips(axes.plot(x, y, color=plots.RUNS[1], **style)[0], tip)
    shift, ha = (8, "left") if x + 0.05 + 0.018 * len(label) < 1 else (-8, "right")
    place: dict[str, Any] = {"xytext": (shift, 8), "textcoords": "offset points", "ha": ha}
    axes.annotate(label, (x, y), fontsize=plots.FONT_PX, color=plots.INK, gid="strong", **place)


def _legend_above(axes: Axes) -> None:
    """Put the legend above the axes, where no line runs."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.05), ncols=4, frameon=False, fontsize=plots.FONT_PX,
        labelcolor=plots.MUTED, handlelength=1.3, columnspacing=1.2, borderpad=0, borderaxespad=0,
    )  # fmt: skip
