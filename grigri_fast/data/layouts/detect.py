"""The formats of labels: one reader per format, and how to tell which format some data have.

To add a format, write a reader that returns :class:`Labels`, and choose it in
:func:`read_labels`.

The formats (``DATA`` on the command line):

1. ``images/`` + ``annotations/<class>.txt``, a line N meaning ``images/im<N>.jpg`` (MIRFLICKR);
2. a CSV with a 0/1 column per class;
3. a CSV with one column of labels, separated by ``|``, ``;`` or spaces;
4. ``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and a list of labels, in the folder;
5. class folders; the same file name in several folders is one image with several labels.
"""

import csv
import filecmp
import io
import json
import os
from collections import Counter
from pathlib import Path

from ...errors import GrigriError
from ...runtime import files
from .labels import IMAGE_SUFFIXES, LabelOptions, Labels

_NAME_COLUMNS = ("file_name", "image", "filename", "file", "path", "name")
_LABEL_COLUMNS = ("labels", "label", "tags", "classes")
_FLAGS = ("0", "1", "0.0", "1.0")
_PARTS = frozenset({"train", "val", "valid", "validation", "test"})
_FORMATS = (
    "images/ + annotations/<class>.txt, a CSV (image,labels or image,<class>,<class>...), "
    "metadata.csv/.jsonl with file_name and labels, or a folder per class"
)


def read_labels(data: Path, options: LabelOptions) -> Labels:
    """Find out which format some data have, and read them; see :func:`dataset.load`.

    Raises:
        GrigriError: as there.
        OSError: if a folder cannot be read.
    """
    images = options.images
    if images is not None and not images.is_dir():
        raise GrigriError(f"--images {images}: no such folder")
    if data.is_file():
        if data.suffix.lower() == ".jsonl":
            return _read_jsonl(data, images)
        if data.suffix.lower() in (".csv", ".tsv"):
            return _read_csv(data, images)
        raise GrigriError(f"{data} is a file but no .csv, .tsv or .jsonl; expected {_FORMATS}")
    if not data.is_dir():
        raise GrigriError(f"{data}: no such file or folder; expected {_FORMATS}")

    entries = sorted(data.iterdir())
    tables = [p for p in entries if p.name in ("metadata.csv", "metadata.jsonl")]
    annotated = (data / "annotations").is_dir()
    if len(tables) > 1 or (tables and annotated):
        names = [p.name for p in tables] + ["annotations/"] * annotated
        raise GrigriError(f"{data}: ambiguous, found {' and '.join(names)}; keep one of them")
    if tables:
        return (_read_csv if tables[0].suffix == ".csv" else _read_jsonl)(tables[0], images)
    if annotated:
        if images is not None:
            raise GrigriError("--images goes with a CSV; annotations/ has its images/ beside it")
        return _read_annotations(data)

    folders = [p for p in entries if p.is_dir() and _images_in(p)]
    csvs = [p for p in entries if p.suffix.lower() in (".csv", ".tsv")]
    if csvs and (not folders or [p.name for p in folders] == ["images"]):
        if len(csvs) > 1:
            names = [p.name for p in csvs]
            raise GrigriError(
                f"{data}: ambiguous, found {', '.join(names)}; name the CSV itself as DATA"
            )
        return _read_csv(csvs[0], images)
    if csvs:
        raise GrigriError(
            f"{data}: ambiguous, found {csvs[0].name} and {len(folders)} folders of images; "
            f"name the CSV itself as DATA, or move it away"
        )
    if images is not None:
        raise GrigriError(f"--images goes with a CSV, and there is none in {data}")
    return _read_class_folders(data, folders)


# --------------------------------------------------------------------------- the five formats


def _read_annotations(data: Path) -> Labels:
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
    class_files = [
        p
        for p in sorted((data / "annotations").iterdir())
        if p.suffix == ".txt" and p.stem.lower() != "readme"
    ]
    if not class_files:
        raise GrigriError(f"{data / 'annotations'}: no labels; expected a <class>.txt per class")
    labels: dict[int, list[str]] = {number: [] for number in sorted(paths)}
    for file in class_files:
        for line_number, line in enumerate(_read_text(file).split("\n"), start=1):
            word = line.strip()
            if not word:
                continue
            where = f"{file} line {line_number}"
            number = _image_number(word)
            if not number:
                raise GrigriError(f"{where}: expected an image number like 17, not {word[:40]!r}")
            if number not in labels:
                missing = folder / f"im{number}.jpg"
                raise GrigriError(f"{where}: label without image, {missing} does not exist")
            labels[number].append(file.stem)
    return Labels(
        [paths[number].name for number in labels],
        [paths[number] for number in labels],
        list(labels.values()),
        [p.stem for p in class_files],
        f"{data} (images/ + annotations/)",
    )


def _read_csv(file: Path, images: Path | None) -> Labels:
    """Read a CSV with a 0/1 column per class, or with a column of labels."""
    header, rows = _csv_rows(file)
    lower = [name.lower() for name in header]
    image_column = next((lower.index(n) for n in _NAME_COLUMNS if n in lower), 0)
    label_column = next((lower.index(n) for n in _LABEL_COLUMNS if n in lower), None)
    others = [i for i in range(len(header)) if i != image_column]
    no_flag = next(
        (
            f"line {line}, column {header[i]!r}: {row[i][:40]!r}"
            for line, row in rows
            for i in others
            if row[i].strip() not in _FLAGS
        ),
        "",
    )
    if not no_flag and others != [label_column]:
        class_names = [header[i] for i in others]
        labels = [[header[i] for i in others if float(row[i])] for _, row in rows]
    elif label_column is not None:
        labels = _split_labels(file, [(line, row[label_column]) for line, row in rows])
        class_names = _sorted_classes(labels)
    else:
        raise GrigriError(
            f"{file} {no_flag} is neither 0 nor 1, and there is no column named "
            f"{' or '.join(_LABEL_COLUMNS)}"
        )
    names = [(line, row[image_column].strip()) for line, row in rows]
    return _of_table(file, images, names, labels, class_names)


def _read_jsonl(file: Path, images: Path | None) -> Labels:
    """Read one JSON object per line, with ``file_name`` and a list (or string) of labels."""
    names: list[tuple[int, str]] = []
    labels: list[list[str]] = []
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
        if not _are_strings(words):
            raise GrigriError(f"{where}: {key} must be a list of class names")
        names.append((line_number, record["file_name"]))
        labels.append([w.strip() for w in words if w.strip()])
    if not names:
        raise GrigriError(f"{file}: no images; expected a JSON object with file_name on each line")
    return _of_table(file, images, names, labels, _sorted_classes(labels))


def _read_class_folders(data: Path, folders: list[Path]) -> Labels:
    """Read a folder per class; images beside the folders have no label."""
    loose = _images_in(data)
    if not folders:
        if loose:
            raise GrigriError(f"{data}: {len(loose)} images but no labels; expected {_FORMATS}")
        raise GrigriError(f"{data}: no images; expected {_FORMATS}")
    lower = {p.name.lower() for p in folders}
    if lower <= _PARTS or lower == {"images"}:
        raise GrigriError(
            f"{data}: found only the folders {', '.join(sorted(lower))}, which are no classes; "
            f"expected {_FORMATS}"
        )
    copies: dict[str, list[Path]] = {path.name: [path] for path in loose}
    for folder in folders:
        for path in _images_in(folder):
            copies.setdefault(path.name, []).append(path)
    names = sorted(copies)
    for name in names:
        first = copies[name][0]
        for path in copies[name][1:]:
            if first.resolve() != path.resolve() and not filecmp.cmp(first, path, shallow=False):
                raise GrigriError(
                    f"{first} and {path} have one name but are different pictures; "
                    f"rename one, or make them the same file if it is one image with two labels"
                )
    return Labels(
        names,
        [copies[name][0] for name in names],
        [[path.parent.name for path in copies[name] if path.parent != data] for name in names],
        [p.name for p in folders],
        f"{data} (class folders)",
    )


# ----------------------------------------------------------------------------------- helpers


def _csv_rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a CSV, and its rows with the numbers of the lines on which they end."""
    text = _read_text(file)
    delimiter = max(",\t;", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
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
    return header, body


def _of_table(
    file: Path,
    images: Path | None,
    names: list[tuple[int, str]],
    labels: list[list[str]],
    class_names: list[str],
) -> Labels:
    """Return the labels of a table, whose ``names`` come with their lines, with paths."""
    line_of: dict[str, int] = {}
    for line, name in names:
        if not name:
            raise GrigriError(f"{file} line {line}: no image name")
        plain = os.path.normpath(name)  # a.jpg and ./a.jpg are one image
        if plain in line_of:
            raise GrigriError(f"{file} line {line}: {name} was in line {line_of[plain]} already")
        line_of[plain] = line
    first = [name for _, name in names[:100]]
    folder = images or file.parent
    if (
        images is None
        and not any((folder / name).exists() for name in first)
        and any((folder / "images" / name).exists() for name in first)
    ):
        folder /= "images"
    paths = [folder / name for _, name in names]
    return Labels([name for _, name in names], paths, labels, class_names, str(file))


def _split_labels(file: Path, cells: list[tuple[int, str]]) -> list[list[str]]:
    """Return the labels in each cell: a JSON list, or names separated by ``|``, ``;`` or space.

    The separator is one for the whole column, so that names may contain spaces beside ``|``.
    """
    if all(cell.strip().startswith("[") for _, cell in cells if cell.strip()):
        labels = []
        for line, cell in cells:
            try:
                words = json.loads(cell) if cell.strip() else []
            except (ValueError, RecursionError) as e:
                raise GrigriError(f"{file} line {line}: not a JSON list: {cell[:40]!r}") from e
            if not _are_strings(words):
                raise GrigriError(f"{file} line {line}: expected a list of names: {cell[:40]!r}")
            labels.append([w.strip() for w in words if w.strip()])
        return labels
    used = [sep for sep in "|;" if any(sep in cell for _, cell in cells)]
    if len(used) > 1:
        raise GrigriError(f"{file}: ambiguous, labels are separated by both '|' and ';'")
    separator = used[0] if used else None
    return [[w.strip() for w in cell.split(separator) if w.strip()] for _, cell in cells]


def _are_strings(words: object) -> bool:
    return isinstance(words, list) and all(isinstance(w, str) for w in words)


def _sorted_classes(labels: list[list[str]]) -> list[str]:
    return sorted({name for words in labels for name in words})


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
