"""Ultralytics' YOLO: a text file of boxes per image. An image has the labels of its boxes.

The format: https://docs.ultralytics.com/datasets/detect/. ``data.yaml`` names the classes and the
folders of train, val and test; ``labels/train/a.txt`` goes with ``images/train/a.jpg``, and each
line begins with the number of a class. Label Studio and darknet write ``classes.txt`` or
``obj.names`` instead of ``data.yaml``.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from . import reading, safe_yaml
from .labels import LabelOptions, Labels
from .walk import images_below

_YAML = (".yaml", ".yml")
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_PARTS = ("train", "val", "test")
_HEAD = re.compile(r"^(names|train|val|test)\s*:", re.MULTILINE)
_LINE = re.compile(r"\s*\d+(\s+-?\d+(\.\d+)?(e-?\d+)?){4,}\s*$", re.MULTILINE)
_EXPECTED = "expected data.yaml with names, train and val, beside images/ and labels/"


def is_here(data: Path) -> bool:
    """Return whether ``data`` is a data.yaml, or a folder with one or with images/ and labels/."""
    if data.is_file():
        return _is_yaml(data)
    return bool(_yamls_in(data)) or _has_labels(data)


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the labels of the boxes of all images in the folders that ``data.yaml`` names.

    Raises:
        GrigriError: if the classes or the folders are not there, or a file is damaged.
    """
    options.require_only("YOLO")
    files = [data] if data.is_file() else _yamls_in(data)
    if len(files) > 1:
        raise GrigriError(
            f"{data}: found {reading.listed(file.name for file in files)}; name one of them as DATA"
        )
    source = _of_yaml(files[0]) if files else _of_folder(data)
    rows, paths = reading.Rows(), []
    counts = {"box": 0, "file": 0}
    for part in source.parts:
        found = sorted({image for folder in part.folders for image in _images(folder)})
        if not found:
            raise GrigriError(f"{source.file}: no images in {reading.listed(part.written)}")
        label_files = {path: _label_file(path) for path in found}
        have = {path for path, file in label_files.items() if reading.exists(file)}
        if not have and part.name == "test":
            source.notes.append("left out: the part test, which has no label files")
            continue
        if not have:
            raise GrigriError(
                f"{source.file}: no label file for the images in {reading.listed(part.written)}; "
                f"expected {label_files[found[0]]}"
            )
        counts["file"] += len(have)
        for path in found:
            classes = _read_labels(label_files[path], source) if path in have else []
            counts["box"] += len(classes)
            name = os.path.relpath(path, source.root)
            labels = [source.class_names[c] for c in classes]
            rows.add(name, str(source.file), labels, part=part.name or _part_of_folder(name))
            paths.append(path)
        source.notes += _without_image(label_files)
    if not rows.names:
        raise GrigriError(f"{source.file}: no images with labels; {_EXPECTED}")
    images = reading.counted(len(rows.names), "image")
    notes = [
        f"{images}, with the labels of {reading.counted(counts['box'], 'box')} in "
        f"{reading.counted(counts['file'], 'file')}; classes from {source.file.name}"
    ]
    without = sum(not labels for labels in rows.labels)
    if without:
        notes.append(f"{reading.counted(without, 'image')} without a box: no label")
    return rows.result(paths, source.class_names, f"{data} (YOLO)", notes + source.notes)


# ----------------------------------------------------------------- the classes and the folders


@dataclass
class _Part:
    """A part: its name ("" if there are no parts), its folders and lists, as found and written."""

    name: str
    folders: list[Path]
    written: list[str]


@dataclass
class _Source:
    """Where classes and images are.

    Attributes:
        file: what names the classes.
        root: what the images' names are relative to.
        class_names: the classes (C).
        parts: the parts.
        notes: sentences for the user.
    """

    file: Path
    root: Path
    class_names: list[str]
    parts: list[_Part]
    notes: list[str] = field(default_factory=list)


def _of_yaml(file: Path) -> _Source:
    top = _read_yaml(file)
    source = _Source(file, file.parent, _class_names(file, top), [])
    base = top.get("path")
    bases = [file.parent / base] if isinstance(base, str) and "\0" not in base else []
    for name in _PARTS:
        entries = top.get(name)
        if entries is None and name == "train":
            raise GrigriError(f"{file}: names no folder of train; {_EXPECTED}")
        if entries is None:
            source.notes += [f"{file.name} names no val"] if name == "val" else []
            continue
        entries = entries if isinstance(entries, list) else [entries]
        written = [reading.image_name(entry, f"{file}: {name}") for entry in entries]
        folders = [_resolved(entry, [*bases, file.parent]) for entry in written]
        missing = next((w for w, f in zip(written, folders, strict=True) if f is None), None)
        if missing is not None and name == "test":
            source.notes.append(f"left out: the part test, {missing} is not there")
            continue
        if missing is not None:
            raise GrigriError(f"{file}: {name}: {missing}: no such folder or list of images")
        source.parts.append(_Part(name, [f for f in folders if f is not None], written))
    places = [{folder.resolve() for folder in part.folders} for part in source.parts]
    if len(places) > 1 and all(place == places[0] for place in places):
        names = " and ".join(part.name for part in source.parts)
        source.notes.append(f"{names} are the same images, so that no split is given")
        source.parts = [_Part("", source.parts[0].folders, source.parts[0].written)]
    return source


def _of_folder(data: Path) -> _Source:
    """Return what is known of images/ and labels/ without a data.yaml."""
    if not _has_labels(data):
        raise GrigriError(f"{data}: no YOLO; {_EXPECTED}")
    file = next((data / name for name in _CLASS_FILES if (data / name).is_file()), None)
    if file is None:
        raise GrigriError(
            f"{data}: labels/ without the names of the classes; write them into classes.txt, one a "
            f"line, in the order of their numbers"
        )
    names = [reading.class_name(text, f"{file} line {n}") for n, text in reading.read_lines(file)]
    _refuse_doubles(file, names)
    return _Source(file, data, names, [_Part("", [data / "images"], ["images"])])


def _read_yaml(file: Path) -> dict[str, Any]:
    top = safe_yaml.parse(reading.read_text(file), str(file))
    if not isinstance(top, dict):
        raise GrigriError(f"{file}: not a data.yaml; {_EXPECTED}")
    return top


def _class_names(file: Path, top: dict[str, Any]) -> list[str]:
    names = top.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise GrigriError(f"{file}: names must be numbered from 0 to {len(names) - 1}")
        names = [value for _, value in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list) or not names:
        raise GrigriError(f"{file}: no names of classes; {_EXPECTED}")
    if any(isinstance(name, bool) or not isinstance(name, int | str) for name in names):
        raise GrigriError(f"{file}: names must be texts; put them in quotes")
    names = [reading.class_name(str(name), f"{file}: names") for name in names]
    if top.get("nc", len(names)) != len(names):
        raise GrigriError(f"{file}: nc is {str(top['nc'])[:20]}, and there are {len(names)} names")
    _refuse_doubles(file, names)
    return names


def _refuse_doubles(file: Path, names: list[str]) -> None:
    if not names:
        raise GrigriError(f"{file}: no names of classes")
    twice = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if twice is not None:
        raise GrigriError(f"{file}: two classes are named {twice!r}; rename one")


def _resolved(entry: str, bases: list[Path]) -> Path | None:
    """Return the folder or list that an entry names; Roboflow begins them with one ../ too many."""
    steps = Path(entry).parts
    # The folder may have been moved: of /content/pets/train/images try pets/train/images, too.
    tails = [str(Path(*steps[n:])) for n in range(1, len(steps) - 1)] if steps else []
    candidates = [base / e for e in (entry, entry.removeprefix("../")) for base in bases]
    candidates += [bases[-1] / tail for tail in tails]
    return next((path for path in candidates if reading.exists(path)), None)


# --------------------------------------------------------------------------- images and boxes


def _images(place: Path) -> Sequence[Path]:
    """Return the images in a folder and all below it, or in a list of images."""
    if place.is_dir():
        return images_below(place, recursive=True).images
    names = [reading.image_name(text, f"{place} line {n}") for n, text in reading.read_lines(place)]
    folder = reading.fitting_folder(names, [place.parent, *place.parent.parents])
    return [folder / name for name in names]


def _label_file(image: Path) -> Path:
    """Return the label file of an image: the last images/ in its path becomes labels/."""
    parts = list(image.absolute().parent.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def _read_labels(file: Path, source: _Source) -> list[int]:
    """Return the number of the class of each box in a label file."""
    classes = []
    for line, text in reading.read_lines(file):
        try:
            number, *place = map(float, text.split())
        except ValueError:
            number, place = -1.0, []
        if len(place) < 4 or not number.is_integer():
            raise GrigriError(
                f"{file} line {line}: expected the number of a class and a box, not {text[:60]!r}"
            )
        if not 0 <= number < len(source.class_names):
            raise GrigriError(
                f"{file} line {line}: no class has the number {number:.0f}; {source.file.name} "
                f"names {len(source.class_names)}, from 0"
            )
        classes.append(int(number))
    return classes


def _without_image(label_files: dict[Path, Path]) -> list[str]:
    """Return a note on label files without an image, in the folders of those with one."""
    known = {file.name for file in label_files.values()} | {"classes.txt"}
    folders = sorted({file.parent for file in label_files.values()})
    lone = [f for d in folders for f in reading.visible(d, ".txt") if f.name not in known]
    if not lone:
        return []
    files = reading.counted(len(lone), "label file")
    return [f"left out: {files} without an image ({reading.listed(f.name for f in lone[:2])})"]


def _part_of_folder(name: str) -> str:
    """Return the part of an image like images/train/a.jpg."""
    folders = Path(name).parts[:-1]
    return next((part for part in map(reading.part_of, folders) if part), "")


# ------------------------------------------------------------------------------------- files


def _is_yaml(file: Path) -> bool:
    if file.suffix.lower() not in _YAML:
        return False
    keys = set(_HEAD.findall(reading.head(file)))
    return "names" in keys and len(keys) > 1


def _yamls_in(data: Path) -> list[Path]:
    return [file for file in reading.visible(data, *_YAML) if _is_yaml(file)]


def _has_labels(data: Path) -> bool:
    """Return whether there are images/ and labels/ whose files look like boxes."""
    if not (data / "images").is_dir():
        return False
    folders = [data / "labels", *(reading.folders_in(data / "labels"))]
    files = [file for folder in folders for file in reading.visible(folder, ".txt")[:20]]
    return any(_LINE.match(reading.head(file, 4096).split("\n", 1)[0]) for file in files)
