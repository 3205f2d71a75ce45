"""Commands that train: train, tune, reproduce."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import OPTIONS, TrainConfig
from ..errors import GrigriError
from ..experiments.report_2020 import NAMES
from ..experiments.search_space import start_config
from ..runtime import files, imports
from ..runtime.distributed import World
from ..runtime.option import given_options
from ..training.options import train_config
from .console import interval, new_table, number, say, show, value_of_option, verbosity
from .evaluate import show_scores
from .options import (
    AmpOption,
    DataOrDemoArgument,
    DeviceOption,
    MemoryLimitOption,
    ThreadsOption,
    architectures,
    passed_on,
    with_config_options,
)

if TYPE_CHECKING:
    from ..experiments.reproduce import Reproduced
    from ..experiments.trials import Tuned
    from ..training.trainer import Result

_SHOWN_TRIALS = 10
_SEARCHABLE = ", ".join(name for name, about in OPTIONS.items() if about.search)
_SEARCHED_BY_DEFAULT = ", ".join(
    name for name, about in OPTIONS.items() if about.search and about.search.by_default
)


@with_config_options
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Images and labels: a folder or a table. Without it: a generated demo set.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Read options from a file; the command line takes precedence."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue a run that was stopped or killed, or whose disk was full.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train a multi-label classifier and leave a run folder.

    DATA is a folder with a folder per class; or a table, such as a CSV, with image,labels or with
    image,<class>,<class>... in 0/1; or has another layout that --layout names. It is recognised.

    Example:  grigri-fast train my-photos --arch resnet18 --size 128 --epochs 10
    """
    given = given_options(TrainConfig, {"data": data, **options}, "train")
    if resume is None:
        train_config(given, config)  # a wrong option is an error before anything heavy loads

    with imports.heavy():
        from ..training import trainer
        from .progress import TrainDisplay

    is_first = World.from_environment().is_first  # of several processes the first one shows it
    with TrainDisplay(has_bar=is_first) as display:
        result = trainer.train(config=config, resume=resume, callback=display, **given)
    if is_first:
        show_result(result)


def show_result(result: "Result") -> None:
    """Print the scores of a finished run, where it is, and what to do next."""
    evaluation = result.evaluation
    if verbosity.quiet:
        scores = evaluation.shown
        say(
            f"{result.folder}: micro-F1 {scores.micro_f1.value:.4f} (cross-fitted), mAP"
            f" {number(scores.mAP.value)}"
        )
        return
    say(f"\nlast epoch on {evaluation.num_images:,} validation images, with 95 % intervals\n")
    show_scores(evaluation)
    minutes, seconds = divmod(round(result.train_s), 60)
    say()
    say(f"trained in {minutes} min {seconds} s; everything is in {result.folder}")
    say(f"next: grigri-fast eval {result.folder} --save")
    say(f"      grigri-fast predict {result.folder} PHOTOS")


@with_config_options
def tune(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Images and labels, as in train.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="Trials in all.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Begin no trial after so long.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION",
            help=f"Search this option (again for more): {_SEARCHABLE}. "
            f"\\[default: {_SEARCHED_BY_DEFAULT}]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Start from these options; those on the command line take precedence, and are "
            "fixed.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Search for better options by many short runs, with Optuna (pip install optuna).

    What is given on the command line is fixed. The first trial is where the search starts: the
    defaults, or --config. Trials that are behind are ended early. After Ctrl-C the same command
    continues. --out is the folder of the search: trial-000 and so on, trials.csv, tuning.png, and
    best.toml, which train --config takes.

    Example:  grigri-fast tune my-photos --trials 20 --arch resnet18 --size 128 --epochs 10
    """
    given = given_options(TrainConfig, {"data": data, **options}, "tune")
    start_config(given, config, minutes)  # a wrong option is an error before anything heavy loads

    with imports.heavy():
        from ..experiments import tuner
        from .progress import TuneDisplay

    with TuneDisplay() as display:
        result = tuner.tune(
            trials=trials,
            minutes=minutes,
            search=search or (),
            config=config,
            callback=display,
            **given,
        )
    show_tuned(result)


def show_tuned(result: "Tuned") -> None:
    """Print the best trials, what their scores are worth, and what to do next."""
    from ..evaluation.bootstrap import Interval
    from ..experiments.trials import DONE, PRUNED

    best: Any = result.best
    trials: list[Any] = result.trials  # the scores of those that are done are numbers
    ranked = sorted((t for t in trials if t.state == DONE), key=lambda t: (-t.score, t.number))
    say(f"\nthe best trials, on {result.num_val:,} validation images after the last epoch\n")
    table = new_table("trial", "mAP", "micro-F1, cross-fitted", *result.space)
    for t in ranked[:_SHOWN_TRIALS]:
        micro_f1 = interval(Interval(t.micro_f1, t.micro_f1_low, t.micro_f1_high))
        name = t.name + (" (the start)" if t.number == 0 else "")
        values = (value_of_option(t.params[name]) for name in result.space)
        table.add_row(name, number(t.score), micro_f1, *values)
    show(table)
    num_pruned = sum(t.state == PRUNED for t in trials)
    num_failed = len(trials) - len(ranked) - num_pruned
    say(
        f"\n{len(trials)} trials: {len(ranked)} trained to the end, {num_pruned} pruned,"
        f" {num_failed} failed"
    )
    if result.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items())
        say(f"what mattered (PED-ANOVA): {shares}")
    start = next((t for t in ranked if t.number == 0), None)
    if best is start:
        say(f"nothing was better than the start ({start.score:.4f})")
    elif start is not None:
        say(f"mAP {best.score:.4f}, {best.score - start.score:.4f} above the start")
    if len(ranked) > 1:
        say(
            f"the best of {len(ranked)} on the same {result.num_val:,} images flatters; by how much"
            f" is not known without a test part{'' if result.num_test else ' (--test 0.1)'}"
        )
    if result.num_test:
        say(f"no trial has seen the {result.num_test:,} images of the test part")
    say(f"everything is in {result.folder}")
    if verbosity.quiet:
        return
    say(f"next: grigri-fast train --config {result.folder / 'best.toml'}")
    part = " --part test" if result.num_test else " --save"
    say(f"      grigri-fast eval {result.folder / best.name}{part}")


def reproduce(
    data: DataOrDemoArgument = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Only this row (several times, or with commas): {', '.join(NAMES)}.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH",
            help="Run this one in the place of every pretrained network of the report, like "
            "timm/tf_efficientnet_lite0.",
            autocompletion=architectures,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training row.")] = 20,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only N images, to try it.")] = None,
    size_scale: Annotated[
        float, typer.Option(help="Multiply the sizes of 128 and 224 px with this.")
    ] = 1.0,
    weights: Annotated[
        str,
        typer.Option(
            metavar="imagenet|none|PATH",
            help="Pretrained weights: from where train finds them; none, all from scratch; or a "
            "folder of files named as torchvision names them (with --network, its file).",
        ),
    ] = "imagenet",
    out: Annotated[
        Path, typer.Option(help="Folder of the rows' run folders and the reports.")
    ] = Path("runs/reproduce"),
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Run the experiments of the report of 2020 again, and show its figures beside ours.

    Writes report.html and report.md. A row that is finished is not run again, one that was
    stopped goes on, and one that cannot run is in the report with the reason.

    Example:  grigri-fast reproduce grigri --weights none --epochs 1 --limit 600 --size-scale 0.5
    """
    options = passed_on(locals())

    names = [name.strip() for text in only or [] for name in text.split(",")]
    for name in names:
        if name not in NAMES:
            raise typer.BadParameter(f"--only {name}: the rows are {', '.join(NAMES)}")

    with imports.heavy():
        from ..experiments import reproduce as reproducing
        from .progress import ReproduceDisplay

    with ReproduceDisplay() as display:
        result = reproducing.reproduce(**options | {"only": names}, callback=display)
    show_reproduced(result)
    if len(result.failed) == result.num_asked:
        name, reason = next(iter(result.failed.items()))
        raise GrigriError(f"no row could be run; {name}: {reason}")


def show_reproduced(result: "Reproduced") -> None:
    """Print the report's scores beside ours, and what has no result."""
    from ..experiments import conclusions, reproduce_report

    sides = ("report", "ours (95 % interval)", "difference")
    table = new_table(
        "row", *(f"{score}\n{side}" for score in ("micro-F1", "accuracy") for side in sides)
    )
    for row in result.rows:
        micro_f1 = reproduce_report.against_report(row, "micro_f1")
        accuracy = reproduce_report.against_report(row, "subset_accuracy")
        table.add_row(row.row.name, *micro_f1, *accuracy)
    say()
    show(table)
    say()
    for c in result.conclusions:
        if c.difference:
            say(f"{c.claim}: {c.verdict}, {conclusions.signed(c.difference)}")
    by_name = {row.row.name: row for row in result.rows}
    reductions = reproduce_report.reduced(result.reproduction, by_name)
    if reductions:
        say(f"at reduced scale: {'; '.join(reductions).replace('`', '')}")
    for why, names in reproduce_report.why_not(result.rows).items():
        say(f"no result of {', '.join(names)}: {why}")
    out = files.shown(result.reproduction.out)
    say(f"everything is in {out}; read {files.shown(result.page)}")
