"""Import files of Vertex AI and AutoML: CSV rows without a header, or JSON Lines.

A row is ``[ml_use,]gs://bucket/path/image.jpg,label,label,...``; the formats:
https://cloud.google.com/vertex-ai/docs/image-data/classification/prepare-data.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels
from .table import read_text_rows
from .table_files import first_line

_USES = {
    **{"training": "train", "train": "train", "validation": "val", "validate": "val"},
    **{"valid": "val", "test": "test", "unassigned": "", "": ""},
}
_KEY = "imageGcsUri"
_ML_USE = "aiplatform.googleapis.com/ml_use"
_ADDRESS = re.compile(r"gs://[^/]+/(.+)")
_FIRST = re.compile(
    rf'"?({"|".join(use for use in _USES if use)}|)"?,?"?gs://[^/\s]+/', re.IGNORECASE
)


def is_here(data: Path) -> bool:
    """Return whether it is a file of rows or objects that name images by ``gs://``."""
    if not data.is_file() or data.suffix.lower() not in (".csv", ".jsonl"):
        return False
    line = first_line(data).strip()
    return bool(_FIRST.match(line)) or (line.startswith("{") and f'"{_KEY}"' in line)


def read(data: Path, options: LabelOptions) -> Labels:
    """Read an import file; the images are looked for on this machine.

    Raises:
        GrigriError: if a row names no image or no label, or holds boxes.
    """
    options.require_only("Vertex AI rows", "images", "split_column")
    if options.split_column not in (None, "none"):
        raise GrigriError(f"{data}: --split-column: Vertex AI rows have no columns with names")
    if not data.is_file():
        raise GrigriError(f"{data}: --layout vertex: name the file of rows itself as DATA")
    items = _of_objects(data) if data.suffix.lower() == ".jsonl" else _of_rows(data)
    if not items:
        raise GrigriError(f"{data}: no rows; expected gs://bucket/image.jpg,label,...")
    folder, depth = _place([item.path for item in items], data.parent, options.images)
    rows = reading.Rows()
    paths = []
    for item in items:
        name = "/".join(item.path.split("/")[depth:]) or item.path
        part = "" if options.split_column else item.part
        rows.add(name, item.where, item.labels, part=part)
        paths.append(folder / name)
    bucket = (
        "the bucket" if depth == 0 else f"gs://.../{'/'.join(items[0].path.split('/')[:depth])}"
    )
    class_names = sorted({label for item in items for label in item.labels})
    notes = [
        f"each row is gs://bucket/image and its labels; {bucket} is {folder} here",
    ]
    if {item.part for item in items} in ({"train"}, {"train", ""}):
        notes.append("all parts that are given are for training: no split")
    num_empty = sum(not item.labels for item in items)
    if num_empty:
        notes.append(f"{reading.counted(num_empty, 'image')} without label")
    return rows.result(paths, class_names, f"{data} (Vertex AI)", notes)


@dataclass
class _Item:
    where: str
    path: str  # below the bucket
    labels: list[str]
    part: str


def _of_rows(file: Path) -> list[_Item]:
    items = []
    for line, cells in read_text_rows(file):
        where = f"{file} line {line}"
        row = [cell.strip() for cell in cells]
        if not any(row):
            continue
        part = ""
        if not row[0].startswith("gs://"):
            use = row.pop(0)
            if use.casefold() not in _USES:
                raise GrigriError(
                    f"{where}: {use[:40]!r} is neither gs://bucket/image nor TRAINING, VALIDATION,"
                    " TEST or UNASSIGNED"
                )
            part = _USES[use.casefold()]
        if not row:
            raise GrigriError(f"{where}: no image")
        labels = row[1:]
        while labels and not labels[-1]:
            labels.pop()
        numbers = [cell for cell in labels if re.fullmatch(r"[01]?\.\d+|[01]", cell)]
        if len(numbers) >= 4 or ("" in labels and numbers):
            raise GrigriError(f"{where}: a row of a box, not of an image; only labels are read")
        if "" in labels:
            raise GrigriError(f"{where}: an empty label between others")
        items.append(_Item(where, _below_bucket(row[0], where), _classes(labels, where), part))
    return items


def _of_objects(file: Path) -> list[_Item]:
    items = []
    for line, text in reading.read_lines(file):
        where = f"{file} line {line}"
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise GrigriError(f"{where}: not valid JSON: {e}") from e
        if not isinstance(record, dict) or not isinstance(record.get(_KEY), str):
            raise GrigriError(f"{where}: expected an object with {_KEY!r}")
        if "boundingBoxAnnotations" in record:
            raise GrigriError(f"{where}: boxes, not labels of an image; only labels are read")
        found = record.get("classificationAnnotations", record.get("classificationAnnotation", []))
        found = [found] if isinstance(found, dict) else found
        if not isinstance(found, list) or not all(isinstance(a, dict) for a in found):
            raise GrigriError(f"{where}: classificationAnnotations must be a list of objects")
        if not found and "classificationAnnotations" not in record:
            raise GrigriError(f"{where}: no classificationAnnotations; write [] for no label")
        use = _use_of(record, where)
        labels = [a.get("displayName") for a in found]
        path = _below_bucket(record[_KEY], where)
        items.append(_Item(where, path, _classes(labels, where), use))
    return items


def _use_of(record: dict[str, Any], where: str) -> str:
    fields = record.get("dataItemResourceLabels") or {}
    use = fields.get(_ML_USE, "") if isinstance(fields, dict) else None
    if not isinstance(use, str) or use.casefold() not in _USES:
        raise GrigriError(f"{where}: {_ML_USE} must be training, validation or test")
    return _USES[use.casefold()]


def _classes(labels: Sequence[object], where: str) -> list[str]:
    return [reading.class_name(label, where) for label in labels]


def _below_bucket(address: str, where: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise GrigriError(f"{where}: {address[:60]!r} is not of the form gs://bucket/image.jpg")
    return reading.image_name(match[1], where)


def _place(paths: list[str], folder: Path, images: Path | None) -> tuple[Path, int]:
    """Return the folder on this machine that has most of the first images, and how many of the
    bucket's folders it stands for.
    """
    sample = paths[:100]
    common = min(path.count("/") for path in paths)
    folders = [images] if images is not None else [folder, folder / "images"]
    places = [(root, depth) for depth in range(common + 1) for root in folders]
    tails = [path.split("/") for path in sample]

    def num_there(place: tuple[Path, int]) -> int:
        root, depth = place
        return sum(reading.exists(root / "/".join(parts[depth:])) for parts in tails)

    return max(places, key=num_there)
