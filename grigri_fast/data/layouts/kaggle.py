"""Tables of well-known contests and courses: Planet ("Understanding the Amazon"), and fastai's."""

from dataclasses import replace
from pathlib import Path

from ...errors import GrigriError
from . import reading
from .columns import plain
from .labels import LabelOptions, Labels
from .table import Table
from .table_files import read_any
from .tables import read_table

_PLANET = ["image_name", "tags"]
_PLANET_FILES = ("train_v2.csv", "train_classes.csv", "train.csv")
_PLANET_IMAGES = ("train-jpg", "train-tif-v2", "train-tif")


# ---------------------------------------------------------------------------------- Planet


def is_planet_table(table: Table) -> bool:
    """Return whether a table has Planet's two columns."""
    return table.header == _PLANET


def is_planet(data: Path) -> bool:
    """Return whether it is a folder with Planet's table for training."""
    return data.is_dir() and bool(_planet_files(data))


def _planet_files(folder: Path) -> list[Path]:
    files = [folder / name for name in _PLANET_FILES]
    return [f for f in files if f.is_file() and _first_cells(f) == _PLANET]


def _first_cells(file: Path) -> list[str]:
    return [cell.strip(' "\r') for cell in reading.head(file, 1000).split("\n")[0].split(",")]


def read_planet(data: Path, options: LabelOptions) -> Labels:
    """Read Planet's folder (its table for training alone), or a table.

    Raises:
        GrigriError: if there is no such table or are two, or it is damaged.
    """
    files = [data] if data.is_file() else _planet_files(data)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise GrigriError(
            f"{data}: expected one table such as train_v2.csv, found {names}; name it as DATA"
        )
    labels = read_planet_table(read_any(files[0]), options)
    others = [f.name for f in reading.visible(files[0].parent, ".csv") if f != files[0]]
    if data.is_file() or not others:
        return labels
    return replace(labels, notes=[*labels.notes, f"not used: {', '.join(others)}"])


def read_planet_table(table: Table, options: LabelOptions) -> Labels:
    """Read a table of names without suffix and tags with spaces between them.

    Raises:
        GrigriError: if a cell is wrong.
    """
    if options.images is None:
        folders = [table.file.parent / name for name in _PLANET_IMAGES]
        here = next((folder for folder in folders if folder.is_dir()), None)
        options = replace(options, images=here)
    return read_table(table, options, "label-column", " ", "Planet: names and tags")


# ---------------------------------------------------------------------------------- fastai


def is_fastai_table(table: Table) -> bool:
    """Return whether a table has the columns ``fname`` and ``labels`` of fastai's examples."""
    names = [plain(name) for name in table.header]
    return "fname" in names and "labels" in names


def read_fastai_table(table: Table, options: LabelOptions) -> Labels:
    """Read a table as fastai's of PASCAL 2007: labels with spaces, ``is_valid`` as the split.

    Raises:
        GrigriError: if a cell is wrong.
    """
    return read_table(table, options, "label-column", " ", "fastai: fname and labels")
