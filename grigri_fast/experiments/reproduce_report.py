"""What ``reproduce`` shows: the report's figures beside ours, as ``report.md`` and ``report.html``.

Every number comes from the rows' folders (see ``Reproduction.results``). The prose is in
``reporting/templates/reproduction.md.j2``.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import GrigriError
from ..evaluation.bootstrap import Interval
from ..models import factory
from ..reporting import html, markdown, plots
from ..runtime import files
from . import conclusions, report_2020
from .conclusions import Results
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
    "The final recipe": ("resnet34",),
    "A wider network": ("wide_resnet50_2",),
    "An untrained head": ("untrained",),
    "Backbone frozen": ("resnet34", "frozen"),
    "Thresholds": ("threshold", "thresholds_per_class"),
    "SimpleConvNet from scratch": ("simple",),
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report, the name of its file without suffix, and a caption in Markdown."""

    name: str
    caption: str
    figure: plots.Figure

    @property
    def file(self) -> str:
        """The picture's name in the Markdown, in the folder of the figures."""
        return f"{FIGURES}/{self.name}.png"


@dataclass(frozen=True)
class Section:
    """What a section shows: rows that have a result, those that have none, and curves."""

    done: list[RowResult]
    missing: list[RowResult]
    drawing: Drawing | None


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
    is_reports = not reductions and study.network is None
    sections = {
        title: _section(title, [by_name[name] for name in names], is_reports)
        for title, names in _SECTIONS.items()
    }
    sets = by_name["data"].summary.get("sets", [])
    all_rows, frequencies = _all_rows(results), _frequencies(sets)
    text = html.render(
        "reproduction.md.j2",
        study=study,
        results=by_name,
        reductions=reductions,
        is_reports=is_reports,
        conclusions=conclusions.conclude(by_name, study.weights),
        signed=conclusions.signed,
        machines=_machines(results),
        num_scored=sorted(
            {n for r in results if (n := r.summary.get("validation", {}).get("num_images"))}
        ),
        why_not=why_not(results),
        sets=sets,
        report=report_2020,
        agreement=_agreement(sets[0]) if sets else "",
        sections=sections,
        all_rows=all_rows,
        frequencies=frequencies,
        num_parameters=num_simple_parameters(),
        against_report=against_report,
        interval=interval,
        Interval=Interval,
        compare=_compare,
        duration=_duration,
    )
    drawings = [all_rows, frequencies, *(section.drawing for section in sections.values())]
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
            for row in map(report_2020.row_named, ("bce", "resnet34"))
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


def why_not(results: list[RowResult]) -> dict[str, list[str]]:
    """Return by reason the names of the rows that have no result."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if not result.is_done:
            reasons.setdefault(result.why, []).append(result.row.name)
    return reasons


# --------------------------------------------------------------------------------- the data


def _frequencies(sets: list[dict]) -> Drawing | None:
    """Return the figure of the class frequencies of the first of some sets of labels."""
    if not sets:
        return None
    values = sets[0]["frequencies"]
    columns = {"training": values["train"], "validation": values["val"]}
    figure = plots.bars(sets[0]["class_names"], columns, "share of the images")
    caption = f"Class frequencies of both parts of `{sets[0]['name']}`."
    return Drawing("frequencies", caption, figure)


def _agreement(data: dict) -> str:
    """Return in words how many of the frequencies are those that the report prints."""
    if data["class_names"] != CLASS_NAMES:
        return "have nothing to be compared with"
    differences = [
        abs(ours - theirs)
        for part, column in report_2020.FREQUENCIES.items()
        for ours, theirs in zip(data["frequencies"][part], column, strict=True)
    ]
    same = differences.count(0)
    if same == len(differences):
        return f"are the report's to the last digit (all {same})"
    return (
        f"are the report's to the last digit in {same} of {len(differences)} cases, and differ by"
        f" {max(differences):.4f} at most"
    )


def _section(title: str, results: list[RowResult], comparable: bool) -> Section:
    """Return what the rows of a section have left behind."""
    done = [r for r in results if r.is_done]
    if done and done[0].row.kind == "thresholds":
        drawing: Drawing | None = _scores_over_threshold(done)
    else:
        histories = {r.row.name: r.history for r in done if r.history}
        drawing = _curves(title, histories, comparable) if histories else None
    return Section(done, [r for r in results if not r.is_done], drawing)


def _compare(result: RowResult) -> str:
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


def _scores_over_threshold(done: list[RowResult]) -> Drawing:
    curve = done[0].summary["curve"]
    marks = {"the report's best": report_2020.THRESHOLD}
    for r in done:
        if r.row.threshold == "auto":
            marks["ours"] = r.summary["validation"]["threshold"]
    scores = {"micro-F1": curve["micro_f1"], "subset accuracy": curve["subset_accuracy"]}
    figure = plots.over_threshold(curve["threshold"], scores, marks)
    caption = "Scores of `resnet34` on the validation images over one threshold for all classes."
    return Drawing("thresholds", caption, figure)
