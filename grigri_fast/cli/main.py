"""The command line: parse, call, show. Nothing heavy is imported before a command runs."""

import contextlib
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from .. import __version__
from ..config import MAX_PIXELS, OPTIONS, TrainConfig, read_toml
from ..errors import GrigriError, Interrupted
from ..runtime import distributed, signals
from ..runtime.option import Option
from ..runtime.units import parse_bytes
from . import api, verbosity

app = typer.Typer(
    name="grigri-fast",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug shows its plain traceback
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Look at a data set, split it, or get one.\n\nExample:  grigri-fast data check my-photos",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")

DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A folder or a CSV file.")]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder that a CSV's image names are relative to."
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of train.")]
CheckpointOption = Annotated[
    Literal["last", "best"],
    typer.Option(
        "--checkpoint",
        help="last: the final epoch. best: the epoch with the best validation micro-F1, whose "
        "score there flatters.",
    ),
]
DeviceOption = Annotated[Literal["auto", "cuda", "cpu"], typer.Option("--device")]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Larger images are refused unread.")
]
MemoryLimitOption = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="The most that this process may take on the device (on a CPU: of memory of its own), "
        "like 4GiB.",
    ),
]
MaxBadOption = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of images that may be unusable and are left out."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
AmpOption = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"],
    typer.Option("--amp", help="Number format; auto: what the device is fast at."),
]


def main(args: list[str] | None = None) -> int:
    """Run the command line and return the exit code: the one place where errors become text.

    0 done; 1 something the user can fix, in one line on stderr; 2 wrong usage; 128 + its number
    for a signal (Ctrl-C 130, SIGTERM 143). Bugs keep their traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    verbosity.quiet = verbosity.verbose = False
    world = distributed.World.from_environment()
    try:
        code, words = _run(args)
    except Exception:
        distributed.let_the_first_speak(world, 1)
        raise
    if code:
        distributed.let_the_first_speak(world, code)
    if words and (world.is_first or code < 128):
        print(words if world.is_first else f"rank {world.rank}: {words}", file=sys.stderr)
    return code


def _run(args: list[str] | None) -> tuple[int, str]:
    """Run the command line and return the exit code, and what to say on stderr."""
    try:
        with signals.raised():
            code = app(args, standalone_mode=False)
    except GrigriError as e:
        if verbosity.verbose:
            traceback.print_exception(e)
        return 1, f"error: {e}"
    except typer.TyperException as e:
        message = " ".join(e.format_message().replace("Value error, ", "").split())
        # Without a command the help has been shown, and there is no more to say.
        return e.exit_code, f"error: {message} (see --help)" if message else ""
    except Interrupted as e:
        return _interrupted(e.signum, e.advice)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(signal.SIGINT)
    except BrokenPipeError:  # who read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE, ""
    if code == 130:  # what typer makes of Ctrl-C
        return _interrupted(signal.SIGINT)
    return code if isinstance(code, int) else 0, ""


def entry() -> None:
    """Be the process ``grigri-fast``: run :func:`main` and exit, even if a thread hangs."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    is_waiting = any(thread.name.startswith("grigri-") for thread in threading.enumerate())
    if is_waiting or (code and distributed.World.from_environment().is_shared):
        os._exit(code)  # the interpreter would wait for a dead disk, or for other processes
    sys.exit(code)


def _interrupted(signum: int, advice: str = "") -> tuple[int, str]:
    verb = "interrupted" if signum == signal.SIGINT else f"ended by {signal.Signals(signum).name}"
    return 128 + signum, f"{verb}; {advice}" if advice else verb


def _show_version(asked: bool) -> None:
    if asked:
        print(f"grigri-fast {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors and results, and nothing else.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Also print when things happened, and where an error came from."
        ),
    ] = False,
) -> None:
    """Fine-tune a multi-label image classifier fast, and learn how good it honestly is.

    Example:  grigri-fast train my-photos
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet does not go with --verbose")
    verbosity.quiet, verbosity.verbose = quiet, verbose
    world = distributed.World.from_environment()
    if world.is_shared and context.invoked_subcommand != "train":
        raise GrigriError(
            f"{context.invoked_subcommand} is for one process; of several, which torchrun starts,"
            f" only train makes use"
        )


# ------------------------------------------------------------------------------------- train


def _number_or_word(about: Option) -> Callable[[str], int]:
    """Return what reads a whole number, or a word that stands for one."""

    def parse(text: str) -> int:
        if text in about.words:
            return about.words[text]
        try:
            number = int(text)
        except ValueError:
            words = " or ".join(about.words)
            raise typer.BadParameter(f"{text!r} is not a whole number or {words}") from None
        if number in about.words.values():
            raise typer.BadParameter(f"{number} is not at least {about.range.low}")
        return number

    return parse


def _architectures(incomplete: str) -> list[str]:
    """Return the names for --arch that begin so, for the shell's completion.

    Read from torchvision's source, where a line tells each: to import it would take seconds.
    """
    found = ["grigri", "simple"]
    package = importlib.util.find_spec("torchvision")
    for folder in package.submodule_search_locations or () if package else ():
        for file in Path(folder, "models").glob("*.py"):
            found += re.findall(
                r"^@register_model\(\)\n(?:@.*\n)*def (\w+)", file.read_text(), re.M
            )
    return sorted(name for name in found if name.startswith(incomplete))


ArchOption = Annotated[str, typer.Option("--arch", autocompletion=_architectures)]


def _with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of TrainConfig, with the field's documentation.

    ``None`` stands for "not given", so that a config file can be told from the command line.
    """
    parameters = list(inspect.signature(command).parameters.values())
    kept = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    for name, about in OPTIONS.items():
        if name == "data":
            continue
        more: dict[str, Any] = {"autocompletion": _architectures} if name == "arch" else {}
        if about.words and int in (about.kind, *get_args(about.kind)):
            more = {"parser": _number_or_word(about), "metavar": "|".join(["N", *about.words])}
        info = typer.Option(
            f"{about.flag}/--no-{about.flag[2:]}" if about.is_switch else about.flag,
            # Rich would take [default: 1] for a style.
            help=about.help_with_default.replace("[", "\\["),
            rich_help_panel=about.group,
            show_default=False,
            **more,
        )
        kept.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[about.kind | None, info],
            )
        )
    command.__signature__ = inspect.Signature(kept)
    command.__annotations__ = {p.name: p.annotation for p in kept}
    return command


@app.command()
@_with_config_options
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Photographs and labels: a folder or a CSV. Without it: a generated demo set.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="Read options from a file; those on the command line win.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on in a run folder where it was stopped, killed, or out of disk.",
            show_default=False,
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train a multi-label classifier and leave a run folder.

    DATA is one of: images/ + annotations/<class>.txt (each line N means im<N>.jpg); a CSV with
    image,<class>,<class>... in 0/1 or with image,labels; a folder with metadata.csv or
    metadata.jsonl; a folder per class.

    Example:  grigri-fast train my-photos --arch resnet18 --size 128 --epochs 10
    """
    given = {k: v for k, v in options.items() if v is not None}
    if data is not None:
        given["data"] = data
    if resume is None:
        api.train_config(given, config)  # what is wrong is said before anything heavy is loaded

    from . import console

    # Of several processes the first one shows it.
    is_first = distributed.World.from_environment().is_first
    with console.TrainScreen(shows=is_first) as screen:
        result = api.train(config=config, resume=resume, callback=screen, **given)
    if is_first:
        console.show_result(result)


# -------------------------------------------------------------------------------------- tune


@app.command()
@_with_config_options
def tune(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA", help="Photographs and labels, as in train.", show_default=False
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, metavar="N", help="Trials in all.", show_default=True)
    ] = 20,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", metavar="M", help="Begin no trial after so long.", show_default=False
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="OPTION",
            help="Search this option (again for more): lr, weight_decay, momentum, augment, loss, "
            "... Without it: the usual ones.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="Start from these options; those on the command line win, and stay as they are.",
            show_default=False,
        ),
    ] = None,
    **options: Any,
) -> None:
    """Search for better options by many short runs, with Optuna (pip install optuna).

    What is given on the command line is fixed. The first trial is where the search starts: the
    defaults, or --config. Hopeless trials are ended early. After Ctrl-C the same command goes on.
    --out is the folder of the search: trial-000 and so on, trials.csv, tuning.png, and best.toml,
    which train --config takes.

    Example:  grigri-fast tune my-photos --trials 20 --arch resnet18 --size 128 --epochs 10
    """
    if minutes is not None and not minutes > 0:
        raise typer.BadParameter(f"--minutes must be more than 0, not {minutes:g}")
    if data is None and (config is None or "data" not in read_toml(config)):
        raise typer.BadParameter("DATA is missing: photographs and labels, a folder or a CSV")

    from ..experiments import tuner
    from . import console

    with console.TuneScreen() as screen:
        found = tuner.tune(
            data,
            trials=trials,
            minutes=minutes,
            search=search or (),
            config=config,
            callback=screen,
            **options,
        )
    console.show_tuning(found)


# ---------------------------------------------------------------------------- eval, predict


def _limit(text: str | None) -> int | None:
    return None if text is None else parse_bytes(text, "--memory-limit")


def _threshold(text: str) -> str:
    if text in ("auto", "per-class"):
        return text
    try:
        if 0 <= float(text) <= 1:
            return text
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r} is not auto, per-class or a number from 0 to 1")


@app.command("eval")
def evaluate(
    folder: RunArgument,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="Score these images instead of the run's."),
    ] = None,
    images: ImagesOption = None,
    part: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option("--part", help="Part of the run's own data. [default: val]"),
    ] = None,
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold",
            metavar="auto|per-class|NUMBER",
            callback=_threshold,
            help="How a label is decided on: auto, one threshold for the best micro-F1; per-class, "
            "one for each class's best F1; or a number.",
        ),
    ] = "auto",
    checkpoint: CheckpointOption = "last",
    save: Annotated[
        bool, typer.Option("--save", help="Store the threshold in the checkpoint, for predict.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    max_bad: MaxBadOption = 0.05,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Say how good a trained model is, with 95 % intervals.

    Scores at 0.5, with a threshold tuned on the same images (flatters), and cross-fitted: tuned
    on four fifths, applied to the rest (honest). Then a table per class.

    Example:  grigri-fast eval runs/my-photos-resnet34 --threshold per-class --save
    """
    from ..evaluation import evaluator
    from ..runtime import files
    from . import console

    with console.progress("scoring", quiet=as_json) as on_progress:
        scored = evaluator.evaluate(
            folder,
            data=data,
            images=images,
            part=part,
            threshold=threshold if threshold in ("auto", "per-class") else float(threshold),
            checkpoint=checkpoint,
            save=save,
            max_bad=max_bad,
            max_pixels=max_pixels,
            device=device,
            amp=amp,
            memory_limit=memory_limit,
            threads=threads,
            on_progress=on_progress,
        )
    if as_json:
        sys.stdout.write(files.to_json(scored.to_json()))
    else:
        console.show_evaluation(scored, saved=save)


@app.command()
def predict(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder of train, or an ONNX file of export."),
    ],
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Image files, folders, or globs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.csv|FILE.json", help="Write to a file."),
    ] = None,
    checkpoint: CheckpointOption = "last",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Label new photographs with the stored threshold.

    Without --out it prints a table, or CSV in a pipe. A file that cannot be used gets its reason
    in the column error, and the exit code is 1. An ONNX file is computed by ONNX Runtime on the
    CPU, in fp32.

    Example:  grigri-fast predict runs/my-photos-resnet34 holiday/ --out labels.csv
    """
    from ..data.dataset import find_images
    from ..inference import predictor

    if out is not None:
        predictor.check_out(out)
    find_images(paths)  # says at once what names nothing

    from ..runtime import files
    from . import console

    with console.progress("predicting") as on_progress:
        predictions, info = predictor.predict_with_info(
            folder,
            paths,
            checkpoint=checkpoint,
            max_pixels=max_pixels,
            device=device,
            amp=amp,
            memory_limit=memory_limit,
            threads=threads,
            on_progress=on_progress,
        )
    if out is not None:
        text = predictor.to_text(predictions, info.class_names, out.suffix.lower())
        files.write_atomic(out, text)
        console.say(f"{len(predictions):,} images -> {out}")
    elif sys.stdout.isatty():
        console.show_predictions(predictions, info)
    else:
        sys.stdout.write(predictor.to_text(predictions, info.class_names, ".csv"))
    bad = [p for p in predictions if p.error]
    if bad:
        more = f" (and {len(bad) - 1} more, see the column error)" if len(bad) > 1 else ""
        raise GrigriError(f"{bad[0].path}: {bad[0].error}{more}; the others were labelled")


@app.command()
def export(
    folder: RunArgument,
    file_format: Annotated[
        Literal["onnx", "pt2"],
        typer.Option(
            "--format",
            help="onnx: for ONNX Runtime and much else. pt2: for PyTorch (torch.export.load).",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The file. [default: RUN/model.onnx or RUN/model.pt2]",
            show_default=False,
        ),
    ] = None,
    checkpoint: CheckpointOption = "last",
    threads: ThreadsOption = None,
) -> None:
    """Write a trained model as one file for other programs.

    From a batch of photographs as they are, uint8 RGB, to the probabilities of the labels.
    Class names, thresholds and what to do to a photograph are in its metadata. It is compared
    with PyTorch on photographs of the validation part before it is written.

    Example:  grigri-fast export runs/my-photos-resnet34 --format onnx
    """
    from ..inference import exporter
    from . import console

    with console.progress("exporting") as on_progress:
        done = exporter.export(
            folder,
            format=file_format,
            out=out,
            checkpoint=checkpoint,
            threads=threads,
            on_progress=on_progress,
        )
    console.show_export(done)


@app.command()
def report(
    folder: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="The page. [default: RUN/report.html]"),
    ] = None,
    part: Annotated[
        Literal["val", "test", "train"],
        typer.Option("--part", help="Part of the run's own data."),
    ] = "val",
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold", metavar="auto|per-class|NUMBER", callback=_threshold, help="As in eval."
        ),
    ] = "auto",
    checkpoint: CheckpointOption = "last",
    max_bad: MaxBadOption = 0.05,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write one HTML page of a run: scores, curves, calibration, and where it errs.

    The page needs nothing but itself: it can be mailed, and opened without a network. It holds
    small pictures of the photographs.

    Example:  grigri-fast report runs/my-photos-resnet34 --part test
    """
    from ..reporting import run_report
    from . import console

    with console.progress("scoring") as on_progress:
        path = run_report.write_report(
            folder,
            out,
            checkpoint=checkpoint,
            part=part,
            threshold=threshold if threshold in ("auto", "per-class") else float(threshold),
            device=device,
            amp=amp,
            memory_limit=memory_limit,
            threads=threads,
            max_bad=max_bad,
            max_pixels=max_pixels,
            on_progress=on_progress,
        )
    console.say(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")


# --------------------------------------------------------------------------------- reproduce


@app.command()
def reproduce(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Photographs and labels, as in train. Without it: the demo set, which shows the "
            "way alone.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Only this row (several times, or with commas): data, bce, mse, adam, rmsprop, "
            "amsgrad, onecycle, augmentation, resnet34, wide_resnet50_2, untrained, frozen, "
            "threshold, thresholds_per_class, simple.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training row.")] = 20,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only N images, to try the way.")
    ] = None,
    size_scale: Annotated[
        float, typer.Option("--size-scale", help="Multiply the sizes of 128 and 224 px with this.")
    ] = 1.0,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="imagenet|none|DIR",
            help="Pretrained weights: torchvision's cache or download; none, all from scratch; or "
            "a folder of files named as torchvision names them.",
        ),
    ] = "imagenet",
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the rows' run folders and the reports.")
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
    from ..experiments import report_2020

    names = [name.strip() for text in only or [] for name in text.split(",")]
    unknown = [name for name in names if name not in report_2020.NAMES]
    if unknown:
        raise typer.BadParameter(
            f"--only {unknown[0]}: the rows are {', '.join(report_2020.NAMES)}"
        )

    from ..experiments import reproduce as reproducing
    from . import console

    with console.ReproduceScreen() as screen:
        result = reproducing.reproduce(
            data,
            only=names,
            epochs=epochs,
            limit=limit,
            size_scale=size_scale,
            weights=weights,
            out=out,
            device=device,
            amp=amp,
            memory_limit=memory_limit,
            threads=threads,
            callback=screen,
        )
    console.show_reproduced(result)
    if len(result.failed) == result.num_asked:
        name, reason = next(iter(result.failed.items()))
        raise GrigriError(f"no row could be run; {name}: {reason}")


# ------------------------------------------------------------------------------------- bench


@app.command()
def bench(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[pipeline|step|train|all]",
            help="pipeline: images without a model. step: one batch that is there already. "
            "train: both together, and evaluation. Without it: all.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Photographs and labels, as in train. Without it: the demo set.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Literal["torchvision"] | None,
        typer.Option(
            "--against",
            help="Also measure the usual way, in turns: torchvision's transforms in a DataLoader "
            "with as many workers as threads, and its plain loop (fp32; AMP on a GPU).",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure to a file.")
    ] = None,
    arch: ArchOption = TrainConfig.arch,
    size: Annotated[int, typer.Option("--size", min=1)] = TrainConfig.size,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = TrainConfig.batch_size,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; the more, the steadier.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Use only N images.")] = 2000,
    fast: Annotated[bool, typer.Option("--fast/--no-fast", help="As in train.")] = True,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Use torch.compile in the step.")
    ] = False,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Say how fast it is on this machine, and what bounds it.

    Images per second: the median of several turns, and the least and the greatest. Alone on the
    machine, please.

    Example:  grigri-fast bench all my-photos --against torchvision
    """
    if what not in (None, "pipeline", "step", "train", "all"):
        if data is not None:
            raise typer.BadParameter(f"{what!r} is not pipeline, step, train or all")
        what, data = None, what
    if json_file is not None and not json_file.parent.is_dir():
        raise GrigriError(f"--json {json_file}: its folder does not exist")
    if data is None:
        from ..data import demo

        data = str(demo.cached_folder())

    import torch

    from ..data import dataset
    from ..models import factory
    from ..profiling import benchmark
    from ..runtime import compute, environment, files
    from ..runtime.memory import Budget
    from . import console

    factory.build(arch, 1, size)  # says at once if the two do not go together
    place = compute.pick_device(device)
    threads = threads or compute.usable_threads()
    torch.set_num_threads(threads)
    parts = {"pipeline": ["pipeline"], "step": ["step"], "train": ["train", "evaluation"]}
    with Budget(place, _limit(memory_limit)) as budget:
        setting = benchmark.setting_of(
            dataset.load(data).paths[:limit],
            threads,
            has_limit=budget.limit is not None,
            arch=arch,
            size_px=size,
            batch_size=batch_size,
            device=place,
            amp=compute.pick_amp("fp32" if amp == "auto" and not fast else amp, place),
            fast=fast,
            compile=compiled,
        )
        if budget.limit is not None:
            setting = benchmark.fitted(setting, budget, console.mention)
        with console.progress("measuring") as on_turn:
            report = benchmark.measure(
                setting,
                parts.get(what, benchmark.WHATS),
                against=against is not None,
                repeats=repeats,
                budget=budget,
                on_turn=on_turn,
            )
    environment = environment.describe(place, setting.amp)
    console.show_bench(report, environment)
    if json_file is not None:
        files.write_json(json_file, {"environment": environment, **report.to_json()})
    budget.require_held()


# ----------------------------------------------------------------------------------- profile


@app.command()
def profile(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Photographs and labels, as in train. Without it: the demo set.",
            show_default=False,
        ),
    ] = None,
    arch: ArchOption = TrainConfig.arch,
    size: Annotated[int, typer.Option("--size", min=1)] = TrainConfig.size,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = TrainConfig.batch_size,
    micro_batch_size: Annotated[
        int | None, typer.Option("--micro-batch-size", min=2, help="As in train.")
    ] = None,
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing", help="As in train."
        ),
    ] = False,
    num_classes: Annotated[
        int, typer.Option("--classes", min=1, help="Outputs of the network.")
    ] = 14,
    estimated: Annotated[
        bool,
        typer.Option("--estimate", help="From shapes alone, for a GPU; nothing is computed."),
    ] = False,
    device_memory: Annotated[
        str | None,
        typer.Option("--device-memory", metavar="SIZE", help="Say whether it fits, like 4GiB."),
    ] = None,
    snapshot: Annotated[
        bool,
        typer.Option(
            "--snapshot", help="Also PyTorch's memory snapshot, for pytorch.org/memory_viz."
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the folder of results.")] = Path(
        "runs"
    ),
    limit: Annotated[int, typer.Option(min=1, help="Use only N images.")] = 512,
    fast: Annotated[bool, typer.Option("--fast/--no-fast", help="As in train.")] = True,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Show where memory and time go in a training step and an evaluation step.

    Writes profile.json, memory.png and, where it measures, trace.json.gz.

    Example:  grigri-fast profile my-photos --arch resnet34

    Example:  grigri-fast profile --arch wide_resnet50_2 --estimate --device-memory 4GiB
    """
    room = None if device_memory is None else parse_bytes(device_memory, "--device-memory")
    config = TrainConfig(
        data=data or "-",
        arch=arch,
        size=size,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        activation_checkpointing=activation_checkpointing,
        fast=fast,
    )
    if estimated and snapshot:
        raise GrigriError("--snapshot needs a measurement; leave out --estimate")
    if data is None and not estimated:
        from ..data import demo

        data = str(demo.cached_folder())

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler talks to stderr else
    import torch

    from .. import config as configs
    from ..data import dataset
    from ..models import factory
    from ..profiling import benchmark, profiler
    from ..reporting import plots
    from ..runs import run_folder as run
    from ..runtime import compute, environment, files
    from ..runtime.memory import Budget
    from ..training.autobatch import Plan
    from . import console

    factory.build(arch, 1, size)  # says at once if the two do not go together
    config = configs.resolve(config)
    plan = Plan(batch_size, micro_batch_size or batch_size, activation_checkpointing)
    place = torch.device("cpu") if estimated else compute.pick_device(device)
    if snapshot and place.type != "cuda":
        raise GrigriError("--snapshot is of a GPU's memory, and there is none here")
    environment = environment.describe(place, amp)
    if estimated:
        amp = ("bf16" if fast else "fp32") if amp == "auto" else amp
        found = profiler.estimate(config, plan, num_classes, amp)
        folder = run.create_folder(out, f"estimate-{arch}")
    else:
        amp = compute.pick_amp("fp32" if amp == "auto" and not fast else amp, place)
        threads = threads or compute.usable_threads()
        torch.set_num_threads(threads)
        with Budget(place) as budget:
            setting = benchmark.setting_of(
                dataset.load(data).paths[:limit],
                threads,
                arch=arch,
                size_px=size,
                batch_size=batch_size,
                device=place,
                amp=amp,
                fast=fast,
                num_classes=num_classes,
            )
            folder = run.create_folder(out, f"profile-{arch}")
            found = profiler.measure(setting, config, plan, budget, folder, snapshot)
    title = f"{arch} at {size} px, {plan.in_words()}, {amp}"
    console.say(f"{title}, {num_classes} classes\n")
    console.show_profile(found, room)
    png = plots.memory(found.training.account.series, found.training.account.phases, title)
    files.write_atomic(folder / "memory.png", png)
    content = {"title": title, "environment": environment, **found.to_json()}
    files.write_json(folder / "profile.json", content)
    console.say(f"\neverything is in {files.shown(folder)}")


# -------------------------------------------------------------------------------------- info


@app.command()
def info(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Show versions, hardware, and what would be chosen here: for bug reports.

    Nothing is measured; what --compile auto has measured before is shown.

    Example:  grigri-fast info --json
    """
    from ..runtime import compute, files
    from ..runtime import environment as infos
    from ..training import compilation
    from . import console

    found = infos.info(compilation.measured_here(compute.pick_device("auto")))
    if as_json:
        sys.stdout.write(files.to_json(found))
    else:
        console.show_info(infos.in_words(found))


# -------------------------------------------------------------------------------------- data


@data_app.command()
def check(
    data: DataArgument,
    images: ImagesOption = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also look for near-duplicates and for labels that are wrong."),
    ] = False,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Look for wrong labels in the validation part of this run, which its model has "
            "not seen.",
            show_default=False,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=2,
            metavar="K",
            help="Look for wrong labels in all images, by training K small models from scratch, "
            "each on the images that it is not asked about.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="Of each model of --folds. [default: 10]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=16, help="Of the images of --folds. [default: 64]"),
    ] = None,
    split_file: Annotated[
        Path | None,
        typer.Option(
            "--split",
            metavar="FILE.json",
            help="Mark near-duplicates across this split (with --run: across the run's).",
            show_default=False,
        ),
    ] = None,
    distance: Annotated[
        int | None,
        typer.Option(
            "--distance",
            min=0,
            max=16,
            help="Near-duplicates differ in at most so many of 64 bits. [default: 10]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the tables and the gallery. [default: runs/check-<data>]",
        ),
    ] = None,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    threads: ThreadsOption = None,
) -> None:
    """Show what a data set holds, and every file that cannot be used with its reason.

    Every image is decoded once. The exit code is 1 if a file cannot be used. With --deep (pip
    install 'grigri-fast\\[clean]') near-duplicates.csv, label-issues.csv and gallery.html are
    written.

    Example:  grigri-fast data check my-photos

    Example:  grigri-fast data check my-photos --deep --run runs/my-photos-resnet34
    """
    deep_only = {
        "--run": run_folder,
        "--folds": folds,
        "--epochs": epochs,
        "--size": size,
        "--split": split_file,
        "--distance": distance,
        "--out": out,
    }
    for name, value in deep_only.items():
        if value is not None and not deep:
            raise typer.BadParameter(f"{name} goes with --deep")
        if value is not None and name in ("--epochs", "--size") and folds is None:
            raise typer.BadParameter(f"{name} goes with --folds")
    if run_folder is not None and folds is not None:
        raise typer.BadParameter("--run and --folds are two ways to the same; leave one out")
    if run_folder is not None and split_file is not None:
        raise typer.BadParameter("--run has its own split; leave --split out")

    from ..curation import summary
    from ..data import dataset
    from ..runtime import compute
    from . import console

    threads = threads or compute.usable_threads()
    labelled = dataset.load(data, images)
    if deep:
        from ..curation import label_issues

        label_issues.require_libraries(label_errors=run_folder is not None or folds is not None)
    with console.progress("checking") as on_progress:
        found = summary.survey(
            labelled, threads=threads, max_pixels=max_pixels, on_progress=on_progress
        )
    console.show_survey(labelled, found)
    if deep:
        how = label_issues.How(threads, max_pixels, epochs or 10, size or 64, images)
        out = out or Path("runs") / f"check-{Path(data).resolve().stem}"
        distance = label_issues.DISTANCE if distance is None else distance
        with console.TrainScreen() as screen:
            cleaning = label_issues.check(
                labelled,
                data,
                out,
                how,
                screen,
                run_folder=run_folder,
                num_folds=folds,
                split_file=split_file,
                distance=distance,
            )
        console.show_cleaning(cleaning)
    if found.bad:
        raise GrigriError(f"{len(found.bad):,} of {len(labelled):,} files cannot be used")


@data_app.command()
def split(
    data: DataArgument,
    val: Annotated[float, typer.Option(help="Share for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share held back as a test part.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Breaks ties.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Write the split.")
    ] = None,
    images: ImagesOption = None,
) -> None:
    """Split by iterative stratification, and show the class frequencies of the parts.

    Works on labels alone: the images need not be there. train --split takes the file.

    Example:  grigri-fast data split labels.csv --val 0.2 --test 0.1 --out split.json
    """
    from ..data import split as splitting
    from . import console

    console.show_split(splitting.split(data, val=val, test=test, seed=seed, out=out, images=images))


@data_app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to be made.")],
    num_images: Annotated[int | None, typer.Option("--num-images", min=20, max=1_000_000)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write the demo set: small drawn photographs with several labels each.

    Example:  grigri-fast data demo demo-photos
    """
    from ..data import demo as demo_set
    from . import console

    num_images = num_images or demo_set.NUM_IMAGES
    demo_set.demo(folder, num_images=num_images, seed=seed)
    console.say(f"{num_images:,} images -> {folder}")
    console.say(f"next: grigri-fast data check {folder}")


@data_app.command()
def fetch(
    dataset: Annotated[
        Literal["mirflickr25k"],
        typer.Argument(metavar="mirflickr25k", help="Which data set.", show_default=False),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to be made.")],
    size: Annotated[
        int,
        typer.Option(
            "--size",
            min=0,
            max=4096,
            metavar="PX",
            help="Cut to a square around the centre, of so many pixels; 0: leave images as they "
            "are.",
        ),
    ] = 128,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="URL|FILE|DIR",
            help="Take the archives from here (several times): a folder or an address that holds "
            "both, or an archive itself.",
            show_default=False,
        ),
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option(
            "--sha256",
            metavar="ARCHIVE=HEX",
            help="What an archive's checksum must be (several times).",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the downloaded archives in DIR.downloads.")
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Download a public data set, and lay it out as train reads it.

    mirflickr25k: 25,000 photographs from Flickr (3.1 GB from Leiden University) with the relevant
    annotations of 14 classes. A download that was cut goes on where it was with the same command.

    Example:  grigri-fast data fetch mirflickr25k mirflickr
    """
    from ..data import mirflickr

    try:
        checksums = mirflickr.parse_sha256(sha256 or ())
    except ValueError as e:
        raise typer.BadParameter(f"--sha256: {e}") from None

    from . import console

    with console.FetchScreen() as screen:
        found = mirflickr.fetch(
            folder,
            size=size,
            sources=sources or (),
            sha256=checksums,
            keep=keep,
            threads=threads,
            callback=screen,
        )
    console.show_fetched(found)
