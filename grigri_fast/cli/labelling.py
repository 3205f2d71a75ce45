"""Commands about photographs still to be labelled: learning-curve, suggest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from ..config import MAX_PIXELS, OPTIONS
from ..experiments.curve_options import config_of
from ..runtime import files, imports
from .console import (
    interval,
    new_table,
    number,
    say,
    say_first,
    show,
    verbosity,
    with_probabilities,
)
from .options import (
    AmpOption,
    CheckpointOption,
    DeviceOption,
    ImagesOption,
    MaxPixelsOption,
    MemoryLimitOption,
    RunArgument,
    ThreadsOption,
    architectures,
    given,
    passed_on,
    with_label_options,
)
from .paths import PathsArgument, found_images, has_list

if TYPE_CHECKING:
    from ..curation.suggestions import Suggested
    from ..evaluation.bootstrap import Interval
    from ..experiments.learning_curve import LearningCurve

_SHOWN_SUGGESTIONS = 20


@with_label_options
def learning_curve(
    data: Annotated[
        str, typer.Argument(metavar="DATA|RUN", help="A folder, a CSV file, or a run folder.")
    ],
    images: ImagesOption = None,
    split: Annotated[
        str | None, typer.Option(metavar="FILE.json", help=OPTIONS["split"].text)
    ] = None,
    val: Annotated[float | None, typer.Option(help=OPTIONS["val"].help)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=OPTIONS["limit"].text)] = None,
    arch: Annotated[
        str | None, typer.Option(help=OPTIONS["arch"].text, autocompletion=architectures)
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help=OPTIONS["size"].text)] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="imagenet|FILE|FOLDER", help="Pretrained weights.")
    ] = None,
    subsets: Annotated[
        int, typer.Option(min=1, metavar="N", help="How often each smaller size is drawn.")
    ] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Of split and subsets.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the files. \\[default: RUN, or runs/learning-curve-<data>]",
        ),
    ] = None,
    max_bad: Annotated[float | None, typer.Option(help=OPTIONS["max_bad"].text)] = None,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
    **how_labels: Any,
) -> None:
    """Say what more photographs would bring, and of which class.

    A linear head is fitted to the features of a pretrained network, with a twentieth of the
    training images up to all of them, and scored on the validation images; a power law through the
    scores says what twice as many would bring. Writes learning-curve.html, .png, .csv and .json.
    Of a run, report shows it too.

    Example:  grigri-fast learning-curve my-photos

    Example:  grigri-fast learning-curve runs/my-photos-resnet34
    """
    options = passed_on(locals(), "how_labels") | given(how_labels)
    config_of(data, passed_on(options, "data", "subsets", "out"))  # an error at once

    with imports.heavy():
        from ..experiments import learning_curve as curves
        from .progress import CurveDisplay

    with CurveDisplay() as display:
        found = curves.learning_curve(**options, callback=display)
    show_curve(found)


def show_curve(found: "LearningCurve") -> None:
    """Print the scores by number of images, and the classes that lack images first."""
    from ..experiments.learning_curve import PAGE
    from ..reporting.curve_page import by_need

    curve = found.curve
    say(f"\n{found.network}, frozen, with a linear head; {curve.num_val:,} validation images\n")
    table = new_table("images", "subsets", "micro-F1, cross-fitted", "mAP")
    for p in curve.points:
        scores = interval(p.micro_f1), interval(p.mAP)
        table.add_row(f"{p.num_images:,}", f"{p.num_subsets}", *scores)
    scores = interval(curve.micro_f1.score), interval(curve.mAP.score)
    table.add_row(f"{curve.micro_f1.num_images:,}", "expected", *scores)
    show(table)
    gains = [
        f"{name} {_gain(e.gain)}" for name, e in (("micro-F1", curve.micro_f1), ("mAP", curve.mAP))
    ]
    say(f"\ntwice as many images would bring: {', '.join(gains)}\n")
    table = new_table("class", "images", "F1", "AP", "AP with twice as many", "more would help")
    for c in by_need(curve):
        gain = _gain(c.twice.gain) if c.twice else "-"
        scores = number(c.f1), number(c.average_precision[-1].value)
        table.add_row(escape(c.name), f"{c.num_train:,}", *scores, gain, c.wants_images or "-")
    show(table)
    say(f"\neverything is in {files.shown(found.out)}; read {files.shown(found.out / PAGE)}")


def _gain(gain: "Interval") -> str:
    return f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def suggest(
    run: RunArgument,
    images: PathsArgument,
    number: Annotated[int, typer.Option(min=1, metavar="N", help="How many to suggest.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the table and the page. \\[default: runs/suggest-<PATH>]",
        ),
    ] = None,
    checkpoint: CheckpointOption = "last",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Say which photographs to label next: those that would teach the model most.

    They are the ones that the model is in doubt about and that are unlike each other and what it
    knows. Photographs that the run's data has already are left out, and near-duplicates of each
    other. Writes suggestions.csv and suggestions.html.

    Example:  grigri-fast suggest runs/my-photos-resnet34 holiday --number 50
    """
    options = passed_on(locals())

    found = found_images(images)  # an error at once if a path names nothing
    if has_list(images):
        options["images"] = found.images
        if out is None:
            options["out"] = Path("runs", f"suggest-{Path(images[0].strip('@-')).stem or 'list'}")

    with imports.heavy():
        from ..curation import suggest as suggesting
        from .progress import progress

    with progress("looking at images") as on_progress:
        suggested = suggesting.suggest(**options, on_progress=on_progress)
    show_suggested(suggested, found.in_words())
    say(f"next: grigri-fast serve {files.shown(run)} --suggestions {files.shown(suggested.out)}")


def show_suggested(suggested: "Suggested", skipped: str) -> None:
    """Print the first suggestions, what was left out, and where the rest is.

    ``skipped``: what was left out where folders were searched, in words.
    """
    from ..curation.suggestions import PAGE, TABLE

    chosen, alike = suggested.suggestions, len(suggested.alike)
    say(f"{len(chosen):,} of {suggested.num_images:,} photographs to label, the best first\n")
    table = new_table("image", "in doubt", "the model's labels", num_texts=3)
    for s in chosen[:_SHOWN_SUGGESTIONS]:
        doubts, given = (with_probabilities(x, s.probabilities) for x in (s.in_doubt, s.labels))
        table.add_row(Text(str(s.path)), doubts, given)
    show(table)
    if len(chosen) > _SHOWN_SUGGESTIONS:
        say(f"... and {len(chosen) - _SHOWN_SUGGESTIONS:,} more")
    say()
    if skipped:
        say(f"left out: {skipped}")
    if suggested.known:
        say(f"left out: {len(suggested.known):,} that the run's data has already, with labels")
    if alike:
        say(f"left out: {alike:,} that show nearly the same as one that is suggested")
    if suggested.bad:
        say(f"left out: {len(suggested.bad):,} that cannot be used")
        say_first([f"{path}: {why}" for path, why in suggested.bad.items()], "and {:,} more")
    if verbosity.quiet:
        return
    out = files.shown(suggested.out)
    say(f"{TABLE} and {PAGE} are in {out}")
