"""Photographs with labels: every label format becomes one :class:`Dataset`.

The formats (``DATA`` on the command line):

1. ``images/`` + ``annotations/<class>.txt``, a line N meaning ``images/im<N>.jpg`` (MIRFLICKR);
2. a CSV with a 0/1 column per class;
3. a CSV with one column of labels, separated by ``|``, ``;`` or spaces;
4. ``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and a list of labels, in the folder;
5. class folders; the same file name in several folders is one image with several labels.
"""

import csv
import filecmp
import glob
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_NAME_COLUMNS = ("file_name", "image", "filename", "file", "path", "name")
_LABEL_COLUMNS = ("labels", "label", "tags", "classes")
_PARTS = frozenset({"train", "val", "valid", "validation", "test"})
_FORMATS = (
    "images/ + annotations/<class>.txt, a CSV (image,labels or image,<class>,<class>...), "
    "metadata.csv/.jsonl with file_name and labels, or a folder per class"
)


@dataclass(frozen=True)
class Dataset:
    """Images and their labels. Row i is one image.

    Attributes:
        names: the images' names (N), unique and stable: what a split file holds.
        paths: where the images are (N). They need not exist: a split works on labels alone.
        targets_NC: 1.0 where an image has a class's label, float32 (N, C).
        class_names: the classes' names (C).
        layout: the format that was found, in words.
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


def load(data: str | Path, images: str | Path | None = None) -> Dataset:
    """Read the labels of a data set in whichever of the five formats it is.

    Args:
        data: a folder or a CSV file.
        images: the folder that a CSV's names are relative to; the CSV's own folder (or
            ``images/`` in it) by default.

    Raises:
        GrigriError: if the layout is none of the formats or could be two of them, or if a line
            of a label file is wrong; the message says where.
    """
    try:
        return _load(Path(data), None if images is None else Path(images))
    except OSError as e:  # a folder that may not be read, a link that leads nowhere
        raise GrigriError(f"{e.filename or data}: {e.strerror or e}") from e


def _load(data: Path, images: Path | None) -> Dataset:
    """Find out which layout it is, and read it."""
    if images is not None and not images.is_dir():
        raise GrigriError(f"--images {images}: no such folder")
    if data.is_file():
        if data.suffix.lower() == ".jsonl":
            return _from_jsonl(data, images)
        if data.suffix.lower() in (".csv", ".tsv"):
            return _from_csv(data, images)
        raise GrigriError(f"{data} is a file but no .csv, .tsv or .jsonl; expected {_FORMATS}")
    if not data.is_dir():
        raise GrigriError(f"{data}: no such file or folder; expected {_FORMATS}")

    entries = sorted(data.iterdir())
    tables = [p for p in entries if p.name in ("metadata.csv", "metadata.jsonl")]
    annotated = (data / "annotations").is_dir()
    if len(tables) > 1 or (tables and annotated):
        found = [p.name for p in tables] + ["annotations/"] * annotated
        raise GrigriError(f"{data}: ambiguous, found {' and '.join(found)}; keep one of them")
    if annotated or tables:
        if tables:
            read = _from_csv if tables[0].suffix == ".csv" else _from_jsonl
            return read(tables[0], images)
        if images is not None:
            raise GrigriError("--images goes with a CSV; annotations/ has its images/ beside it")
        return _from_annotations(data)

    folders = [p for p in entries if p.is_dir() and _has_images(p)]
    csvs = [p for p in entries if p.suffix.lower() in (".csv", ".tsv")]
    if csvs and (not folders or [p.name for p in folders] == ["images"]):
        if len(csvs) > 1:
            found = ", ".join(p.name for p in csvs)
            raise GrigriError(f"{data}: ambiguous, found {found}; name the CSV itself as DATA")
        return _from_csv(csvs[0], images)
    if csvs:
        raise GrigriError(
            f"{data}: ambiguous, found {csvs[0].name} and {len(folders)} folders of images; "
            f"name the CSV itself as DATA, or move it away"
        )
    if images is not None:
        raise GrigriError(f"--images goes with a CSV, and there is none in {data}")
    return _from_class_folders(data, folders)


# --------------------------------------------------------------------------- the five formats


def _from_annotations(data: Path) -> Dataset:
    """Read ``images/im<N>.jpg`` and ``annotations/<class>.txt`` (the MIRFLICKR layout)."""
    folder = data / "images"
    if not folder.is_dir():
        raise GrigriError(f"{data}: found annotations/ but no images/ beside it")
    paths: dict[int, Path] = {}
    for path in folder.iterdir():
        number = _image_number(path.stem.removeprefix("im"))
        if path.suffix.lower() in (".jpg", ".jpeg") and number is not None:
            if number in paths:
                raise GrigriError(f"{path} and {paths[number]} are both image {number}")
            paths[number] = path
    if not paths:
        raise GrigriError(f"{folder}: no images; expected files named im1.jpg, im2.jpg, ...")
    files = [
        p
        for p in sorted((data / "annotations").iterdir())
        if p.suffix == ".txt" and p.stem.lower() != "readme"
    ]
    if not files:
        raise GrigriError(f"{data / 'annotations'}: no labels; expected a <class>.txt per class")
    numbers = sorted(paths)
    row_of = {number: row for row, number in enumerate(numbers)}
    targets_NC = np.zeros((len(numbers), len(files)), dtype=np.float32)
    for c, file in enumerate(files):
        for line_number, line in enumerate(_read_text(file).split("\n"), start=1):
            word = line.strip()
            if not word:
                continue
            where = f"{file} line {line_number}"
            number = _image_number(word)
            if not number:
                raise GrigriError(f"{where}: expected an image number like 17, not {word[:40]!r}")
            if number not in row_of:
                missing = folder / f"im{number}.jpg"
                raise GrigriError(f"{where}: label without image, {missing} does not exist")
            targets_NC[row_of[number], c] = 1
    return _dataset(
        [paths[n].name for n in numbers],
        [paths[n] for n in numbers],
        targets_NC,
        [p.stem for p in files],
        f"{data} (images/ + annotations/)",
    )


def _from_csv(file: Path, images: Path | None) -> Dataset:
    """Read a CSV with one-hot columns or with a column of labels."""
    text = _read_text(file)
    header_line = text.split("\n", 1)[0]
    delimiter = max(",\t;", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]  # the line on which a row ends
    except csv.Error as e:
        raise GrigriError(f"{file}: not a valid CSV: {e}") from e
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    body = [(line, row) for line, row in rows[1:] if any(cell.strip() for cell in row)]
    if len(header) < 2 or not body:
        raise GrigriError(f"{file}: expected a header (image,labels or image,<class>...) and rows")
    repeated = [name for name, n in Counter(header).items() if n > 1]
    if repeated:
        raise GrigriError(f"{file} line 1: the column {repeated[0]!r} stands there twice")
    for line, row in body:
        if len(row) != len(header):
            raise GrigriError(
                f"{file} line {line}: {len(row)} cells where the header has {len(header)}"
            )
    lower = [name.lower() for name in header]
    image_column = next((lower.index(n) for n in _NAME_COLUMNS if n in lower), 0)
    names = [row[image_column].strip() for _, row in body]
    lines = [line for line, _ in body]
    label_column = next((lower.index(n) for n in _LABEL_COLUMNS if n in lower), None)
    others = [i for i in range(len(header)) if i != image_column]
    one_hot = all(row[i].strip() in ("0", "1", "0.0", "1.0") for _, row in body for i in others)
    if one_hot and others != [label_column]:
        class_names = [header[i] for i in others]
        flags = [[float(row[i]) for i in others] for _, row in body]
        targets_NC = np.array(flags, dtype=np.float32)
    elif label_column is not None:
        cells = [row[label_column] for _, row in body]
        class_names, targets_NC = _encode(_split_labels(file, lines, cells), file)
    else:
        bad = next(
            f"line {line}, column {header[i]!r}: {row[i][:40]!r}"
            for line, row in body
            for i in others
            if row[i].strip() not in ("0", "1", "0.0", "1.0")
        )
        raise GrigriError(
            f"{file} {bad} is neither 0 nor 1, and there is no column named "
            f"{' or '.join(_LABEL_COLUMNS)}"
        )
    return _from_table(file, images, names, lines, targets_NC, class_names)


def _from_jsonl(file: Path, images: Path | None) -> Dataset:
    """Read one JSON object per line, with ``file_name`` and a list (or string) of labels."""
    names, lines, labels = [], [], []
    for line_number, line in enumerate(_read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file} line {line_number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise GrigriError(f"{where}: not valid JSON: {e}") from e
        if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
            raise GrigriError(f"{where}: expected an object with a file_name and labels")
        key = next((k for k in _LABEL_COLUMNS if k in record), None)
        if key is None:
            raise GrigriError(f"{where}: no labels; expected a key {' or '.join(_LABEL_COLUMNS)}")
        value = record[key]
        words = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise GrigriError(f"{where}: {key} must be a list of class names")
        names.append(record["file_name"])
        lines.append(line_number)
        labels.append([w.strip() for w in words if w.strip()])
    if not names:
        raise GrigriError(f"{file}: no images; expected a JSON object with file_name on each line")
    class_names, targets_NC = _encode(labels, file)
    return _from_table(file, images, names, lines, targets_NC, class_names)


def _from_class_folders(data: Path, folders: list[Path]) -> Dataset:
    """Read a folder per class; images beside the folders have no label."""
    loose = _images_in(data)
    if not folders:
        if loose:
            raise GrigriError(f"{data}: {len(loose)} images but no labels; expected {_FORMATS}")
        raise GrigriError(f"{data}: no images; expected {_FORMATS}")
    found = {p.name.lower() for p in folders}
    if found <= _PARTS or found == {"images"}:
        raise GrigriError(
            f"{data}: found only the folders {', '.join(sorted(found))}, which are no classes; "
            f"expected {_FORMATS}"
        )
    copies: dict[str, list[tuple[int, Path]]] = {path.name: [(-1, path)] for path in loose}
    for c, folder in enumerate(folders):
        for path in _images_in(folder):
            copies.setdefault(path.name, []).append((c, path))
    names = sorted(copies)
    targets_NC = np.zeros((len(names), len(folders)), dtype=np.float32)
    for row, name in enumerate(names):
        first = copies[name][0][1]
        for c, path in copies[name]:
            if path != first and not _same_content(first, path):
                raise GrigriError(
                    f"{first} and {path} have one name but are different pictures; "
                    f"rename one, or make them the same file if it is one image with two labels"
                )
            if c >= 0:
                targets_NC[row, c] = 1
    class_names = [p.name for p in folders]
    paths = [copies[name][0][1] for name in names]
    return _dataset(names, paths, targets_NC, class_names, f"{data} (class folders)")


# ----------------------------------------------------------------------------------- helpers


def _from_table(
    file: Path,
    images: Path | None,
    names: list[str],
    lines: list[int],
    targets_NC: NDArray[np.float32],
    class_names: list[str],
) -> Dataset:
    """Return the data set of a table's rows, with the names resolved to paths."""
    line_of: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name:
            raise GrigriError(f"{file} line {line}: no image name")
        plain = os.path.normpath(name)  # a.jpg and ./a.jpg are one image
        if plain in line_of:
            raise GrigriError(f"{file} line {line}: {name} was in line {line_of[plain]} already")
        line_of[plain] = line
    folder = images or file.parent
    if images is None and not any((folder / n).exists() for n in names[:100]):
        beside = folder / "images"
        folder = beside if any((beside / n).exists() for n in names[:100]) else folder
    return _dataset(names, [folder / n for n in names], targets_NC, class_names, str(file))


def _dataset(
    names: list[str],
    paths: list[Path],
    targets_NC: NDArray[np.float32],
    class_names: list[str],
    layout: str,
) -> Dataset:
    """Return the data set after the checks that every format shares."""
    if not targets_NC.any():
        raise GrigriError(f"{layout}: {len(names)} images but no labels")
    for name in class_names:
        if not name or not name.isprintable():
            raise GrigriError(f"{layout}: {name!r} is not a class name")
    return Dataset(names, paths, targets_NC, class_names, layout)


def _split_labels(file: Path, lines: list[int], cells: list[str]) -> list[list[str]]:
    """Return the labels in each cell: a JSON list, or names separated by ``|``, ``;`` or space.

    The separator is one for the whole column, so that names may contain spaces beside ``|``.
    """
    used = [sep for sep in "|;" if any(sep in cell for cell in cells)]
    if all(cell.strip().startswith("[") for cell in cells if cell.strip()):
        labels = []
        for line, cell in zip(lines, cells, strict=True):
            try:
                words = json.loads(cell) if cell.strip() else []
            except (ValueError, RecursionError) as e:
                raise GrigriError(f"{file} line {line}: not a JSON list: {cell[:40]!r}") from e
            if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
                raise GrigriError(f"{file} line {line}: expected a list of names: {cell[:40]!r}")
            labels.append([w.strip() for w in words if w.strip()])
        return labels
    if len(used) > 1:
        raise GrigriError(f"{file}: ambiguous, labels are separated by both '|' and ';'")
    separator = used[0] if used else None
    return [[w.strip() for w in cell.split(separator) if w.strip()] for cell in cells]


def _encode(labels: list[list[str]], file: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return the sorted class names and the 0/1 matrix of lists of labels."""
    class_names = sorted(set(itertools.chain.from_iterable(labels)))
    if not class_names:
        raise GrigriError(f"{file}: {len(labels)} images but no labels")
    column_of = {name: c for c, name in enumerate(class_names)}
    targets_NC = np.zeros((len(labels), len(class_names)), dtype=np.float32)
    for row, words in enumerate(labels):
        targets_NC[row, [column_of[w] for w in words]] = 1
    return class_names, targets_NC


def _image_number(text: str) -> int | None:
    """Return the number that ``text`` is in ASCII digits (18 at most), or None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _read_text(file: Path) -> str:
    """Return the text of a UTF-8 file (with or without a byte-order mark)."""
    try:
        text = files.read_text(file)
    except GrigriError as e:
        raise GrigriError(f"{file}: {e}") from e
    if "\0" in text:
        raise GrigriError(f"{file}: not a text file (it contains NUL)")
    return text


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _has_images(folder: Path) -> bool:
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())


def _same_content(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or filecmp.cmp(a, b, shallow=False)


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Return the image files that files, folders (searched to the bottom) and globs name.

    Raises:
        GrigriError: for a pattern that names nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            hits = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists() or path.is_symlink():
            hits = [path]
        elif glob.has_magic(pattern):
            matches = (Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
            hits = sorted(p for p in matches if p.is_file())
        else:
            raise GrigriError(f"{pattern}: no such file or folder")
        if not hits:
            raise GrigriError(f"{pattern}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        found += hits
    return list(dict.fromkeys(found))
