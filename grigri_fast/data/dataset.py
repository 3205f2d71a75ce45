"""Photographs with labels: :func:`load` reads every label format as one :class:`Dataset`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime.files import StrPath
from . import corrections, groups, packed
from .layouts import HowLabels, LabelOptions, read_labels, remarks


@dataclass(frozen=True)
class Dataset:
    """Images and their labels. Row i is one image.

    Attributes:
        names: the images' names (N), unique and stable: what a split file holds.
        paths: where the images are (N). They need not exist: a split works on labels alone.
        targets_NC: 1.0 where an image has a class's label, float32 (N, C).
        class_names: the classes' names (C).
        layout: the format of the labels, in words.
        unknown_NC: where it is not known whether an image has a class's label (targets_NC is 0
            there), bool (N, C); None: everything is known.
        parts: "train", "val", "test" or "" (in none) of each image (N), if the data come with a
            split; else None.
        groups: number of each image's group, int64 (N); images of a group stay in one part of a
            split. None: each image is by itself.
        notes: how the labels were read, in sentences for the user.
        num_added: how many of the images, which are the last ones, the data do not have by
            themselves: photographs that corrections add, for the training part alone.
    """

    names: Sequence[str]
    paths: Sequence[Path]
    targets_NC: NDArray[np.float32]
    class_names: list[str]
    layout: str
    unknown_NC: NDArray[np.bool_] | None = None
    parts: list[str] | None = None
    groups: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    num_added: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def only(self, rows: NDArray[np.intp]) -> "Dataset":
        """Return a data set of some of the images, ``rows`` ascending, with the same classes."""
        return Dataset(
            packed.names(self.names[row] for row in rows),
            packed.paths(self.paths[row] for row in rows),
            self.targets_NC[rows],
            self.class_names,
            self.layout,
            None if self.unknown_NC is None else self.unknown_NC[rows],
            None if self.parts is None else [self.parts[row] for row in rows],
            None if self.groups is None else self.groups[rows],
            self.notes,
            int((rows >= self.num_own).sum()),
        )

    @property
    def num_own(self) -> int:
        """How many images the data have by themselves: the first ones."""
        return len(self) - self.num_added


def load(data: StrPath, images: StrPath | None = None, **how: Unpack[HowLabels]) -> Dataset:
    """Read the labels of a data set in whichever layout they have (see ``layouts``).

    Args:
        data: a folder or a CSV file.
        images: the folder that a CSV's names are relative to; the CSV's own folder (or
            ``images/`` in it) by default.
        how: how the labels are to be read, as in :class:`layouts.HowLabels`.

    Raises:
        GrigriError: if the layout is not known or could be two of them, or if a line
            of a label file is wrong; the message says where.
    """
    try:
        options = LabelOptions.of(images, **how)
        table = read_labels(Path(data), options)
    except OSError as e:  # a folder that may not be read, a link that leads nowhere
        raise GrigriError(f"{e.filename or data}: {e.strerror or e}") from e
    all_classes = table.class_names
    if options.classes:
        table = remarks.only_classes(table, options.classes)
    if not any(table.labels):
        raise GrigriError(f"{table.layout}: {len(table.names)} images but no labels")
    for name in table.class_names:
        if not name or not name.isprintable():
            raise GrigriError(f"{table.layout}: {name!r} is not a class name")
    column_of = {name: c for c, name in enumerate(table.class_names)}

    def flags(labels: Sequence[Sequence[str]], dtype: type) -> NDArray:
        flags_NC: NDArray = np.zeros((len(table.names), len(column_of)), dtype=dtype)
        for row, names in enumerate(labels):
            flags_NC[row, [column_of[name] for name in names]] = 1
        return flags_NC

    of_rows = None if table.groups is None else groups.numbered(table.groups)
    notes = [*table.notes, *remarks.of_parts(table), *remarks.of_classes(table)]
    if options.groups is not None:
        of_rows, note = groups.joined(options.groups, table.names, of_rows)
        notes.append(note)
    targets_NC = flags(table.labels, np.float32)
    unknown_NC = None if table.unknown is None else flags(table.unknown, np.bool_)
    found = Dataset(
        packed.names(table.names),
        packed.paths(table.paths),
        targets_NC,
        table.class_names,
        table.layout,
        unknown_NC,
        None if options.split_column == "none" else table.parts,
        of_rows,
        tuple(notes),
    )
    return found if options.corrections is None else _corrected(found, options, all_classes)


def _corrected(data: Dataset, options: LabelOptions, all_classes: Sequence[str]) -> Dataset:
    """Return a data set with the labels, and the photographs, of a table of corrections."""
    assert options.corrections is not None
    found = corrections.applied(
        options.corrections,
        data.names,
        data.class_names,
        all_classes,
        data.targets_NC,
        data.unknown_NC,
    )
    data = replace(
        data,
        targets_NC=found.targets_NC,
        unknown_NC=found.unknown_NC,
        notes=(*data.notes, found.note),
    )
    num = len(found.added)
    if not num:
        return data
    return replace(
        data,
        names=packed.names([*data.names, *found.added]),
        paths=packed.paths([*data.paths, *found.added]),
        parts=data.parts and [*data.parts, *["train"] * num],
        groups=None if data.groups is None else groups.with_others(data.groups, num),
        num_added=num,
    )
