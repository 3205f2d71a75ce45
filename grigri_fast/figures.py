"""Figures of a run, drawn without a display."""

import io
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_TRAIN, _VAL = "#9aa5b1", "#d1495b"
_INK, _FAINT = "#2b2d42", "#e3e6ea"
_PANELS = (
    ("Loss", "loss"),
    ("Micro-F1 at 0.5", "micro_f1"),
    ("Subset accuracy at 0.5", "subset_accuracy"),
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
    ticks = MaxNLocator(integer=True, min_n_ticks=1).tick_values(1, len(epochs))
    for axes, (name, key) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        last = {part: history[-1][f"{part}_{key}"] for part in ("train", "val")}
        for part, color, width in (("train", _TRAIN, 1.8), ("val", _VAL, 2.4)):
            values = [row[f"{part}_{key}"] for row in history]
            marker = "o" if len(epochs) <= 12 else None
            axes.plot(epochs, values, color=color, lw=width, marker=marker, ms=4, label=part)
            above = (part == "val") == (last["val"] >= last["train"])
            axes.annotate(
                f"{last[part]:.3f}",
                (epochs[-1], last[part]),
                xytext=(7, 1 if above else -1),  # the two never cover each other
                textcoords="offset points",
                va="bottom" if above else "top",
                fontsize=9,
                color=color,
            )
        axes.set_title(name, loc="left", fontsize=11, color=_INK)
        axes.set_xlabel("epoch", fontsize=9, color=_INK)
        axes.set_xticks([t for t in ticks if 1 <= t <= len(epochs)])
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
