"""Photographs with labels: :func:`load` reads every label format as one :class:`Dataset`."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime.files import StrPath
from .layouts import IMAGE_SUFFIXES, read_labels


@dataclass(frozen=True)
class Dataset:
    """Images and their labels. Row i is one image.

    Attributes:
        names: the images' names (N), unique and stable: what a split file holds.
        paths: where the images are (N). They need not exist: a split works on labels alone.
        targets_NC: 1.0 where an image has a class's label, float32 (N, C).
        class_names: the classes' names (C).
        layout: the format of the labels, in words.
    """

    names: list[str]
    paths: list[Path]
    targets_NC: NDArray[np.float32]
    class_names: list[str]
    layout: str

    def __len__(self) -> int:
        return len(self.names)

    def only(self, rows: NDArray[np.intp]) -> "Dataset":
        """Return a data set of some of the images, with the same classes."""
        return Dataset(
            [self.names[row] for row in rows],
            [self.paths[row] for row in rows],
            self.targets_NC[rows],
            self.class_names,
            self.layout,
        )


def load(data: StrPath, images: StrPath | None = None) -> Dataset:
    """Read the labels of a data set in whichever of the five formats it is (see ``layouts``).

    Args:
        data: a folder or a CSV file.
        images: the folder that a CSV's names are relative to; the CSV's own folder (or
            ``images/`` in it) by default.

    Raises:
        GrigriError: if the layout is none of the formats or could be two of them, or if a line
            of a label file is wrong; the message says where.
    """
    try:
        table = read_labels(Path(data), None if images is None else Path(images))
    except OSError as e:  # a folder that may not be read, a link that leads nowhere
        raise GrigriError(f"{e.filename or data}: {e.strerror or e}") from e
    if not any(table.labels):
        raise GrigriError(f"{table.layout}: {len(table.names)} images but no labels")
    for name in table.class_names:
        if not name or not name.isprintable():
            raise GrigriError(f"{table.layout}: {name!r} is not a class name")
    column_of = {name: c for c, name in enumerate(table.class_names)}
    targets_NC = np.zeros((len(table.names), len(column_of)), dtype=np.float32)
    for row, labels in enumerate(table.labels):
        targets_NC[row, [column_of[name] for name in labels]] = 1
    return Dataset(table.names, table.paths, targets_NC, table.class_names, table.layout)


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Return the image files that files, folders (searched to the bottom) and globs name.

    Raises:
        GrigriError: for a pattern that names nothing.
    """
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists() or path.is_symlink():
            matches = [path]
        elif glob.has_magic(pattern):
            names = glob.glob(pattern, recursive=True)  # noqa: PTH207
            matches = sorted(p for p in map(Path, names) if p.is_file())
        else:
            raise GrigriError(f"{pattern}: no such file or folder")
        if not matches:
            raise GrigriError(f"{pattern}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        paths += matches
    return list(dict.fromkeys(paths))
