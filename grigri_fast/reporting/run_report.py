"""A run in one HTML page: how good it is, where it errs, and what it was made with.

Shapes: N images, C classes. The numbers are those of ``eval``, from the same function.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import MAX_PIXELS, TrainConfig, read_toml
from ..errors import GrigriError
from ..evaluation import bootstrap, evaluator, metrics, thresholds
from ..evaluation.evaluator import CROSS_FITTED, TUNED, ClassScores, RunEvaluation
from ..pipeline import thumbnails
from ..runs import run_folder
from ..runs.run_folder import CheckpointName
from ..runtime import files
from ..runtime.compute import usable_threads
from . import charts, html, plots
from .charts import Line, Mark, escape
from .html import Section

_PER_KIND = 6  # photographs of a kind (false alarms, missed, right) of a class ...
_MAX_SHOTS = 480  # ... and in all
_MAX_PHOTO_BYTES = 3_000_000  # of JPEG; a third more in the page
_QUALITIES = (80, 60, 35)  # of JPEG; the first that fits
_READ_PX, _SHOWN_PX = 128, 96
_MAX_CURVES = 60  # classes with a curve of their own
_MAX_HEAT = 40  # classes in a heat map
_MAX_TAGS = 6  # labels beside a photograph
_SHOWN_PATHS = 20

_WAYS = {TUNED: "tuned here (flatters)", CROSS_FITTED: "cross-fitted (honest)"}
_SCORES = (
    ("micro-F1", "micro_f1"),
    ("macro-F1", "macro_f1"),
    ("subset accuracy", "subset_accuracy"),
    ("mAP", "mAP"),
)


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    checkpoint: CheckpointName = "last",
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    **options: Any,
) -> Path:
    """Evaluate a run and write its page, whole or not at all; return where it is.

    Args:
        folder: the run folder.
        out: the page; ``report.html`` in the run folder by default.
        checkpoint, max_pixels, threads, options: what :func:`evaluator.evaluate` takes.

    Raises:
        GrigriError: if there is nothing to evaluate, or the page cannot be written there.
    """
    path = run_folder.checkpoint_path(folder, checkpoint)
    out = out or folder / "report.html"
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise GrigriError(f"--out {out}: {what}")
    scored = evaluator.evaluate(
        folder, checkpoint=checkpoint, threads=threads, max_pixels=max_pixels, **options
    )
    threads = threads or usable_threads()
    picks = pick_all(scored)
    rows = sorted({row for picked in picks.values() for row in picked.rows})
    photos = photographs(scored.paths, rows, threads=threads, max_pixels=max_pixels)
    files.write_atomic(out, to_html(Record.of(folder, path), scored, picks, photos))
    return out


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


# --------------------------------------------------------------------- which photographs to show


@dataclass(frozen=True)
class Picks:
    """Rows of photographs that are worth a look for one class.

    Attributes:
        alarms: predicted but not so, the most confident first.
        missed: so but not predicted, the most confidently denied first.
        right: predicted and so, those of middling confidence: typical ones.
    """

    alarms: list[int]
    missed: list[int]
    right: list[int]

    @property
    def rows(self) -> list[int]:
        """All of them."""
        return [*self.alarms, *self.missed, *self.right]


def pick(
    probabilities_N: NDArray[np.float64],
    predicted_N: NDArray[np.bool_],
    targets_N: NDArray[np.bool_],
    most: int = _PER_KIND,
) -> Picks:
    """Return at most so many photographs of each kind; ties go to the first row."""

    def first(flags_N: NDArray[np.bool_], order_N: NDArray[np.float64]) -> list[int]:
        rows = np.flatnonzero(flags_N)
        return rows[np.argsort(order_N[rows], kind="stable")][:most].tolist()

    hits_N = predicted_N & targets_N
    middle = np.median(probabilities_N[hits_N]) if hits_N.any() else 0.0
    return Picks(
        alarms=first(predicted_N & ~targets_N, -probabilities_N),
        missed=first(targets_N & ~predicted_N, probabilities_N),
        right=first(hits_N, np.abs(probabilities_N - middle)),
    )


def pick_all(scored: RunEvaluation) -> dict[int, Picks]:
    """Return what is shown of each class, by its number: the fewer, the more classes there are."""
    support_C = scored.targets_NC.sum(0)
    shown = _most_frequent(support_C, _MAX_SHOTS // 3)
    most = max(1, min(_PER_KIND, _MAX_SHOTS // (3 * len(shown))))
    predicted_NC = _predicted(scored)
    picks = {
        c: pick(scored.probabilities_NC[:, c], predicted_NC[:, c], scored.targets_NC[:, c], most)
        for c in shown
    }
    return {c: picked for c, picked in picks.items() if picked.rows}


def _predicted(scored: RunEvaluation) -> NDArray[np.bool_]:
    return scored.probabilities_NC >= np.asarray(scored.evaluation.thresholds)


def _most_frequent(support_C: NDArray[np.int64], most: int) -> list[int]:
    """Return the numbers of the most frequent classes, in the order of all."""
    return sorted(np.argsort(-support_C, kind="stable")[:most].tolist())


@dataclass(frozen=True)
class Photo:
    """A small JPEG, or the reason why there is none."""

    jpeg: bytes = b""
    width_px: int = 0
    height_px: int = 0
    missing: str = ""


def photographs(
    paths: Sequence[Path], rows: Sequence[int], *, threads: int, max_pixels: int
) -> dict[int, Photo]:
    """Return small pictures of some files by row, as the model sees them but for their shape.

    They are read by the loader, so a file that has gone or changed its content is not decoded.
    """
    rows_N = np.array(rows, dtype=np.intp)
    if not len(rows_N):
        return {}
    found, batches = thumbnails.load_thumbnails(
        paths, rows_N, size_px=_READ_PX, threads=threads, max_pixels=max_pixels
    )
    missing = dict(found.bad)
    small: dict[int, Image.Image] = {}
    for batch in batches:
        missing |= batch.dropped
        for row, pixels in zip(batch.rows_N.tolist(), batch.images_NHWC.numpy(), strict=True):
            small[row] = _unsqueezed(pixels, *found.sizes_HW[row].tolist())
    photos = {row: Photo(missing=reason) for row, reason in missing.items()}
    return photos | _encoded(small)


def _unsqueezed(pixels_HWC: NDArray[np.uint8], height_px: int, width_px: int) -> Image.Image:
    """Return a square picture in the shape that its file has."""
    scale = _SHOWN_PX / max(height_px, width_px)
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    return Image.fromarray(pixels_HWC).resize(size, Image.Resampling.LANCZOS)


def _encoded(small: dict[int, Image.Image]) -> dict[int, Photo]:
    """Return the pictures as JPEG, in the best quality in which they fit into the page."""
    photos: dict[int, Photo] = {}
    for quality in _QUALITIES:
        for row, image in sorted(small.items()):
            jpeg = io.BytesIO()
            image.save(jpeg, format="JPEG", quality=quality, optimize=True)
            photos[row] = Photo(jpeg.getvalue(), *image.size)
        if sum(len(photo.jpeg) for photo in photos.values()) <= _MAX_PHOTO_BYTES:
            break
    return photos


# -------------------------------------------------------------------------------------- the page


def to_html(
    record: Record, scored: RunEvaluation, picks: dict[int, Picks], photos: dict[int, Photo]
) -> str:
    """Return the page; the same text for the same run.

    Args:
        record: what the run folder says.
        scored: the evaluation.
        picks: photographs to show, by class.
        photos: what is to be seen of them, by row.
    """
    sections = [
        _scores(scored),
        _training(record),
        _classes(scored, picks),
        _curves(scored),
        _thresholds(scored),
        _calibration(scored),
        _together(scored),
        _gallery(scored, picks, photos),
        _setup(record),
    ]
    info = scored.info
    lead = f"{info.arch} at {info.size_px} px, on the {scored.images}"
    foot = f"Written by grigri-fast report from {record.checkpoint}."
    return html.frame(record.name, lead, _heading(record, scored), sections, foot)


def _heading(record: Record, scored: RunEvaluation) -> str:
    """Return the facts, and what is not as it should be."""
    config, info = record.config, scored.info
    of = f" of {config.epochs}" if config.epochs >= info.epoch else ""
    pairs = [
        ("Data", config.data or "-"),
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
        notices.append(f"{_images(len(scored.bad))} cannot be used and {verb} left out.")
    out = html.facts(pairs) + "".join(f'<p class="notice">{escape(n)}</p>' for n in notices)
    if scored.bad:
        shown = list(scored.bad.items())[:_SHOWN_PATHS]
        rows = [(f"<code>{escape(path)}</code>", escape(reason)) for path, reason in shown]
        more = f" (the first {_SHOWN_PATHS})" if len(scored.bad) > _SHOWN_PATHS else ""
        listed = html.table(("file", "reason"), rows, f"Files that were left out{more}", num_text=2)
        out += html.folded("Which, and why", f'<div class="card">{listed}</div>')
    return out


def _duration(record: Record) -> str:
    """Return the time that training took, so far where it goes on."""
    seconds = record.summary.get("train_s")
    if not isinstance(seconds, int | float):
        seconds = sum(row.get("seconds", 0.0) for row in record.history)
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    return words if record.summary else f"{words} so far"


# ------------------------------------------------------------------------------------ the scores


def _scores(scored: RunEvaluation) -> Section:
    ways = scored.evaluation.by_name()
    honest = list(ways.values())[-1]
    tiles = []
    for title, key in _SCORES:
        score = getattr(honest, key)
        value = "-" if math.isnan(score.value) else f"{score.value:.3f}"
        span = "" if math.isnan(score.value) else f"95 %: {score.low:.3f} to {score.high:.3f}"
        picture = charts.interval_meter(score.value, score.low, score.high, width=200)
        tiles.append(
            f'<div class="card tile"><span class="name">{title}</span><b>{value}</b>{picture}'
            f"<span>{span}</span></div>"
        )
    rows = [
        [title, *(_with_interval(getattr(scores, key)) for scores in ways.values())]
        for title, key in _SCORES
    ]
    head = ["", *(_WAYS.get(name, name) for name in ways)]
    table = html.table(head, rows, "Scores with bootstrap 95 % intervals over images")
    shown = _WAYS.get(list(ways)[-1], list(ways)[-1])
    intro = f"Above: {shown}." + (
        " Cross-fitted: the threshold is tuned on four fifths of the images and applied to the"
        " last fifth, in turn; this is what to expect on new photographs. Tuned on the images that"
        " are scored, a threshold flatters."
        if CROSS_FITTED in ways
        else ""
    )
    body = (
        f'<div class="tiles">{"".join(tiles)}</div>'
        f'<p class="note">{escape(intro)}</p><div class="card below">{table}</div>'
    )
    return Section("scores", "Scores", body)


def _with_interval(score: bootstrap.Interval) -> str:
    if math.isnan(score.value):
        return "-"
    span = f"{score.low:.3f}-{score.high:.3f}"
    picture = charts.interval_meter(score.value, score.low, score.high, width=90)
    return f"{picture}{score.value:.4f} <small>{span}</small>"


def _training(record: Record) -> Section:
    history = record.history
    if not history:
        return Section("training", "Training", '<p class="note">No epoch is finished yet.</p>')
    epochs = [row["epoch"] for row in history]
    ends = (min(epochs), max(epochs)) if len(epochs) > 1 else (epochs[0] - 1, epochs[0] + 1)
    cards = []
    for name, key in plots.PANELS:
        lines = [
            Line(
                f"{part} {history[-1][f'{part}_{key}']:.3f}",
                epochs,
                [row[f"{part}_{key}"] for row in history],
                colour=colour,
                dots=len(epochs) <= 40,
            )
            for colour, part in enumerate(("train", "val"))
        ]
        chart = charts.line_chart(
            lines, f"{name} over the epochs", x_label="epoch", x_range=ends, whole_x=True
        )
        cards.append(html.card(name, chart))
    intro = "Training and validation after each epoch; the numbers are those of the last one."
    return Section("training", "Training", html.grid(cards), intro)


def _classes(scored: RunEvaluation, picks: dict[int, Picks]) -> Section:
    rows = []
    for number, c in enumerate(scored.evaluation.per_class):
        name = escape(c.name)
        name = f'<a href="#class-{number}">{name}</a>' if number in picks else name
        cells = [name, f"{c.support:,}", *map(_number, (c.precision, c.recall))]
        cells += [charts.meter(c.f1) + _number(c.f1)]
        cells += [charts.meter(c.average_precision, colour=3) + _number(c.average_precision)]
        rows.append([*cells, _number(c.threshold)])
    head = ("class", "support", "precision", "recall", "F1", "AP", "threshold")
    how = "cross-fitted" if scored.evaluation.cross_fitted else "at the threshold given"
    caption = f"Precision, recall and F1 {how}; support: images that have the label"
    body = f'<div class="card">{html.table(head, rows, caption)}</div>'
    return Section("classes", "Classes", body)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _curves(scored: RunEvaluation) -> Section:
    per_class = scored.evaluation.per_class
    support_C = scored.targets_NC.sum(0)
    cards = [_curve(scored, per_class[c], c) for c in _most_frequent(support_C, _MAX_CURVES)]
    intro = (
        "Precision over recall at every threshold. The dot is the threshold of the table, on these"
        " images; the dashed line is the class's frequency, which is what guessing reaches."
    )
    if len(per_class) > _MAX_CURVES:
        intro += f" The {_MAX_CURVES} most frequent of {len(per_class):,} classes are shown."
    return Section("curves", "Precision and recall", html.grid(cards, least_px=220), intro)


def _curve(scored: RunEvaluation, c: ClassScores, number: int) -> str:
    """Return one class's precision-recall curve with the point at its threshold."""
    targets_N = scored.targets_NC[:, number]
    if not targets_N.any():
        return html.card(c.name, '<p class="note">No image here has this label.</p>')
    scores_N = scored.probabilities_NC[:, number]
    recall, precision = thresholds.precision_recall_curve(scores_N, targets_N)
    predicted_N = scores_N >= c.threshold
    counts = metrics.count(predicted_N[:, None], targets_N[:, None])
    at = float(metrics.recall(counts)[0]), float(metrics.precision(counts)[0])
    marks = []
    if predicted_N.any():
        tip = f"threshold {c.threshold:.4f}: recall {at[0]:.3f}, precision {at[1]:.3f}"
        marks = [Mark(*at, tip=tip)]
    frequency = float(targets_N.mean())
    chart = charts.line_chart(
        [
            Line("guessing", [0, 1], [frequency, frequency], colour=0, dashed=True),
            Line(
                "model",
                [0.0, *recall.tolist()],
                [float(precision[0]), *precision.tolist()],
                steps=True,
                area=True,
            ),
        ],
        f"Precision over recall of {c.name}",
        x_label="recall",
        y_label="precision",
        x_range=(0, 1),
        y_range=(0, 1),
        marks=marks,
        legend=False,
        width=260,
        height=200,
    )
    none = "" if marks else "; nothing reaches the threshold"
    return html.card(c.name, chart, f"AP {c.average_precision:.3f}, {_images(c.support)}{none}")


# -------------------------------------------------------------------- thresholds and calibration


def _thresholds(scored: RunEvaluation) -> Section:
    evaluation = scored.evaluation
    over = thresholds.over_thresholds(scored.probabilities_NC, scored.targets_NC)
    at, f1, precision, recall = (
        values.tolist() for values in (over.thresholds, over.f1, over.precision, over.recall)
    )
    counts = metrics.count(_predicted(scored), scored.targets_NC)
    reached = float(metrics.micro_f1(counts))
    tp, fp, fn = (int(x.sum()) for x in (counts.tp, counts.fp, counts.fn))
    shown, true = tp + fp, tp + fn
    if isinstance(evaluation.thresholds, float):
        chosen = evaluation.thresholds
        words = f"threshold {chosen:.4f}: micro-F1 {reached:.4f}"
        marks = [Mark(chosen), Mark(chosen, reached, words, f"{chosen:.4f}: {reached:.4f}")]
        how = evaluation.threshold_source
        note = f"The line: threshold {chosen:.4f} ({how}), micro-F1 {reached:.4f}."
    else:
        marks = [
            Mark(c.threshold, tip=f"{c.name}: {c.threshold:.4f}") for c in evaluation.per_class
        ]
        note = f"The lines: a threshold per class, which together reach micro-F1 {reached:.4f}."
    over_chart = charts.line_chart(
        [
            Line("precision", at, precision, 3, dashed=True),
            Line("recall", at, recall, 4, dashed=True),
            Line("micro-F1", at, f1, 1),
        ],
        "Micro-F1, precision and recall over the threshold",
        x_label="a label is given from this probability on",
        x_range=(0, 1),
        y_range=(0, 1),
        marks=marks,
        width=420,
        height=280,
    )
    here = Mark(tp / true, tp / shown, label="here") if true and shown else None
    curve = charts.line_chart(
        [Line("", recall[::-1], precision[::-1], area=True)],
        "Precision over recall of all labels together",
        x_label="recall",
        y_label="precision",
        x_range=(0, 1),
        y_range=(0, 1),
        marks=[here] if here else [],
        width=420,
        height=280,
    )
    stored = (
        f"from probability {scored.info.thresholds:.4f} on"
        if isinstance(scored.info.thresholds, float)
        else "from a threshold per class on"
    )
    intro = (
        "The same probabilities give other labels with another threshold, and trade precision for"
        f" recall. predict gives labels {stored} ({scored.info.threshold_source}); eval --save"
        " stores another one."
    )
    cards = [
        html.card("Micro-F1 over the threshold", over_chart, note),
        html.card(
            "All labels together", curve, f"{tp:,} of {true:,} labels found, {shown:,} given."
        ),
    ]
    return Section("threshold", "Threshold", html.grid(cards, least_px=400), intro)


def _calibration(scored: RunEvaluation) -> Section:
    found = metrics.reliability(scored.probabilities_NC, scored.targets_NC)
    diagram = charts.line_chart(
        [
            Line("as it should be", [0, 1], [0, 1], colour=0, dashed=True),
            Line("this model", found.said.tolist(), found.found.tolist(), dots=True),
        ],
        "Share that is true over the predicted probability",
        x_label="predicted probability",
        y_label="share that is true",
        x_range=(0, 1),
        y_range=(0, 1),
        width=420,
        height=280,
    )
    bins = list(zip(found.edges[:-1].tolist(), found.edges[1:].tolist(), strict=True))
    tips = [
        f"{low:.1f} to {high:.1f}: {count:,}"
        for (low, high), count in zip(bins, found.counts.tolist(), strict=True)
    ]
    histogram = charts.bar_chart(
        found.edges.tolist(),
        found.counts.tolist(),
        "How many labels got a probability in each bin",
        x_label="predicted probability",
        y_label="labels (log)",
        tips=tips,
        log=True,
        width=420,
        height=235,
    )
    rows = [
        [f"{low:.1f}-{high:.1f}", f"{count:,}", _number(said), _number(share)]
        for (low, high), count, said, share in zip(
            bins, found.counts.tolist(), found.said.tolist(), found.found.tolist(), strict=True
        )
    ]
    head = ("probability", "labels", "mean said", "share true")
    numbers = html.folded("The numbers", html.table(head, rows, "Bins of the diagram"))
    cards = [
        html.card("Reliability", diagram),
        f'<div class="card"><h3>Labels in each bin</h3>{histogram}{numbers}</div>',
    ]
    intro = (
        f"Expected calibration error {found.error:.4f}: the mean distance between what is said and"
        " what is so, over every label of every image. Above the dashed line the model is too"
        " careful, below it too sure of itself."
    )
    return Section("calibration", "Calibration", html.grid(cards, least_px=400), intro)


def _together(scored: RunEvaluation) -> Section:
    support_C = scored.targets_NC.sum(0)
    shown = _most_frequent(support_C, _MAX_HEAT)
    names = [scored.info.class_names[c] for c in shown]
    cards = []
    sides = (
        ("In truth", scored.targets_NC, 1, "have the label"),
        ("As predicted", _predicted(scored), 3, "are given the label"),
    )
    for name, labels_NC, colour, verb in sides:
        shares = metrics.co_occurrence(labels_NC[:, shown])
        counts_C = labels_NC[:, shown].sum(0).tolist()

        def tip(r: int, c: int, shares=shares, counts_C=counts_C, verb=verb) -> str:
            if not counts_C[r]:
                return f"no images {verb} {names[r]}"
            share = f"{100 * shares[r][c]:.1f} % also {names[c]}"
            return f"of {_images(counts_C[r])} that {verb} {names[r]}: {share}"

        chart = charts.heat_map(
            shares.tolist(), names, names, f"{name}: labels together", tip=tip, colour=colour
        )
        cards.append(html.card(name, f'<div class="scroll" tabindex="0">{chart}</div>'))
    intro = "Of the images with the label of the row, how many in a hundred also have the column's."
    if len(shown) < len(support_C):
        intro += f" The {len(shown)} most frequent of {len(support_C):,} classes are shown."
    return Section("together", "Labels together", html.grid(cards, least_px=440), intro)


# ----------------------------------------------------------------------------------- the gallery

_KINDS = (
    ("alarms", "False alarms", "not so; the most confident first", "false"),
    ("missed", "Missed", "so; the least probable first", "missed"),
    ("right", "Right", "of middling confidence", "right"),
)


def _gallery(scored: RunEvaluation, picks: dict[int, Picks], photos: dict[int, Photo]) -> Section:
    names = scored.info.class_names
    links = "".join(f'<li><a href="#class-{c}">{escape(names[c])}</a></li>' for c in picks)
    key = (
        '<p class="key"><span class="right">has the label, and is given it</span>'
        '<span class="false">is given it, wrongly</span>'
        '<span class="missed">has it, but is not given it</span></p>'
    )
    predicted_NC = _predicted(scored)
    cards = []
    for c, picked in picks.items():
        most = max(len(getattr(picked, kind)) for kind, *_ in _KINDS)
        kinds = []
        for kind, name, what, style in _KINDS:
            rows = getattr(picked, kind)
            shots = "".join(_shot(scored, predicted_NC, row, c, photos, style) for row in rows)
            if rows:
                kinds.append(
                    f'<div><p class="kind {style}-kind">{name} <small>{what}</small></p>'
                    f'<div class="shots">{shots}</div></div>'
                )
        scores = scored.evaluation.per_class[c]
        facts = f"{_images(scores.support)}, F1 {_number(scores.f1)}"
        cards.append(
            f'<article class="card" id="class-{c}"><h3>{escape(names[c])} <small>{facts}</small>'
            f"</h3>{html.grid(kinds, least_px=160 * most)}</article>"
        )
    intro = "The errors that the model is surest of say most: a wrong label, or what it overlooks."
    if len(picks) < len(names):
        intro += f" Of {len(picks):,} of the {len(names):,} classes there is something to show."
    body = f'<ul class="jump">{links}</ul>{key}{html.grid(cards, least_px=1200)}'
    return Section("gallery", "Photographs", body, intro)


def _shot(
    scored: RunEvaluation,
    predicted_NC: NDArray[np.bool_],
    row: int,
    c: int,
    photos: dict[int, Photo],
    style: str,
) -> str:
    """Return a photograph with its name, the class's probability, and true and given labels."""
    path, names = scored.paths[row], scored.info.class_names
    said = float(scored.probabilities_NC[row, c])
    true = [names[i] for i in np.flatnonzero(scored.targets_NC[row])]
    labels = ", ".join(true) or "none"
    photo = photos.get(row, Photo(missing="not read"))
    if photo.missing:
        picture = f'<span class="gone">{escape(photo.missing)}</span>'
    else:
        alt = f"{path.name}; true labels: {labels}; {names[c]} {said:.2f}"
        data = base64.b64encode(photo.jpeg).decode()
        picture = (
            f'<img alt="{escape(alt)}" width="{photo.width_px}" height="{photo.height_px}"'
            f' src="data:image/jpeg;base64,{data}">'
        )
    return (
        f'<figure class="shot {style}-kind"><div class="photo">{picture}</div><figcaption>'
        f'<span class="said">{said:.3f}{charts.meter(said, _COLOURS[style], width=64)}</span>'
        f'<span class="file" title="{escape(path)}">{escape(path.name)}</span>'
        f"{_tags(scored, predicted_NC, row, c)}</figcaption></figure>"
    )


_COLOURS = {"right": 3, "false": 2, "missed": 4}


def _tags(scored: RunEvaluation, predicted_NC: NDArray[np.bool_], row: int, c: int) -> str:
    """Return an image's labels: right, missed and false ones, the class in question first."""
    target_C, given_C = scored.targets_NC[row], predicted_NC[row]
    numbers = np.flatnonzero(target_C | given_C).tolist()
    numbers.sort(key=lambda i: (i != c, not target_C[i], -scored.probabilities_NC[row, i]))
    tags = []
    for i in numbers[:_MAX_TAGS]:
        kind, words = (
            ("right", "has the label, and is given it")
            if target_C[i] and given_C[i]
            else ("missed", "has it, but is not given it")
            if target_C[i]
            else ("false", "is given it, wrongly")
        )
        this = " this" if i == c else ""
        said = "" if i == c else f" {scored.probabilities_NC[row, i]:.2f}"
        name = escape(scored.info.class_names[i])
        tags.append(f'<li class="{kind}{this}" title="{words}">{name}{said}</li>')
    if len(numbers) > _MAX_TAGS:
        tags.append(f"<li>+{len(numbers) - _MAX_TAGS:,}</li>")
    return f'<ul class="tags">{"".join(tags)}</ul>'


# ---------------------------------------------------------------------------- how it was made


def _setup(record: Record) -> Section:
    body = html.folded("All options", f'<div class="card">{_options(record.config)}</div>')
    if record.environment:
        rows = [
            (escape(name), f"<code>{escape(value)}</code>")
            for name, value in _flat(record.environment)
        ]
        table = html.table(("what", "value"), rows, "Where and with what it was trained", 2)
        body += html.folded("Environment", f'<div class="card">{table}</div>')
    return Section("setup", "Setup", body, "What is needed to repeat the run.")


def _options(config: TrainConfig) -> str:
    rows = []
    for field in fields(config):
        value = getattr(config, field.name)
        text = "not set" if value is None else value
        kind = ' class="same"' if value == field.default else ""
        rows.append(
            (
                f'<code class="option">{field.name}</code>',
                f"<code{kind}>{escape(text)}</code>",
                escape(field.metadata["help"]),
            )
        )
    caption = "The config, resolved; what is the default is grey"
    return html.table(("option", "value", "what it is"), rows, caption, num_text=3)


def _flat(content: dict[str, Any], before: str = "") -> Iterable[tuple[str, object]]:
    """Yield the entries of nested records, one below the other."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name} ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, entry in enumerate(value, start=1):
                yield from _flat(entry, f"{before}{name} {number} ")
        else:
            yield f"{before}{name}", value
