"""A run in one HTML page: how good it is, where it errs, and what it was made with.

The functions compute what each section shows; how it is shown is ``templates/run_report.html.j2``.
The numbers are those of ``eval``, from the same function. Shapes: N images, C classes.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..config import MAX_PIXELS, TrainConfig, read_toml
from ..evaluation import curve as evaluated_curve
from ..evaluation import evaluator, metrics, thresholds
from ..evaluation.curve import Curve
from ..evaluation.evaluator import (
    CROSS_FITTED,
    IN_WORDS,
    TUNED,
    ClassScores,
    RunEvaluation,
    Threshold,
)
from ..runs import run_folder
from ..runs.run_folder import CheckpointName, PartName
from ..runtime import cpu_share, files
from ..runtime.compute import AmpName, DeviceName
from ..runtime.files import StrPath
from . import curve_page, html, photographs, plots, run_figures
from .photographs import Photo, Picks, Shot, Tag

_PER_KIND = 6  # photographs of a kind (false alarms, missed, right) of a class ...
_MAX_SHOTS = 480  # ... and in all
_MAX_CURVES = 60  # classes with a curve of their own
_MAX_HEAT = 40  # classes in a heat map
_MAX_TAGS = 6  # labels beside a photograph


def report(
    run: StrPath,
    *,
    out: StrPath | None = None,
    part: PartName = "val",
    threshold: Threshold = "auto",
    checkpoint: CheckpointName = "last",
    max_bad: float = 0.05,
    max_pixels: int = MAX_PIXELS,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Evaluate a run and write its page, whole or not at all; return where it is.

    Args:
        run: a run folder of ``train``.
        out: the page; ``report.html`` in the run folder by default.
        part: of the run's own data.
        threshold, checkpoint, max_bad, max_pixels, device, amp, memory_limit, threads, on_progress:
            as in :func:`evaluator.evaluate`.

    Raises:
        GrigriError: if there is nothing to evaluate, or the page cannot be written there.
    """
    folder = Path(run)
    path = run_folder.checkpoint_path(folder, checkpoint)
    page = folder / "report.html" if out is None else Path(out)
    files.require_writable(page)
    scored = evaluator.evaluate(
        folder,
        part=part,
        threshold=threshold,
        checkpoint=checkpoint,
        max_bad=max_bad,
        max_pixels=max_pixels,
        device=device,
        amp=amp,
        memory_limit=memory_limit,
        threads=threads,
        on_progress=on_progress,
    )
    picks = pick_all(scored)
    rows = sorted({row for picked in picks.values() for row in picked.rows})
    photos = photographs.read(
        scored.paths, rows, threads=threads or cpu_share.usable_cpus(), max_pixels=max_pixels
    )
    files.write_atomic(page, to_html(Record.of(folder, path), scored, picks, photos))
    return page


@dataclass(frozen=True)
class Record:
    """What a run folder says of its run.

    Attributes:
        name: of the folder.
        checkpoint: the checkpoint's file name.
        config: every option.
        history: the rows of ``results.csv``.
        summary, environment: of the files of these names; empty where there is none (yet).
        curve: what ``learning-curve`` has measured; None where it was not asked.
    """

    name: str
    checkpoint: str
    config: TrainConfig
    history: list[dict[str, float]]
    summary: dict[str, Any]
    environment: dict[str, Any]
    curve: Curve | None = None

    @classmethod
    def of(cls, folder: Path, checkpoint: Path) -> "Record":
        """Read a run folder.

        Raises:
            GrigriError: if a file that is there is not what ``train`` writes.
        """
        return cls(
            name=folder.resolve().name,
            checkpoint=checkpoint.name,
            config=TrainConfig(**read_toml(folder / run_folder.CONFIG)),
            history=run_folder.read_results(folder / run_folder.RESULTS),
            summary=files.read_json(folder / run_folder.SUMMARY),
            environment=files.read_json(folder / run_folder.ENVIRONMENT),
            curve=evaluated_curve.read(folder),
        )


def to_html(
    record: Record, scored: RunEvaluation, picks: dict[int, Picks], photos: dict[int, Photo]
) -> str:
    """Return the page; the same text for the same run.

    Args:
        record: what the run folder says.
        scored: the evaluation.
        picks: photographs to show, by class (see :func:`pick_all`).
        photos: the pictures, by row.
    """
    predicted_NC = scored.probabilities_NC >= np.asarray(scored.evaluation.thresholds)
    panels = [
        (name, _svg(run_figures.over_epochs(record.history, key), key, f"{name} over the epochs"))
        for name, key in plots.PANELS
        if record.history
    ]
    return html.render(
        "run_report.html.j2",
        record=record,
        duration=_duration(record),
        scored=scored,
        heads=_heads(scored),
        panels=panels,
        curves=_curves(scored),
        threshold=_thresholds(scored, predicted_NC),
        calibration=_calibration(scored),
        together=_together(scored, predicted_NC),
        more_images=curve_page.section(record.curve) if record.curve else None,
        picks=picks,
        shot=functools.partial(_shot, scored, predicted_NC, photos),
        options=[
            (field, getattr(record.config, field.name))
            for field in dataclasses.fields(record.config)
        ],
    )


def _heads(scored: RunEvaluation) -> list[str]:
    """Return how each column of scores is headed."""
    how = IN_WORDS[scored.evaluation.exposure]
    heads = {TUNED: "tuned here (flatters)", CROSS_FITTED: f"cross-fitted ({how})"}
    return [heads.get(name, name) for name in scored.evaluation.by_name()]


def _duration(record: Record) -> str:
    """Return the time that training took, so far where it goes on."""
    seconds = record.summary.get("train_s")
    if not isinstance(seconds, int | float):
        seconds = sum(row.get("seconds", 0.0) for row in record.history)
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    return words if record.summary else f"{words} so far"


def _svg(figure: plots.Figure, name: str, label: str) -> Markup:
    return Markup(plots.svg(figure, name, label))


# ------------------------------------------------------------------- curves and calibration


def _curves(scored: RunEvaluation) -> list[tuple[str, Markup, str]]:
    """Return name, precision-recall curve and note of the most frequent classes."""
    shown = _most_frequent(scored.targets_NC, _MAX_CURVES)
    return [_curve(scored, scored.evaluation.per_class[c], c) for c in shown]


def _curve(scored: RunEvaluation, c: ClassScores, number: int) -> tuple[str, Markup, str]:
    targets_N, scores_N = scored.targets_NC[:, number], scored.probabilities_NC[:, number]
    if not targets_N.any():
        return c.name, Markup(), "No image here has this label."
    recall, precision = thresholds.precision_recall_curve(scores_N, targets_N, max_points=100)
    predicted_N = scores_N >= c.threshold
    counts = metrics.count(predicted_N[:, None], targets_N[:, None])
    at = float(metrics.recall(counts)[0]), float(metrics.precision(counts)[0])
    figure = run_figures.precision_recall(
        recall.tolist(),
        precision.tolist(),
        at=at if predicted_N.any() else None,
        tip=f"threshold {c.threshold:.4f}: recall {at[0]:.3f}, precision {at[1]:.3f}",
        frequency=float(targets_N.mean()),
        is_small=True,
    )
    note = f"AP {c.average_precision:.3f}, {html.images(c.support)}"
    note += "" if predicted_N.any() else "; nothing reaches the threshold"
    return c.name, _svg(figure, f"curve-{number}", f"Precision over recall of {c.name}"), note


def _thresholds(scored: RunEvaluation, predicted_NC: NDArray[np.bool_]) -> dict[str, Any]:
    """Return what other thresholds would give, and what the chosen one gives."""
    evaluation = scored.evaluation
    over = thresholds.over_thresholds(scored.probabilities_NC, scored.targets_NC)
    counts = metrics.count(predicted_NC, scored.targets_NC)
    micro_f1 = float(metrics.micro_f1(counts))
    num_found = int(counts.tp.sum())
    num_given, num_true = int(predicted_NC.sum()), int(scored.targets_NC.sum())
    chosen = evaluation.thresholds
    if isinstance(chosen, float):
        marks = {f"threshold {chosen:.4f}: micro-F1 {micro_f1:.4f}": chosen}
    else:
        shown = _most_frequent(scored.targets_NC, _MAX_CURVES)
        classes = [evaluation.per_class[c] for c in shown]
        marks = {f"{c.name}: {c.threshold:.4f}": c.threshold for c in classes}
    lines = {"micro-F1": over.f1, "precision": over.precision, "recall": over.recall}
    points = {name: values.tolist() for name, values in lines.items()}
    reached = micro_f1 if isinstance(chosen, float) else None
    over_figure = run_figures.trade_off(over.thresholds.tolist(), points, marks, reached)
    here = (num_found / num_true, num_found / num_given) if num_true and num_given else None
    curve = run_figures.precision_recall(
        over.recall[::-1].tolist(), over.precision[::-1].tolist(), at=here, label="here"
    )
    return {
        "over": _svg(over_figure, "over", "Micro-F1, precision and recall over the threshold"),
        "curve": _svg(curve, "all", "Precision over recall of all labels together"),
        "micro_f1": micro_f1,
        "num_marks": len(marks),
        "num_found": num_found,
        "num_true": num_true,
        "num_given": num_given,
    }


def _calibration(scored: RunEvaluation) -> dict[str, Any]:
    """Return how often what is said with a probability is so."""
    bins = metrics.reliability(scored.probabilities_NC, scored.targets_NC)
    edges, counts, said, true = (
        values.tolist() for values in (bins.edges, bins.counts, bins.predicted, bins.observed)
    )
    diagram, histogram = run_figures.calibration(said, true), run_figures.histogram(edges, counts)
    return {
        "error": bins.error,
        "diagram": _svg(diagram, "reliability", "Share that is true over the probability"),
        "histogram": _svg(histogram, "bins", "How many labels got a probability in each bin"),
        "bins": list(zip(edges[:-1], edges[1:], counts, said, true, strict=True)),
    }


def _together(scored: RunEvaluation, predicted_NC: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the shares of images that have two labels together, in truth and as predicted."""
    shown = _most_frequent(scored.targets_NC, _MAX_HEAT)
    parts: dict[str, Any] = {"names": [scored.info.class_names[c] for c in shown]}
    for name, labels_NC in (("true", scored.targets_NC), ("predicted", predicted_NC)):
        shares_CC = metrics.co_occurrence(labels_NC[:, shown])
        parts[name] = labels_NC[:, shown].sum(0).tolist(), shares_CC.tolist()
    return parts


def _most_frequent(targets_NC: NDArray[np.bool_], most: int) -> list[int]:
    """Return the numbers of the most frequent classes, in the order of all."""
    return sorted(np.argsort(-targets_NC.sum(0), kind="stable")[:most].tolist())


# --------------------------------------------------------------------------- the photographs


def pick_all(scored: RunEvaluation) -> dict[int, Picks]:
    """Return what is shown of each class, by its number: the fewer, the more classes there are."""
    shown = _most_frequent(scored.targets_NC, _MAX_SHOTS // 3)
    most = max(1, min(_PER_KIND, _MAX_SHOTS // (3 * len(shown))))
    predicted_NC = scored.probabilities_NC >= np.asarray(scored.evaluation.thresholds)
    picks = {
        c: photographs.pick(
            scored.probabilities_NC[:, c], predicted_NC[:, c], scored.targets_NC[:, c], most
        )
        for c in shown
    }
    return {c: picked for c, picked in picks.items() if picked.rows}


def _shot(
    scored: RunEvaluation,
    predicted_NC: NDArray[np.bool_],
    photos: dict[int, Photo],
    row: int,
    c: int,
    kind: photographs.Kind,
) -> Shot:
    """Return a photograph with the class's probability, and its true and given labels."""
    names, said = scored.info.class_names, float(scored.probabilities_NC[row, c])
    true = ", ".join(names[i] for i in np.flatnonzero(scored.targets_NC[row])) or "none"
    return Shot(
        photo=photos.get(row, Photo(missing="not read")),
        path=scored.paths[row],
        kind=kind,
        alt=f"{scored.paths[row].name}; true labels: {true}; {names[c]} {said:.2f}",
        tags=_tags(scored, predicted_NC, row, c),
        probability=said,
    )


def _tags(scored: RunEvaluation, predicted_NC: NDArray[np.bool_], row: int, c: int) -> list[Tag]:
    """Return an image's labels: right, missed and false ones, the class in question first."""
    target_C, given_C = scored.targets_NC[row], predicted_NC[row]
    numbers = np.flatnonzero(target_C | given_C).tolist()
    numbers.sort(key=lambda i: (i != c, not target_C[i], -scored.probabilities_NC[row, i]))
    tags = []
    for i in numbers[:_MAX_TAGS]:
        kind: photographs.Kind = "false" if not target_C[i] else "right" if given_C[i] else "missed"
        said = "" if i == c else f" {scored.probabilities_NC[row, i]:.2f}"
        tags.append(Tag(f"{scored.info.class_names[i]}{said}", kind, is_subject=i == c))
    if len(numbers) > _MAX_TAGS:
        tags.append(Tag(f"+{len(numbers) - _MAX_TAGS:,}"))
    return tags
