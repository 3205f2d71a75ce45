"""Images that stay together in a split: groups by numbers, and those that a file names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from .layouts.table_files import read_any

PAIRS = ("first", "second")  # how the header of near-duplicates.csv begins


def numbered(groups: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each group (N); an image without one, "", is a group by itself."""
    number_of: dict[str, int] = {}
    numbers = [
        number_of.setdefault(name or f"\0{row}", len(number_of)) for row, name in enumerate(groups)
    ]
    return np.array(numbers, dtype=np.int64)


def with_others(groups: NDArray[np.int64], num_others: int) -> NDArray[np.int64]:
    """Return the groups of some images (N), and of others behind them that are in none."""
    first = int(groups.max(initial=-1)) + 1
    return np.concatenate([groups, np.arange(first, first + num_others)])


def joined(
    file: Path, names: Sequence[str], groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], str]:
    """Return a group for each image (N), with what a file says joined to ``groups``, and a note.

    Args:
        file: a table of pairs, with columns ``first`` and ``second`` (near-duplicates.csv of
            ``data check --deep``), or of two columns, an image and its group.
        names: of the images (N).
        groups: the groups so far (N); None: each image is by itself.

    Raises:
        GrigriError: if the file is no such table, or names an image that there is not.
    """
    table = read_any(file)
    row_of = {name: row for row, name in enumerate(names)}
    are_pairs = tuple(table.header[:2]) == PAIRS
    if not are_pairs and len(table.header) != 2:
        raise GrigriError(
            f"--groups {file}: expected the columns first and second (pairs of images), or two"
            f" columns, image and group; it has {', '.join(table.header[:5])}"
        )
    link = np.arange(len(names)) if groups is None else _first_of_each(groups)

    def top(row: int) -> int:
        while link[row] != row:
            link[row] = link[link[row]]
            row = int(link[row])
        return row

    first_of: dict[str, int] = {}
    for line, cells in zip(table.lines, table.rows, strict=True):
        for name in cells[:2] if are_pairs else cells[:1]:
            if name not in row_of:
                raise GrigriError(f"--groups {file} line {line}: no image is named {name[:60]!r}")
        if are_pairs:
            one, other = row_of[cells[0]], row_of[cells[1]]
        elif cells[1]:
            one = row_of[cells[0]]
            other = first_of.setdefault(cells[1], one)
        else:
            continue
        link[top(one)] = top(other)
    found = np.array([top(row) for row in range(len(names))])
    sizes = np.bincount(found, minlength=1)
    num = int((sizes > 1).sum())
    note = f"{int(sizes[sizes > 1].sum()):,} images stay together in {num:,} groups, by {file.name}"
    return np.unique(found, return_inverse=True)[1].astype(np.int64), note


def _first_of_each(groups: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return for each image (N) the first one of its group."""
    _, first, number_N = np.unique(groups, return_index=True, return_inverse=True)
    return first[number_N]
