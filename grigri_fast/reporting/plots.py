"""Figures, drawn without a display: as PNG files, and as SVG for the inside of a page.

This is the only module that imports matplotlib. A function returns a figure; :func:`png` and
:func:`svg` turn it into a file's content. In a page a figure has the page's colours and font.
"""

import io
import json
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from . import inline_svg
from .html import printable

# What is drawn of results.csv: a panel's name, and its columns without train_ and val_.
PANELS = (
    ("Loss", "loss"),
    ("Micro-F1 at 0.5", "micro_f1"),
    ("Subset accuracy at 0.5", "subset_accuracy"),
)
_TRAIN, VAL = "#9aa5b1", "#d1495b"
INK, _FAINT, MUTED, _AXIS = "#2b2d42", "#e3e6ea", "#5f6b7a", "#b6bec9"
RUNS = (VAL, "#2f86c1", "#e09f3e", "#4fa083")
_BEST = "#f2c14e"
_WORDS: dict[str, Any] = {"fontsize": 9, "color": INK}
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}


def curves(history: list[dict[str, Any]], title: str) -> bytes:
    """Return a PNG with loss, micro-F1 and subset accuracy of train and val over the epochs.

    Args:
        history: the rows of ``results.csv``, one per epoch.
        title: what stands above the panels.
    """
    epochs = [row["epoch"] for row in history]
    figure = _titled(12, 3.9, title)
    # Training waits for this: a layout that is computed takes as long as all that is drawn.
    figure.set_layout_engine("none")
    places = {"left": 0.05, "right": 0.965, "bottom": 0.11, "top": 0.865, "wspace": 0.24}
    for axes, (name, key) in zip(figure.subplots(1, 3, gridspec_kw=places), PANELS, strict=True):
        last = {part: history[-1][f"{part}_{key}"] for part in ("train", "val")}
        for part, color, width in (("train", _TRAIN, 1.8), ("val", VAL, 2.4)):
            values = [row[f"{part}_{key}"] for row in history]
            marker = "o" if len(epochs) <= 12 else None
            axes.plot(epochs, values, color=color, lw=width, marker=marker, ms=4, label=part)
            above = (part == "val") == (last["val"] >= last["train"])
            shift, va = (1, "bottom") if above else (-1, "top")  # the two never cover each other
            place = {"xytext": (7, shift), "textcoords": "offset points", "va": va}
            text = f"{last[part]:.3f}"
            axes.annotate(text, (epochs[-1], last[part]), fontsize=9, color=color, **place)
        _plain(axes, name)
        axes.set_xlabel("epoch", **_WORDS)
        axes.set_xticks(whole_ticks(epochs[0], epochs[-1]))
        axes.margins(x=0.1)
    # Beside the title, where no curve runs. (To look for a place costs a slow machine a second.)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=2, **_LEGEND)
    return png(figure)


_FIXED = {  # what stays, in the colours of the ground; activations get a ramp of their own
    "weights": "#2b2d42",
    "buffers": "#4a4e69",
    "optimizer state": "#6c7a96",
    "gradients": "#9aa5b1",
    "input batch": "#cfd6de",
    "temporary": "#f2c14e",
}
_MAX_POINTS = 1500


def memory(
    series: dict[str, list[int]],
    phases: list[tuple[int, str]],
    title: str,
) -> bytes:
    """Return a PNG with the tensors of a step stacked by what they are for.

    Args:
        series: bytes after each operation, by kind, the lowest first.
        phases: where parts of the step began, as (operation, name).
        title: what stands above.
    """
    mib = np.array(list(series.values()), dtype=np.float64) / 2**20
    totals = mib.sum(0)
    peak_at = int(totals.argmax())
    num = mib.shape[1]
    shown = np.unique(
        np.append(np.linspace(0, num - 1, min(num, _MAX_POINTS)).astype(int), peak_at)
    )
    stages = [kind for kind in series if kind not in _FIXED]
    ramp = matplotlib.colormaps["YlOrRd"](np.linspace(0.85, 0.3, max(1, len(stages))))
    colors = _FIXED | dict(zip(stages, ramp, strict=True))

    figure = _titled(12, 5.2, title)
    axes = figure.subplots()
    stacked = axes.stackplot(shown, mib[:, shown], colors=[colors[kind] for kind in series], lw=0)
    axes.set_xlim(0, num - 1)
    axes.set_ylim(0, totals.max() * 1.13)
    for i, (start, name) in enumerate(phases):
        end = phases[i + 1][0] if i + 1 < len(phases) else num - 1
        axes.axvline(start, color=INK, lw=0.6, ls=":")
        if end - start > 0.02 * num:
            middle = (start + end) / 2
            axes.text(middle, totals.max() * 1.08, name, ha="center", **_WORDS)
    peak = totals[peak_at]
    place: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points"}
    axes.annotate(f"peak {peak:,.0f} MiB", (peak_at, peak), fontweight="bold", **_WORDS, **place)
    _plain(axes, "")
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("operations of the step, in order", **_WORDS)
    axes.set_ylabel("MiB of tensors", **_WORDS)
    names = [f"{kind}  {mib[i, peak_at]:,.0f}" for i, kind in enumerate(series)]
    axes.legend(
        stacked[::-1],
        names[::-1],
        title="MiB at the peak",
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        title_fontsize=9,
        alignment="left",
        **_LEGEND,
    )
    return png(figure)


_PANELS_PER_ROW = 4


def tuning(
    trials: list[dict[str, Any]],
    space: dict[str, dict[str, Any]],
    importance: dict[str, float],
    title: str,
) -> bytes:
    """Return a PNG with the score of each trial, in order and over each searched option.

    Args:
        trials: ``number``, ``state`` (done, pruned, failed), ``score`` and ``params`` of each.
        space: ``{"low", "high", "log"}`` or ``{"choices"}`` by option.
        importance: share by option, or empty.
        title: what stands above the panels.
    """
    num_panels = 1 + len(space)
    rows = math.ceil(num_panels / _PANELS_PER_ROW)
    columns = math.ceil(num_panels / rows)
    figure = _titled(3.1 * columns + 0.6, 3.2 * rows + 1.0, title)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)  # inches
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    _plain(panels[0], "by trial")
    _scores_by_trial(panels[0], trials)
    for axes, (name, values) in zip(panels[1:], space.items(), strict=False):
        share = f" ({importance[name]:.0%} of importance)" if name in importance else ""
        _plain(axes, f"{name}{share}")
        _scores_by_option(axes, trials, name, values)
    for axes in panels[num_panels:]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("validation mAP", **_WORDS)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", ncols=6, **_LEGEND)
    return png(figure)


def _scores_by_trial(axes: Axes, trials: list[dict[str, Any]]) -> None:
    """Draw the score of each trial in order, the best so far, and where one has failed."""
    done = [t for t in trials if t["state"] == "done"]
    best_so_far = np.maximum.accumulate([t["score"] for t in done])
    last = trials[-1]["number"]
    numbers = [*(t["number"] for t in done), last]
    scores = [*best_so_far, best_so_far[-1]]
    axes.step(numbers, scores, where="post", color=VAL, lw=1.6, label="best so far")
    _dots(axes, trials, [t["number"] for t in trials])
    failed = [t["number"] for t in trials if t["state"] == "failed"]
    if failed:
        axes.plot(
            failed, [0.03] * len(failed), ls="", marker="x", ms=6, mew=1.6, color=INK,
            transform=axes.get_xaxis_transform(), label="failed",  # it has no score
        )  # fmt: skip
    axes.set_xticks(whole_ticks(0, max(1, last), 6))
    axes.margins(x=0.08, y=0.12)


def _scores_by_option(
    axes: Axes, trials: list[dict[str, Any]], name: str, values: dict[str, Any]
) -> None:
    """Draw the score of each trial over one option."""
    chosen = [t["params"][name] for t in trials]
    if "choices" in values:
        choices = values["choices"]
        words = [{True: "on", False: "off"}.get(c, str(c)) for c in choices]
        # Trials with the same choice stand side by side; the golden ratio spreads them evenly.
        aside = [0.4 * (t["number"] * 0.618034 % 1) - 0.2 for t in trials]
        _dots(axes, trials, [choices.index(c) + a for c, a in zip(chosen, aside, strict=True)])
        axes.set_xticks(range(len(choices)), words)
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    low, high = values["low"], values["high"]
    _dots(axes, trials, chosen)
    if values["log"]:
        axes.set_xscale("log")
        edge = (high / low) ** 0.05
        axes.set_xlim(low / edge, high * edge)
        axes.tick_params(which="minor", length=0)
    else:
        edge = 0.05 * (high - low)
        axes.set_xlim(low - edge, high + edge)
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _dots(axes: Axes, trials: list[dict[str, Any]], xs: Sequence[float]) -> None:
    """Draw a dot per trial that has a score, with the first and the best marked."""
    done = [(x, t) for x, t in zip(xs, trials, strict=True) if t["state"] == "done"]
    best = max(done, key=lambda dot: dot[1]["score"])
    pruned = [
        (x, t)
        for x, t in zip(xs, trials, strict=True)
        if t["state"] == "pruned" and t["score"] is not None
    ]
    first = [dot for dot in done if dot[1]["number"] == 0 and dot is not best]
    star = "best, and where it started" if best[1]["number"] == 0 else "best"
    for label, dots, style in (
        ("pruned (at its last epoch)", pruned, {"color": _TRAIN, "mfc": "white", "ms": 5}),
        ("trained to the end", done, {"color": VAL, "mec": "white", "ms": 7}),
        ("where it started", first, {"color": INK, "mec": "white", "marker": "D", "ms": 7}),
        (star, [best], {"color": _BEST, "mec": INK, "marker": "*", "ms": 15, "mew": 0.8}),
    ):
        if dots:
            scores = [t["score"] for _, t in dots]
            look: dict[str, Any] = {"marker": "o", "zorder": 3} | style
            axes.plot([x for x, _ in dots], scores, ls="", label=label, **look)


# ---------------------------------------------------------------- figures of several runs


def comparison(
    histories: dict[str, list[dict[str, Any]]],
    reported: dict[str, dict[str, float]],
) -> Figure:
    """Return a figure with the curves of several runs in the same axes.

    Args:
        histories: by a run's name the rows of its ``results.csv``; validation is drawn in full,
            training dashed.
        reported: by a run's name the scores (``micro_f1``, ``subset_accuracy``) that a report gives
            for it: dotted lines. Names that are no runs here are left out.
    """
    figure = _figure(10.5, 4.1)
    num_epochs = max(len(history) for history in histories.values())
    for axes, (name, key) in zip(figure.subplots(1, 3), PANELS, strict=True):
        for color, (run, history) in zip(RUNS, histories.items(), strict=False):
            epochs = [row["epoch"] for row in history]
            marker = "o" if num_epochs <= 12 else None
            dashed = {"lw": 1.4, "ls": (0, (3, 2)), "alpha": 0.65}
            for part, style in (("train", dashed), ("val", {"lw": 2.4})):
                values = [row[f"{part}_{key}"] for row in history]
                label = f"{run}, {'training' if part == 'train' else 'validation'}"
                axes.plot(epochs, values, color=color, label=label, marker=marker, ms=4, **style)
            if key in reported.get(run, {}):
                label = f"{run}, in the report"
                axes.axhline(reported[run][key], color=color, lw=1.4, ls=":", label=label)
        _plain(axes, name)
        axes.set_xlabel("epoch", **_WORDS)
        axes.set_xticks(whole_ticks(1, num_epochs))
        if num_epochs == 1:
            axes.set_xlim(0.5, 1.5)
        low, high = axes.get_ylim()
        if low < 0:  # no loss and no score is: a margin around zeros alone would look as if
            axes.set_ylim(-0.03 * max(high, 0.1), max(high, 0.1))
    handles, labels = figure.axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(histories), **_LEGEND)
    return figure


def against(
    rows: list[tuple[str, float | None, tuple[float, float, float] | None]],
    xlabel: str,
) -> Figure:
    """Return a figure with a line per row: what a report gives, and ours with its interval.

    Args:
        rows: name, the report's score (or None), ours as (score, low, high) (or None).
        xlabel: which score it is.
    """
    figure = _figure(10.5, 1.1 + 0.34 * len(rows))
    axes = figure.subplots()
    for y, (_, theirs, ours) in enumerate(rows):
        if theirs is not None and ours is not None:
            axes.plot([theirs, ours[0]], [y, y], color=_FAINT, lw=5, solid_capstyle="round")
        if ours is not None:
            axes.plot(ours[1:], [y, y], color=VAL, lw=2)
            axes.plot(ours[0], y, "o", color=VAL, ms=8, label="ours, with its 95 % interval")
        if theirs is not None:
            style: dict[str, Any] = {"color": RUNS[1], "ms": 7, "mew": 2, "fillstyle": "none"}
            axes.plot(theirs, y, "D", label="the report", **style)
    _plain(axes, "")
    axes.grid(axis="x", color=_FAINT)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.0 if any(_above(row, 0.85) for row in rows) else 0.86)
    axes.set_xlabel(xlabel, **_WORDS)
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=2, **_LEGEND)
    return figure


def _above(row: tuple[str, float | None, tuple[float, float, float] | None], limit: float) -> bool:
    _, theirs, ours = row
    return max(theirs or 0, ours[2] if ours else 0) > limit


def bars(names: list[str], columns: dict[str, list[float]], xlabel: str) -> Figure:
    """Return a figure with a group of horizontal bars per name, a bar per column."""
    figure = _figure(10.5, 0.9 + 0.12 * (len(columns) + 1) * len(names))
    axes = figure.subplots()
    height = 0.8 / len(columns)
    for i, (column, values) in enumerate(columns.items()):
        places = [y - 0.4 + height * (i + 0.5) for y in range(len(names))]
        color = RUNS[i % len(RUNS)]
        axes.barh(places, values, height=0.88 * height, color=color, label=column)
    _plain(axes, "")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=_FAINT)
    axes.set_yticks(range(len(names)), map(printable, names), parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.02)
    axes.set_xlabel(xlabel, **_WORDS)
    axes.legend(loc="lower right", **_LEGEND)
    return figure


def over_threshold(
    thresholds: list[float],
    scores: dict[str, list[float]],
    marks: dict[str, float],
) -> Figure:
    """Return a figure of scores over the threshold, with vertical lines at ``marks``."""
    figure = _figure(10.5, 4.1)
    axes = figure.subplots()
    for color, (name, values) in zip(RUNS, scores.items(), strict=False):
        axes.plot(thresholds, values, color=color, lw=2.4, label=name)
    for style, (name, place) in zip((":", "--", "-."), marks.items(), strict=False):
        axes.axvline(place, color=INK, lw=1.2, ls=style, label=f"{name} ({place:.3f})")
    _plain(axes, "")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threshold on the probability", **_WORDS)
    figure.legend(loc="outside lower left", ncols=5, **_LEGEND)
    return figure


# -------------------------------------------------------------------------- style and files

FONT_PX = 11  # of a small figure, where it is as wide in the page as it is here


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def _titled(width: float, height: float, title: str) -> Figure:
    """Return an empty figure with a title; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    return figure


def _plain(axes: Axes, title: str) -> None:
    """Give axes the look of the house: a title on the left, faint lines, no frame."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(axis="y", color=_FAINT)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)


def whole_ticks(first: int, last: int, most: int = 10) -> list[float]:
    """Return round whole numbers from ``first`` to ``last`` for an axis."""
    ticks = MaxNLocator(most, integer=True, min_n_ticks=1).tick_values(first, last)
    return [t for t in ticks if first <= t <= last]


def round_ticks(values_N: NDArray[np.float64]) -> list[float]:
    """Return about four round numbers for an axis of values, the ends around those; NaN is none."""
    finite = values_N[np.isfinite(values_N)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    if low == high:
        pad = abs(low) / 10 or 1.0
        low, high = (low and low - pad), high + pad
    return list(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def panel(
    width_px: int, height_px: int, xlabel: str, ylabel: str = "", *, left: float = 36, top: int = 12
) -> tuple[Figure, Axes]:
    """Return a figure for a page with axes of fixed margins, which is fast and in line."""
    figure = Figure(figsize=(width_px / 72, height_px / 72), dpi=72)
    left, bottom, right = left + 16 * bool(ylabel), 37, 12
    size = (width_px - left - right) / width_px, (height_px - bottom - top) / height_px
    axes = figure.add_axes((left / width_px, bottom / height_px, *size))
    axes.patch.set_visible(False)
    _plain(axes, "")
    axes.grid(axis="y", color=_FAINT, lw=1, clip_on=False)
    axes.tick_params(bottom=False, left=False, labelsize=FONT_PX, labelcolor=MUTED, pad=6)
    axes.spines["bottom"].set(color=_AXIS, lw=1, zorder=1)
    axes.set_xlabel(xlabel, fontsize=FONT_PX, color=MUTED, labelpad=3)
    axes.set_ylabel(ylabel, fontsize=FONT_PX, color=MUTED)
    axes.yaxis.set_major_formatter("{x:.10g}")
    axes.xaxis.set_major_formatter("{x:.10g}")
    return figure, axes


def add_tooltips(artist: Artist, *texts: str) -> None:
    """Give an artist a tooltip in a page; to a line with markers, one to each of them."""
    artist.set_gid(inline_svg.TIPS + json.dumps(texts))


def png(figure: Figure, dpi: float | None = None) -> bytes:
    """Return a figure as the content of a PNG file, with the figure's own ``dpi`` by default."""
    if dpi is not None:
        figure.set_dpi(dpi)
    canvas, engine = FigureCanvasAgg(figure), figure.get_layout_engine()
    if engine is not None:  # here, and not in savefig, which draws all of it twice for that
        engine.execute(figure)
        figure.set_layout_engine("none")
    content = io.BytesIO()
    canvas.print_png(content)
    return content.getvalue()


_PAGE_COLOURS = {
    **{INK: "ink", _FAINT: "grid", MUTED: "muted", _AXIS: "axis", "#ffffff": "surface"},
    **{colour: f"colour-{number}" for number, colour in enumerate(RUNS, start=1)},
}


def svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an ``<svg>`` for the inside of a page; the same text for the same figure.

    It has no background, and the page's font and colours. Text stays text.

    Args:
        figure: what to draw.
        name: the ids within begin with it, so that they are unique in a page of several figures.
        label: what the figure shows, for those who do not see it.
    """
    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "grigri-fast"}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg.of(content.getvalue(), name, label, _PAGE_COLOURS)
