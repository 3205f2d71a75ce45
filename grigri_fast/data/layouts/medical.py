"""Tables of chest radiographs: CheXpert and ChestX-ray14, as their makers pack them.

CheXpert: https://stanfordmlgroup.github.io/competitions/chexpert/. ChestX-ray14:
https://nihcc.app.box.com/v/ChestXray-NIHCC. In both the patient is a group: images of a patient
stay in one part.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ...errors import GrigriError
from . import reading
from .cells import read_cells
from .labels import LabelOptions, Labels
from .parts import merged
from .table import Table
from .table_files import read_any
from .walk import images_below

_CHEXPERT = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_FILES = {"train": "train.csv", "val": "valid.csv", "test": "test.csv"}
_STATE = {
    **{"1.0": "has", "1": "has", "0.0": "not", "0": "not", "": "not"},
    **{"-1.0": "unknown", "-1": "unknown"},
}
_XRAY14 = ("Image Index", "Finding Labels", "Patient ID")
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


def _check(options: LabelOptions, layout: str, *allowed: str) -> None:
    """Refuse options without use; the split and the groups are known and can only be let go."""
    options.require_only(layout, "images", "split_column", "group_column", *allowed)
    for word in (options.split_column, options.group_column):
        if word not in (None, "none"):
            raise GrigriError(
                f"{layout} has its own split and patients; only --split-column none and"
                " --group-column none go with it"
            )


# -------------------------------------------------------------------------------- CheXpert


def is_chexpert_table(table: Table) -> bool:
    """Return whether a table has CheXpert's columns."""
    return set(_CHEXPERT) <= set(table.header)


def is_chexpert(data: Path) -> bool:
    """Return whether it is the folder that CheXpert is unpacked to, or the one it is in."""
    return _chexpert_root(data) is not None


def _chexpert_root(data: Path) -> Path | None:
    """Return the folder with the tables, if it is this one or the one folder in it that has any."""
    inner = reading.folders_in(data)
    for folders in ([data], inner):
        found = [
            folder
            for folder in folders
            if any(_starts(folder / n, "Path,Sex,Age,Frontal/Lateral") for n in _FILES.values())
        ]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _starts(file: Path, header: str) -> bool:
    return file.is_file() and reading.head(file, 1000).replace('"', "").startswith(header)


def read_chexpert(data: Path, options: LabelOptions) -> Labels:
    """Read CheXpert's folder, with its parts, or one of its tables.

    Raises:
        GrigriError: if there is no table, or one is damaged.
    """
    if data.is_file():
        return read_chexpert_table(read_any(data), options)
    root = _chexpert_root(data)
    if root is None:
        raise GrigriError(f"{data}: no train.csv, valid.csv or test.csv of CheXpert")
    files = {part: root / name for part, name in _FILES.items() if (root / name).is_file()}
    read = {part: read_chexpert_table(read_any(file), options) for part, file in files.items()}
    if len(read) == 1:
        return next(iter(read.values()))
    labels = merged(data, read, "CheXpert")
    names = [name for of_part in read.values() for name in of_part.names]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise GrigriError(
            f"{data}: {twice} is in two of {', '.join(f.name for f in files.values())}"
        )
    labels = replace(labels, names=names)  # these begin with the part's folder already
    return replace(labels, parts=None) if options.split_column == "none" else labels


def read_chexpert_table(table: Table, options: LabelOptions) -> Labels:
    """Read a table: 1 has, 0 and empty not, -1 uncertain, which is unknown here.

    Raises:
        GrigriError: for another value, or an image that comes twice.
    """
    _check(options, "CheXpert")
    if "Path" not in table.header:
        raise GrigriError(f"{table.file}: not CheXpert: it has no column 'Path'")
    columns = [i for i, name in enumerate(table.header) if name not in _CHEXPERT]
    class_names = [table.header[i] for i in columns]
    if not columns:
        raise GrigriError(f"{table.file}: no columns of observations")
    for column in columns:
        odd = next((value for value in table.values[column] if value not in _STATE), None)
        if odd is not None:
            raise GrigriError(
                f"{table.where(table.find(column, odd), column)}: {odd[:40]!r} is neither 1.0, 0.0,"
                " -1.0 nor empty"
            )
    image = table.header.index("Path")
    rows = reading.Rows()
    for number, row in enumerate(table.rows):
        state = [_STATE[row[i]] for i in columns]
        rows.add(
            _below_top(reading.image_file_name(row[image], table.where(number, image))),
            table.where(number),
            [name for name, is_so in zip(class_names, state, strict=True) if is_so == "has"],
            [name for name, is_so in zip(class_names, state, strict=True) if is_so == "unknown"],
        )
    folder = _chexpert_folder(table.file.parent, rows.names, options.images)
    cells = {value: sum(table.values[i][value] for i in columns) for value in _STATE}
    num_unknown = cells["-1.0"] + cells["-1"]
    notes = []
    if num_unknown:
        notes.append(f"{num_unknown:,} uncertain labels (-1) are unknown")
    if cells[""]:
        notes.append(f"{cells['']:,} labels not mentioned (empty cells) are taken as absent")
    if "No Finding" in class_names:
        notes.append("'No Finding' is a class, as in CheXpert; --classes NAMES leaves it out")
    paths = [folder / name for name in rows.names]
    labels = rows.result(paths, class_names, f"{table.file} (CheXpert)", notes)
    if options.group_column == "none":
        return labels
    groups = [
        next((word for word in name.split("/") if re.fullmatch(r"patient\d+", word)), "")
        for name in labels.names
    ]
    note = "images of a patient stay in one part of a split"
    return replace(labels, groups=groups, notes=[*labels.notes, note])


def _below_top(name: str) -> str:
    """Return a path without the folder of the data set, like ``CheXpert-v1.0-small``."""
    top, _, rest = name.partition("/")
    return rest if rest and top not in ("train", "valid", "test") else name


def _chexpert_folder(folder: Path, names: list[str], images: Path | None) -> Path:
    if images is not None:
        inner = [images, *reading.folders_in(images)]
    else:
        inner = [folder, *reading.folders_in(folder)]
    return reading.fitting_folder(names, inner)


# ----------------------------------------------------------------------------- ChestX-ray14


def is_xray14_table(table: Table) -> bool:
    """Return whether a table has the columns of ChestX-ray14."""
    return set(_XRAY14) <= set(table.header)


def _xray14_tables(folder: Path) -> list[Path]:
    return [f for f in reading.visible(folder, ".csv") if _starts(f, "Image Index,Finding Labels")]


def is_xray14(data: Path) -> bool:
    """Return whether it is a folder with a table of ChestX-ray14."""
    return data.is_dir() and bool(_xray14_tables(data))


def read_xray14(data: Path, options: LabelOptions) -> Labels:
    """Read the folder of ChestX-ray14, or its table.

    Raises:
        GrigriError: if there is none or are several, or it is damaged.
    """
    files = [data] if data.is_file() else _xray14_tables(data)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise GrigriError(
            f"{data}: expected one table such as Data_Entry_2017.csv, found {names}; name it as"
            " DATA"
        )
    return read_xray14_table(read_any(files[0]), options)


def read_xray14_table(table: Table, options: LabelOptions) -> Labels:
    """Read the table; the lists of the official split are used if they lie beside it.

    Raises:
        GrigriError: if a cell is damaged, or an image comes twice.
    """
    _check(options, "ChestX-ray14", "no_label", "separator")
    lacking = [name for name in _XRAY14 if name not in table.header]
    if lacking:
        raise GrigriError(f"{table.file}: not ChestX-ray14: it has no column {lacking[0]!r}")
    image, finding, patient = (table.header.index(name) for name in _XRAY14)
    if options.no_label is None:
        options = replace(options, no_label=("No Finding",))

    def where(row: int) -> str:
        return table.where(row, finding)

    found = read_cells(
        f"{table.file}, column 'Finding Labels'", table.columns[finding], where,
        replace(options, separator=options.separator or "|"), "|",
    )  # fmt: skip
    for row, cell in enumerate(table.columns[finding]):
        if not cell:
            raise GrigriError(f"{where(row)}: empty; ChestX-ray14 writes 'No Finding'")
        if found.labels[row] and "No Finding" in cell.split("|") and options.no_label:
            raise GrigriError(f"{where(row)}: {cell[:60]!r} has findings and none at once")
    rows = reading.Rows()
    for row, cell in enumerate(table.columns[image]):
        name = reading.image_file_name(cell, table.where(row, image))
        of_name = re.match(r"(\d{8})_\d{3}\.", name)  # patient and number of the image
        if of_name and of_name[1].lstrip("0") != table.rows[row][patient].lstrip("0"):
            odd = table.rows[row][patient][:40]
            raise GrigriError(f"{table.where(row, patient)}: {odd!r} is not the patient of {name}")
        rows.add(name, table.where(row), found.labels[row])
    paths, notes = _xray14_paths(rows.names, options.images or table.file.parent)
    class_names = sorted({label for words in found.labels for label in words})
    labels = rows.result(paths, class_names, f"{table.file} (ChestX-ray14)", [*found.notes, *notes])
    if options.split_column is None:
        labels = _with_lists(labels, table.file.parent)
    if options.group_column is None:
        note = "images of one 'Patient ID' stay in one part of a split"
        groups = list(table.columns[patient])
        labels = replace(labels, groups=groups, notes=[*labels.notes, note])
    return labels


def _xray14_paths(names: list[str], folder: Path) -> tuple[list[Path], list[str]]:
    """Return where the images are: beside the table, in ``images/`` or ``images_001/images/``."""
    tops = reading.folders_in(folder)
    inner = [path / "images" for path in tops if re.fullmatch(r"images[_-]\d+", path.name)]
    wanted = set(names)
    place: dict[str, Path] = {}
    for place_of in (folder, *tops, *inner):
        if place_of.is_dir():
            for path in images_below(place_of, recursive=False).images:
                other = place.get(path.name)
                if other is None:
                    place[path.name] = path
                elif path.name in wanted and other.resolve() != path.resolve():
                    raise GrigriError(
                        f"{other} and {path} have one name; --images says which folder it is"
                    )
    num_more = sum(name not in wanted for name in place)
    notes = [f"left out: {reading.counted(num_more, 'image')} that the table does not name"]
    return [place.get(name, folder / name) for name in names], notes if num_more else []


def _with_lists(labels: Labels, folder: Path) -> Labels:
    """Add the parts that the lists of the official split name."""
    files = {part: folder / name for part, name in _LISTS.items() if (folder / name).is_file()}
    if not files:
        return labels
    part_of: dict[str, str] = {}
    for part, file in files.items():
        for line, name in reading.read_lines(file):
            if part_of.setdefault(name, part) != part:
                raise GrigriError(f"{file} line {line}: {name[:60]} is in the other list, too")
    if len(files) == 1:
        (file,) = files.values()
        other = next(name for part, name in _LISTS.items() if part not in files)
        note = f"{file.name} is not used, as there is no {other} beside it"
        return replace(labels, notes=[*labels.notes, note])
    parts = [part_of.get(name, "") for name in labels.names]
    if not {"train", "test"} <= set(parts):
        raise GrigriError(
            f"{files['train']}: the lists name none of the table's images for training or for test;"
            " move them away, or --split-column none"
        )
    num_more = len(part_of.keys() - set(labels.names))
    notes = [
        f"parts from {_LISTS['train']} and {_LISTS['test']}: {parts.count('train'):,} train,"
        f" {parts.count('test'):,} test"
        + (f", {parts.count(''):,} in none" if "" in parts else "")
        + (f"; {num_more:,} names of the lists are not in the table" if num_more else "")
    ]
    return replace(labels, parts=parts, notes=[*labels.notes, *notes])
