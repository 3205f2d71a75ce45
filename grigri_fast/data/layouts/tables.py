"""Labels in a table: a 0/1 column per class, a column of labels, or a row per image and label.

Layouts that are tables with a header of their own are in :mod:`dialects`.
"""

from collections.abc import Sequence

from ...errors import GrigriError
from .. import packed
from . import columns as finder
from .cells import FLAGS, read_cells
from .columns import Columns, Kind
from .image_paths import Located, locate
from .labels import LabelOptions, Labels
from .table import Table

KINDS = ("one-hot", "label-column", "long")  # what --layout calls them
_LONG_SHARE = 0.25  # of the images have several rows, in a table of a row per image and label


def read_table(
    table: Table,
    options: LabelOptions,
    kind: str | None = None,
    usual_separator: str | None = None,
    name: str | None = None,
) -> Labels:
    """Return the labels of a table.

    Args:
        table: the table.
        options: how it is to be read, where that is given.
        kind: one of ``KINDS`` where it is known.
        usual_separator: what stands between the labels of a cell if nothing else is said.
        name: the layout in words; by default from what is found.

    Raises:
        GrigriError: if it is not sure how the table is to be read, or a cell is wrong.
    """
    of_columns: Kind | None = None
    if kind is not None:
        of_columns = "one-hot" if kind == "one-hot" else "label-column"
    columns = finder.find(table, options, of_columns)
    notes = list(columns.notes)
    if columns.kind == "one-hot":
        class_names = [table.header[i] for i in columns.labels]
        labels = _flagged(table, columns)
    else:
        labels, of_cells = _of_cells(table, columns, options, usual_separator)
        notes += of_cells
        class_names = sorted({label for words in labels for label in words})
    located = locate(table.file, table.columns[columns.image], table.where, options.images)
    labels, kept = _joined(table, located, labels, columns, kind)
    is_long = len(kept) < len(table.rows)
    if is_long:
        notes.append("each row is one label of an image")
    words = name or (
        "a row per image and label" if is_long
        else "a 0/1 column per class" if columns.kind == "one-hot"
        else "a column of labels"
    )  # fmt: skip
    return Labels(
        [located.names[row] for row in kept],
        packed.paths(located.paths[row] for row in kept),
        labels,
        class_names,
        f"{table.file} ({words})",
        parts=None if columns.parts is None else [columns.parts[row] for row in kept],
        groups=None if columns.groups is None else [columns.groups[row] for row in kept],
        notes=notes + located.notes,
    )


def _flagged(table: Table, columns: Columns) -> list[list[str]]:
    """Return the classes whose cell is 1, for each row."""
    for column in columns.labels:
        odd = next((v for v in table.values[column] if v.casefold() not in FLAGS), None)
        if odd is not None:
            raise GrigriError(
                f"{table.where(table.find(column, odd), column)}: {odd[:40]!r} is neither 0 nor 1"
            )
    labels: list[list[str]] = [[] for _ in table.rows]
    for column in columns.labels:
        name = table.header[column]
        for row, cell in enumerate(table.columns[column]):
            if FLAGS[cell.casefold()]:
                labels[row].append(name)
    return labels


def _of_cells(
    table: Table, columns: Columns, options: LabelOptions, usual: str | None
) -> tuple[list[list[str]], list[str]]:
    """Return the labels that the cells of each row name, and how they were read."""
    labels: list[list[str]] = [[] for _ in table.rows]
    notes: list[str] = []
    for column in columns.labels:
        place = f"{table.file}, column {table.header[column]!r}"
        found = read_cells(place, table.columns[column], table.where, options, usual)
        for words, more in zip(labels, found.labels, strict=True):
            words += (word for word in dict.fromkeys(more) if word not in words)
        notes += (note for note in found.notes if note not in notes)
    return labels, notes


def _joined(
    table: Table,
    located: Located,
    labels: list[list[str]],
    columns: Columns,
    kind: str | None,
) -> tuple[list[list[str]], Sequence[int]]:
    """Return the labels of each image, and the first row of each.

    An image in several rows is a mistake, unless the table has a row per image and label.
    """
    if len(set(located.paths)) == len(labels):
        return labels, range(len(labels))
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(located.paths):
        rows_of.setdefault(path, []).append(row)
    several = [rows for rows in rows_of.values() if len(rows) > 1]
    first, second = several[0][:2]
    again = (
        f"{table.where(second)}: {located.names[second]} was in line {table.lines[first]} already"
    )
    if kind != "long":
        is_one_each = all(len(words) <= 1 for words in labels)
        is_frequent = len(several) > 1 and len(several) >= _LONG_SHARE * len(rows_of)
        if columns.kind == "one-hot" or not (is_one_each and is_frequent):
            hint = (
                "" if columns.kind == "one-hot" else "; --layout long if a row is one label of it"
            )
            raise GrigriError(again + hint)
    kept = [rows[0] for rows in rows_of.values()]
    for rows in several:
        for values, what in ((columns.parts, "part"), (columns.groups, "group")):
            other = next((r for r in rows if values and values[r] != values[rows[0]]), None)
            if other is not None:
                raise GrigriError(
                    f"{table.where(other)}: {located.names[other]} is in another {what} in line"
                    f" {table.lines[rows[0]]}"
                )
    joined = [
        list(dict.fromkeys(w for row in rows for w in labels[row])) for rows in rows_of.values()
    ]
    return joined, kept
