"""Labels that somebody has corrected: a table beside the data, which stay as they are.

Shapes: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from .layouts.table_files import read_any

HEADER = ("image", "class", "value")
GIVEN = "given"  # the label of the data, after all
VALUES = ("1", "0", "unknown", GIVEN)


@dataclass(frozen=True)
class Correction:
    """What somebody says of one label of one image.

    Attributes:
        line: of the file.
        image: name of the image, as in a split file.
        label: name of the class.
        value: one of :data:`VALUES`: has it, has it not, nobody can tell, or what the data say.
    """

    line: int
    image: str
    label: str
    value: str


def read(file: Path) -> list[Correction]:
    """Return the corrections in a table, in its order.

    Its columns are ``image``, ``class`` and ``value``; there may be others.

    Raises:
        GrigriError: if it is no such table.
    """
    table = read_any(file)
    missing = [name for name in HEADER if name not in table.header]
    if missing:
        raise GrigriError(
            f"--corrections {file}: expected the columns {', '.join(HEADER)}; it has"
            f" {', '.join(table.header[:5])}"
        )
    columns = [table.header.index(name) for name in HEADER]
    found = []
    for line, cells in zip(table.lines, table.rows, strict=True):
        image, label, value = (cells[c] for c in columns)
        if value not in VALUES:
            raise GrigriError(
                f"--corrections {file} line {line}: {value[:60]!r} is none of {', '.join(VALUES)}"
            )
        found.append(Correction(line, image, label, value))
    return found


def applied(
    file: Path,
    names: Sequence[str],
    class_names: Sequence[str],
    left_out: Sequence[str],
    targets_NC: NDArray[np.float32],
    unknown_NC: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, str]:
    """Return targets and unknown labels as a table of corrections has them, and a note.

    Of several lines about one label the last one counts.

    Args:
        file: the table (see :func:`read`).
        names: of the images (N).
        class_names: of the classes (C).
        left_out: classes of the data that are not learnt; what is said of them is skipped.
        targets_NC, unknown_NC: as the data have them.

    Raises:
        GrigriError: if the file is no such table, or names an image or a class that there is not.
    """
    row_of = {name: row for row, name in enumerate(names)}
    column_of = {name: c for c, name in enumerate(class_names)}
    value_of: dict[tuple[int, int], str] = {}
    for one in read(file):
        if one.image not in row_of:
            raise GrigriError(
                f"--corrections {file} line {one.line}: no image is named {one.image[:60]!r}"
            )
        if one.label in column_of:
            value_of[row_of[one.image], column_of[one.label]] = one.value
        elif one.label not in left_out:
            raise GrigriError(
                f"--corrections {file} line {one.line}: no class is named {one.label[:60]!r}"
            )
    then_NC = _states(targets_NC, unknown_NC)
    now_NC = then_NC.copy()
    for (row, c), value in value_of.items():
        if value != GIVEN:
            now_NC[row, c] = VALUES.index(value)
    changed_NC = now_NC != then_NC
    num_said = sum(value != GIVEN for value in value_of.values())
    num, num_images = int(changed_NC.sum()), int(changed_NC.any(1).sum())
    note = f"{num:,} of {num_said:,} labels in {file.name} differ from the data's"
    if num:
        added, removed, unknown = np.bincount(now_NC[changed_NC], minlength=3).tolist()
        note += (
            f": {added:,} added, {removed:,} removed, {unknown:,} unknown, of {num_images:,} images"
        )
    is_unknown_NC = now_NC == VALUES.index("unknown")
    targets_NC = (now_NC == VALUES.index("1")).astype(np.float32)
    return targets_NC, is_unknown_NC if is_unknown_NC.any() else None, note


def _states(
    targets_NC: NDArray[np.float32], unknown_NC: NDArray[np.bool_] | None
) -> NDArray[np.int8]:
    """Return by label the number of its value in :data:`VALUES` (N, C)."""
    states_NC = np.where(targets_NC > 0, VALUES.index("1"), VALUES.index("0")).astype(np.int8)
    if unknown_NC is not None:
        states_NC[unknown_NC] = VALUES.index("unknown")
    return states_NC
