"""Figures of a run, drawn without a display."""

import io
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_TRAIN, _VAL = "#9aa5b1", "#d1495b"
_INK, _FAINT = "#2b2d42", "#e3e6ea"
_PANELS = (
    ("Loss", "loss", "lower left"),
    ("Micro-F1 at 0.5", "micro_f1", "upper left"),
    ("Subset accuracy at 0.5", "subset_accuracy", "upper left"),
)


def curves(history: list[dict[str, Any]], title: str) -> bytes:
    """Return a PNG with loss, micro-F1 and subset accuracy of train and val over the epochs.

    Args:
        history: the rows of ``results.csv``, one per epoch.
        title: what stands above the panels.
    """
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(12, 3.9), dpi=150, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=_INK)
    for axes, (name, key, _) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        for part, color, width in (("train", _TRAIN, 1.8), ("val", _VAL, 2.4)):
            values = [row[f"{part}_{key}"] for row in history]
            marker = "o" if len(epochs) <= 12 else None
            axes.plot(epochs, values, color=color, lw=width, marker=marker, ms=4, label=part)
            axes.annotate(
                f"{values[-1]:.3f}",
                (epochs[-1], values[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=color,
            )
        axes.set_title(name, loc="left", fontsize=11, color=_INK)
        axes.set_xlabel("epoch", fontsize=9, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=_FAINT)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
        axes.margins(x=0.1)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_FAINT)
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
