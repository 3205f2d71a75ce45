"""What ``reproduce`` shows: the report's figures beside ours, as ``report.md`` and ``report.html``.

Every number comes from the rows' folders (see ``Reproduction.results``). The prose is in
``reporting/templates/reproduction.md.j2``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import GrigriError
from ..evaluation import evaluator
from ..evaluation.bootstrap import Interval
from ..models import factory
from ..reporting import html, markdown, plots
from ..runtime import files
from . import report_2020
from .report_2020 import CLASS_NAMES
from .reproduction import Reproduction, RowResult

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
NONE = "-"
_FOOT = "Written by grigri-fast reproduce."
# Headings, and the rows whose curves stand in one figure.
_SECTIONS = {
    "BCE against MSE": ("bce", "mse"),
    "Optimizers": ("bce", "adam", "rmsprop", "amsgrad"),
    "One-cycle": ("bce", "onecycle"),
    "Augmentation": ("onecycle", "augmentation"),
    "ResNet34 at 224 px": ("resnet34",),
    "Wide ResNet-50-2": ("wide_resnet50_2",),
    "An untrained head": ("untrained",),
    "Backbone frozen": ("resnet34", "frozen"),
    "Thresholds": ("threshold", "thresholds_per_class"),
    "SimpleConvNet from scratch": ("simple",),
}

Results = dict[str, RowResult]


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows, in Markdown.
        figure: what is drawn.
    """

    name: str
    caption: str
    figure: plots.Figure

    @property
    def file(self) -> str:
        """The picture's name in the Markdown, in the folder of the figures."""
        return f"{FIGURES}/{self.name}.png"


@dataclass(frozen=True)
class Section:
    """What is computed for a section: paragraphs and a table in Markdown, and a figure."""

    paragraphs: list[str]
    table: str = ""
    figure: Drawing | None = None


def write(study: Reproduction) -> Path:
    """Write both reports of what is in ``out``, and return the path of the HTML page.

    Raises:
        GrigriError: if they cannot be written.
    """
    text, drawings = make(study, study.results())
    folder = study.out / FIGURES
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise GrigriError(f"{folder}: cannot be made: {e.strerror or e}") from e
    for drawing in drawings:
        files.write_atomic(study.out / drawing.file, plots.png(drawing.figure))
    files.write_atomic(study.out / MARKDOWN, text)
    files.write_atomic(study.out / HTML, to_html(text, drawings))
    return study.out / HTML


def to_html(text: str, drawings: list[Drawing]) -> str:
    """Return the page of a report in Markdown."""
    svgs = {d.file: plots.svg(d.figure, d.name, d.caption.replace("`", "")) for d in drawings}
    return markdown.to_html(text, svgs, _FOOT)


def make(study: Reproduction, results: list[RowResult]) -> tuple[str, list[Drawing]]:
    """Return the report in Markdown, and its figures."""
    by_name = {result.row.name: result for result in results}
    reductions = reduced(study, by_name)
    data = by_name["data"].summary
    num_scored = {r.summary["validation"].get("num_images") for r in results if r.summary}
    sections = {
        title: _section(title, [by_name[name] for name in names], study, not reductions)
        for title, names in _SECTIONS.items()
    }
    sections["Thresholds"] = _thresholds(sections["Thresholds"], by_name)
    of_data, all_rows = _data(by_name["data"]), _all_rows(results)
    text = html.render(
        "reproduction.md.j2",
        reductions=reductions,
        num_images=data["sets"][-1]["num_images"] if data else None,
        num_scored=sorted(filter(None, num_scored)),
        machines=_machines(results),
        overview=_overview(results),
        all_rows=all_rows,
        without_result=_without_result(results),
        data=of_data,
        sections=sections,
        chosen_thresholds=_chosen(by_name["thresholds_per_class"]),
    )
    drawings = [all_rows, of_data.get("figure"), *(s.figure for s in sections.values())]
    return text, [drawing for drawing in drawings if drawing is not None]


def reduced(study: Reproduction, results: Results) -> list[str]:
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
    data = results["data"].summary
    if data and data["sets"][0]["class_names"] != CLASS_NAMES:
        words.append("other data than the report's")
    return words


def _some(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


# --------------------------------------------------------------------------------- all rows


def _overview(results: list[RowResult]) -> str:
    """Return the table of all rows: the report's scores, ours, the difference."""
    columns = ["row", "what"]
    for score in ("micro-F1", "subset accuracy"):
        columns += [f"{score}: report", "ours (95 % interval)", "difference"]
    rows = []
    for result in results:
        cells = [f"`{result.row.name}`", result.row.title]
        for key in ("micro_f1", "subset_accuracy"):
            cells += against_report(result, key)
        rows.append(cells)
    return markdown.table(columns, rows, num_text=2)


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


def _machines(results: list[RowResult]) -> list[str]:
    """Return the hardware and PyTorch of the rows, each once."""
    seen = []
    for result in results:
        e = result.environment
        if result.is_done and e:
            where = e.get("gpu") or f"{e['cpu']}, {_some(e['cpu_threads'], 'thread')}"
            seen.append(f"{where}, {e['amp']}, torch {e['packages']['torch']}")
    return list(dict.fromkeys(seen))


def _all_rows(results: list[RowResult]) -> Drawing | None:
    """Return the figure of every row's micro-F1; None where none of ours is there."""
    scores = [(r.row.name, r.row.reported.get("micro_f1"), r.score("micro_f1")) for r in results]
    if all(ours is None for _, _, ours in scores):
        return None
    rows = [
        (name, theirs, None if ours is None else (ours.value, ours.low, ours.high))
        for name, theirs, ours in scores
        if ours is not None or theirs is not None
    ]
    figure = plots.against(rows, "micro-F1 on the validation images")
    caption = "Micro-F1 of every row: the report's beside ours with its 95 % interval."
    return Drawing("all-rows", caption, figure)


def _without_result(results: list[RowResult]) -> str:
    rows = [
        [", ".join(f"`{name}`" for name in names), _cell(why)]
        for why, names in why_not(results).items()
    ]
    return markdown.table(["rows", "why"], rows, num_text=2) if rows else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def why_not(results: list[RowResult]) -> dict[str, list[str]]:
    """Return by reason the names of the rows that have no result."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if not result.is_done:
            reasons.setdefault(result.why, []).append(result.row.name)
    return reasons


# --------------------------------------------------------------------------------- the data


def _data(result: RowResult) -> dict[str, Any]:
    """Return frequencies beside the report's, and the baselines."""
    if not result.is_done:
        return {"why": result.why}
    sets = result.summary["sets"]
    first = sets[0]
    is_reports = first["class_names"] == CLASS_NAMES
    columns = {"training": first["frequencies"]["train"], "validation": first["frequencies"]["val"]}
    figure = plots.bars(first["class_names"], columns, "share of the images")
    caption = f"Class frequencies of both parts of `{first['name']}`."
    return {
        "why": "",
        "name": first["name"],
        "agreement": _agreement(first) if is_reports else "have nothing to be compared with",
        "frequencies": _frequency_table(first, is_reports),
        "figure": Drawing("frequencies", caption, figure),
        "baselines": _baselines(sets),
    }


def _agreement(data: dict) -> str:
    """Return in words how many of the frequencies are those that the report prints."""
    pairs = [
        (ours, theirs)
        for part, column in report_2020.FREQUENCIES.items()
        for ours, theirs in zip(data["frequencies"][part], column, strict=True)
    ]
    same = sum(ours == theirs for ours, theirs in pairs)
    if same == len(pairs):
        return f"are the report's to the last digit (all {same})"
    largest = max(abs(ours - theirs) for ours, theirs in pairs)
    return (
        f"are the report's to the last digit in {same} of {len(pairs)} cases, and differ by"
        f" {largest:.4f} at most"
    )


def _frequency_table(data: dict, is_reports: bool) -> str:
    columns = ["class"]
    rows = [[_cell(name)] for name in data["class_names"]]
    for part in ("train", "val"):
        theirs = report_2020.FREQUENCIES[part] if is_reports else [None] * len(rows)
        ours = data["frequencies"][part]
        differ = is_reports and ours != theirs
        columns += [part, *(["report"] if is_reports else []), *(["difference"] if differ else [])]
        for cells, value, other in zip(rows, ours, theirs, strict=True):
            cells.append(f"{value:.7g}")
            if is_reports:
                cells.append(f"{other:.7g}")
            if differ:
                cells.append(f"{value - other:+.2g}" if value != other else "0")
    return markdown.table(columns, rows)


def _baselines(sets: list[dict]) -> str:
    columns = [
        *("labels of", "images", "without a label", "labels per image"),
        *("predict nothing: subset accuracy", "on val", "always the most frequent: micro-F1"),
    ]
    rows = []
    for data in sets:
        nothing = Interval(**data["nothing"]["subset_accuracy"])
        rows.append(
            [
                f"`{data['name']}`",
                f"{sum(data['num_images'].values()):,}",
                f"{data['without_label']:.2%}",
                f"{data['labels_per_image']:.3f}",
                interval(nothing),
                f"{data['val_without_label']:.4f}",
                f"{data['always_micro_f1']:.4f} ({data['most_frequent']})",
            ]
        )
    return markdown.table(columns, rows)


# ----------------------------------------------------------------------------- the sections


def _section(
    title: str, results: list[RowResult], study: Reproduction, comparable: bool
) -> Section:
    """Return what the rows of a section have left behind."""
    paragraphs = [_parameters()] if title.startswith("SimpleConvNet") else []
    paragraphs += [f"`{r.row.name}` has no result: {r.why}." for r in results if not r.is_done]
    done = [r for r in results if r.is_done]
    if comparable:
        paragraphs += filter(None, map(_comparison, done))
    if not done or done[0].row.kind == "thresholds":
        return Section(paragraphs)
    histories = {r.row.name: r.history for r in done if r.history}
    figure = _curves(title, histories, comparable) if histories else None
    return Section(paragraphs, _details(done, study), figure)


def _comparison(result: RowResult) -> str:
    """Return in words whether the report's micro-F1 lies within our interval."""
    ours, theirs = result.score("micro_f1"), result.row.reported.get("micro_f1")
    if ours is None or theirs is None:
        return ""
    if ours.low <= theirs <= ours.high:
        return f"`{result.row.name}`: the report's {theirs:.4f} lies within our interval."
    side = "above" if ours.value > theirs else "below"
    return f"`{result.row.name}`: ours is {side} the report's {theirs:.4f}, outside its interval."


def num_simple_parameters() -> int:
    """Return how many parameters SimpleConvNet has; none of them is made for this."""
    with torch.device("meta"):
        model = factory.build("simple", len(CLASS_NAMES), 128)
    return sum(parameter.numel() for parameter in model.parameters())


def _parameters() -> str:
    num = num_simple_parameters()
    same = (
        "as in the report" if num == report_2020.NUM_SIMPLE_PARAMETERS else "not as in the report"
    )
    return f"At 128 px and with 14 classes it has {num:,} parameters, {same}."


def _details(done: list[RowResult], study: Reproduction) -> str:
    """Return what is not in the table of all rows."""
    columns = ["row", "px", "validation loss", "macro-F1", "mAP"]
    columns += ["micro-F1, cross-fitted threshold", "best epoch's micro-F1 (flatters)"]
    columns += ["epochs", "trained in"]
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
    return markdown.table(columns, rows)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _curves(title: str, histories: dict[str, list], comparable: bool) -> Drawing:
    """Return the figure of runs in the same axes; the report's scores only where they compare."""
    reported = {row.name: row.reported for row in report_2020.ROWS} if comparable else {}
    caption = f"{title}: loss, micro-F1 and subset accuracy (at 0.5) over the epochs;"
    caption += " validation in full, training dashed"
    caption += ", the report's last score dotted." if comparable else "."
    name = "-".join(title.lower().split())
    return Drawing(name, caption, plots.comparison(histories, reported))


def _thresholds(section: Section, results: Results) -> Section:
    """Return the section with the thresholds as the report has them and cross-fitted."""
    done = [r for r in results.values() if r.is_done and r.row.kind == "thresholds"]
    if not done:
        return section
    columns = ["row", "micro-F1: report", "tuned here (flatters)", "cross-fitted (honest)"]
    columns += ["flattery", "subset accuracy: report", "tuned here", "cross-fitted"]
    keys = ("micro_f1", "subset_accuracy")
    rows = []
    base = results[report_2020.BASE]
    if base.is_done:
        micro_f1, accuracy = (interval(base.score(key)) for key in keys)
        theirs = [f"{base.row.reported[key]:.4f}" for key in keys]
        rows.append(["at 0.5", theirs[0], *[micro_f1] * 2, NONE, theirs[1], *[accuracy] * 2])
    for r in done:
        cells = [f"`{r.row.name}`"]
        for key in keys:
            tuned, honest = (r.score(key, w) for w in (evaluator.TUNED, evaluator.CROSS_FITTED))
            cells += [f"{r.row.reported[key]:.4f}", interval(tuned), interval(honest)]
            if key == "micro_f1":
                cells.append(f"{tuned.value - honest.value:+.4f}")
        rows.append(cells)
    caption = "Scores of `resnet34` on the validation images over one threshold for all classes."
    figure = Drawing("thresholds", caption, _threshold_figure(done))
    return Section(section.paragraphs, markdown.table(columns, rows), figure)


def _threshold_figure(done: list[RowResult]) -> plots.Figure:
    curve = done[0].summary["curve"]
    marks = {"the report's best": report_2020.THRESHOLD}
    for r in done:
        if r.row.threshold == "auto":
            marks["ours"] = r.summary["validation"]["threshold"]
    scores = {"micro-F1": curve["micro_f1"], "subset accuracy": curve["subset_accuracy"]}
    return plots.over_threshold(curve["threshold"], scores, marks)


def _chosen(result: RowResult) -> str:
    """Return the thresholds of the classes in words; "" where there are none."""
    if not result.is_done:
        return ""
    names, chosen = result.summary["class_names"], result.summary["validation"]["threshold"]
    return ", ".join(f"{n} {t:.3f}" for n, t in zip(names, chosen, strict=True))
