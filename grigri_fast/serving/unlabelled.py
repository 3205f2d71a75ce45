"""Photographs that ``suggest`` has chosen and that somebody is to label.

Shapes: C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..curation.suggestions import TABLE
from ..data.layouts.table_files import read_any
from ..errors import GrigriError
from ..runtime.files import StrPath


@dataclass(frozen=True)
class Unlabelled:
    """A photograph without labels.

    Attributes:
        path: the file, absolute: its name in a table of corrections.
        probabilities_C: what a model says of it, float64.
        is_given_C: the labels that the model gives it, bool.
        why: why it was chosen, in words.
    """

    path: Path
    probabilities_C: NDArray[np.float64]
    is_given_C: NDArray[np.bool_]
    why: str


def read(suggestions: StrPath, class_names: Sequence[str]) -> list[Unlabelled]:
    """Return the photographs in a table of ``suggest``, in its order.

    Args:
        suggestions: the table, or the folder that it is in.
        class_names: of the classes (C).

    Raises:
        GrigriError: if it is no such table, is about other classes, or none of its photographs is
            there.
    """
    file = Path(suggestions)
    file = file / TABLE if file.is_dir() else file
    if not file.exists():
        raise GrigriError(f"--suggestions {file}: no such file")
    table = read_any(file)
    wanted = ["image", "labels", "why", *(f"p({name})" for name in class_names)]
    missing = [name for name in wanted if name not in table.header]
    if missing:
        raise GrigriError(
            f"--suggestions {file}: it has no column {missing[0]!r}; expected the {TABLE} that"
            f" suggest writes with a model of these classes"
        )
    at = [table.header.index(name) for name in wanted]
    found = []
    for line, cells in zip(table.lines, table.rows, strict=True):
        image, labels, why, *probabilities = (cells[i] for i in at)
        try:
            probabilities_C = np.array([float(p) for p in probabilities])
        except ValueError:
            raise GrigriError(
                f"--suggestions {file} line {line}: a probability is no number"
            ) from None
        is_given_C = np.isin(np.array(class_names), labels.split("|"))
        found.append(Unlabelled(Path(image).absolute(), probabilities_C, is_given_C, why))
    if not any(one.path.is_file() for one in found):
        first = f"; the first was {found[0].path}" if found else ""
        raise GrigriError(f"--suggestions {file}: none of its photographs is there{first}")
    return found
