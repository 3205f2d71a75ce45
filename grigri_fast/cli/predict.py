"""The command predict: labels for photographs, written as they come."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.text import Text

from ..config import MAX_PIXELS
from ..errors import GrigriError, UsageError
from ..runtime import cpu_share, files, imports
from .console import complain, new_table, say, show, verbosity, with_probabilities
from .options import (
    AmpOption,
    CheckpointOption,
    DeviceOption,
    MaxPixelsOption,
    MemoryLimitOption,
    ThreadsOption,
    passed_on,
)
from .paths import PathsArgument, found_images

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..inference.prediction_file import Progress
    from ..inference.predictor import Opened

_SHOWN_PREDICTIONS = 200


def predict(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder of train, or an ONNX file of export."),
    ],
    images: PathsArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv|FILE.json", help="Write to a file.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the --out file of a predict that was stopped."),
    ] = False,
    checkpoint: CheckpointOption = "last",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"],
        typer.Option(
            help="torch for a run; for an ONNX file onnxruntime, in fp32, or openvino. auto: for an"
            " ONNX file openvino, where it is installed and the CPU is fast at bf16."
        ),
    ] = "auto",
) -> None:
    """Label new images with the stored threshold.

    Without --out it prints a table, or CSV in a pipe. Rows are written as they come. A file that
    cannot be used gets its reason in the column error, and the exit code is 1. An ONNX file is
    computed on the CPU.

    Example:  grigri-fast predict runs/my-photos-resnet34 holiday/ --out labels.csv
    """
    options = passed_on(locals(), "images", "out", "resume")

    from ..inference import prediction_file

    if out is not None:
        files.require_writable(out, ".csv", ".json")
        prediction_file.require_can_begin(out, resume)
    elif resume:
        raise UsageError("--resume goes with --out")
    found = found_images(images)  # an error at once if a path names nothing

    with imports.heavy():
        from ..pipeline import check

        check.start_early(  # while PyTorch is loaded
            found.images, threads=cpu_share.pick_threads(threads), max_pixels=max_pixels
        )
        from ..inference import predictor

    with predictor.opened(**options) as model:
        if out is not None:
            done = _into_file(model, found.images, out, resume)
            say(f"{done.images:,} images -> {out}")
        elif sys.stdout.isatty():
            done = _into_table(model, found.images)
        else:
            done = _into_pipe(model, found.images)
    if found.skipped and not verbosity.quiet:
        complain(f"left out: {found.in_words()}")
    if done.errors:
        more = f" (and {done.errors - 1} more, see the column error)" if done.errors > 1 else ""
        raise GrigriError(f"{done.first_error}{more}; the others were labelled")


def _labelled(
    model: "Opened", paths: Sequence[Path], num_before: int = 0
) -> "Iterator[list[Prediction]]":
    """Yield the predictions of files as they are computed, and show how far it is."""
    from .progress import PredictDisplay

    with PredictDisplay(num_before, num_before + len(paths)) as display:
        parts = model.classifier.parts(paths, model.budget, display.on_images)
        with contextlib.closing(parts):
            yield from parts


def _into_file(model: "Opened", paths: Sequence[Path], out: Path, resume: bool) -> "Progress":
    """Write predictions to a file; return what is in it."""
    from ..inference import prediction_file

    classifier = model.classifier
    made_by = prediction_file.made_by(
        model.path, model.engine, classifier.compute, classifier.max_pixels
    )
    names = classifier.class_names
    with prediction_file.PredictionFile(out, names, made_by, paths, resume) as file:
        if file.has_changed and not verbosity.quiet:
            complain(
                f"{out}: the images have changed since it was begun: its rows stay, and"
                f" {len(file.left):,} images without a row follow"
            )
        for part in _labelled(model, file.left, file.progress.images):
            file.add(part)
        file.finish()
    return file.progress


def _into_pipe(model: "Opened", paths: Sequence[Path]) -> "Progress":
    """Print predictions as CSV; return how many."""
    from ..inference.prediction import csv_head, csv_rows
    from ..inference.prediction_file import Progress

    names, done = model.classifier.class_names, Progress()
    sys.stdout.write(csv_head(names))
    for part in _labelled(model, paths):
        sys.stdout.write(csv_rows(part, names))
        sys.stdout.flush()
        done = done.plus(b"", part)
    return done


def _into_table(model: "Opened", paths: Sequence[Path]) -> "Progress":
    """Print a table of the first predictions; return how many there are."""
    from ..inference.prediction_file import Progress

    first: list[Prediction] = []
    done = Progress()
    for part in _labelled(model, paths):
        first += part[: _SHOWN_PREDICTIONS - len(first)]
        done = done.plus(b"", part)
    table = new_table("image", "labels", num_texts=2)
    for p in first:
        labels = with_probabilities(p.labels, p.probabilities)
        cell = f"[red]{escape(p.error)}[/red]" if p.error else labels
        table.add_row(Text(str(p.path)), cell)
    show(table)
    if done.images > len(first):
        say(f"... and {done.images - len(first):,} more: --out FILE.csv has them all")
    info = model.classifier.info
    if isinstance(info.thresholds, float):
        say(f"\nlabels from probability {info.thresholds:.4f} on ({info.threshold_source})")
    else:
        say(f"\nlabels from a threshold per class on ({info.threshold_source})")
    return done
