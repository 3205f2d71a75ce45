"""A run in one HTML page: how good it is, where it errs, and what it was made with.

The functions compute what each section shows; how it is shown is ``templates/run_report.html.j2``.
The numbers are those of ``eval``, from the same function. Shapes: N images, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..config import MAX_PIXELS, TrainConfig, read_toml
from ..errors import GrigriError
from ..evaluation import evaluator, metrics, thresholds
from ..evaluation.evaluator import CROSS_FITTED, TUNED, ClassScores, RunEvaluation, Threshold
from ..runs import run_folder
from ..runs.run_folder import CheckpointName, PartName
from ..runtime import compute, files
from ..runtime.compute import AmpName, DeviceName
from ..runtime.files import StrPath
from . import html, photographs, plots, run_figures
from .photographs import Photo, Picks, Shot, Tag

_PER_KIND = 6  # photographs of a kind (false alarms, missed, right) of a class ...
_MAX_SHOTS = 480  # ... and in all
_MAX_CURVES = 60  # classes with a curve of their own
_MAX_HEAT = 40  # classes in a heat map
_MAX_TAGS = 6  # labels beside a photograph
_SHOWN_PATHS = 20

_THRESHOLDS = {TUNED: "tuned here (flatters)", CROSS_FITTED: "cross-fitted (honest)"}
_SCORES = {
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "subset_accuracy": "subset accuracy",
    "mAP": "mAP",
}
_KINDS = (
    ("alarms", "False alarms", "not so; the most confident first", "false"),
    ("missed", "Missed", "so; the least probable first", "missed"),
    ("right", "Right", "of middling confidence", "right"),
)


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
    if page.is_dir() or not page.parent.is_dir():
        what = "is a folder" if page.is_dir() else f"there is no folder {page.parent}"
        raise GrigriError(f"--out {page}: {what}")
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
        scored.paths, rows, threads=threads or compute.usable_threads(), max_pixels=max_pixels
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
    """

    name: str
    checkpoint: str
    config: TrainConfig
    history: list[dict[str, float]]
    summary: dict[str, Any]
    environment: dict[str, Any]

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
    info, num_classes = scored.info, len(scored.info.class_names)

    def most_frequent(num_shown: int) -> str:
        """Say which classes are shown where it is not all of them."""
        if num_shown == num_classes:
            return ""
        return f" The {num_shown} most frequent of {num_classes:,} classes are shown."

    return html.render(
        "run_report.html.j2",
        title=record.name,
        lead=f"{info.arch} at {info.size_px} px, on the {scored.images}",
        foot=f"Written by grigri-fast report from {record.checkpoint}.",
        most_frequent=most_frequent,
        **_heading(record, scored),
        **_scores(scored),
        panels=_training(record.history),
        per_class=scored.evaluation.per_class,
        shown_classes=picks.keys(),
        curves=_curves(scored),
        **_thresholds(scored),
        calibration=_calibration(scored),
        together=_together(scored),
        **_gallery(scored, picks, photos),
        options=_options(record.config),
        environment=list(_flat(record.environment)),
    )


# ----------------------------------------------------------- what the run is, and how good it is


def _heading(record: Record, scored: RunEvaluation) -> dict[str, Any]:
    """Return the facts, and what is not as it should be."""
    config, info = record.config, scored.info
    of = f" of {config.epochs}" if config.epochs >= info.epoch else ""
    facts = [
        ("Data", str(config.data or "-")),
        ("Architecture", info.arch),
        ("Size", f"{info.size_px} px"),
        ("Weights at the start", config.weights),
        ("Images scored", f"{scored.evaluation.num_images:,}"),
        ("Classes", f"{len(info.class_names):,}"),
        ("Epoch", f"{info.epoch:,}{of}"),
        ("Training time", _duration(record)),
        ("Checkpoint", record.checkpoint),
    ]
    notices = []
    if not record.summary:
        notices.append("This run has no summary.json yet: it is still going, or it was stopped.")
    if scored.bad:
        verb = "is" if len(scored.bad) == 1 else "are"
        notices.append(f"{html.images(len(scored.bad))} cannot be used and {verb} left out.")
    bad = list(scored.bad.items())[:_SHOWN_PATHS]
    return {"facts": facts, "notices": notices, "bad": bad, "num_bad": len(scored.bad)}


def _duration(record: Record) -> str:
    """Return the time that training took, so far where it goes on."""
    seconds = record.summary.get("train_s")
    if not isinstance(seconds, int | float):
        seconds = sum(row.get("seconds", 0.0) for row in record.history)
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    return words if record.summary else f"{words} so far"


def _scores(scored: RunEvaluation) -> dict[str, Any]:
    """Return the scores by the way in which the threshold was found, the most honest last."""
    ways = scored.evaluation.by_name()
    rows = [(name, [getattr(s, key) for s in ways.values()]) for key, name in _SCORES.items()]
    return {
        "ways": [_THRESHOLDS.get(way, way) for way in ways],
        "is_tuned": scored.evaluation.cross_fitted is not None,
        "score_rows": rows,
        "tiles": [(name, scores[-1]) for name, scores in rows],
    }


def _training(history: list[dict[str, float]]) -> list[tuple[str, Markup]]:
    """Return name and figure of each panel; none before the first epoch."""
    return [
        (name, _svg(run_figures.over_epochs(history, key), key, f"{name} over the epochs"))
        for name, key in plots.PANELS
        if history
    ]


def _svg(figure: Any, name: str, label: str) -> Markup:
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


def _thresholds(scored: RunEvaluation) -> dict[str, Any]:
    """Return what other thresholds would give, and where the chosen one stands."""
    evaluation = scored.evaluation
    over = thresholds.over_thresholds(scored.probabilities_NC, scored.targets_NC)
    counts = metrics.count(_predicted(scored), scored.targets_NC)
    reached = float(metrics.micro_f1(counts))
    tp, fp, fn = (int(x.sum()) for x in (counts.tp, counts.fp, counts.fn))
    given, true = tp + fp, tp + fn
    chosen = evaluation.thresholds
    if isinstance(chosen, float):
        marks = {f"threshold {chosen:.4f}: micro-F1 {reached:.4f}": chosen}
        how = evaluation.threshold_source
        note = f"The line: threshold {chosen:.4f} ({how}), micro-F1 {reached:.4f}."
    else:
        marks = {f"{c.name}: {c.threshold:.4f}": c.threshold for c in evaluation.per_class}
        note = f"The lines: a threshold per class, which together reach micro-F1 {reached:.4f}."
    lines = {"micro-F1": over.f1, "precision": over.precision, "recall": over.recall}
    over_figure = run_figures.trade_off(
        over.thresholds, lines, marks, reached if isinstance(chosen, float) else None
    )
    curve = run_figures.precision_recall(
        over.recall[::-1].tolist(),
        over.precision[::-1].tolist(),
        at=(tp / true, tp / given) if true and given else None,
        tip="here",
    )
    stored = scored.info.thresholds
    from_on = f"probability {stored:.4f}" if isinstance(stored, float) else "a threshold per class"
    return {
        "stored_threshold": f"from {from_on} on ({scored.info.threshold_source})",
        "threshold": {
            "over": _svg(over_figure, "over", "Micro-F1, precision and recall over the threshold"),
            "curve": _svg(curve, "all", "Precision over recall of all labels together"),
            "note": note,
            "num_found": tp,
            "num_true": true,
            "num_given": given,
        },
    }


def _calibration(scored: RunEvaluation) -> dict[str, Any]:
    """Return how often what is said with a probability is so."""
    bins = metrics.reliability(scored.probabilities_NC, scored.targets_NC)
    edges, counts, said, true = (
        values.tolist() for values in (bins.edges, bins.counts, bins.said, bins.found)
    )
    diagram, histogram = run_figures.calibration(said, true), run_figures.histogram(edges, counts)
    return {
        "error": bins.error,
        "diagram": _svg(diagram, "reliability", "Share that is true over the probability"),
        "histogram": _svg(histogram, "bins", "How many labels got a probability in each bin"),
        "bins": list(zip(edges[:-1], edges[1:], counts, said, true, strict=True)),
    }


def _together(scored: RunEvaluation) -> dict[str, Any]:
    """Return the shares of images that have two labels together, in truth and as predicted."""
    shown = _most_frequent(scored.targets_NC, _MAX_HEAT)
    sides = (
        ("In truth", 1, "have the label", scored.targets_NC),
        ("As predicted", 3, "are given the label", _predicted(scored)),
    )
    maps = []
    for name, colour, verb, labels_NC in sides:
        shares_CC = metrics.co_occurrence(labels_NC[:, shown])
        counts_C = labels_NC[:, shown].sum(0)
        maps.append((name, colour, verb, counts_C.tolist(), shares_CC.tolist()))
    return {"names": [scored.info.class_names[c] for c in shown], "maps": maps}


def _predicted(scored: RunEvaluation) -> NDArray[np.bool_]:
    return scored.probabilities_NC >= np.asarray(scored.evaluation.thresholds)


def _most_frequent(targets_NC: NDArray[np.bool_], most: int) -> list[int]:
    """Return the numbers of the most frequent classes, in the order of all."""
    return sorted(np.argsort(-targets_NC.sum(0), kind="stable")[:most].tolist())


# --------------------------------------------------------------------------- the photographs


def pick_all(scored: RunEvaluation) -> dict[int, Picks]:
    """Return what is shown of each class, by its number: the fewer, the more classes there are."""
    shown = _most_frequent(scored.targets_NC, _MAX_SHOTS // 3)
    most = max(1, min(_PER_KIND, _MAX_SHOTS // (3 * len(shown))))
    columns = (scored.probabilities_NC, _predicted(scored), scored.targets_NC)
    picks = {c: photographs.pick(*(values_NC[:, c] for values_NC in columns), most) for c in shown}
    return {c: picked for c, picked in picks.items() if picked.rows}


def _gallery(
    scored: RunEvaluation, picks: dict[int, Picks], photos: dict[int, Photo]
) -> dict[str, Any]:
    """Return the photographs of each class, kind by kind."""
    names, predicted_NC = scored.info.class_names, _predicted(scored)
    cards = []
    for c, picked in picks.items():
        rows = [
            (name, what, kind, [_shot(scored, predicted_NC, row, c, photos, kind) for row in some])
            for attribute, name, what, kind in _KINDS
            if (some := getattr(picked, attribute))
        ]
        scores = scored.evaluation.per_class[c]
        most = max(len(shots) for *_, shots in rows)
        cards.append((c, names[c], scores.support, scores.f1, rows, most))
    intro = "The errors that the model is surest of say most: a wrong label, or what it overlooks."
    if len(picks) < len(names):
        intro += f" Of {len(picks):,} of the {len(names):,} classes there is something to show."
    links = [(f"class-{c}", names[c]) for c in picks]
    return {"gallery": cards, "gallery_intro": intro, "gallery_links": links}


def _shot(
    scored: RunEvaluation,
    predicted_NC: NDArray[np.bool_],
    row: int,
    c: int,
    photos: dict[int, Photo],
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
        if target_C[i] and given_C[i]:
            kind, title = "right", "has the label, and is given it"
        elif target_C[i]:
            kind, title = "missed", "has it, but is not given it"
        else:
            kind, title = "false", "is given it, wrongly"
        said = "" if i == c else f" {scored.probabilities_NC[row, i]:.2f}"
        tags.append(Tag(f"{scored.info.class_names[i]}{said}", kind, title, i == c))
    if len(numbers) > _MAX_TAGS:
        tags.append(Tag(f"+{len(numbers) - _MAX_TAGS:,}"))
    return tags


# ---------------------------------------------------------------------------- how it was made


def _options(config: TrainConfig) -> list[tuple[str, object, bool, str]]:
    """Return name, value, whether it is the default, and help of each option."""
    return [
        (field.name, "not set" if value is None else value, value == field.default, help_text)
        for field in dataclasses.fields(config)
        for value, help_text in [(getattr(config, field.name), field.metadata["help"])]
    ]


def _flat(content: dict[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    """Yield the entries of nested records, one below the other."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name} ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, entry in enumerate(value, start=1):
                yield from _flat(entry, f"{before}{name} {number} ")
        else:
            yield f"{before}{name}", value
