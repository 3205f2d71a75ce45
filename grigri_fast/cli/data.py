"""Commands about data sets: data check, data split, data demo, data fetch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from ..config import MAX_PIXELS
from ..errors import GrigriError
from ..runtime import files
from .console import new_table, say, say_first, show
from .options import DataArgument, ImagesOption, MaxPixelsOption, ThreadsOption

if TYPE_CHECKING:
    from ..curation.label_issues import Cleaning
    from ..curation.summary import Survey
    from ..data.dataset import Dataset
    from ..data.mirflickr import Fetched
    from ..data.split import SplitResult


def check(
    data: DataArgument,
    images: ImagesOption = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also search for near-duplicates and for wrong labels."),
    ] = False,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Search for wrong labels in the validation part of this run, which its model has "
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
            help="Search for wrong labels in all images: train K small models from scratch, and "
            "let each judge the images that it was not trained on.",
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
    from .progress import TrainDisplay, progress

    threads = threads or compute.usable_threads()
    labelled = dataset.load(data, images)
    if deep:
        from ..curation import label_issues

        label_issues.require_libraries(label_errors=run_folder is not None or folds is not None)
    with progress("checking") as on_progress:
        found = summary.survey(
            labelled, threads=threads, max_pixels=max_pixels, on_progress=on_progress
        )
    show_survey(labelled, found)
    if deep:
        how = label_issues.How(threads, max_pixels, epochs or 10, size or 64, images)
        out = out or Path("runs") / f"check-{Path(data).resolve().stem}"
        distance = label_issues.DISTANCE if distance is None else distance
        with TrainDisplay() as display:
            cleaning = label_issues.check(
                labelled,
                data,
                out,
                how,
                display,
                run_folder=run_folder,
                num_folds=folds,
                split_file=split_file,
                distance=distance,
            )
        show_cleaning(cleaning)
    if found.bad:
        raise GrigriError(f"{len(found.bad):,} of {len(labelled):,} files cannot be used")


def show_survey(data: "Dataset", found: "Survey") -> None:
    """Print the tables of ``data check``."""
    n = len(data)
    say(f"{data.layout}\n")
    facts = new_table("", "", num_texts=2)
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
    show(facts)

    table = new_table("class", "images", "frequency")
    for name, count in zip(data.class_names, found.count_C, strict=True):
        table.add_row(escape(name), f"{count:,}", f"{count / n:.2%}")
    say()
    show(table)
    if found.duplicates:
        say("\nExact duplicates (the same pixels)")
        groups = [" = ".join(map(str, group)) for group in found.duplicates]
        say_first(groups, "and {:,} more groups")
    if found.bad:
        say("\nFiles that cannot be used")
        for path, reason in found.bad.items():
            say(f"  {path}: {reason}")


def show_cleaning(found: "Cleaning") -> None:
    """Print the number of near-duplicates and of wrong labels, and the worst of them."""
    from ..curation.label_issues import GALLERY, ISSUES, NEAR

    names, labels = found.data.names, found.data.class_names
    across = [p for p in found.pairs if found.across(p)]
    of_split = f", {len(across):,} of them across the split" if found.part_of else ""
    plural = "" if len(found.pairs) == 1 else "s"
    say(f"\n{len(found.pairs):,} near-duplicate{plural}{of_split}")
    lines = []
    for p in across + [p for p in found.pairs if p not in across]:
        parts = [found.part_of.get(row, "no part") for row in (p.first, p.second)]
        where = f", {parts[0]} and {parts[1]}" if found.part_of else ""
        lines.append(f"{names[p.first]} = {names[p.second]} ({p.distance} of 64 bits{where})")
    say_first(lines, "")
    if found.issues is None:
        say("\nlabels were not checked: --run RUN or --folds K says by which model")
    else:
        say(f"\n{len(found.issues):,} labels are likely wrong, by {found.source}\n")
        table = new_table("class", "given, but improbable", "not given, but probable")
        for c, name in enumerate(labels):
            given = [i.given for i in found.issues if i.c == c]
            wrong, missing = sum(given), len(given) - sum(given)
            table.add_row(escape(name), f"{wrong:,}", f"{missing:,}")
        show(table)
    written = [NEAR, *([] if found.issues is None else [ISSUES]), GALLERY]
    say(f"\n{', '.join(written)} are in {files.shown(found.out)}")


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

    show_split(splitting.split(data, val=val, test=test, seed=seed, out=out, images=images))


def show_split(result: "SplitResult") -> None:
    """Print each part's class frequencies side by side, in full precision."""
    from ..data.split import frequencies

    data, parts, out = result.dataset, result.split, result.path
    say(f"{data.layout}: {len(data):,} images, {len(data.class_names)} classes\n")
    table = new_table("class", *parts.parts)
    table.add_row("images", *(str(len(rows)) for rows in parts.parts.values()))
    columns = frequencies(parts, data).values()
    for name, *values in zip(data.class_names, *columns, strict=True):
        table.add_row(escape(name), *(repr(float(v)) for v in values))
    show(table)
    say()
    if out is not None:
        say(f"written to {out}; next: grigri-fast train DATA --split {out}")


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to be made.")],
    num_images: Annotated[int | None, typer.Option("--num-images", min=20, max=1_000_000)] = None,
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

    from .progress import FetchDisplay

    with FetchDisplay() as display:
        found = mirflickr.fetch(
            folder,
            size=size,
            sources=sources or (),
            sha256=checksums,
            keep=keep,
            threads=threads,
            callback=display,
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
