"""Hugging Face image folders: ``metadata.csv``, ``.jsonl`` or ``.parquet`` beside the images.

The format: https://huggingface.co/docs/datasets/image_dataset#imagefolder. The file lies in the
folder, or in a folder for each part. Numbers as labels have their names in the ``dataset_info`` of
README.md.
"""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from . import safe_yaml
from .cells import PART_OF
from .columns import plain
from .labels import LabelOptions, Labels
from .parts import merged
from .reading import read_text
from .table import Table
from .table_files import read_any
from .tables import read_table
from .walk import images_below

_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_LABELS = frozenset({"label", "labels", "class", "classes", "tags", "categories"})


def is_here(data: Path) -> bool:
    """Return whether it is a file of metadata, or a folder with one or with one in each part."""
    return data.name in _FILES if data.is_file() else bool(_files_in(data))


def _files_in(data: Path) -> dict[str, list[Path]]:
    """Return the files of metadata by the name of the part's folder, "" for the data's own."""
    own = _own(data)
    if own:
        return {"": own}
    inner = images_below(data, recursive=False).folders
    found = {path.name: _own(path) for path in inner if PART_OF.get(path.name.lower())}
    return {name: files for name, files in found.items() if files}


def _own(folder: Path) -> list[Path]:
    return [folder / name for name in _FILES if (folder / name).is_file()]


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the labels in files of metadata.

    Raises:
        GrigriError: if a folder has two such files, or a table is not understood.
    """
    files = {"": [data]} if data.is_file() else _files_in(data)
    if not files:
        raise GrigriError(f"{data}: no {' or '.join(_FILES)} here or in train, validation or test")
    for of_one in files.values():
        if len(of_one) > 1:
            names = " and ".join(file.name for file in of_one)
            raise GrigriError(
                f"{of_one[0].parent}: ambiguous, found {names}; name the file itself as DATA"
            )
    folder = data if data.is_dir() else data.parent
    class_names = _names_of_numbers(folder) or _names_of_numbers(folder.parent)
    if len(files) == 1 and "" in files:
        labels = _read(files[""][0], options, class_names)
        return _parts_of_paths(labels) if options.split_column is None else labels
    if options.images is not None:
        raise GrigriError(f"{data}: --images does not go with files of metadata in several folders")
    read = {name: _read(file, options, class_names) for name, (file,) in files.items()}
    labels = merged(data, read, "metadata of each part", has_same_classes=False)
    if options.split_column == "none":
        labels = replace(labels, parts=None, notes=[*labels.notes, "their split is not used"])
    inner = images_below(data, recursive=False).folders
    without = [p.name for p in inner if PART_OF.get(p.name.lower()) and p.name not in files]
    if without:
        note = f"left out: {', '.join(without)}/, without metadata"
        labels = replace(labels, notes=[*labels.notes, note])
    return labels


def _read(file: Path, options: LabelOptions, class_names: dict[str, list[str]]) -> Labels:
    table = read_any(file)
    notes = []
    for column, name in enumerate(table.header):
        is_label = (
            name in options.label_columns if options.label_columns else plain(name) in _LABELS
        )
        if is_label and options.layout != "one-hot":
            table, note = _with_names(table, column, class_names.get(name))
            notes += [note] if note else []
    labels = read_table(table, options)
    return replace(labels, notes=[*labels.notes, *notes])


def _with_names(table: Table, column: int, names: list[str] | None) -> tuple[Table, str]:
    """Return the table with names of classes for numbers in a column, and a word about it."""
    cells = [_numbers(cell) for cell in table.columns[column]]
    if not any(cells):  # none, or empty lists alone
        return table, ""
    where = table.header[column]
    known = None if names is None else dict(enumerate(names))
    new = []
    for row, numbers in enumerate(cells):
        cell = table.rows[row][column]
        if numbers is None and cell:
            raise GrigriError(
                f"{table.where(row, column)}: {cell[:40]!r} is no number of a class, and other"
                " cells are"
            )
        for number in numbers or []:
            if known is not None and number not in known:
                raise GrigriError(
                    f"{table.where(row, column)}: {number} is no class of README.md, which names"
                    f" {len(known)} (from 0 on)"
                )
        new.append(
            "" if numbers is None
            else json.dumps([known[n] if known else str(n) for n in numbers])
        )  # fmt: skip
    if known is None and not any(cell.startswith("[") for cell in table.columns[column]):
        return table, f"the numbers in {where!r} are the names of the classes; README.md names none"
    rows = [
        [*row[:column], cell, *row[column + 1 :]] for row, cell in zip(table.rows, new, strict=True)
    ]
    words = "their names in README.md" if known else "as names: README.md has none"
    return Table(table.file, table.header, rows, table.lines), (
        f"the numbers in {where!r} are classes, {words}"
    )


def _numbers(cell: str) -> list[int] | None:
    """Return the numbers that a cell holds, as ``3`` or ``[0, 3]``; None if it holds none."""
    if not re.fullmatch(r"-?\d{1,9}|\[\s*-?\d{1,9}(\s*,\s*-?\d{1,9})*\s*\]|\[\s*\]", cell):
        return None
    found = json.loads(cell) if not re.fullmatch(r"-?0\d+", cell) else None
    return found if isinstance(found, list) or found is None else [found]


def _names_of_numbers(folder: Path) -> dict[str, list[str]]:
    """Return the names of the classes of each feature, as the head of README.md has them."""
    file = folder / "README.md"
    if not file.is_file():
        return {}
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", read_text(file), re.DOTALL)
    if match is None:
        return {}
    head = safe_yaml.parse(match[1], str(file))
    infos = head.get("dataset_info") if isinstance(head, dict) else None
    infos = infos if isinstance(infos, list) else [infos]
    features = [
        feature
        for info in infos
        if isinstance(info, dict) and isinstance(info.get("features"), list)
        for feature in info["features"]
    ]
    found = {}
    for feature in features:
        if isinstance(feature, dict) and isinstance(feature.get("name"), str):
            names = _class_label(feature)
            if names is not None:
                found[feature["name"]] = names
    return found


def _class_label(feature: Any) -> list[str] | None:
    """Return the names in a feature such as ``{dtype: {class_label: {names: {'0': cat}}}}``."""
    for _ in range(4):  # so deep at most; a YAML file may contain itself
        names = feature.get("names")
        if isinstance(names, dict):
            names = [names.get(str(i), names.get(i)) for i in range(len(names))]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
        inner = [feature.get(key) for key in ("dtype", "sequence", "list", "class_label")]
        feature = next((value for value in inner if isinstance(value, dict)), {})
    return None


def _parts_of_paths(labels: Labels) -> Labels:
    """Return labels with parts where all images lie in folders named after parts."""
    if labels.parts is not None:
        return labels
    parts = [PART_OF.get(name.split("/")[0].lower(), "") if "/" in name else "" for name in
             labels.names]  # fmt: skip
    if not all(parts) or len(set(parts)) < 2:
        return labels
    count = Counter(parts)
    said = ", ".join(f"{count[part]:,} {part}" for part in ("train", "val", "test") if count[part])
    note = f"the images' folders say what is for which part: {said}"
    return replace(labels, parts=parts, notes=[*labels.notes, note])
