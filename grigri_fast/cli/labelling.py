"""Commands about photographs still to be labelled: learning-curve, suggest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from ..config import MAX_PIXELS
from ..runtime import files
from .console import new_table, say, say_first, show, verbosity
from .options import (
    AmpOption,
    CheckpointOption,
    DeviceOption,
    MaxPixelsOption,
    MemoryLimitOption,
    RunArgument,
    ThreadsOption,
    passed_on,
)

if TYPE_CHECKING:
    from ..curation.suggestions import Suggested

_SHOWN_SUGGESTIONS = 20


def suggest(
    run: RunArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Image files, folders, or globs.")
    ],
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

    from ..data.dataset import find_images

    find_images(images)  # an error at once if a path names nothing

    from ..curation import suggest as suggesting
    from .progress import progress

    with progress("looking at images") as on_progress:
        suggested = suggesting.suggest(**options, on_progress=on_progress)
    show_suggested(suggested)


def show_suggested(suggested: "Suggested") -> None:
    """Print the first suggestions, what was left out, and where the rest is."""
    from ..curation.suggestions import PAGE, TABLE

    chosen, alike = suggested.suggestions, len(suggested.alike)
    say(f"{len(chosen):,} of {suggested.num_images:,} photographs to label, the first first\n")
    table = new_table("image", "in doubt", "the model's labels", num_texts=3)
    for s in chosen[:_SHOWN_SUGGESTIONS]:
        doubts, given = (
            ", ".join(f"{escape(name)} [dim]{s.probabilities[name]:.2f}[/dim]" for name in names)
            for names in (s.in_doubt, s.labels)
        )
        table.add_row(Text(str(s.path)), doubts or "[dim]-[/dim]", given or "[dim]-[/dim]")
    show(table)
    if len(chosen) > _SHOWN_SUGGESTIONS:
        say(f"... and {len(chosen) - _SHOWN_SUGGESTIONS:,} more")
    say()
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
