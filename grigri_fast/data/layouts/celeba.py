"""CelebA: a table of 40 attributes, 1 or -1, as its makers have it or as Kaggle has it.

The makers' ``list_attr_celeba.txt`` begins with the number of images and a line of the attributes'
names (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html); Kaggle's ``list_attr_celeba.csv`` is a
plain CSV. ``list_eval_partition`` gives the parts: 0 is train, 1 val, 2 test.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels

_ATTRIBUTES = "list_attr_celeba"
_PARTITION = "list_eval_partition"
_SUFFIXES = (".txt", ".csv")
_PARTS = {"0": "train", "1": "val", "2": "test"}
_FLAGS = frozenset({"1", "-1"})
_BELOW = (".", "Anno", "Eval", "celeba", "CelebA")  # where the files are, below the folder
_IMAGES = (
    *("img_align_celeba", "img_align_celeba/img_align_celeba", "img_align_celeba_png"),
    *("Img/img_align_celeba", "Img/img_align_celeba_png", "img_celeba", "Img/img_celeba"),
)


def is_here(data: Path) -> bool:
    """Return whether ``data`` is CelebA's file of attributes, or a folder that has it."""
    return bool(_find(data, _ATTRIBUTES))


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the attributes as labels, and the parts where they are there.

    Raises:
        GrigriError: if the files are not there or damaged.
    """
    options.require_only("CelebA", "images")
    file = _only(data, _ATTRIBUTES)
    if file is None:
        raise GrigriError(f"{data}: no {_ATTRIBUTES}.txt or .csv (CelebA)")
    root = data if data.is_dir() else file.parent
    partition = _only(data if data.is_dir() else file.parent, _PARTITION)
    part_of = _read_partition(partition) if partition is not None else {}
    class_names, lines = _attributes(file)
    rows = reading.Rows()
    for line, words in lines:
        where = f"{file} line {line}"
        if len(words) != len(class_names) + 1:
            raise GrigriError(
                f"{where}: {len(words) - 1} attributes where the header has {len(class_names)}"
            )
        flags = words[1:]
        if not _FLAGS.issuperset(flags):
            odd = next(flag for flag in flags if flag not in _FLAGS)
            raise GrigriError(f"{where}: an attribute must be 1 or -1, not {odd[:40]!r}")
        name = reading.image_file_name(words[0], where)
        if part_of and name not in part_of:
            raise GrigriError(f"{where}: {name} is not in {partition}")
        labels = [label for label, flag in zip(class_names, flags, strict=True) if flag == "1"]
        rows.add(name, where, labels, part=part_of.get(name, ""))
    if not rows.names:
        raise GrigriError(f"{file}: no images")
    images = reading.counted(len(rows.names), "image")
    notes = [f"{images}, {len(class_names)} attributes, from {file.name} (1 yes, -1 no)"]
    if partition is not None:
        notes.append(f"the parts are from {partition.name}")
    if len(part_of) > len(rows.names):
        more = len(part_of) - len(rows.names)
        notes.append(f"left out: {reading.counted(more, 'image')} that only {_PARTITION} names")
    near = dict.fromkeys([file.parent, file.parent.parent, root])  # Anno/ has Img/ beside it
    folders = [options.images] if options.images else [f / name for f in near for name in _IMAGES]
    folder = reading.fitting_folder(rows.names, folders if options.images else [*folders, *near])
    paths = [folder / name for name in rows.names]
    return rows.result(paths, class_names, f"{data} (CelebA)", notes)


def _attributes(file: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the attributes' names, and the words of each further line with its number."""
    lines = reading.read_lines(file)
    if file.suffix.lower() == ".csv":
        if not lines or "," not in lines[0][1]:
            raise GrigriError(f"{file}: expected the line image_id,<attribute>,<attribute>...")
        header = [word.strip() for word in lines[0][1].split(",")][1:]
        rows = ((line, [w.strip() for w in text.split(",")]) for line, text in lines[1:])
    else:
        if len(lines) < 2 or not (lines[0][1].isascii() and lines[0][1].isdigit()):
            raise GrigriError(f"{file}: expected the number of images in line 1, then the names")
        if lines[0][1].lstrip("0") != str(len(lines) - 2):
            raise GrigriError(
                f"{file}: line 1 says {lines[0][1][:20]} images, and there are {len(lines) - 2:,}"
            )
        header = lines[1][1].split()
        rows = ((line, text.split()) for line, text in lines[2:])
    names = [reading.class_name(name, f"{file}: an attribute") for name in header]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise GrigriError(f"{file}: the attribute {twice!r} stands there twice")
    return names, rows


def _read_partition(file: Path) -> dict[str, str]:
    """Return the part of each image."""
    part_of: dict[str, str] = {}
    for line, text in reading.read_lines(file):
        where = f"{file} line {line}"
        words = [w.strip() for w in text.split("," if file.suffix.lower() == ".csv" else None)]
        if line == 1 and words == ["image_id", "partition"]:
            continue
        if len(words) != 2 or words[1] not in _PARTS:
            raise GrigriError(f"{where}: expected an image and 0, 1 or 2, not {text[:60]!r}")
        name = reading.image_file_name(words[0], where)
        if name in part_of:
            raise GrigriError(f"{where}: {name} stands there twice")
        part_of[name] = _PARTS[words[1]]
    if not part_of:
        raise GrigriError(f"{file}: names no images")
    return part_of


def _find(data: Path, stem: str) -> list[Path]:
    """Return the files of this name (and one of the suffixes) in a folder or near a file."""
    if data.is_file():
        is_named = data.stem.lower() == stem and data.suffix.lower() in _SUFFIXES
        return [data] if is_named else []
    folders = [data / name for name in _BELOW]
    if stem == _PARTITION:
        folders += [data.parent / "Eval"]  # beside Anno/
    found = chain.from_iterable(reading.visible(folder, *_SUFFIXES) for folder in folders)
    return [file for file in dict.fromkeys(found) if file.stem.lower() == stem]


def _only(data: Path, stem: str) -> Path | None:
    found = _find(data, stem)
    if len(found) > 1:
        names = " and ".join(str(file) for file in found)
        raise GrigriError(f"{data}: found {names}; keep one of them")
    return found[0] if found else None
