"""The command ``serve``: a page on this machine."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import MAX_PIXELS
from ..errors import GrigriError
from ..runtime import files
from .console import say
from .options import (
    AmpOption,
    CheckpointOption,
    DeviceOption,
    MaxPixelsOption,
    MemoryLimitOption,
    ThreadsOption,
    passed_on,
)

if TYPE_CHECKING:
    from ..serving.review import Review


def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="A run folder of train, and others beside it."),
    ],
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of 127.0.0.1. \\[default: the first free from 8765]"
        ),
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Where decisions are written. \\[default: <DATA>-corrections.csv beside the data]",
        ),
    ] = None,
    suggestions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Photographs to label: the table of suggest."),
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    checkpoint: CheckpointOption = "last",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Show a page on this machine: try the model on photographs, correct labels, compare runs.

    Labels that are likely wrong are shown one after the other, and corrected with keys. An answer
    is written at once to a table that train --corrections takes. Nothing leaves this machine.
    Ctrl-C ends it. Of several runs the first is tried and its labels are reviewed; the others are
    compared with it.

    Example:  grigri-fast serve runs/my-photos-resnet34 --open
    """
    options = passed_on(locals(), "open")

    try:
        from ..serving.serve import serve as answer
    except ImportError as e:
        if e.name not in ("starlette", "uvicorn"):
            raise
        raise GrigriError(
            f"serve needs {e.name}: pip install 'grigri-fast[serve]' (Starlette and uvicorn)"
        ) from e

    def ready(address: str, review: "Review") -> None:
        counts = {kind: len(some) for kind, some in review.questions.items()}
        if "doubtful" not in counts:
            say("for labels that are likely wrong: pip install 'grigri-fast[clean]' (cleanlab)")
        say(f"{', '.join(f'{num:,} {kind}' for kind, num in counts.items())} to review")
        say(f"open {address}  (Ctrl-C ends it)")
        if open:
            webbrowser.open(address)

    say(f"scoring the validation part of {files.shown(runs[0])} ...")
    done = answer(**options, on_ready=ready)
    if not done.num_decided + done.num_added:
        say("\nended; nothing was decided")
        return
    path = files.shown(done.corrections)
    parts = []
    if done.num_decided:
        parts.append(f"{done.num_decided:,} labels decided, {done.num_changed:,} changed")
    if done.num_added:
        parts.append(f"{done.num_added:,} photograph{'s' * (done.num_added > 1)} added")
    say(f"\nended; {', '.join(parts)}, in {path}")
    say(f"next: grigri-fast train DATA --corrections {path}")
