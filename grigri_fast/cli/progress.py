"""What is shown while a command works: a bar in a terminal, now and then a line in a pipe."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from ..data.mirflickr import FetchCallback
from ..experiments.callbacks import CurveCallback, ReproduceCallback, TuneCallback
from ..experiments.report_2020 import Row
from ..experiments.trials import DONE, PRUNED, Trial
from ..runtime.units import format_size
from ..training.callbacks import Callback
from . import console
from .console import mention, number, verbosity

_LINE_EVERY_S = 30  # in a pipe


@contextlib.contextmanager
def progress(verb: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while something is done; yield a function of (done, total)."""
    stderr = Console(stderr=True)
    if quiet or verbosity.quiet or not stderr.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn(verb), BarColumn(bar_width=30), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=stderr, transient=True) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Display:
    """Shows how far something is: a bar in a terminal, now and then a line in a pipe."""

    def __init__(self, out: Console, has_bar: bool, say: Callable[[str], None]) -> None:
        self._has_bar, self._say = has_bar and out.is_terminal, say
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24))
        text, left = TextColumn("{task.fields[text]}  left"), TimeRemainingColumn(compact=True)
        self._bar = Progress(*columns, text, left, console=out, transient=True)
        self._task = self._bar.add_task("", total=None, text="", visible=False)
        self._last_line_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._has_bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._has_bar:
            self._bar.stop()

    def log(self, text: str) -> None:
        """Print a line."""
        self._say(text)

    def _show(self, what: str, text: str, done: int, total: int | None, line: str = "") -> None:
        """Show how far something is, in a pipe by ``line`` if it is time for one."""
        if self._has_bar:
            self._bar.update(
                self._task, description=what, text=text, completed=done, total=total, visible=True
            )
        elif line and time.monotonic() - self._last_line_s > _LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            self._say(line)


class TrainDisplay(_Display, Callback):
    """Shows a training run: a bar while it goes on, and a line per epoch that stays.

    ``has_bar``: whether there may be a bar; of several processes that train together one has it.
    """

    def __init__(self, has_bar: bool = True) -> None:
        super().__init__(console.stdout, has_bar and not verbosity.quiet, mention)
        self._has_head = False
        self._prefix = ""

    def on_check(self, done: int, total: int) -> None:
        """Show how far the check of the files is."""
        self._show("checking images", f"{done:,}/{total:,}", done, total)

    def on_features(self, done: int, total: int) -> None:
        """Show how many images went through the network."""
        text = f"{done:,}/{total:,}"
        self._show("features", text, done, total, f"features of {text} images")

    def on_step(
        self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float
    ) -> None:
        """Show how far training is."""
        text = f"loss {loss:.4f}  {images_per_s:,.0f} images/s"
        what = f"{self._prefix}epoch {epoch}"
        self._show(what, text, step, num_steps, f"{what}  step {step}/{num_steps}  {text}")

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Print the line of an epoch."""
        if verbosity.quiet:
            return
        self._print_head(
            f"{'':7}{'train':>16}{'':10}{'validation':>20}\n"
            f"{'epoch':>7}{'loss':>8}{'F1':>8}{'acc':>8} |"
            f"{'loss':>8}{'F1':>8}{'acc':>8}{'mAP':>8} {'img/s':>7}{'s':>5}"
        )
        keys = ("loss", "micro_f1", "subset_accuracy")
        train = "".join(f"{row[f'train_{key}']:8.4f}" for key in keys)
        val = "".join(f"{number(row[f'val_{key}']):>8}" for key in (*keys, "mAP"))
        self._print_row(
            f"{row['epoch']:>3}/{num_epochs:<3}{train} |{val}{_star(is_best)}"
            f"{row['images_per_s']:7,.0f}{row['seconds']:5.0f}"
        )

    def _print_head(self, text: str) -> None:
        if not self._has_head:
            console.stdout.print(f"[bold]{text}[/bold]")
        self._has_head = True

    def _print_row(self, text: str) -> None:
        console.stdout.print(text, soft_wrap=True)
        self._last_line_s = time.monotonic()


def _star(is_best: bool) -> str:
    return "[green]*[/green]" if is_best else " "


class TuneDisplay(TrainDisplay, TuneCallback):
    """Shows a search: a bar while a trial goes on, and a line per trial that stays."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] = set()
        self._trial: Trial | None = None

    def on_trial_start(self, trial: Trial, num_trials: int) -> None:
        """Show which trial goes on."""
        self._trial = trial
        self._prefix = f"{trial.name} of {num_trials}, "

    def log(self, text: str) -> None:
        """Print a line, unless another trial has logged the same."""
        key = text.replace(self._trial.name, "") if self._trial else text
        if key not in self._logged and not text.startswith("run folder "):
            mention(text)
        self._logged.add(key)

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Show nothing: the line of a trial is enough."""

    def on_trial_end(self, trial: Trial, is_best: bool) -> None:
        """Print the line of a trial."""
        if verbosity.quiet:
            return
        widths = {name: max(10, len(name) + 2) for name in trial.params}
        names = "".join(f"{name:>{width}}" for name, width in widths.items())
        self._print_head(f"{'trial':11}{names}{'epochs':>8}{'mAP':>8}")
        values = "".join(
            f"{console.value_of_option(trial.params[name]):>{width}}"
            for name, width in widths.items()
        )
        end = {DONE: "", PRUNED: " pruned"}.get(trial.state, f" failed: {escape(trial.reason)}")
        self._print_row(
            f"{trial.name:11}{values}{trial.epochs:8}{number(trial.score):>8}{_star(is_best)}{end}"
        )


class CurveDisplay(TrainDisplay, CurveCallback):
    """Shows ``learning-curve``: a bar for the check, the features, and the heads."""

    def on_head(self, done: int, total: int) -> None:
        """Show how many heads are fitted."""
        text = f"{done}/{total}"
        self._show("heads", text, done, total, f"head {text}")


class ReproduceDisplay(TrainDisplay, ReproduceCallback):
    """Shows ``reproduce``: which row runs, and its training as ``train`` shows it."""

    def on_row(self, number: int, total: int, row: Row) -> None:
        """Print a row's name."""
        self._bar.update(self._task, visible=False)
        self._has_head = False
        if not verbosity.quiet:
            console.stdout.print(f"\n[bold]row {number}/{total}  {row.name}[/bold]  {row.title}")


class PredictDisplay(_Display):
    """Shows how many images are labelled, on stderr: the result may go to stdout.

    Args:
        num_before: images that were labelled before, by a command that was stopped.
        total: all images.
    """

    def __init__(self, num_before: int, total: int) -> None:
        stderr = Console(stderr=True, highlight=False)
        super().__init__(stderr, not verbosity.quiet, partial(stderr.print, soft_wrap=True))
        self._num_before, self._total = num_before, total
        self._first: tuple[float, int] | None = None  # when so many were done

    def on_images(self, done: int, total: int) -> None:
        """Show how many of the images that were left are done, how fast, and how long it takes."""
        now_s = time.monotonic()
        first_s, num_first = self._first = self._first or (now_s, done)  # its start is not work
        rate = (done - num_first) / max(now_s - first_s, 1e-3)
        done += self._num_before
        text = f"{done:,}/{self._total:,}  {rate:,.0f} images/s"
        left_s = (self._total - done) / rate if rate else 0.0
        line = f"labelled {text}  {datetime.timedelta(seconds=round(left_s))} left"
        self._show("labelling", text, done, self._total, "" if verbosity.quiet else line)


class FetchDisplay(_Display, FetchCallback):
    """Shows a download and what is made of it, on stderr: the result goes to stdout."""

    def __init__(self) -> None:
        stderr = Console(stderr=True, highlight=False)
        super().__init__(stderr, True, partial(stderr.print, markup=False, soft_wrap=True))
        self._what = ""
        self._start_s, self._start_bytes = 0.0, 0  # of what is downloaded now

    def on_download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Show how much of a file has arrived, and how fast it comes."""
        now_s = time.monotonic()
        if name != self._what or done_bytes < self._start_bytes:
            self._start_s, self._start_bytes = now_s, done_bytes
        of = f" of {format_size(total_bytes)}" if total_bytes else ""
        rate = (done_bytes - self._start_bytes) / max(now_s - self._start_s, 1e-3)
        text = f"{format_size(done_bytes)}{of}, {format_size(round(rate))}/s"
        self._show_step(name, text, done_bytes, total_bytes)

    def on_convert(self, done: int, total: int) -> None:
        """Show how many images are written."""
        self._show_step("writing images", f"{done:,}/{total:,}", done, total)

    def _show_step(self, what: str, text: str, done: int, total: int | None) -> None:
        if what != self._what:  # the time that is left is this one's
            self._bar.reset(self._task)
        self._what = what
        self._show(what, text, done, total, f"{what}: {text}")
