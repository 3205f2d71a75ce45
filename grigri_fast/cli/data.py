"""Commands about data sets: data check, data split, data demo, data fetch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from ..config import MAX_PIXELS
from ..curation.options import require_used
from ..errors import GrigriError
from ..runtime import files, imports
from .console import listed_classes, new_table, say, say_first, show
from .options import (
    DataArgument,
    ImagesOption,
    MaxPixelsOption,
    ThreadsOption,
    given,
    passed_on,
    with_label_options,
)

if TYPE_CHECKING:
    from ..curation.findings import Findings
    from ..curation.summary import Summary
    from ..data.dataset import Dataset
    from ..data.mirflickr import Fetched
    from ..data.split import SplitResult

_SHOWN_COPIES = 5  # of an image, in a line


@with_label_options
def check(
    data: DataArgument,
    images: ImagesOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also search for near-duplicates and for wrong labels.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Search for wrong labels in the validation part of this run, which its model has "
            "not seen.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="K",
            help="Search for wrong labels in all images: train K small models from scratch, and "
            "let each judge the images that it was not trained on.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of each model of --folds. \\[default: 10]")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, help="Of the images of --folds. \\[default: 64]")
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Mark near-duplicates across this split (with --run: across the run's).",
        ),
    ] = None,
    distance: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=16,
            help="Near-duplicates differ in at most so many of 64 bits. \\[default: 10]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the tables and the gallery. \\[default: runs/check-<data>]",
        ),
    ] = None,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    threads: ThreadsOption = None,
    **how_labels: Any,
) -> None:
    """Show what a data set holds, and every file that cannot be used with its reason.

    Every image is decoded once. The exit code is 1 if a file cannot be used. With --deep (pip
    install 'grigri-fast\\[clean]') near-duplicates.csv, label-issues.csv and gallery.html are
    written.

    Example:  grigri-fast data check my-photos

    Example:  grigri-fast data check my-photos --deep --run runs/my-photos-resnet34
    """
    options = passed_on(locals(), "how_labels") | given(how_labels)
    require_used(**options)  # a wrong option is an error before anything heavy loads

    from ..curation import check as checking
    from .progress import TrainDisplay

    with TrainDisplay() as display:
        checked = checking.check(
            **options, on_progress=display.on_check, on_summary=show_summary, callback=display
        )
    if checked.findings is not None:
        show_findings(checked.findings)
    num_bad = len(checked.summary.bad)
    if num_bad:
        raise GrigriError(f"{num_bad:,} of {len(checked.data):,} files cannot be used")


def show_summary(data: "Dataset", summary: "Summary") -> None:
    """Print the tables of ``data check``."""
    n = len(data)
    say(data.layout)
    for note in data.notes:
        say(f"  {note}")
    say()
    facts = new_table("", "", num_texts=2)
    facts.show_header = False
    unlabelled = summary.labels_per_image.get(0, 0)
    sizes = ", ".join(f"{w}x{h} px ({count:,})" for (h, w), count in summary.sizes[:3])
    more_sizes = f" and {len(summary.sizes) - 3:,} other sizes" if len(summary.sizes) > 3 else ""
    labels = sum(k * v for k, v in summary.labels_per_image.items())
    num_copies = sum(len(group) - 1 for group in summary.duplicates)
    for name, text in (
        ("images", f"{n:,}"),
        ("classes", f"{len(data.class_names):,}"),
        ("images without label", f"{unlabelled:,} ({unlabelled / n:.2%})"),
        ("labels per image", f"{labels / n:.3f} (at most {max(summary.labels_per_image)})"),
        ("sizes", f"{sizes}{more_sizes}"),
        ("grayscale", f"{summary.num_grayscale:,}"),
        ("exact duplicates", f"{num_copies:,}"),
        ("files that cannot be used", f"{len(summary.bad):,}"),
    ):
        facts.add_row(name, text)
    show(facts)

    table = new_table("class", "images", "frequency")
    counts = summary.count_C.tolist()
    listed, others = listed_classes(counts)
    for c in listed:
        table.add_row(escape(data.class_names[c]), f"{counts[c]:,}", f"{counts[c] / n:.2%}")
    say()
    show(table)
    if others:
        say(others)
    if summary.duplicates:
        say("\nExact duplicates (the same pixels)")
        groups = [
            " = ".join(map(str, group[:_SHOWN_COPIES]))
            + (f" and {len(group) - _SHOWN_COPIES:,} more" if len(group) > _SHOWN_COPIES else "")
            for group in summary.duplicates
        ]
        say_first(groups, "and {:,} more groups")
    if summary.bad:
        say("\nFiles that cannot be used")
        for path, reason in summary.bad.items():
            say(f"  {path}: {reason}")


def show_findings(findings: "Findings") -> None:
    """Print the number of near-duplicates and of wrong labels, and the worst of them."""
    from ..curation.findings import GALLERY, ISSUES, NEAR

    names, labels = findings.data.names, findings.data.class_names
    across = [p for p in findings.pairs if findings.is_across(p)]
    of_split = f", {len(across):,} of them across the split" if findings.part_of else ""
    plural = "" if len(findings.pairs) == 1 else "s"
    say(f"\n{len(findings.pairs):,} near-duplicate{plural}{of_split}")
    lines = []
    for p in findings.across_first():
        parts = [findings.part_of.get(row, "no part") for row in (p.first, p.second)]
        where = f", {parts[0]} and {parts[1]}" if findings.part_of else ""
        lines.append(f"{names[p.first]} = {names[p.second]} ({p.distance} of 64 bits{where})")
    say_first(lines, "")
    if findings.issues is None:
        say("\nlabels were not checked: --run RUN or --folds K says by which model")
    else:
        say(f"\n{len(findings.issues):,} labels are likely wrong, by {findings.source}\n")
        table = new_table("class", "given, but improbable", "not given, but probable")
        for c, name in enumerate(labels):
            given = [i.given for i in findings.issues if i.c == c]
            wrong, missing = sum(given), len(given) - sum(given)
            table.add_row(escape(name), f"{wrong:,}", f"{missing:,}")
        show(table)
    written = [NEAR, *([] if findings.issues is None else [ISSUES]), GALLERY]
    say(f"\n{', '.join(written)} are in {files.shown(findings.out)}")


@with_label_options
def split(
    data: DataArgument,
    val: Annotated[
        float | None,
        typer.Option(help="Share for validation. \\[default: 0.2, or the data's own split]"),
    ] = None,
    test: Annotated[
        float | None,
        typer.Option(
            help="Share held back as a test part. \\[default: 0, or the data's own split]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Breaks ties.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the split.")] = None,
    images: ImagesOption = None,
    **how_labels: Any,
) -> None:
    """Split by stratification, and show the class frequencies of the parts.

    Every part has its share of the images, and every class is on all sides, as far as that is
    possible. Images of a group stay together, and data that come with a split keep it.

    Works on labels alone: the images need not be there. train --split takes the file.

    Example:  grigri-fast data split labels.csv --val 0.2 --test 0.1 --out split.json
    """
    options = passed_on(locals(), "how_labels") | given(how_labels)

    with imports.heavy():
        from ..data import split as splitting

    show_split(splitting.split(**options))


def show_split(result: "SplitResult") -> None:
    """Print the parts' shares and class frequencies side by side, and the classes they lack."""
    from ..data.split import absences, frequencies

    data, parts, out = result.dataset, result.split, result.path
    say(f"{data.layout}: {len(data):,} images, {len(data.class_names)} classes")
    for note in (*data.notes, *parts.notes):
        say(f"  {note}")
    say()
    table = new_table("class", *parts.parts)
    sizes = [len(rows) for rows in parts.parts.values()]
    table.add_row("images", *map(str, sizes))
    if parts.asked is not None:
        table.add_row("share", *(_decimals(size / sum(sizes)) for size in sizes))
        table.add_row("asked", *(_decimals(parts.asked[part]) for part in parts.parts))
    columns = frequencies(parts, data).values()
    listed, others = listed_classes(data.targets_NC.sum(0).tolist())
    for c in listed:
        table.add_row(escape(data.class_names[c]), *(_decimals(column[c]) for column in columns))
    show(table)
    if others:
        say(others)
    say()
    lacking = absences(parts, data)
    if lacking:
        say("Not in every part")
        say_first(
            [f"{a.class_name}: not in {', '.join(a.parts)} ({a.why})" for a in lacking],
            "and {:,} more classes",
        )
        say()
    if out is not None:
        say(f"written to {out}; next: grigri-fast train DATA --split {out}")


def _decimals(value: float) -> str:
    """Return a frequency with as many decimals as it has, and at most seven: all of 1/16000's."""
    whole, _, decimals = f"{value:.7f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'}"


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to be made.")],
    num_images: Annotated[int | None, typer.Option(min=20, max=1_000_000)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write the demo set: small drawn images with several labels each.

    Example:  grigri-fast data demo demo-photos
    """
    from ..data import demo as demo_set

    num_images = num_images or demo_set.NUM_IMAGES
    demo_set.demo(folder, num_images=num_images, seed=seed)
    say(f"{num_images:,} images -> {folder}")
    say(f"next: grigri-fast data check {folder}")


def fetch(
    dataset: Annotated[
        Literal["mirflickr25k"],
        typer.Argument(metavar="mirflickr25k", help="Which data set.", show_default=False),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to be made.")],
    size: Annotated[
        int,
        typer.Option(
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
        ),
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARCHIVE=HEX", help="What an archive's checksum must be (several times)."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the downloaded archives in DIR.downloads.")
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Download a public data set, and lay it out as train reads it.

    mirflickr25k: 25,000 photographs from Flickr (3.1 GB from Leiden University) with the relevant
    annotations of 14 classes. The same command continues a download that was cut off.

    Example:  grigri-fast data fetch mirflickr25k mirflickr
    """
    options = passed_on(locals(), "dataset", "sources", "sha256")

    from ..data import mirflickr

    try:
        checksums = mirflickr.parse_sha256(sha256 or ())
    except ValueError as e:
        raise typer.BadParameter(f"--sha256: {e}") from None

    from .progress import FetchDisplay

    with FetchDisplay() as display:
        found = mirflickr.fetch(
            **options, sources=sources or (), sha256=checksums, callback=display
        )
    show_fetched(found)


def show_fetched(found: "Fetched") -> None:
    """Print what was fetched, what is missing of it, and what to do next."""
    if found.skipped:
        say(f"{len(found.skipped):,} images cannot be used and are left out:")
        lines = [f"{name}: {reason}" for name, reason in found.skipped.items()]
        say_first(lines, "provenance.json names them all")
    labels = ", ".join(f"{name} {count:,}" for name, count in found.num_labels.items())
    say(f"{found.num_images:,} images -> {found.folder} ({labels})")
    say(f"next: grigri-fast data check {found.folder}")
