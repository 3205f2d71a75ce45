"""Labels that somebody has corrected: a table beside the data, which stay as they are.

It may also have photographs that the data do not have, such as those of ``suggest``.

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
_UNKNOWN = VALUES.index("unknown")


@dataclass(frozen=True)
class Correction:
    """What somebody says of one label of one image.

    Attributes:
        line: of the file.
        image: name of the image, as in a split file; of one that the data do not have, its path.
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
    if table.lacks(HEADER):
        raise GrigriError(
            f"--corrections {file}: expected the columns {', '.join(HEADER)}; it has"
            f" {', '.join(table.header[:5])}"
        )
    found = []
    for line, (image, label, value) in table.only(HEADER):
        if value not in VALUES:
            raise GrigriError(
                f"--corrections {file} line {line}: {value[:60]!r} is none of {', '.join(VALUES)}"
            )
        found.append(Correction(line, image, label, value))
    return found


@dataclass(frozen=True)
class Corrected:
    """The labels of a data set as a table of corrections has them.

    Attributes:
        targets_NC, unknown_NC: as in :class:`Dataset`; the last rows are those of ``added``.
        added: photographs that the data do not have: the paths of their files.
        note: what is different, in a sentence for the user.
    """

    targets_NC: NDArray[np.float32]
    unknown_NC: NDArray[np.bool_] | None
    added: list[str]
    note: str


def applied(
    file: Path,
    names: Sequence[str],
    class_names: Sequence[str],
    left_out: Sequence[str],
    targets_NC: NDArray[np.float32],
    unknown_NC: NDArray[np.bool_] | None,
) -> Corrected:
    """Return the labels of a data set as a table of corrections has them.

    Of several lines about one label the last one counts. An image that the data do not have is
    added if its name is an absolute path; a label of it that the table does not have is unknown.

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
    value_of: dict[tuple[str, int], str] = {}
    for one in read(file):
        if one.image not in row_of and not Path(one.image).is_absolute():
            raise GrigriError(
                f"--corrections {file} line {one.line}: no image is named {one.image[:60]!r}"
            )
        if one.label in column_of:
            value_of[one.image, column_of[one.label]] = one.value
        elif one.label not in left_out:
            raise GrigriError(
                f"--corrections {file} line {one.line}: no class is named {one.label[:60]!r}"
            )
    told = {at: value for at, value in value_of.items() if value != GIVEN}
    added = _added(told, row_of)
    row_of |= {image: len(names) + i for i, image in enumerate(added)}
    then_NC = _states(targets_NC, unknown_NC)
    of_added = np.full((len(added), len(class_names)), _UNKNOWN, dtype=np.int8)
    now_NC = np.concatenate([then_NC, of_added])
    for (image, c), value in told.items():
        if image in row_of:
            now_NC[row_of[image], c] = VALUES.index(value)
    is_unknown_NC = now_NC == _UNKNOWN
    num_said = sum(image in row_of and row_of[image] < len(names) for image, _ in told)
    return Corrected(
        (now_NC == VALUES.index("1")).astype(np.float32),
        is_unknown_NC if is_unknown_NC.any() else None,
        added,
        _in_words(file, then_NC, now_NC, num_said),
    )


def _added(told: dict[tuple[str, int], str], row_of: dict[str, int]) -> list[str]:
    """Return the images that are not in the data, and of which at least one label is known."""
    known = (image for (image, _), value in told.items() if value != "unknown")
    return list(dict.fromkeys(image for image in known if image not in row_of))


def _in_words(
    file: Path, then_NC: NDArray[np.int8], now_NC: NDArray[np.int8], num_said: int
) -> str:
    """Return how many labels a table changes, and how many photographs it adds."""
    num_added, now_NC = len(now_NC) - len(then_NC), now_NC[: len(then_NC)]
    changed_NC = now_NC != then_NC
    num, num_images = int(changed_NC.sum()), int(changed_NC.any(1).sum())
    note = f"{num:,} of {num_said:,} labels in {file.name} differ from the data's"
    if num:
        added, removed, unknown = np.bincount(now_NC[changed_NC], minlength=3).tolist()
        note += (
            f": {added:,} added, {removed:,} removed, {unknown:,} unknown, of {num_images:,} images"
        )
    if not num_added:
        return note
    also = f"{num_added:,} photograph{'s' * (num_added > 1)} of {file.name}"
    also += f" {'are' if num_added > 1 else 'is'} added to the training part"
    return f"{note}; {also}" if num_said else also


def _states(
    targets_NC: NDArray[np.float32], unknown_NC: NDArray[np.bool_] | None
) -> NDArray[np.int8]:
    """Return by label the number of its value in :data:`VALUES` (N, C)."""
    states_NC = np.where(targets_NC > 0, VALUES.index("1"), VALUES.index("0")).astype(np.int8)
    if unknown_NC is not None:
        states_NC[unknown_NC] = _UNKNOWN
    return states_NC
