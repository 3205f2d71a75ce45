"""Roboflow's multi-label export: ``_classes.csv`` with a 0/1 column per class in each part."""

from dataclasses import replace
from pathlib import Path

from ...errors import GrigriError
from .cells import PART_OF
from .labels import LabelOptions, Labels
from .parts import merged
from .table import Table, read_text_table
from .tables import read_table
from .walk import images_below

FILE = "_classes.csv"
_UNLABELED = "unlabeled"


def is_here(data: Path) -> bool:
    """Return whether it is a folder whose folders ``train``, ``valid`` or ``test`` have the file,
    or which has it itself.
    """
    return data.is_dir() and bool(_files_in(data))


def _files_in(data: Path) -> dict[str, Path]:
    """Return the label files by the name of their folder, "" for the data's own."""
    if (data / FILE).is_file():
        return {"": data / FILE}
    inner = images_below(data, recursive=False).folders
    parts = [path for path in inner if PART_OF.get(path.name.lower())]
    return {path.name: path / FILE for path in parts if (path / FILE).is_file()}


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the label files of all parts.

    Raises:
        GrigriError: if there is none, if their classes differ, or a cell is not 0 or 1.
    """
    options.require_only("Roboflow's _classes.csv")
    files = {"": data} if data.is_file() else _files_in(data)
    if not files:
        raise GrigriError(f"{data}: no {FILE} here or in train, valid or test")
    read = {name: _read(file, options) for name, file in files.items()}
    return merged(data, read, "Roboflow, a 0/1 column per class")


def _read(file: Path, options: LabelOptions) -> Labels:
    table = read_text_table(file)
    if table.header[0].lower() != "filename":
        raise GrigriError(f"{file}: the first column is {table.header[0]!r}, not 'filename'")
    return _without_unlabeled(table, read_table(table, _exactly(table, options), "one-hot"))


def _exactly(table: Table, options: LabelOptions) -> LabelOptions:
    """Return options by which every other column is a class, however it is called."""
    return replace(
        options,
        image_column=table.header[0],
        label_columns=tuple(table.header[1:]),
        split_column="none",
        group_column="none",
    )


def _without_unlabeled(table: Table, labels: Labels) -> Labels:
    """Take the column ``Unlabeled`` for what it says: such images have no label."""
    column = next((n for n in labels.class_names if n.lower() == _UNLABELED), None)
    if column is None or len(labels.class_names) == 1:
        return labels
    for row, words in enumerate(labels.labels):
        if column in words and len(words) > 1:
            other = next(word for word in words if word != column)
            raise GrigriError(f"{table.where(row)}: {column!r} and {other!r} at once")
    return replace(
        labels,
        labels=[[word for word in words if word != column] for words in labels.labels],
        class_names=[name for name in labels.class_names if name != column],
        notes=[*labels.notes, f"the column {column!r} means that an image has no label"],
    )
