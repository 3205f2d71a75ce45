"""Data sets of Hugging Face's ``datasets``: Arrow or Parquet files that hold the images, too.

Read are folders that ``save_to_disk`` has written, and the Parquet files of a data set from the hub
(https://huggingface.co/docs/datasets/about_arrow). What is a class is known from the features that
the files carry. :mod:`hugging_face_files` reads the files and takes the images out of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from . import hugging_face_files, reading
from .hugging_face_files import Split
from .labels import LabelOptions, Labels

_IMAGE_COLUMNS = ("image", "img", "file_name", "image_path", "path")
_LABEL_COLUMNS = ("labels", "label", "tags", "classes", "categories", "category")
_EXPECTED = (
    "expected a folder from save_to_disk, or a data set from the hub with "
    "data/train-00000-of-00001.parquet or the like"
)


def is_here(data: Path) -> bool:
    """Return whether ``data`` is a folder or a file of a data set of Hugging Face."""
    return hugging_face_files.are_here(data)


def read(data: Path, options: LabelOptions) -> Labels:
    """Read all splits; the images are written into this program's cache, once.

    Raises:
        GrigriError: if pyarrow or a file is missing, if a file is damaged, or if it is not sure
            what the labels are.
    """
    options.require_only("Hugging Face's datasets", "image_column", "label_columns")
    splits = hugging_face_files.find(data)
    if not splits:
        raise GrigriError(f"{data}: no data set of Hugging Face; {_EXPECTED}")
    features = hugging_face_files.features(splits[0])
    for split in splits[1:]:
        if hugging_face_files.features(split) != features:
            raise GrigriError(f"{data}: {splits[0]} and {split} have other columns")
    image_column = _image_column(data, features, options.image_column)
    columns = _label_columns(data, features, options.label_columns)
    images = hugging_face_files.images(data, splits, image_column)
    rows, paths = reading.Rows(), []
    num_unknown = 0
    for split in splits:
        part = reading.part_of(split.name)
        names = [f"{split.name}/{name}" if split.name else name for name, _ in images[split.name]]
        labels_of_split = list(_labels(split, columns))
        if len(labels_of_split) != len(names):
            raise GrigriError(
                f"{split}: {len(names):,} images, and {len(labels_of_split):,} rows with labels"
            )
        for row, labels in enumerate(labels_of_split):
            if labels is None:
                num_unknown += 1
                continue
            rows.add(names[row], f"{split} row {row}", labels, part=part)
            paths.append(images[split.name][row][1])
    words = reading.listed(column.name for column in columns)
    notes = [f"labels from {words}, images from {image_column}"]
    if num_unknown:
        notes.append(f"left out: {reading.counted(num_unknown, 'image')} without labels (-1)")
    others = [split.name for split in splits if split.name and not reading.part_of(split.name)]
    if others:
        notes.append(f"in no part: the split {reading.listed(others)}")
    where = hugging_face_files.cached(paths)
    if where is not None:
        notes.append(f"the images were written to {where}")
    class_names = [name for column in columns for name in column.class_names] or rows.classes()
    return rows.result(paths, class_names, f"{data} (Hugging Face)", notes)


# ------------------------------------------------------------------------------- the columns


@dataclass(frozen=True)
class _Column:
    """A column with labels.

    Attributes:
        name: its name; below other columns with dots, like ``objects.category``.
        class_names: the classes by number; empty: the values are the names of classes.
        is_flag: whether it says yes or no of the one class in ``class_names``.
    """

    name: str
    class_names: tuple[str, ...] = ()
    is_flag: bool = False


def _image_column(data: Path, features: dict[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in features:
            raise GrigriError(
                f"{data}: --image-column {wanted}: no such column; there are "
                f"{reading.listed(features)}"
            )
        return wanted
    found = [name for name, feature in features.items() if _type(feature) == "Image"]
    if not found:
        texts = [name for name, feature in features.items() if _dtype(feature) == "string"]
        found = [name for name in _IMAGE_COLUMNS if name in texts][:1]
    if len(found) != 1:
        raise GrigriError(
            f"{data}: {reading.listed(found)} are images; --image-column says which to use"
            if found
            else f"{data}: none of {reading.listed(features)} is an image; --image-column names it"
        )
    return found[0]


def _label_columns(data: Path, features: dict[str, Any], wanted: Sequence[str]) -> list[_Column]:
    """Return the columns of labels: those that are wanted, else the one that has classes.

    Raises:
        GrigriError: if that is not one, or if numbers come without the names of classes.
    """
    there = dict(_leaves(features))
    missing = [name for name in wanted if name not in there]
    if missing:
        raise GrigriError(
            f"{data}: --label-columns {missing[0]}: no such column; there are "
            f"{reading.listed(there)}"
        )
    found = list(wanted) or [name for name, leaf in there.items() if _type(leaf) == "ClassLabel"]
    if not found:
        texts = [name for name, leaf in there.items() if _dtype(leaf) == "string"]
        found = [name for name in texts if name.rpartition(".")[2].lower() in _LABEL_COLUMNS]
    if not found or (len(found) > 1 and not wanted):
        raise GrigriError(
            f"{data}: {reading.listed(found)} can be the labels; --label-columns says which to use"
            if found
            else f"{data}: no column has names of classes; --label-columns says which of "
            f"{reading.listed(name for name in there if _type(there[name]) != 'Image')} are labels"
        )
    columns = [_column(data, name, there[name]) for name in found]
    names = [name for column in columns for name in column.class_names]
    twice = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if twice is not None:
        raise GrigriError(f"{data}: two classes are named {twice!r}")
    if len({bool(column.class_names) for column in columns}) > 1:
        raise GrigriError(f"{data}: --label-columns names columns of numbers and of texts")
    return columns


def _column(data: Path, name: str, leaf: Any) -> _Column:
    where = f"{data}: column {name}"
    if _type(leaf) == "ClassLabel":
        names = leaf.get("names")
        if not isinstance(names, list) or not names:
            raise GrigriError(f"{where}: no names of classes")
        return _Column(name, tuple(reading.class_name(word, where) for word in names))
    if _dtype(leaf) == "string":
        return _Column(name)
    if _dtype(leaf).startswith(("bool", "int", "uint", "float")):
        return _Column(name, (name,), is_flag=True)
    raise GrigriError(f"{where}: neither classes, names of classes, nor 0 and 1")


def _leaves(features: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all columns that are no lists and structures of others, with dots in their names."""
    for name, feature in features.items():
        leaf = feature
        while (isinstance(leaf, list) and len(leaf) == 1) or _type(
            leaf
        ) in hugging_face_files.LISTS:
            leaf = leaf[0] if isinstance(leaf, list) else leaf.get("feature")
        if isinstance(leaf, dict) and not isinstance(leaf.get("_type"), str):
            yield from _leaves(leaf, f"{above}{name}.")
        else:
            yield f"{above}{name}", leaf


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _dtype(feature: Any) -> str:
    dtype = feature.get("dtype", "") if _type(feature) == "Value" else ""
    return "string" if dtype == "large_string" else str(dtype)


# --------------------------------------------------------------------------------- the labels


def _labels(split: Split, columns: list[_Column]) -> Iterator[list[str] | None]:
    """Yield the labels of each row of a split; None: they are not known."""
    tops = list(dict.fromkeys(column.name.partition(".")[0] for column in columns))
    for number, row in enumerate(hugging_face_files.rows(split, tops)):
        labels: list[str] = []
        is_known = True
        for column in columns:
            values = list(_values(row, column.name))
            where = f"{split} row {number}, column {column.name}"
            if any(value is None or (value == -1 and not column.is_flag) for value in values):
                is_known = False
            else:
                labels += (name for v in values for name in _names(v, column, where))
        yield labels if is_known else None


def _names(value: Any, column: _Column, where: str) -> list[str]:
    if not column.class_names:
        if value == "":
            return []
        return [reading.class_name(value, where)]
    if column.is_flag:
        if value not in (0, 1):
            raise GrigriError(f"{where}: expected 0 or 1, not {str(value)[:40]}")
        return list(column.class_names) if value else []
    if not isinstance(value, int) or not 0 <= value < len(column.class_names):
        raise GrigriError(
            f"{where}: {str(value)[:40]} is not the number of one of the "
            f"{reading.counted(len(column.class_names), 'class')}"
        )
    return [column.class_names[value]]


def _values(value: Any, path: str) -> Iterator[Any]:
    """Yield what is at a path of names with dots, in lists everything."""
    if isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    elif path and isinstance(value, dict):
        name, _, below = path.partition(".")
        if name in value:
            yield from _values(value[name], below)
        else:  # a column whose name has a dot
            yield from _values(value.get(path), "")
    else:
        yield value
