"""Commands that use a run: eval, export, report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from ..config import MAX_PIXELS
from ..runtime import files, imports
from .console import (
    interval,
    listed_classes,
    new_table,
    number,
    say,
    say_first,
    show,
    verbosity,
)
from .options import (
    AmpOption,
    CheckpointOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    MaxBadOption,
    MaxPixelsOption,
    MemoryLimitOption,
    RunArgument,
    ThreadsOption,
    ThresholdOption,
    given,
    passed_on,
    with_label_options,
)

if TYPE_CHECKING:
    from ..evaluation.evaluator import Evaluation, RunEvaluation
    from ..inference.exporter import Exported

_SCORES = {
    "micro-F1": "micro_f1",
    "macro-F1": "macro_f1",
    "subset accuracy": "subset_accuracy",
    "mAP": "mAP",
}


@with_label_options
def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Score these images instead of the run's; or where the run's have moved to.",
        ),
    ] = None,
    images: ImagesOption = None,
    part: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Part of the run's split. \\[default: val; with --data all images]"),
    ] = None,
    threshold: ThresholdOption = "auto",
    checkpoint: CheckpointOption = "last",
    save: Annotated[
        bool, typer.Option("--save", help="Store the threshold in the checkpoint, for predict.")
    ] = False,
    as_json: JsonOption = False,
    max_bad: MaxBadOption = 0.05,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
    **how_labels: Any,
) -> None:
    """Say how good a trained model is, with 95 % intervals.

    Scores at 0.5, with a threshold tuned on the same images (flatters), and cross-fitted: tuned
    on four fifths, applied to the rest (honest). Then a table per class. Images that the model was
    trained on are left out, wherever they lie now.

    Example:  grigri-fast eval runs/my-photos-resnet34 --threshold per-class --save
    """
    options = passed_on(locals(), "as_json", "how_labels") | given(how_labels)

    from ..runs import run_folder

    run_folder.require_data_for_images(data, images)  # an error before anything heavy loads
    run_folder.require(run)

    with imports.heavy():
        from ..evaluation import evaluator
        from .progress import progress

    with progress("scoring", quiet=as_json) as on_progress:
        scored = evaluator.evaluate(**options, on_progress=on_progress)
    if as_json:
        sys.stdout.write(files.to_json(scored.to_json()))
    else:
        show_evaluation(scored, saved=save)


def show_evaluation(scored: "RunEvaluation", saved: bool) -> None:
    """Print the scores and the table per class."""
    evaluation, path = scored.evaluation, scored.checkpoint
    say(f"{path}\non the {scored.images}: {evaluation.num_images:,} images, 95 % intervals")
    for sentence in scored.reading:
        say(f"  {sentence}")
    for sentence in scored.remarks:
        say(sentence)
    if scored.bad:
        say(f"{len(scored.bad):,} more cannot be used and are left out:")
        lines = [f"{bad}: {reason}" for bad, reason in scored.bad.items()]
        say_first(lines, "--json names them all")
    say()
    show_scores(evaluation)
    how = "cross-fitted" if evaluation.cross_fitted else "at the threshold given"
    say(f"\nper class (precision, recall and F1 {how})\n")
    table = new_table("class", "support", "precision", "recall", "F1", "AP", "threshold")
    listed, others = listed_classes([c.support for c in evaluation.per_class])
    for c in (evaluation.per_class[i] for i in listed):
        numbers = (c.precision, c.recall, c.f1, c.average_precision, c.threshold)
        table.add_row(escape(c.name), f"{c.support:,}", *map(number, numbers))
    show(table)
    say(f"{others}; --json has them all\n" if others else "")
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


def show_scores(evaluation: "Evaluation") -> None:
    """Print the scores with a column per way of choosing the threshold."""
    from ..evaluation.evaluator import CROSS_FITTED, IN_WORDS, TUNED

    how = IN_WORDS[evaluation.exposure]
    heads = {TUNED: "tuned here\n(flatters)", CROSS_FITTED: f"cross-fitted\n({how})"}
    scores = evaluation.by_name()
    table = new_table("", *(heads.get(name, name) for name in scores))
    for title, key in _SCORES.items():
        table.add_row(title, *(interval(getattr(s, key)) for s in scores.values()))
    show(table)
    for sentence in evaluation.remarks:
        say(sentence)


def export(
    run: RunArgument,
    format: Annotated[
        Literal["onnx", "pt2", "hub"],
        typer.Option(
            help="onnx: for ONNX Runtime and much else. pt2: for PyTorch (torch.export.load)."
            " hub: a folder that timm loads, for the Hugging Face hub."
        ),
    ] = "onnx",
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(
            help="Compute with 8-bit integers; what that costs in micro-F1 is measured on the"
            " validation part."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Where to write. \\[default: RUN/model.onnx, RUN/model-int8.onnx, RUN/model.pt2 or"
            " RUN/hub]",
        ),
    ] = None,
    checkpoint: CheckpointOption = "last",
    threads: ThreadsOption = None,
) -> None:
    """Write a trained model for other programs.

    A file takes a batch of images, uint8 RGB, and returns the probabilities of the labels. Class
    names, thresholds and how to resize an image are in its metadata. A folder (hub) has the network
    as timm or torchvision loads it, and a model card. Both are compared with PyTorch on images of
    the validation part before they are written.

    Example:  grigri-fast export runs/my-photos-resnet34 --format onnx
    """
    options = passed_on(locals())

    with imports.heavy():
        from ..evaluation import quantization
        from .progress import progress

    with progress("exporting") as on_progress:
        show_export(quantization.export(**options, on_progress=on_progress))


def show_export(done: "Exported") -> None:
    """Print what was written, how it was checked, and what to do next."""
    from ..inference.exporter import INPUT, OUTPUT

    side, num_classes = done.info.size_px, len(done.info.class_names)
    is_folder = done.path.is_dir()
    written = sorted(done.path.iterdir()) if is_folder else [done.path]
    size_mb = sum(path.stat().st_size for path in written) / 1e6
    say(f"{files.shown(done.path)} ({size_mb:.1f} MB)")
    if is_folder:
        say(f"  {', '.join(path.name for path in written)}")
    else:
        say(f"  {INPUT:13}  uint8 RGB (N, {side}, {side}, 3)")
        say(f"  {OUTPUT:13}  float32 (N, {num_classes})")
    say(
        f"checked: {done.runtime} and PyTorch differ by {done.difference:.1e} at most in a"
        f" probability,\non {done.images}, in batches of"
        f" {' and '.join(map(str, done.batch_sizes))}"
    )
    if done.quantized is not None:
        q = done.quantized
        say(
            f"int8: {q.size_ratio:.2f} times the size and {q.speed_ratio:.2f} times the speed of"
            f" fp32; micro-F1 at the stored\nthresholds {q.micro_f1:.4f} instead of"
            f" {q.fp32_micro_f1:.4f}, {0 - q.loss:+.4f} ({0 - q.high:+.4f} to {0 - q.low:+.4f}), on"
            f" {q.num_images:,} validation images;\ncalibrated on {q.num_calibrated:,} training"
            f" images"
        )
    if is_folder:
        say(f"next: {files.shown(done.path / 'README.md')} is the model card: it shows how to load")
        say("the model, and has places for you to fill in")
    elif done.path.suffix.lower() == ".onnx":
        say(f"next: grigri-fast predict {files.shown(done.path)} PHOTOS")


def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page. \\[default: RUN/report.html]"),
    ] = None,
    part: Annotated[
        Literal["val", "test", "train"], typer.Option(help="Part of the run's own data.")
    ] = "val",
    threshold: ThresholdOption = "auto",
    checkpoint: CheckpointOption = "last",
    max_bad: MaxBadOption = 0.05,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write one HTML page of a run: scores, curves, calibration, and its errors.

    The page is one file that needs no network, so it can be mailed. It holds small copies of
    images.

    Example:  grigri-fast report runs/my-photos-resnet34 --part test
    """
    options = passed_on(locals())

    with imports.heavy():
        from ..reporting import run_report
        from .progress import progress

    with progress("scoring") as on_progress:
        path = run_report.report(**options, on_progress=on_progress)
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
