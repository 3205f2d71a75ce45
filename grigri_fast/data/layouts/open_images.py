"""Open Images: a row per image and label with a confidence.

https://storage.googleapis.com/openimages/web/download_v7.html. Labels of people are 1 (the image
has it) or 0 (a person looked and it has not); of other labels nothing is known.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ...errors import GrigriError
from .. import packed
from . import reading
from .image_paths import locate
from .labels import LabelOptions, Labels
from .pairs import joined
from .table import Table, read_text_rows
from .table_files import read_any

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_COLUMNS = ("ImageID", "LabelName", "Confidence")
_PART = re.compile(
    r"(?:oidv\d+-)?(train|validation|test)-annotations-"
    r"(human-imagelabels|human-imagelabels-boxable|machine-imagelabels|bbox)\.csv"
)
_KINDS = ("human-imagelabels", "human-imagelabels-boxable", "machine-imagelabels", "bbox")
_DESCRIPTIONS = re.compile(r"(?:oidv\d+-)?class-descriptions.*\.csv")


def is_here(data: Path) -> bool:
    """Return whether it is a folder with tables named as those of Open Images."""
    return data.is_dir() and bool(_tables_in(data))


def _tables_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the tables of labels by kind and part."""
    found: dict[str, dict[str, Path]] = {}
    for file in reading.visible(folder, ".csv"):
        match = _PART.fullmatch(file.name)
        if match is not None:
            part, kind = match.groups()
            if part in found.setdefault(kind, {}):
                raise GrigriError(
                    f"{folder}: {found[kind][part].name} and {file.name} are of one part; name one"
                    " of them as DATA"
                )
            found[kind][part] = file
    return found


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the tables of a folder, each a part of the data, or one table.

    Raises:
        GrigriError: if there is none, or one is damaged.
    """
    if data.is_file():
        return read_table(read_any(data), options)
    found = _tables_in(data)
    if not found:
        raise GrigriError(
            f"{data}: no train-annotations-human-imagelabels.csv or the like; name the table itself"
            " as DATA"
        )
    kind = next(kind for kind in _KINDS if kind in found)
    unused = [file.name for other in found if other != kind for file in found[other].values()]
    notes = [f"not used: {', '.join(unused)}, beside those of {kind}"] if unused else []
    tables = {part: read_any(found[kind][part]) for part in _PARTS if part in found[kind]}
    labels = _read(data, tables, options)
    return replace(labels, notes=[*labels.notes, *notes])


def is_table(table: Table) -> bool:
    """Return whether a table has the columns of Open Images."""
    return set(_COLUMNS) <= set(table.header)


def read_table(table: Table, options: LabelOptions) -> Labels:
    """Read one table.

    Raises:
        GrigriError: if a cell is wrong.
    """
    return _read(table.file, {"": table}, options)


def _read(data: Path, tables: dict[str, Table], options: LabelOptions) -> Labels:
    """Read tables by the names of their parts."""
    options.require_only("Open Images", "images", "split_column")
    if options.split_column not in (None, "none"):
        raise GrigriError(f"{data}: Open Images' split is that of its files; --split-column none")
    images: list[str] = []
    codes: list[str] = []
    values: list[float] = []
    part_of: dict[str, str] = {}
    path_of: dict[str, str] = {}
    notes: list[str] = []
    for part, table in tables.items():
        lacking = [name for name in _COLUMNS if name not in table.header]
        if lacking:
            raise GrigriError(f"{table.file}: not Open Images: it has no column {lacking[0]!r}")
        image, label, confidence = (table.header.index(name) for name in _COLUMNS)
        confidence_of = {text: _confidence(table, confidence, text)
                         for text in table.values[confidence]}  # fmt: skip
        values += [confidence_of[text] for text in table.columns[confidence]]
        codes += table.columns[label]
        if "" in table.values[label]:
            raise GrigriError(f"{table.where(table.find(label, ''), label)}: no label")
        written = list(table.values[image])
        if "" in table.values[image]:
            raise GrigriError(f"{table.where(table.find(image, ''))}: no image name")
        for name in written:
            if part_of.setdefault(name, part) != part:
                raise GrigriError(f"{table.file}: {name} is in {part_of[name]}, too")
        folder = (options.images or table.file.parent) / part
        if not folder.is_dir() or not part:
            folder = options.images  # type: ignore[assignment]
        places = [str(table.file)] * len(written)  # an image is in several lines
        located = locate(table.file, written, places.__getitem__, folder)
        name_of = dict(zip(written, located.names, strict=True))
        images += [name_of[name] for name in table.columns[image]]
        notes += [note for note in located.notes if note not in notes]
        for name, path in zip(located.names, located.paths, strict=True):
            path_of[name] = path
            part_of[name] = part
    names_of_codes, said = _names_of(data if data.is_dir() else data.parent, set(codes))
    found = joined(images, [names_of_codes[code] for code in codes], values)
    names = [images[row] for row in found.first]
    labels = Labels(
        names,
        packed.paths(path_of[name] for name in names),
        found.labels,
        found.class_names,
        f"{data} (Open Images)",
        unknown=found.unknown,
        notes=[*said, *found.notes, *notes],
    )
    if len(tables) < 2 or options.split_column == "none":
        return labels
    parts = [_PARTS[part_of[name]] for name in names]
    return replace(labels, parts=parts)


def _confidence(table: Table, column: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise GrigriError(
            f"{table.where(table.find(column, text), column)}: {text[:40]!r} is no confidence from"
            " 0 to 1"
        )
    return value


def _names_of(folder: Path, codes: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return the names of classes such as ``/m/01g317`` in the makers' lists, and a word on it."""
    files = [f for f in reading.visible(folder, ".csv") if _DESCRIPTIONS.fullmatch(f.name)]
    names: dict[str, str] = {}
    for file in files:
        for line, row in read_text_rows(file):
            if not any(row):
                continue
            if len(row) != 2 or not row[0].strip() or not row[1].strip():
                raise GrigriError(f"{file} line {line}: expected a code and a name")
            code, name = row[0].strip(), row[1].strip()
            if names.setdefault(code, name) != name:
                raise GrigriError(f"{file} line {line}: {code} was {names[code]!r} before")
    if not files:
        is_coded = any(code.startswith("/") for code in codes)
        hint = "put class-descriptions.csv beside the table for the classes' names"
        return {code: code for code in codes}, [hint] if is_coded else []
    used = Counter(names[code] for code in codes if code in names)
    shown = {
        code: names[code] if used[names[code]] == 1 else f"{names[code]} ({code})"
        for code in codes & names.keys()
    }
    said = [f"names of classes are from {', '.join(file.name for file in files)}"]
    twice = sorted({name for name in shown.values() if name.endswith(")")} - {*names.values()})
    if twice:
        said.append(f"codes are added where two classes have one name: {', '.join(twice[:2])}, ...")
    without = sorted(codes - names.keys())
    if without:
        said.append(f"{reading.counted(len(without), 'class')} not named there: {without[0]}, ...")
    return {**{code: code for code in without}, **shown}, said
