"""What the command line shows: progress and tables, plain lines in a pipe. Uses rich."""

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..curation.label_issues import GALLERY, ISSUES, NEAR, Cleaning
from ..curation.summary import Survey
from ..data.dataset import Dataset
from ..data.download import format_size as bytes_in_words
from ..data.mirflickr import FetchCallback, Fetched
from ..data.split import SplitResult, frequencies
from ..evaluation.bootstrap import Interval
from ..evaluation.evaluator import CROSS_FITTED, TUNED, RunEvaluation
from ..experiments import reproduce_report
from ..experiments.report_2020 import Row
from ..experiments.reproduce import ReproduceCallback, Reproduced
from ..experiments.trials import DONE, PRUNED, Trial, Tuned
from ..experiments.tuner import TuneCallback
from ..inference.exporter import INPUT, OUTPUT, Exported
from ..inference.predictor import Prediction
from ..profiling.benchmark import Measured, Report, peak_flops_per_s, ratio
from ..profiling.profiler import ASSUMED, EVALUATION, NOT_IN_STEP, Profile
from ..runs.checkpoint import ModelInfo
from ..runtime import files
from ..runtime.units import format_bytes
from ..training.callbacks import Callback
from ..training.trainer import Result
from . import verbosity

_PIPE_STEP_EVERY_S = 30  # a step line in a pipe, where an epoch takes longer than that
_SHOWN_PATHS = 20  # of a list of files; the rest is counted
_SHOWN_PREDICTIONS = 200
_SHOWN_TRIALS = 10
_START_S = time.monotonic()  # close to when the program started
_HEADS = {TUNED: "tuned here\n(flatters)", CROSS_FITTED: "cross-fitted\n(honest)"}

# A table in a pipe is as wide as it needs to be; nothing is cut off to 80 columns.
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def say(text: str) -> None:
    """Print a line as it is."""
    _out.print(text, markup=False, soft_wrap=True)


def mention(text: str) -> None:
    """Print a line that is no result, unless --quiet; with --verbose after the seconds so far."""
    if verbosity.verbose:
        text = "\n".join(f"{time.monotonic() - _START_S:8.2f} s  {x}" for x in text.split("\n"))
    if not verbosity.quiet:
        say(text)


def _table(*columns: str, left: int = 1) -> Table:
    """Return an empty table; the first ``left`` columns are text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        table.add_column(
            name, justify="left" if i < left else "right", no_wrap=i >= left, overflow="fold"
        )
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


# ------------------------------------------------------------------------------ progress


@contextlib.contextmanager
def progress(verb: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while work goes on; yield a function of (done, total)."""
    console = Console(stderr=True)
    if quiet or verbosity.quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    bar = Progress(
        TextColumn(verb),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class FetchScreen(FetchCallback):
    """Shows a download and what is made of it: a bar in a terminal, now and then a line in a pipe.

    All on stderr: it is the result that goes to stdout.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, text="", visible=False)
        self._said_s = time.monotonic()
        self._what = ""
        self._start = (0.0, 0)  # when this began, and with how many bytes

    def __enter__(self) -> "FetchScreen":
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._bar.stop()

    def log(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def on_download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Show how much of a file has arrived, and how fast it comes."""
        now_s = time.monotonic()
        if name != self._what or done_bytes < self._start[1]:
            self._start = (now_s, done_bytes)
        of = f" of {bytes_in_words(total_bytes)}" if total_bytes else ""
        rate = (done_bytes - self._start[1]) / max(now_s - self._start[0], 1e-3)
        text = f"{bytes_in_words(done_bytes)}{of}, {bytes_in_words(round(rate))}/s"
        self._show(name, text, done_bytes, total_bytes)

    def on_convert(self, done: int, total: int) -> None:
        """Show how many images are written."""
        self._show("writing images", f"{done:,}/{total:,}", done, total)

    def _show(self, what: str, text: str, done: int, total: int | None) -> None:
        if self._live:
            if what != self._what:  # the time that is left is this one's
                self._bar.reset(self._task, total=total)
            self._bar.update(
                self._task, description=what, completed=done, total=total, text=text, visible=True
            )
        elif time.monotonic() - self._said_s > _PIPE_STEP_EVERY_S:
            self._said_s = time.monotonic()
            self.log(f"{what}: {text}")
        self._what = what


class TrainScreen(Callback):
    """Shows a training run: a bar while it goes on, and a line per epoch that stays.

    Args:
        shows: whether there may be a bar; of several processes that train together one has it.
    """

    def __init__(self, shows: bool = True) -> None:
        self._live = _out.is_terminal and shows and not verbosity.quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=_out,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, text="", visible=False)
        self._head_shown = False
        self._prefix = ""
        self._said_s = time.monotonic()

    def __enter__(self) -> "TrainScreen":
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._bar.stop()

    def log(self, text: str) -> None:
        """Print a line."""
        mention(text)

    def on_check(self, done: int, total: int) -> None:
        """Show how far the check of the files is."""
        self._bar.update(
            self._task,
            description="checking images",
            completed=done,
            total=total,
            text=f"{done:,}/{total:,}",
            visible=True,
        )

    def on_step(
        self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float
    ) -> None:
        """Show where training is."""
        text = f"loss {loss:.4f}  {images_per_s:,.0f} images/s"
        if self._live:
            self._bar.update(
                self._task,
                description=f"{self._prefix}epoch {epoch}",
                completed=step,
                total=num_steps,
                text=text,
                visible=True,
            )
        elif time.monotonic() - self._said_s > _PIPE_STEP_EVERY_S:
            self._said_s = time.monotonic()
            mention(f"{self._prefix}epoch {epoch}  step {step}/{num_steps}  {text}")

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Print the line of an epoch."""
        if verbosity.quiet:
            return
        if not self._head_shown:
            self._head_shown = True
            _out.print(
                f"[bold]{'':7}{'train':>16}{'':10}{'validation':>20}\n"
                f"{'epoch':>7}{'loss':>8}{'F1':>8}{'acc':>8} |"
                f"{'loss':>8}{'F1':>8}{'acc':>8}{'mAP':>8} {'img/s':>7}{'s':>5}[/bold]"
            )
        train = "".join(
            f"{row[f'train_{key}']:8.4f}" for key in ("loss", "micro_f1", "subset_accuracy")
        )
        val = "".join(
            f"{_number(row[f'val_{key}']):>8}"
            for key in ("loss", "micro_f1", "subset_accuracy", "mAP")
        )
        star = "[green]*[/green]" if is_best else " "
        _out.print(
            f"{row['epoch']:>3}/{num_epochs:<3}{train} |{val}{star}"
            f"{row['images_per_s']:7,.0f}{row['seconds']:5.0f}"
        )
        self._said_s = time.monotonic()


class TuneScreen(TrainScreen, TuneCallback):
    """Shows a search: a bar while a trial goes on, and a line per trial that stays."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()
        self._trial: Trial | None = None

    def on_trial_start(self, trial: Trial, num_trials: int) -> None:
        """Show which trial goes on."""
        self._trial = trial
        self._prefix = f"{trial.name} of {num_trials}, "

    def log(self, text: str) -> None:
        """Print a line, but not what all trials say again."""
        name = self._trial.name if self._trial else ""
        key = text.replace(name, "") if name else text
        if key not in self._said and not text.startswith("run folder "):
            mention(text)
        self._said.add(key)

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Show nothing: the line of a trial is enough."""

    def on_trial_end(self, trial: Trial, is_best: bool) -> None:
        """Print the line of a trial."""
        if verbosity.quiet:
            return
        widths = {name: max(10, len(name) + 2) for name in trial.params}
        if not self._head_shown:
            self._head_shown = True
            names = "".join(f"{name:>{width}}" for name, width in widths.items())
            _out.print(f"[bold]{'trial':11}{names}{'epochs':>8}{'mAP':>8}[/bold]")
        values = "".join(f"{_plain(trial.params[n]):>{width}}" for n, width in widths.items())
        star = "[green]*[/green]" if is_best else " "
        end = {DONE: "", PRUNED: " pruned"}.get(trial.state, f" failed: {escape(trial.reason)}")
        _out.print(
            f"{trial.name:11}{values}{trial.epochs:8}{_number_or_dash(trial.score):>8}{star}{end}",
            soft_wrap=True,
        )
        self._said_s = time.monotonic()


def _number_or_dash(value: float | None) -> str:
    return _number(math.nan if value is None else value)


def _plain(value: Any) -> str:
    """Return an option's value in few characters."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class ReproduceScreen(TrainScreen, ReproduceCallback):
    """Shows ``reproduce``: which row runs, and its training as ``train`` shows it."""

    def on_row(self, number: int, total: int, row: Row) -> None:
        """Print a row's name."""
        self._bar.update(self._task, visible=False)
        self._head_shown = False
        if not verbosity.quiet:
            _out.print(f"\n[bold]row {number}/{total}  {row.name}[/bold]  {row.title}")


# ---------------------------------------------------------------------------- the results

_SCORES = (
    ("micro-F1", "micro_f1"),
    ("macro-F1", "macro_f1"),
    ("subset accuracy", "subset_accuracy"),
    ("mAP", "mAP"),
)


def _interval(score: Interval) -> str:
    """Return 0.7123 (.701-.724): the score and its 95 % interval."""
    if math.isnan(score.value):
        return "-"
    low, high = (f"{x:.3f}".removeprefix("0") for x in (score.low, score.high))
    return f"{score.value:.4f} [dim]({low}-{high})[/dim]"


def _show_scores(scores: dict[str, Any]) -> None:
    """Print the scores with a column per way of finding the threshold."""
    table = _table("", *(_HEADS.get(name, name) for name in scores))
    for title, key in _SCORES:
        table.add_row(title, *(_interval(getattr(s, key)) for s in scores.values()))
    _out.print(table)


def show_result(result: Result) -> None:
    """Print the scores of a finished run, where it is, and what to do next."""
    evaluation = result.evaluation
    if verbosity.quiet:
        found = evaluation.honest
        say(
            f"{result.folder}: micro-F1 {found.micro_f1.value:.4f} (cross-fitted), mAP"
            f" {_number(found.mAP.value)}"
        )
        return
    say(f"\nlast epoch on {evaluation.num_images:,} validation images, with 95 % intervals\n")
    _show_scores(evaluation.by_name())
    minutes, seconds = divmod(round(result.train_s), 60)
    _out.print()
    say(f"trained in {minutes} min {seconds} s; everything is in {result.folder}")
    say(f"next: grigri-fast eval {result.folder} --save")
    say(f"      grigri-fast predict {result.folder} PHOTOS")


def show_evaluation(scored: RunEvaluation, saved: bool) -> None:
    """Print the scores and the table per class."""
    evaluation, path = scored.evaluation, scored.checkpoint
    say(f"{path}\non the {scored.images}: {evaluation.num_images:,} images, 95 % intervals")
    if scored.bad:
        say(f"{len(scored.bad):,} more cannot be used and are left out:")
        for bad, reason in list(scored.bad.items())[:_SHOWN_PATHS]:
            say(f"  {bad}: {reason}")
        if len(scored.bad) > _SHOWN_PATHS:
            say("  ... --json names them all")
    say("")
    _show_scores(evaluation.by_name())
    how = "cross-fitted" if evaluation.cross_fitted else "at the threshold given"
    say(f"\nper class (precision, recall and F1 {how})\n")
    table = _table("class", "support", "precision", "recall", "F1", "AP", "threshold")
    for c in evaluation.per_class:
        numbers = (c.precision, c.recall, c.f1, c.average_precision, c.threshold)
        table.add_row(escape(c.name), f"{c.support:,}", *map(_number, numbers))
    _out.print(table)
    _out.print()
    if isinstance(evaluation.thresholds, float):
        say(f"threshold {evaluation.thresholds:.4f} ({evaluation.threshold_source})")
    else:
        say(f"a threshold per class ({evaluation.threshold_source})")
    if scored.test_looks > 1:
        say(
            f"the test part has been scored {scored.test_looks} times: what is chosen by its scores"
            f" is tuned on it"
        )
    if saved:
        say(f"stored in {path}: predict uses it from now on")
    elif not verbosity.quiet:
        say("not stored; --save stores it for predict")


def show_predictions(predictions: list[Prediction], info: ModelInfo) -> None:
    """Print the labels of each image with their probabilities."""
    table = _table("image", "labels", left=2)
    for p in predictions[:_SHOWN_PREDICTIONS]:
        words = [f"{escape(name)} [dim]{p.probabilities[name]:.2f}[/dim]" for name in p.labels]
        cell = f"[red]{escape(p.error)}[/red]" if p.error else ", ".join(words) or "[dim]-[/dim]"
        table.add_row(Text(str(p.path)), cell)
    _out.print(table)
    if len(predictions) > _SHOWN_PREDICTIONS:
        say(f"... and {len(predictions) - _SHOWN_PREDICTIONS:,} more: --out FILE.csv has them all")
    if isinstance(info.thresholds, float):
        say(f"\nlabels from probability {info.thresholds:.4f} on ({info.threshold_source})")
    else:
        say(f"\nlabels from a threshold per class on ({info.threshold_source})")


def show_export(done: Exported) -> None:
    """Print what was written, how it was checked, and what to do next."""
    side, num_classes = done.info.size_px, len(done.info.class_names)
    say(f"{files.shown(done.path)} ({done.path.stat().st_size / 1e6:.1f} MB)")
    say(f"  {INPUT:13}  uint8 RGB (N, {side}, {side}, 3)")
    say(f"  {OUTPUT:13}  float32 (N, {num_classes})")
    say(
        f"checked: {done.runtime} and PyTorch differ by {done.difference:.1e} at most in a"
        f" probability,\non {done.images}, in batches of"
        f" {' and '.join(map(str, done.batch_sizes))}"
    )
    if done.path.suffix.lower() == ".onnx":
        say(f"next: grigri-fast predict {files.shown(done.path)} PHOTOS")


def show_split(result: SplitResult) -> None:
    """Print each part's class frequencies side by side, in full precision."""
    data, parts, out = result.dataset, result.split, result.path
    say(f"{data.layout}: {len(data):,} images, {len(data.class_names)} classes\n")
    table = _table("class", *parts.parts)
    table.add_row("images", *(str(len(rows)) for rows in parts.parts.values()))
    columns = frequencies(parts, data).values()
    for name, *values in zip(data.class_names, *columns, strict=True):
        table.add_row(escape(name), *(repr(float(v)) for v in values))
    _out.print(table)
    _out.print()
    if out is not None:
        say(f"written to {out}; next: grigri-fast train DATA --split {out}")


def show_survey(data: Dataset, found: Survey) -> None:
    """Print the tables of ``data check``."""
    n = len(data)
    say(f"{data.layout}\n")
    facts = _table("", "", left=2)
    facts.show_header = False
    unlabelled = found.labels_per_image.get(0, 0)
    sizes = ", ".join(f"{w}x{h} px ({count:,})" for (h, w), count in found.sizes[:3])
    more_sizes = f" and {len(found.sizes) - 3:,} other sizes" if len(found.sizes) > 3 else ""
    labels = sum(k * v for k, v in found.labels_per_image.items())
    num_copies = sum(len(group) - 1 for group in found.duplicates)
    for name, text in (
        ("images", f"{n:,}"),
        ("classes", f"{len(data.class_names):,}"),
        ("images without label", f"{unlabelled:,} ({unlabelled / n:.2%})"),
        ("labels per image", f"{labels / n:.3f} (at most {max(found.labels_per_image)})"),
        ("sizes", f"{sizes}{more_sizes}"),
        ("grayscale", f"{found.num_grayscale:,}"),
        ("exact duplicates", f"{num_copies:,}"),
        ("files that cannot be used", f"{len(found.bad):,}"),
    ):
        facts.add_row(name, text)
    _out.print(facts)

    table = _table("class", "images", "frequency")
    for name, count in zip(data.class_names, found.count_C, strict=True):
        table.add_row(escape(name), f"{count:,}", f"{count / n:.2%}")
    _out.print()
    _out.print(table)
    if found.duplicates:
        say("\nExact duplicates (the same pixels)")
        for group in found.duplicates[:_SHOWN_PATHS]:
            say("  " + " = ".join(str(p) for p in group))
        if len(found.duplicates) > _SHOWN_PATHS:
            say(f"  ... and {len(found.duplicates) - _SHOWN_PATHS:,} more groups")
    if found.bad:
        say("\nFiles that cannot be used")
        for path, reason in found.bad.items():
            say(f"  {path}: {reason}")


def show_cleaning(found: Cleaning) -> None:
    """Print what a deep check has found: how much, and the worst of it."""
    names, labels = found.data.names, found.data.class_names
    across = [p for p in found.pairs if found.across(p)]
    of_split = f", {len(across):,} of them across the split" if found.part_of else ""
    plural = "" if len(found.pairs) == 1 else "s"
    say(f"\n{len(found.pairs):,} near-duplicate{plural}{of_split}")
    for p in (across + [p for p in found.pairs if p not in across])[:_SHOWN_PATHS]:
        parts = [found.part_of.get(row, "no part") for row in (p.first, p.second)]
        where = f", {parts[0]} and {parts[1]}" if found.part_of else ""
        say(f"  {names[p.first]} = {names[p.second]} ({p.distance} of 64 bits{where})")
    if len(found.pairs) > _SHOWN_PATHS:
        say("  ...")
    if found.issues is None:
        say("\nlabels were not looked at: --run RUN or --folds K says by which model")
    else:
        say(f"\n{len(found.issues):,} labels are likely wrong, by {found.source}\n")
        table = _table("class", "given, but improbable", "not given, but probable")
        for c, name in enumerate(labels):
            given = [i.given for i in found.issues if i.c == c]
            wrong, missing = sum(given), len(given) - sum(given)
            table.add_row(escape(name), f"{wrong:,}", f"{missing:,}")
        _out.print(table)
    written = [NEAR, *([] if found.issues is None else [ISSUES]), GALLERY]
    say(f"\n{', '.join(written)} are in {files.shown(found.out)}")


def show_fetched(found: Fetched) -> None:
    """Print what was fetched, what is missing of it, and what to do next."""
    if found.skipped:
        say(f"{len(found.skipped):,} images cannot be used and are left out:")
        for name, reason in list(found.skipped.items())[:_SHOWN_PATHS]:
            say(f"  {name}: {reason}")
        if len(found.skipped) > _SHOWN_PATHS:
            say("  ... provenance.json names them all")
    labels = ", ".join(f"{name} {count:,}" for name, count in found.num_labels.items())
    say(f"{found.num_images:,} images -> {found.folder} ({labels})")
    say(f"next: grigri-fast data check {found.folder}")


def show_tuning(found: Tuned) -> None:
    """Print the best trials, what their scores are worth, and what to do next."""
    best, trials = found.best, found.trials
    ranked = sorted((t for t in trials if t.state == DONE), key=lambda t: (-t.score, t.number))
    say(f"\nthe best trials, on {found.num_val:,} validation images after the last epoch\n")
    table = _table("trial", "mAP", "micro-F1, cross-fitted", *found.space)
    for t in ranked[:_SHOWN_TRIALS]:
        micro_f1 = _interval(Interval(t.micro_f1, t.micro_f1_low, t.micro_f1_high))
        name = t.name + (" (the start)" if t.number == 0 else "")
        table.add_row(name, _number(t.score), micro_f1, *(_plain(t.params[n]) for n in found.space))
    _out.print(table)
    num_pruned = sum(t.state == PRUNED for t in trials)
    num_failed = len(trials) - len(ranked) - num_pruned
    say(
        f"\n{len(trials)} trials: {len(ranked)} trained to the end, {num_pruned} pruned,"
        f" {num_failed} failed"
    )
    if found.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.importance.items())
        say(f"what mattered (PED-ANOVA): {shares}")
    start = next((t for t in ranked if t.number == 0), None)
    if best is start:
        say(f"nothing was better than the start ({start.score:.4f})")
    elif start is not None:
        say(f"mAP {best.score:.4f}, {best.score - start.score:.4f} above the start")
    if len(ranked) > 1:
        say(
            f"the best of {len(ranked)} on the same {found.num_val:,} images flatters; by how much"
            f" is not known without a test part{'' if found.num_test else ' (--test 0.1)'}"
        )
    if found.num_test:
        say(f"no trial has seen the {found.num_test:,} images of the test part")
    say(f"everything is in {found.folder}")
    if verbosity.quiet:
        return
    say(f"next: grigri-fast train --config {found.folder / 'best.toml'}")
    part = " --part test" if found.num_test else " --save"
    say(f"      grigri-fast eval {found.folder / best.name}{part}")


# --------------------------------------------------------------------------------- bench

_BENCH_ROWS = {
    "pipeline": "input",
    "step": "training step",
    "train": "training, end to end",
    "evaluation": "evaluation",
}


def show_bench(report: Report, environment: dict[str, Any]) -> None:
    """Show the table of ``grigri-fast bench``: plain text that can be pasted anywhere."""
    s = report.setting
    where = environment.get("gpu", environment["cpu"])
    versions = environment["packages"]
    say(
        f"{s.arch} at {s.size_px} px, batch {s.batch_size}, {s.amp}"
        f"{', compiled' if s.compile else ''}{'' if s.fast else ', --no-fast'};"
        f" {len(s.rows):,} images"
    )
    say(f"{where}, {s.threads} threads; torch {versions['torch']}\n")
    pairs = report.pairs()
    has_usual = any(usual is not None for _, usual in pairs)
    columns = ["images per second", "grigri-fast", *(["torchvision", "ratio"] if has_usual else [])]
    table = _table(*columns)
    for ours, usual in pairs:
        _, _, way = ours.name.partition(", ")
        cells = [_BENCH_ROWS[ours.what] + (f", {way}" if way else ""), _speed(ours)]
        if has_usual:
            cells += ["-", "-"] if usual is None else [_speed(usual), _ratio(ratio(ours, usual))]
        table.add_row(*cells)
    _out.print(table)
    say("")
    for ours, _ in pairs:
        if ours.what == "train":
            waited = 100 * statistics.median(ours.notes["waiting_share"])
            say(f"waiting for input: {waited:.1f} % of the time")
        if ours.what == "step":
            used = ours.median * report.train_flops
            peak = peak_flops_per_s(s.device)
            share = f", {used / peak:.0%} of the peak (MFU)" if peak else ""
            say(f"the step computes {used / 1e12:.2f} TFLOP/s{share}")
    for name, num_bytes in report.memory.items():
        say(f"{_MEMORY[name]}: {num_bytes / 2**20:,.0f} MiB")
    if report.bound:
        say(report.bound)


_MEMORY = {
    "host": "peak memory of this process",
    "device_torch": "peak memory of PyTorch on the GPU",
    "limited": "peak memory of what --memory-limit is about",
}


def _speed(measured: Measured) -> str:
    low, high = min(measured.images_per_s), max(measured.images_per_s)
    digits = 0 if measured.median >= 100 else 1
    return f"{measured.median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def _ratio(of: tuple[float, float, float]) -> str:
    return f"{of[0]:.2f}x ({of[1]:.2f}-{of[2]:.2f})"


def show_profile(profile: Profile, device_memory: int | None) -> None:
    """Show where memory and time of a step go; whether it fits, if there is a size to fit."""
    training, evaluation = profile.training, profile.evaluation
    table = _table("MiB at the peak of a step", "training", "evaluation")
    for name in training.rows | evaluation.rows:
        assumed = " (assumed)" if profile.is_estimate and name in ASSUMED else ""
        cells = [step.rows.get(name, 0) / 2**20 for step in (training, evaluation)]
        if any(abs(cell) >= 0.05 for cell in cells):
            table.add_row(name + assumed, *(f"{cell:,.1f}" for cell in cells))
    table.add_section()
    name = "in all" if profile.is_estimate else f"in all ({profile.how})"
    table.add_row(name, *(f"{step.total / 2**20:,.1f}" for step in (training, evaluation)))
    _out.print(table)
    if device_memory is not None:
        peak = max(training.total, evaluation.total)
        spare = device_memory - peak
        words = "to spare" if spare >= 0 else "too much"
        say(
            f"\n{'fits' if spare >= 0 else 'does not fit'} {format_bytes(device_memory)}:"
            f" {format_bytes(peak)} at most, {format_bytes(abs(spare))} {words}"
        )
    if profile.seconds:
        say("")
        table = _table("time", "ms", "share of the step")
        step_s = sum(s for name, s in profile.seconds.items() if name not in NOT_IN_STEP)
        rows = {**profile.seconds, "training step": step_s}
        rows[EVALUATION] = rows.pop(EVALUATION)  # after it
        for name, seconds in rows.items():
            share = "-" if name in NOT_IN_STEP else f"{seconds / step_s:.1%}"
            table.add_row(name, f"{1000 * seconds:,.1f}", share)
        _out.print(table)
        say("")
        table = _table("heaviest operations", "ms per step")
        for name, seconds in profile.heaviest:
            table.add_row(escape(name), f"{1000 * seconds:,.1f}")
        _out.print(table)


# ------------------------------------------------------------------------------ reproduce


def show_reproduced(result: Reproduced) -> None:
    """Print the report's scores beside ours, and what has no result."""
    table = _table(
        "row", *(f"{score}\n{side}" for score in ("micro-F1", "accuracy") for side in _SIDES)
    )
    for row in result.rows:
        cells = [
            cell
            for key in ("micro_f1", "subset_accuracy")
            for cell in reproduce_report.against_report(row, key)
        ]
        table.add_row(row.row.name, *cells)
    say("")
    _out.print(table)
    say("")
    by_name = {row.row.name: row for row in result.rows}
    reductions = reproduce_report.reduced(result.reproduction, by_name)
    if reductions:
        say(f"at reduced scale: {'; '.join(reductions).replace('`', '')}")
    for why, names in reproduce_report.why_not(result.rows).items():
        say(f"no result of {', '.join(names)}: {why}")
    out = files.shown(result.reproduction.out)
    say(f"everything is in {out}; read {files.shown(result.page)}")


_SIDES = ("report", "ours (95 % interval)", "difference")


# ----------------------------------------------------------------------------------- info


def show_info(lines: list[tuple[str, list[str]]]) -> None:
    """Print headings and lines side by side, to be pasted into a report of a bug."""
    width = max(len(name) for name, _ in lines) + 2
    for name, texts in lines:
        for i, text in enumerate(texts):
            say(f"{'' if i else name:{width}}{text}")
