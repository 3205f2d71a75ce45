"""Pascal VOC: ``JPEGImages/`` with ``ImageSets/Main/<class>_<part>.txt`` or ``Annotations/*.xml``.

The format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html (sections 2.4 and
3.1). The files of a class say 1, -1 or 0 of each image of a part. 0 means that the class is only
there in ways hard to see ("difficult"), so that an image counts neither as one with the class nor
as one without: it is unknown here. Without such files the objects in the XML files count. XML files
beside their images are read by :mod:`voc_beside`.
"""

from collections import defaultdict
from collections.abc import Container
from pathlib import Path

from ...errors import GrigriError
from . import reading, voc_beside
from .labels import LabelOptions, Labels
from .voc_beside import Objects, read_objects

_IMAGES = ("JPEGImages", "images", "data")
_ANNOTATIONS = ("Annotations", "annotations", "labels")
_PARTS = ("train", "val", "test")
_EXPECTED = "expected JPEGImages/ with ImageSets/Main/<class>_<part>.txt or Annotations/*.xml"
_OFFICIAL = frozenset(
    {
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
        *("train", "tvmonitor"),
    }
)


def is_here(data: Path) -> bool:
    """Return whether ``data`` is a folder of VOC, or has such a folder in it."""
    return bool(_roots(data) or voc_beside.folders(data))


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the labels of a year of VOC: ``data`` or a folder in it.

    Raises:
        GrigriError: if there are several years or none, or if files are missing or wrong.
    """
    options.require_only("Pascal VOC", "images")
    roots = _roots(data)
    if not roots and voc_beside.folders(data):
        return voc_beside.read(data, voc_beside.folders(data), options)
    found = " and ".join(str(root.relative_to(data)) for root in roots)
    root = reading.only(data, roots, found, f"no Pascal VOC; {_EXPECTED}")
    folder = options.images or next(
        (root / name for name in _IMAGES if (root / name).is_dir()), root / _IMAGES[0]
    )
    name_of = reading.image_of_stem(folder)
    sets = _Sets(root / "ImageSets" / "Main")
    rows, used = reading.Rows(), set()
    objects = {} if sets.flags else _objects(root, sets, name_of)
    flags_of = sets.labels() if sets.flags else {s: found.flags for s, found in objects.items()}
    class_names = sorted({name for flags in flags_of.values() for name in flags})
    for stem, flags in flags_of.items():
        used.add(stem)
        rows.add(
            name_of.get(stem, f"{stem}.jpg"),
            str(sets.folder if sets.flags else _annotations(root)),
            [name for name in class_names if flags.get(name) == 1],
            [name for name in class_names if flags.get(name) == 0],
            sets.part_of.get(stem, ""),
        )
    files = "ImageSets/Main/<class>_<part>.txt" if sets.flags else "Annotations/*.xml"
    images = reading.counted(len(flags_of), "image")
    where = f" in {root.relative_to(data)}/" if root != data else ""
    notes = [f"{images}, labels from {files}{where}"]
    if sets.flags and any(0 in flags.values() for flags in flags_of.values()):
        notes.append('classes marked as "difficult" in an image are unknown there')
    notes += voc_beside.notes_on(objects.values())
    if {*class_names} < _OFFICIAL:
        notes.append(f"{len(class_names)} of Pascal VOC's 20 classes are there")
    secret = sets.secret(flags_of)
    if secret:
        images = reading.counted(len(secret), "image")
        notes.append(f"left out: {images} of test.txt, whose labels are not here")
    others = name_of.keys() - used - secret
    if others:
        images = reading.counted(len(others), "image")
        notes.append(f"left out: {images} in {folder.name} that no label file names")
    paths = [folder / name for name in rows.names]
    return rows.result(paths, class_names, f"{data} (Pascal VOC)", notes)


class _Sets:
    """The files in ImageSets/Main.

    Attributes:
        folder: the folder.
        flags: 1, 0 or -1 of each image by class and part.
        part_of: the part of each image that the files name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flags: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
        self.part_of: dict[str, str] = {}
        self._listed: dict[str, list[str]] = {}
        for file in reading.visible(folder, ".txt"):
            name, _, part = file.stem.rpartition("_")
            if part in (*_PARTS, "trainval") and name:
                self.flags[name][part] = _read_flags(file)
            else:
                self._listed[file.stem] = _read_names(file)
        for part in self._parts():
            word = "train" if part == "trainval" else part
            for stem in self._names(part):
                if self.part_of.setdefault(stem, word) != word:
                    raise GrigriError(
                        f"{folder}: {stem} is in both {self.part_of[stem]} and {word}; an image "
                        f"must be in one part"
                    )

    def _parts(self) -> list[str]:
        """Return the parts that there are; trainval counts as train if it is not split."""
        found = {part for parts in self.flags.values() for part in parts} | {*self._listed}
        parts = [part for part in _PARTS if part in found]
        if self.flags and not any("test" in of_class for of_class in self.flags.values()):
            parts = [part for part in parts if part != "test"]  # VOC 2012's are secret
        if "trainval" in found and not {"train", "val"} & found:
            parts.append("trainval")
        return parts

    def _names(self, part: str) -> list[str]:
        """Return the images of a part, of which all files of the part must know."""
        listed = self._listed.get(part)
        first, names = f"{part}.txt", listed
        for name, parts in self.flags.items():
            file = f"{name}_{part}.txt"
            if part not in parts:
                raise GrigriError(f"{self.folder / file}: not there, but other files of {part} are")
            if names is None:
                first, names = file, list(parts[part])
            missing = {*names} ^ parts[part].keys()
            if missing:
                raise GrigriError(
                    f"{self.folder}: {first} names {len(names)} images and {file} "
                    f"{len(parts[part])}; they differ in {min(missing)}"
                )
        return names or []

    def labels(self) -> dict[str, dict[str, int]]:
        """Return 1, 0 or -1 by image and class."""
        flags_of: dict[str, dict[str, int]] = {stem: {} for stem in self.part_of}
        for name, parts in self.flags.items():
            for part in self._parts():
                for stem, flag in parts[part].items():
                    flags_of[stem][name] = flag
            for stem, flag in parts.get("trainval", {}).items():
                if flags_of.get(stem, {}).get(name) != flag:
                    raise GrigriError(
                        f"{self.folder / f'{name}_trainval.txt'}: {stem} is there with {flag}, but "
                        f"not so in {name}_train.txt and {name}_val.txt"
                    )
        return flags_of

    def listed(self) -> set[str]:
        """Return the images that are named at all, in files without classes."""
        return {stem for stems in self._listed.values() for stem in stems}

    def secret(self, labelled: Container[str]) -> set[str]:
        """Return the images of the test part if none of them has labels, as in VOC 2012."""
        stems = self._listed.get("test", [])
        return set() if any(stem in labelled for stem in stems) else {*stems}


def _read_flags(file: Path) -> dict[str, int]:
    """Return 1, 0 or -1 of each image in the file of a class and a part."""
    flags: dict[str, int] = {}
    for line, text in reading.read_lines(file):
        words = text.rsplit(None, 1)
        if len(words) != 2 or words[1] not in ("1", "-1", "0"):
            raise GrigriError(
                f"{file} line {line}: expected an image and 1, -1 or 0, not {text[:60]!r}"
            )
        stem = reading.image_name(words[0], f"{file} line {line}")
        if stem in flags:
            raise GrigriError(f"{file} line {line}: {stem} stands there twice")
        flags[stem] = int(words[1])
    return flags


def _read_names(file: Path) -> list[str]:
    """Return the images that a file names, one a line, with or without a suffix."""
    return [
        _without_suffix(reading.image_name(text, f"{file} line {line}"))
        for line, text in reading.read_lines(file)
    ]


def _without_suffix(name: str) -> str:
    path = Path(name)
    is_image = path.suffix.lower() in reading.IMAGE_SUFFIXES
    return str(path.with_suffix("")) if is_image else name


def _objects(root: Path, sets: _Sets, stems: Container[str]) -> dict[str, Objects]:
    """Return what the XML files say of each image that is in a part, or of all images."""
    of: dict[str, Objects] = {}
    for file in reading.visible(_annotations(root), ".xml"):
        objects = read_objects(file, stems)
        if objects.stem in of:
            raise GrigriError(f"{file}: {objects.stem} was in another file already")
        of[objects.stem] = objects
    if not of:
        raise GrigriError(f"{root}: no class files and no Annotations/*.xml; {_EXPECTED}")
    listed = sets.listed() - sets.secret(of)
    if listed - of.keys():
        raise GrigriError(
            f"{sets.folder}: names {min(listed - of.keys())}, which has no file in "
            f"{_annotations(root)}"
        )
    return {stem: objects for stem, objects in of.items() if not listed or stem in listed}


def _annotations(root: Path) -> Path:
    folders = [root / name for name in _ANNOTATIONS if (root / name).is_dir()]
    return folders[0] if folders else root / _ANNOTATIONS[0]


def _is_root(folder: Path) -> bool:
    """Return whether a folder is a year of VOC."""
    if reading.visible(folder / "ImageSets" / "Main", ".txt"):
        return True
    files = reading.visible(_annotations(folder), ".xml")
    if not files or not any((folder / name).is_dir() for name in _IMAGES):
        return False
    return any("<annotation" in reading.head(file, 4096) for file in files[:5])


def _roots(data: Path) -> list[Path]:
    """Return the years of VOC in a folder: the folder itself, or those up to three folders deep."""
    level = [data]
    for _ in range(4):
        found = [folder for folder in level if _is_root(folder)]
        if found:
            return found
        below = [reading.folders_in(folder) for folder in level]
        level = [folder for folders in below for folder in folders]
        if len(level) > 100:
            return []
    return []
