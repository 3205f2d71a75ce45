"""What ``reproduce`` shows: the report's figures beside ours, as ``report.md`` and ``report.html``.

Every number comes from the rows' folders (see ``Reproduction.results``).
"""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import GrigriError
from ..evaluation import evaluator
from ..evaluation.bootstrap import Interval
from ..models import factory
from ..reporting import document, plots
from ..reporting.document import Block, Code, Document, Figure, Heading, Notice, Table, Text
from ..runtime import files
from . import report_2020
from .report_2020 import CLASS_NAMES
from .reproduction import Reproduction, RowResult

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
NONE = "-"
_TITLE = "The report of 2020, reproduced"
_FOOT = "Written by grigri-fast reproduce."

Findings = dict[str, RowResult]


def write(study: Reproduction) -> Path:
    """Write both reports of what is in ``out``, and return the path of the HTML page.

    Raises:
        GrigriError: if they cannot be written.
    """
    found = study.results()
    page = make(study, found)
    folder = study.out / FIGURES
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise GrigriError(f"{folder}: cannot be made: {e.strerror or e}") from e
    for name, png in document.pictures(page).items():
        files.write_atomic(folder / name, png)
    files.write_atomic(study.out / MARKDOWN, document.to_markdown(page, FIGURES))
    files.write_atomic(study.out / HTML, document.to_html(page, _FOOT))
    return study.out / HTML


def make(study: Reproduction, found: list[RowResult]) -> Document:
    """Return the report as a document."""
    by_name = {finding.row.name: finding for finding in found}
    blocks: list[Block] = []
    reductions = reduced(study, by_name)
    if reductions:
        blocks.append(
            Notice(
                f"**At reduced scale**: {'; '.join(reductions)}. So the figures below show that"
                " the way works. They are not what the report's networks reach, and the"
                " differences are no verdict on it."
            )
        )
    blocks += _opening(by_name)
    blocks += [Heading("All rows"), overview(found)]
    if any(f.is_done and f.score("micro_f1") for f in found):
        blocks.append(_forest(found))
    blocks += _without_result(found)
    blocks += _data_section(by_name["data"])
    for section in _SECTIONS:
        blocks += _section(section, study, by_name, comparable=not reductions)
    blocks += _closing(study)
    return Document(_TITLE, blocks)


def reduced(study: Reproduction, found: Findings) -> list[str]:
    """Return in words what makes the study's figures others than the report's could be."""
    words = []
    if study.epochs != report_2020.EPOCHS:
        words.append(f"{_some(study.epochs, 'epoch')} instead of {report_2020.EPOCHS}")
    if study.limit is not None:
        words.append(f"{study.limit:,} images (`--limit`)")
    if study.size_scale != 1:
        sides = [
            f"{study.size_px(row)} px instead of {row.options['size']}"
            for row in (report_2020.row_named("bce"), report_2020.row_named("resnet34"))
        ]
        words.append(f"images of {' and '.join(sides)} (`--size-scale {study.size_scale:g}`)")
    if study.weights == "none":
        words.append(
            "every network trained from scratch (`--weights none`), in the report only"
            " SimpleConvNet was"
        )
    data = found["data"].summary
    if data and data["sets"][0]["class_names"] != CLASS_NAMES:
        words.append("other data than the report's")
    return words


def _some(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


# --------------------------------------------------------------------------------- all rows


def overview(found: list[RowResult]) -> Table:
    """Return the table of all rows: the report's scores, ours, the difference."""
    columns = ["row", "what"]
    for score in ("micro-F1", "subset accuracy"):
        columns += [f"{score}: report", "ours (95 % interval)", "difference"]
    rows = []
    for finding in found:
        cells = [f"`{finding.row.name}`", finding.row.title]
        for key in ("micro_f1", "subset_accuracy"):
            cells += against_report(finding, key)
        rows.append(cells)
    return Table(columns, rows, num_text=2)


def against_report(finding: RowResult, key: str) -> list[str]:
    """Return the report's score, ours with its interval, and the difference, as texts."""
    theirs, ours = finding.row.reported.get(key), finding.score(key)
    return [
        NONE if theirs is None else f"{theirs:.4f}",
        interval(ours),
        NONE if theirs is None or ours is None else f"{ours.value - theirs:+.4f}",
    ]


def interval(score: Interval | None) -> str:
    """Return 0.7123 (.701-.724), or a dash."""
    if score is None:
        return NONE
    if score.low is None:
        return f"{score.value:.4f}"
    low, high = (f"{x:.3f}".removeprefix("0") for x in (score.low, score.high))
    return f"{score.value:.4f} ({low}-{high})"


def _opening(found: Findings) -> list[Block]:
    """Return what was run, on what."""
    text = (
        "A report of 2020 fine-tuned networks on photographs with several labels each. Here its"
        " experiments are run again by `grigri-fast reproduce`. As in the report, the scores are"
        " those of the last epoch on the validation images, a label being given from probability"
        " 0.5 on. **micro-F1** is F1 of all labels in one pot, **subset accuracy** the share of"
        " images whose labels are all right. Intervals are of the bootstrap over images: they say"
        " how a score would vary over other validation images, not over other seeds (one standard"
        " deviation of micro-F1 on 4,000 images is about 0.006)."
    )
    blocks: list[Block] = [Text(text)]
    data = found["data"].summary
    if data:
        used = data["sets"][-1]
        num = used["num_images"]
        words = f"Data: {num['train']:,} images to train on and {num['val']:,} to validate on"
        words += " (the report: 16,000 and 4,000)."
        if num["train"] < 16_000:
            words += " With fewer to learn from, lower scores are to be expected."
        scored = {f.summary["validation"].get("num_images") for f in found.values() if f.summary}
        numbers = sorted(n for n in scored if n)
        if numbers:
            words += f" Scored on {', '.join(f'{n:,}' for n in numbers)} validation images."
        blocks.append(Text(words))
    machines = _machines(found)
    if machines:
        blocks.append(Text(f"Made with {'; '.join(machines)}."))
    return blocks


def _machines(found: Findings) -> list[str]:
    """Return the hardware and PyTorch of the rows, each once."""
    seen = []
    for finding in found.values():
        e = finding.environment
        if finding.is_done and e:
            where = e.get("gpu") or f"{e['cpu']}, {_some(e['cpu_threads'], 'thread')}"
            seen.append(f"{where}, {e['amp']}, torch {e['packages']['torch']}")
    return list(dict.fromkeys(seen))


def _forest(found: list[RowResult]) -> Figure:
    rows = []
    for finding in found:
        ours, theirs = finding.score("micro_f1"), finding.row.reported.get("micro_f1")
        if ours is None and theirs is None:
            continue
        triple = None if ours is None else (ours.value, ours.low, ours.high)
        rows.append((finding.row.name, theirs, triple))
    return Figure(
        "all-rows",
        "Micro-F1 of every row: the report's beside ours with its 95 % interval.",
        functools.partial(_draw_forest, rows),
    )


def _draw_forest(rows: list, file_format: str) -> bytes:
    return plots.against(rows, "micro-F1 on the validation images", file_format)


def _without_result(found: list[RowResult]) -> list[Block]:
    reasons = why_not(found)
    if not reasons:
        return []
    rows = [[", ".join(f"`{name}`" for name in names), why] for why, names in reasons.items()]
    return [Heading("Rows without a result"), Table(["rows", "why"], rows, num_text=2)]


def why_not(found: list[RowResult]) -> dict[str, list[str]]:
    """Return by reason the names of the rows that have no result."""
    reasons: dict[str, list[str]] = {}
    for finding in found:
        if not finding.is_done:
            reasons.setdefault(finding.why, []).append(finding.row.name)
    return reasons


# --------------------------------------------------------------------------------- the data


def _data_section(finding: RowResult) -> list[Block]:
    """Return frequencies beside the report's, and the baselines."""
    blocks: list[Block] = [Heading("The data")]
    if not finding.is_done:
        return [*blocks, Text(f"Not looked at: {finding.why}.")]
    sets = finding.summary["sets"]
    first = sets[0]
    is_reports = first["class_names"] == CLASS_NAMES
    blocks.append(
        Text(
            "Training and validation part are made by iterative stratification of label pairs"
            f" (80/20). Of `{first['name']}`, the class frequencies"
            + (f" {_agreement(first)}." if is_reports else " have nothing to be compared with.")
        )
    )
    blocks.append(_frequency_table(first, is_reports))
    columns = {"training": first["frequencies"]["train"], "validation": first["frequencies"]["val"]}
    draw = functools.partial(plots.bars, first["class_names"], columns, "share of the images")
    caption = f"Class frequencies of both parts of `{first['name']}`."
    blocks.append(Figure("frequencies", caption, lambda f: draw(file_format=f)))
    blocks.append(_baselines(sets))
    return blocks


def _agreement(found: dict) -> str:
    """Return in words how many of the frequencies are those that the report prints."""
    pairs = [
        (ours, theirs)
        for part, column in report_2020.FREQUENCIES.items()
        for ours, theirs in zip(found["frequencies"][part], column, strict=True)
    ]
    same = sum(ours == theirs for ours, theirs in pairs)
    if same == len(pairs):
        return f"are the report's to the last digit (all {same})"
    largest = max(abs(ours - theirs) for ours, theirs in pairs)
    return (
        f"are the report's to the last digit in {same} of {len(pairs)} cases, and differ by"
        f" {largest:.4f} at most"
    )


def _frequency_table(found: dict, is_reports: bool) -> Table:
    columns = ["class"]
    rows = [[name] for name in found["class_names"]]
    for part in ("train", "val"):
        theirs = report_2020.FREQUENCIES[part] if is_reports else [None] * len(rows)
        ours = found["frequencies"][part]
        differ = is_reports and ours != theirs
        columns += [part, *(["report"] if is_reports else []), *(["difference"] if differ else [])]
        for cells, value, other in zip(rows, ours, theirs, strict=True):
            cells.append(f"{value:.7g}")
            if is_reports:
                cells.append(f"{other:.7g}")
            if differ:
                cells.append(f"{value - other:+.2g}" if value != other else "0")
    return Table(columns, rows)


def _baselines(sets: list[dict]) -> Table:
    columns = [
        *("labels of", "images", "without a label", "labels per image"),
        *("predict nothing: subset accuracy", "on val", "always the most frequent: micro-F1"),
    ]
    rows = []
    for found in sets:
        nothing = Interval(**found["nothing"]["subset_accuracy"])
        rows.append(
            [
                f"`{found['name']}`",
                f"{sum(found['num_images'].values()):,}",
                f"{found['without_label']:.2%}",
                f"{found['labels_per_image']:.3f}",
                interval(nothing),
                f"{found['val_without_label']:.4f}",
                f"{found['always_micro_f1']:.4f} ({found['most_frequent']})",
            ]
        )
    return Table(columns, rows)


# ----------------------------------------------------------------------------- the sections

# Heading, rows whose curves stand in one figure, and what was asked.
_SECTIONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "BCE against MSE",
        ("bce", "mse"),
        "Which loss? ResNet18 at 128 px, SGD with learning rate 0.01 and momentum 0.9, both"
        " constant, batches of 32, no augmentation (the report's figures 1 and 2). The two losses"
        " are on different scales: compare the scores.",
    ),
    (
        "Optimizers",
        ("bce", "adam", "rmsprop", "amsgrad"),
        "Adam, RMSprop and AMSGrad with learning rate 1e-3 against SGD (figure 3). The report's"
        " last figures of these are not known here.",
    ),
    (
        "One-cycle",
        ("bce", "onecycle"),
        "SGD whose learning rate goes up to 0.01 and down to 1e-7 while momentum goes from 0.95 to"
        " 0.85 and back (Smith and Topin 2017), weight decay 1e-3 (figure 4).",
    ),
    (
        "Augmentation",
        ("onecycle", "augmentation"),
        "Random crops, flips and rotations on top of one-cycle (figure 5).",
    ),
    (
        "ResNet34 at 224 px",
        ("resnet34",),
        "The report's best network: augmented, BCE, one-cycle, weight decay 1e-4 (figure 6).",
    ),
    (
        "Wide ResNet-50-2",
        ("wide_resnet50_2",),
        "The widest network, at 128 px, otherwise trained as ResNet34 (figure 7). torchvision's"
        " default weights of this network are newer than the report's; a `--weights` folder"
        " that holds the old ones is preferred.",
    ),
    (
        "An untrained head",
        ("untrained",),
        "What ResNet34 scores before anything is trained: a check that nothing leaks. A fresh head"
        " says yes to about half of all labels, whatever the image; which half, its random numbers"
        " decide, so this score differs from seed to seed by more than its interval.",
    ),
    (
        "Backbone frozen",
        ("resnet34", "frozen"),
        "Only the head is trained, on the features as they are (figure 8).",
    ),
    (
        "Thresholds",
        ("threshold", "thresholds_per_class"),
        "The thresholds of `resnet34` are chosen on the very images that they are then scored on,"
        " as the report did: **that flatters**, by about 0.002 for one threshold and 0.010 for 14"
        " on 4,000 images. Cross-fitted scores are the honest ones: each fifth of the images is"
        " judged with thresholds that were tuned on the other four.",
    ),
    (
        "SimpleConvNet from scratch",
        ("simple",),
        "Thirteen 3x3 convolutions and three linear layers without normalisation, at 128 px. In"
        " the report it learned to predict nothing.",
    ),
)


def _section(
    section: tuple[str, tuple[str, ...], str],
    study: Reproduction,
    found: Findings,
    comparable: bool,
) -> list[Block]:
    title, names, text = section
    group = [found[name] for name in names]
    blocks: list[Block] = [Heading(title), Text(text)]
    if names == ("simple",):
        blocks.append(_parameters())
    blocks += [Text(f"`{f.row.name}` has no result: {f.why}.") for f in group if not f.is_done]
    done = [f for f in group if f.is_done]
    if not done:
        return blocks
    if comparable:
        blocks += [Text(verdict) for verdict in map(_verdict, done) if verdict]
    if any(f.row.kind == "thresholds" for f in done):
        return [*blocks, *_threshold_blocks(done, found)]
    blocks.append(_details(done, study))
    with_curves = {f.row.name: f.history for f in done if f.history}
    if with_curves:
        blocks.append(_curves(title, with_curves, comparable))
    return blocks


def _verdict(finding: RowResult) -> str:
    """Return in words whether the report's micro-F1 lies within our interval."""
    ours, theirs = finding.score("micro_f1"), finding.row.reported.get("micro_f1")
    if ours is None or theirs is None:
        return ""
    if ours.low <= theirs <= ours.high:
        return f"`{finding.row.name}`: the report's {theirs:.4f} lies within our interval."
    side = "above" if ours.value > theirs else "below"
    return f"`{finding.row.name}`: ours is {side} the report's {theirs:.4f}, outside its interval."


def num_simple_parameters() -> int:
    """Return how many parameters SimpleConvNet has; none of them is made for this."""
    with torch.device("meta"):
        model = factory.build("simple", len(CLASS_NAMES), 128)
    return sum(parameter.numel() for parameter in model.parameters())


def _parameters() -> Text:
    num = num_simple_parameters()
    same = (
        "as in the report" if num == report_2020.NUM_SIMPLE_PARAMETERS else "not as in the report"
    )
    return Text(f"At 128 px and with 14 classes it has {num:,} parameters, {same}.")


def _details(done: list[RowResult], study: Reproduction) -> Table:
    """Return what is not in the table of all rows."""
    columns = [
        "row",
        "px",
        "validation loss",
        "macro-F1",
        "mAP",
        "micro-F1, cross-fitted threshold",
    ]
    columns += ["best epoch's micro-F1 (flatters)", "epochs", "trained in"]
    rows = []
    for f in done:
        best = f.summary.get("best")
        rows.append(
            [
                f"`{f.row.name}`",
                str(study.size_px(f.row)),
                f"{f.history[-1]['val_loss']:.4f}" if f.history else NONE,
                interval(f.score("macro_f1")),
                interval(f.score("mAP")),
                interval(f.score("micro_f1", evaluator.CROSS_FITTED)),
                f"{best['val_micro_f1']:.4f} (epoch {best['epoch']})" if best else NONE,
                str(f.summary["epochs"]),
                _duration(f.summary["train_s"]) if "train_s" in f.summary else NONE,
            ]
        )
    return Table(columns, rows)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _curves(title: str, histories: dict[str, list], comparable: bool) -> Figure:
    """Return the figure of runs in the same axes; the report's scores only where they compare."""
    reported = {row.name: row.reported for row in report_2020.ROWS} if comparable else {}
    caption = f"{title}: loss, micro-F1 and subset accuracy (at 0.5) over the epochs;"
    caption += " validation in full, training dashed"
    caption += ", the report's last score dotted." if comparable else "."
    draw = functools.partial(plots.comparison, histories, reported)
    return Figure(_file_name(title), caption, lambda f: draw(file_format=f))


def _file_name(title: str) -> str:
    return "-".join(title.lower().split())


def _threshold_blocks(done: list[RowResult], found: Findings) -> list[Block]:
    """Return the table of thresholds as the report has them and cross-fitted, and the curve."""
    columns = ["row", "micro-F1: report", "tuned here (flatters)", "cross-fitted (honest)"]
    columns += ["flattery", "subset accuracy: report", "tuned here", "cross-fitted"]
    rows = []
    base = found[report_2020.BASE]
    if base.is_done:
        scores = [interval(base.score(k)) for k in ("micro_f1", "subset_accuracy")]
        theirs = [f"{base.row.reported[k]:.4f}" for k in ("micro_f1", "subset_accuracy")]
        rows.append(["at 0.5", theirs[0], scores[0], scores[0], NONE, theirs[1], *[scores[1]] * 2])
    for f in done:
        tuned, honest = (
            [f.score(key, way) for key in ("micro_f1", "subset_accuracy")]
            for way in (evaluator.TUNED, evaluator.CROSS_FITTED)
        )
        rows.append(
            [
                f"`{f.row.name}`",
                f"{f.row.reported['micro_f1']:.4f}",
                interval(tuned[0]),
                interval(honest[0]),
                f"{tuned[0].value - honest[0].value:+.4f}",
                f"{f.row.reported['subset_accuracy']:.4f}",
                interval(tuned[1]),
                interval(honest[1]),
            ]
        )
    blocks: list[Block] = [Table(columns, rows)]
    draw = _threshold_figure(done)
    caption = "Scores of `resnet34` on the validation images over one threshold for all classes."
    blocks.append(Figure("thresholds", caption, draw))
    per_class = next((f for f in done if f.row.threshold == "per-class"), None)
    if per_class is not None:
        names = per_class.summary["class_names"]
        chosen = per_class.summary["validation"]["threshold"]
        words = ", ".join(f"{n} {t:.3f}" for n, t in zip(names, chosen, strict=True))
        blocks.append(Text(f"Thresholds per class: {words}."))
    return blocks


def _threshold_figure(done: list[RowResult]) -> Callable[[str], bytes]:
    curve = done[0].summary["curve"]
    marks = {"the report's best": report_2020.THRESHOLD}
    for f in done:
        if f.row.threshold == "auto":
            marks["ours"] = f.summary["validation"]["threshold"]
    scores = {"micro-F1": curve["micro_f1"], "subset accuracy": curve["subset_accuracy"]}
    return lambda f: plots.over_threshold(curve["threshold"], scores, marks, f)


# ------------------------------------------------------------------------------ the closing


def _closing(study: Reproduction) -> list[Block]:
    folder = "OUT"
    return [
        Heading("What is not as in the report"),
        Text(
            "Not given there and assumed here: 20 epochs for all rows but the first two, no weight"
            " decay before one-cycle, RMSprop without momentum, the ranges of the augmentation,"
            " dropout 0.5 in SimpleConvNet. Done otherwise on purpose: the head's bias starts at"
            " the log-odds of the class frequencies (but not in `untrained`); crop, flip, rotation"
            " and resize are one resampling; and the seeds are others, of course."
        ),
        Heading("Run it again"),
        Text(
            "Each row is a run folder. Its `config.toml` repeats it, `eval` scores it in other"
            " ways, and `reproduce` with the same options only writes these pages again:"
        ),
        Code(
            f"grigri-fast train --config {folder}/bce/config.toml\n"
            f"grigri-fast eval {folder}/resnet34 --threshold per-class"
        ),
    ]
