"""What the page of several runs shows, as values for its templates.

Shapes: M photographs, C classes, L labels that changed sides.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ..data.dataset import Dataset
from ..evaluation.bootstrap import Interval
from ..reporting import inline_svg, plots, run_figures
from ..runtime import files
from .compared_runs import Compared, ComparedRuns, Side

PER_PAGE = 24  # photographs
SCORES = {
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "subset_accuracy": "subset accuracy",
    "mAP": "mAP",
}
# Options that every run has of its own, or that change nothing in the weights.
_OWN = ("name", "out", "threads", "checkpoint_every", "tensorboard", "cache", "compile", "device")


@dataclass(frozen=True)
class Photograph:
    """A photograph with a label that changed sides.

    Attributes:
        row: of the data.
        name: the file's.
        class_name: of the label.
        has_label: whether it has it.
        is_won: whether the run in question is right, and not the first.
        probabilities: of the first run and of this one.
        thresholds: theirs.
    """

    row: int
    name: str
    class_name: str
    has_label: bool
    is_won: bool
    probabilities: list[float]
    thresholds: list[float]


def overview(runs: ComparedRuns, compared: Compared, class_names: list[str]) -> dict[str, Any]:
    """Return what ``compare.html.j2`` shows of runs that have been compared."""
    names = names_of([one.folder for one in compared.contestants])
    histories = {name: one.history for name, one in zip(names, compared.contestants, strict=True)}
    panels = plots.PANELS[:2] if any(len(one) > 1 for one in histories.values()) else []
    return {
        "names": names,
        "reasons": named_reasons(runs),
        "panels": [_panel(title, key, histories) for title, key in panels],
        "compared": compared,
        "verdicts": _verdicts(names, compared),
        "differing": _differing(compared),
        "support": compared.targets_MC.sum(0).tolist(),
        "score_names": SCORES,
        "class_heads": ["class", "photographs", *_class_heads(names)],
        "counts": [one.counts(len(class_names)) for one in compared.changed],
    }


def named_reasons(runs: ComparedRuns) -> dict[str, str]:
    """Return by the name of a run why it cannot be compared."""
    return dict(zip(names_of(list(runs.reasons)), runs.reasons.values(), strict=True))


def names_of(folders: list[Path]) -> list[str]:
    """Return the names of run folders; their paths, where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [str(files.shown(folder)) for folder in folders]


def is_told(difference: Interval) -> bool:
    """Return whether a difference is not 0, by its interval."""
    return difference.low > 0 or difference.high < 0


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign, "-" where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def _verdicts(names: list[str], compared: Compared) -> list[str]:
    """Return a sentence on each run but the first."""
    sentences = []
    for name, model in zip(names[1:], compared.models[1:], strict=True):
        d = model.differences["micro_f1"]
        bounds = (
            f"micro-F1 {signed(d.value)},"
            f" 95\N{NO-BREAK SPACE}% interval {signed(d.low)} to {signed(d.high)}"
        )
        if is_told(d):
            how = "better" if d.value > 0 else "worse"
            sentences.append(f"{name} is {how} than {names[0]}: {bounds}.")
        else:
            sentences.append(f"Which of {name} and {names[0]} is better cannot be told: {bounds}.")
    return sentences


def _class_heads(names: list[str]) -> list[str]:
    heads = [f"F1, {names[0]}", f"AP, {names[0]}"]
    for name in names[1:]:
        columns = (f"F1, {name}", f"AP, {name}", "F1 difference", "AP difference")
        heads += [*columns, "right here alone", "wrong here alone"]
    return heads


def _panel(title: str, key: str, histories: dict[str, Any]) -> tuple[str, Markup]:
    figure = run_figures.of_runs(histories, key)
    svg = plots.svg(figure, f"curve-{key}", f"{title} of the runs over the epochs")
    return title, Markup(inline_svg.without_styles(svg))


def _differing(compared: Compared) -> list[tuple[str, list[str]]]:
    """Return the options that are not the same in all runs, with their values."""
    configs = [one.config for one in compared.contestants]
    found = []
    for field in dataclasses.fields(configs[0]):
        values = ["-" if (v := getattr(c, field.name)) is None else str(v) for c in configs]
        if field.name not in _OWN and len(set(values)) > 1:
            found.append((field.name, values))
    return found


@dataclass(frozen=True)
class Choice:
    """Which photographs are asked for: a run's number, a class and a side or all, a page from 1."""

    run: int
    c: int | None
    side: Side
    page: int


def changed(compared: Compared, data: Dataset, chosen: Choice) -> dict[str, Any]:
    """Return what ``changed.html.j2`` shows: one page of labels, whatever their number is."""
    changed, class_names = compared.changed[chosen.run], data.class_names
    won, lost = changed.counts(len(class_names))
    of_side = {"": won + lost, "won": won, "lost": lost}[chosen.side]
    numbers = changed.numbers(chosen.c, chosen.side)
    on_page = numbers[(chosen.page - 1) * PER_PAGE : chosen.page * PER_PAGE]
    return {
        "names": names_of([one.folder for one in compared.contestants]),
        "shown": [_photograph(compared, data, chosen.run, number) for number in on_page.tolist()],
        "total": len(numbers),
        "num_pages": max(1, math.ceil(len(numbers) / PER_PAGE)),
        "classes": [
            (c, class_names[c], int(of_side[c])) for c in np.flatnonzero(won + lost).tolist()
        ],
    }


def _photograph(compared: Compared, data: Dataset, run: int, number: int) -> Photograph:
    changed = compared.changed[run]
    i, c = int(changed.at_L[number]), int(changed.c_L[number])
    row, both = int(compared.rows_M[i]), (compared.contestants[0], compared.contestants[run])
    return Photograph(
        row,
        data.names[row],
        data.class_names[c],
        bool(compared.targets_MC[i, c]),
        bool(changed.is_won_L[number]),
        [float(one.probabilities_MC[i, c]) for one in both],
        [float(one.thresholds_C[c]) for one in both],
    )
