"""Tables with a header of their own, by which they are known: what wrote them is known, too."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import GrigriError
from . import kaggle, medical, open_images, pairs, signed, tables
from .labels import LabelOptions, Labels
from .table import Table
from .table_files import read_any
from .tables import read_table


@dataclass(frozen=True)
class Dialect:
    """A kind of table.

    Attributes:
        name: for ``--layout``.
        is_here: whether a table is one.
        read: reads it.
    """

    name: str
    is_here: Callable[[Table], bool]
    read: Callable[[Table, LabelOptions], Labels]


def read(file: Path, options: LabelOptions) -> Labels:
    """Read a table, in its dialect if it has one.

    Raises:
        GrigriError: if it is not sure how, or a cell is wrong.
    """
    table = read_any(file)
    if options.layout == "long" and pairs.is_value_table(table):
        if pairs.has_confidences(table):
            return read_table(table, options, "long")
        return pairs.read_value_table(table, options)
    if options.layout in tables.KINDS:
        return read_table(table, options, options.layout)
    if options.layout in signed.KINDS:
        return signed.read(table, options, options.layout)
    known = [d for d in DIALECTS if options.layout in (None, d.name)]
    for dialect in known:
        if options.layout is not None or dialect.is_here(table):
            return dialect.read(table, options)
    return read_table(table, options)


# ------------------------------------------------------------ what `grigri-fast predict` writes


def _are_predictions(table: Table) -> bool:
    return table.header[:3] == ["image", "labels", "error"] and len(table.header) > 3


def _read_predictions(table: Table, options: LabelOptions) -> Labels:
    if not _are_predictions(table):
        raise GrigriError(f"{table.file}: not what predict writes (image,labels,error,<class>...)")
    good = [i for i, row in enumerate(table.rows) if not row[2]]
    if not good:
        raise GrigriError(f"{table.file}: every image of these predictions has an error")
    rest = Table(
        table.file,
        table.header[:2],
        [table.rows[i][:2] for i in good],
        [table.lines[i] for i in good],
    )
    options = replace(options, separator=options.separator or "|")
    labels = read_table(rest, options, "label-column", name="predictions of grigri-fast")
    num_bad = len(table.rows) - len(good)
    notes = [f"left out: {num_bad:,} rows with an error"] if num_bad else []
    return replace(labels, notes=labels.notes + notes)


DIALECTS = [
    Dialect("predictions", _are_predictions, _read_predictions),
    Dialect("open-images", open_images.is_table, open_images.read_table),
    Dialect("chexpert", medical.is_chexpert_table, medical.read_chexpert_table),
    Dialect("chest-xray14", medical.is_xray14_table, medical.read_xray14_table),
    Dialect("planet", kaggle.is_planet_table, kaggle.read_planet_table),
    Dialect("fastai", kaggle.is_fastai_table, kaggle.read_fastai_table),
    Dialect("long-values", pairs.is_value_table, pairs.read_value_table),
]
