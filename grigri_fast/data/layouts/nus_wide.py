"""NUS-WIDE: a list of images, and a file of 0 and 1 per class whose lines go with the list's.

https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html. The files are
``ImageList/Imagelist.txt`` and ``Groundtruth/AllLabels/Labels_<class>.txt``; beside them
``ImageList/TrainImagelist.txt`` and ``TestImagelist.txt`` name the images of the given parts.
Without the files of all images those of the parts are read, in ``Groundtruth/TrainTestLabels/``.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels

_ALL = "Imagelist.txt"
_PARTS = {"train": "Train", "test": "Test"}
_PREFIX = "labels_"
_IMAGES = (".", "Flickr", "images", "Images", "image", "Image")
_EXPECTED = (
    "expected ImageList/Imagelist.txt with Groundtruth/AllLabels/Labels_<class>.txt, or "
    "TrainImagelist.txt and TestImagelist.txt with Groundtruth/TrainTestLabels/"
)


def is_here(data: Path) -> bool:
    """Return whether ``data`` is NUS-WIDE's folder, or has it in it."""
    return bool(_roots(data))


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the labels of all images, and the parts where they are there.

    Raises:
        GrigriError: if files are missing, or do not go with each other.
    """
    options.require_only("NUS-WIDE", "images")
    roots = _roots(data)
    found = " and ".join(str(root.relative_to(data)) for root in roots)
    files = _Files(reading.only(data, roots, found, f"no NUS-WIDE; {_EXPECTED}"))
    part_of: dict[str, str] = {}
    for part, listed in files.names.items():
        for name in listed if part else ():
            if part_of.setdefault(name, part) != part:
                raise GrigriError(f"{files.lists}: {name} is in both the train and the test list")
    tables = {part: files.flags(part) for part in files.parts_with_labels()}
    class_names = next(iter(tables.values()))[0]
    rows = reading.Rows()
    for part, (class_names_of_part, flags_NC) in tables.items():
        if class_names_of_part != class_names:
            odd = min({*class_names_of_part} ^ {*class_names})
            raise GrigriError(f"{files.labels_of(part)}: the class {odd!r} is not in all parts")
        for name, flags_C in zip(files.names[part], flags_NC, strict=True):
            labels = [class_names[c] for c in np.flatnonzero(flags_C)]
            rows.add(name, str(files.lists), labels, part=part_of.get(name, ""))
    unlisted = part_of.keys() - {*rows.names}
    if unlisted:
        raise GrigriError(f"{files.lists}: {min(unlisted)} is in a part, but not in {_ALL}")
    images = reading.counted(len(rows.names), "image")
    notes = [
        f"{images}, {reading.counted(len(class_names), 'class')}, labels from "
        f"{files.labels_of(next(iter(tables))).relative_to(files.root)}/"
    ]
    paths = _paths(rows.names, options.images or files.root, is_given=options.images is not None)
    return rows.result(paths, class_names, f"{data} (NUS-WIDE)", notes)


@dataclass
class _Files:
    """The files below a folder of NUS-WIDE.

    Attributes:
        root: the folder.
        lists: the folder of the lists of images.
        names: the images in each list: "train", "test", and "" of all.
    """

    root: Path

    def __post_init__(self) -> None:
        self.lists = _below(self.root, "ImageList")
        self.names: dict[str, list[str]] = {}
        for part, word in {"": "", **_PARTS}.items():
            file = _below(self.lists, f"{word}{_ALL}")
            if file.is_file():
                self.names[part] = _read_names(file)

    def labels_of(self, part: str) -> Path:
        """Return the folder of the labels of a part, or of all images."""
        name = "TrainTestLabels" if part else "AllLabels"
        return _below(_below(self.root, "Groundtruth"), name)

    def parts_with_labels(self) -> list[str]:
        """Return [""] if there are labels of all images, else the parts with labels."""
        for parts in ([""], list(_PARTS)):
            found = [part for part in parts if part in self.names and self._class_files(part)]
            if found:
                return found
        raise GrigriError(f"{self.root}: no labels with a list of images; {_EXPECTED}")

    def flags(self, part: str) -> tuple[list[str], NDArray[np.bool_]]:
        """Return the classes, and whether each image of a part (N) has them (N, C)."""
        num = len(self.names[part])
        files = self._class_files(part)
        flags_NC = np.empty((num, len(files)), dtype=np.bool_)
        for column, file in enumerate(files.values()):
            words = reading.read_text(file).split()
            if len(words) != num:
                raise GrigriError(
                    f"{file}: {len(words):,} labels where the list names "
                    f"{reading.counted(num, 'image')}"
                )
            text = "".join(words)
            if len(text) != num or text.count("0") + text.count("1") != num:
                line = next(i for i, word in enumerate(words, start=1) if word not in ("0", "1"))
                odd = words[line - 1][:40]
                raise GrigriError(f"{file} line {line}: a label must be 0 or 1, not {odd!r}")
            flags_NC[:, column] = np.frombuffer(text.encode(), dtype=np.uint8) == ord("1")
        return list(files), flags_NC

    def _class_files(self, part: str) -> dict[str, Path]:
        """Return the files of the classes of a part, by class."""
        ending = f"_{part}" if part else ""
        files = {}
        for file in reading.visible(self.labels_of(part), ".txt"):
            stem = file.stem
            if stem.lower().startswith(_PREFIX) and stem.lower().endswith(ending):
                files[stem[len(_PREFIX) : len(stem) - len(ending)]] = file
        return files


def _read_names(file: Path) -> list[str]:
    r"""Return the images of a list, such as ``actor\0001_2124494179.jpg``, with '/'."""
    names: dict[str, None] = {}
    for line, text in reading.read_lines(file):
        name = reading.image_name(text, f"{file} line {line}")
        if name in names:
            raise GrigriError(f"{file} line {line}: {name} stands there twice")
        names[name] = None
    if not names:
        raise GrigriError(f"{file}: names no images")
    return list(names)


def _paths(names: list[str], root: Path, is_given: bool) -> list[Path]:
    """Return where the images are: as listed below a folder, or all in one folder."""
    folders = [root] if is_given else [root / name for name in _IMAGES]
    flat = [PurePosixPath(name).name for name in names]
    deep_in, flat_in = (reading.fitting_folder(n, folders) for n in (names, flat))
    has_deep = any(reading.exists(deep_in / name) for name in names[:100])
    if not has_deep and any(reading.exists(flat_in / name) for name in flat[:100]):
        if len({*flat}) < len(flat):
            raise GrigriError(
                f"{flat_in}: images of different folders of the list have one name, and here they "
                f"are all in one folder; keep the folders"
            )
        return [flat_in / name for name in flat]
    return [deep_in / name for name in names]


def _below(folder: Path, name: str) -> Path:
    """Return a file or folder of this name in upper or lower case."""
    try:
        return next((p for p in folder.iterdir() if p.name.lower() == name.lower()), folder / name)
    except OSError:
        return folder / name


def _roots(data: Path) -> list[Path]:
    """Return the folders of NUS-WIDE: the folder itself, or folders in it."""
    for level in ([data], reading.folders_in(data)):
        found = [folder for folder in level if _is_root(folder)]
        if found:
            return found
    return []


def _is_root(folder: Path) -> bool:
    lists = _below(folder, "ImageList")
    has_list = any(_below(lists, f"{word}{_ALL}").is_file() for word in ("", *_PARTS.values()))
    return has_list and _below(folder, "Groundtruth").is_dir()
