"""The page of a learning curve, and its part of a run's page: how much more images would bring."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..evaluation.bootstrap import Interval
from ..evaluation.curve import ClassCurve, Curve
from ..evaluation.extrapolation import Extrapolation
from . import html, plots
from .plots import Axes, Figure

_MAX_CURVES = 60  # classes with a figure of their own
_ORDER = ("yes", "perhaps", "no", "")


def to_html(curve: Curve, title: str, lead: str, facts: list[tuple[str, str]]) -> str:
    """Return the page; the same text for the same curve.

    Args:
        curve: what was measured.
        title, lead: the page's heading, and what stands below.
        facts: names and values below that.
    """
    return html.render(
        "learning_curve.html.j2", title=title, lead=lead, facts=facts, curve=section(curve)
    )


def section(curve: Curve) -> dict[str, Any]:
    """Return what the macro ``learning_curve`` shows: the curve, its figures, classes in order."""
    label = "Micro-F1 and mAP over the number of training images"
    shown = by_need(curve)[:_MAX_CURVES]
    return {
        "curve": curve,
        "figure": Markup(plots.svg(scores_over_images(curve), "learning-curve", label)),
        "classes": by_need(curve),
        "figures": [(c, _class_figure(curve, c, i)) for i, c in enumerate(shown) if c.twice],
    }


def by_need(curve: Curve) -> list[ClassCurve]:
    """Return the classes: those that more images would help come first, by how much."""
    return sorted(
        curve.per_class,
        key=lambda c: (_ORDER.index(c.wants_images), -c.twice.gain.value if c.twice else 0.0),
    )


def png(curve: Curve) -> bytes:
    """Return the figure of all classes together as a PNG file."""
    return plots.png(scores_over_images(curve), dpi=150)


# ------------------------------------------------------------------------------- the figures


def scores_over_images(curve: Curve) -> Figure:
    """Return a figure of micro-F1 and mAP over the number of training images."""
    figure, axes = plots.panel(820, 340, "training images", top=30)
    sizes = [point.num_images for point in curve.points]
    lines = {
        "micro-F1": ([p.micro_f1 for p in curve.points], curve.micro_f1),
        "mAP": ([p.mAP for p in curve.points], curve.mAP),
    }
    for colour, (name, (scores, twice)) in zip(plots.RUNS, lines.items(), strict=False):
        _draw(axes, sizes, scores, twice, colour, name)
    _scale(
        axes, sizes, curve.micro_f1, [x for scores, e in lines.values() for x in (*scores, *e.line)]
    )
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, frameon=False,
        fontsize=plots.FONT_PX, labelcolor=plots.MUTED, handlelength=1.3, borderpad=0,
    )  # fmt: skip
    return figure


def _class_figure(curve: Curve, c: ClassCurve, number: int) -> Markup:
    """Return a small figure of a class's average precision over the number of training images."""
    figure, axes = plots.panel(260, 180, "training images")
    sizes = [point.num_images for point in curve.points]
    assert c.twice is not None
    _draw(axes, sizes, c.average_precision, c.twice, plots.RUNS[0], "AP")
    _scale(axes, sizes, c.twice, [*c.average_precision, *c.twice.line], is_small=True)
    label = f"Average precision of {c.name} over the number of training images"
    return Markup(plots.svg(figure, f"images-{number}", label))


def _draw(
    axes: Axes,
    sizes: Sequence[int],
    scores: Sequence[Interval],
    twice: Extrapolation,
    colour: str,
    name: str,
) -> None:
    """Draw scores with their intervals, and the law through them, dashed where it is expected."""
    xs, line = twice.line_images, twice.line
    low, high = [y.low for y in line], [y.high for y in line]
    axes.fill_between(xs, low, high, color=colour, alpha=0.13, lw=0)
    known = [i for i, x in enumerate(xs) if x <= sizes[-1]]
    for part, dashes in ((known, "-"), (range(known[-1], len(xs)), (0, (3, 3)))):
        style: dict[str, Any] = {"color": colour, "lw": 1.5, "ls": dashes}
        axes.plot([xs[i] for i in part], [line[i].value for i in part], **style)
    for n, score in zip(sizes, scores, strict=True):
        axes.plot([n, n], [score.low, score.high], color=colour, lw=1.5, alpha=0.6)
    (dots,) = axes.plot(
        sizes, [s.value for s in scores], ls="", marker="o", ms=7, mec="white", mew=1.5,
        color=colour, zorder=4, label=name,
    )  # fmt: skip
    plots.add_tooltips(
        dots, *(f"{n:,} images: {name} {_words(s)}" for n, s in zip(sizes, scores, strict=True))
    )
    (end,) = axes.plot(
        [twice.num_images], [twice.score.value], ls="", marker="D", ms=6, mew=1.5,
        mfc="white", color=colour, zorder=4,
    )  # fmt: skip
    plots.add_tooltips(end, f"{twice.num_images:,} images: {name} {_words(twice.score)}, expected")


def _words(score: Interval) -> str:
    if math.isnan(score.low):
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _scale(
    axes: Axes,
    sizes: Sequence[int],
    twice: Extrapolation,
    shown: Sequence[Interval],
    is_small: bool = False,
) -> None:
    """Let equal factors be equal distances, with a label at each size, or at both ends."""
    axes.set_xscale("log")
    axes.minorticks_off()
    end = twice.num_images
    ticks = [sizes[0], sizes[-1]] if is_small else [*sizes, end]
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    edge = (end / sizes[0]) ** 0.04
    axes.set_xlim(sizes[0] / edge, end * edge)
    bounds = [x for s in shown for x in (s.low, s.high, s.value) if not math.isnan(x)]
    round_ticks = plots.round_ticks(np.array(bounds))
    axes.set(yticks=round_ticks, ylim=(round_ticks[0], round_ticks[-1]))
