"""A folder with a list of names for each part: train.txt, val.txt and perhaps test.txt."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import GrigriError
from ..runtime import files
from .layouts import IMAGE_SUFFIXES

# What a list may be called, in lower case, without .txt.
_CALLED = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}
_EXPECTED = (
    "a folder of names has train.txt, val.txt (or valid, validation, dev) and perhaps test.txt, a"
    " name per line"
)


def read(folder: Path, names: Sequence[str], layout: str) -> list[str]:
    """Return the part of each image (N), "" for those that no list names.

    A line is an image's name, with or without folders and suffix, as long as one image alone can be
    meant.

    Args:
        folder: of the lists.
        names: of the images (N).
        layout: where the images are, for messages.

    Raises:
        GrigriError: if a list is missing or twice there, or a line names no image, several, or one
            that is named already.
    """
    keys = [_by(names, key) for key in (str, _without_suffix, _base, _stem)]
    part_of = [""] * len(names)
    for part, file in _lists(folder).items():
        try:
            text = files.read_text(file)
        except GrigriError as e:
            raise GrigriError(f"split file {file}: {e}") from e
        for number, line in enumerate(text.splitlines(), start=1):
            name = line.strip().replace("\\", "/").removeprefix("./")
            if not name:
                continue
            where = f"split file {file} line {number}: {name!r:.80}"
            wanted = (name, name, _base(name), _base(name))
            rows = next((key[w] for key, w in zip(keys, wanted, strict=True) if w in key), [])
            if not rows:
                raise GrigriError(f"{where} is not the name of an image in {layout}")
            if len(rows) > 1:
                first, second = (names[row] for row in rows[:2])
                raise GrigriError(f"{where} can be {first} and {second}; write the whole name")
            if part_of[rows[0]]:
                raise GrigriError(f"{where} is in {part_of[rows[0]]} already")
            part_of[rows[0]] = part
    return part_of


def _lists(folder: Path) -> dict[str, Path]:
    """Return the list of each part."""
    found = {}
    texts = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt")
    for part, called in _CALLED.items():
        of_part = [path for path in texts if path.stem.lower() in called]
        if len(of_part) > 1:
            both = " and ".join(path.name for path in of_part[:2])
            raise GrigriError(f"split folder {folder}: {both} are the same part; leave one")
        if of_part:
            found[part] = of_part[0]
    if "train" not in found:
        raise GrigriError(f"split folder {folder}: no train.txt; {_EXPECTED}")
    return found


def _by(names: Sequence[str], key) -> dict[str, list[int]]:
    """Return the rows of the images by a key of their names."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(key(name), []).append(row)
    return rows


def _without_suffix(name: str) -> str:
    """Return a name without the suffix of an image."""
    path = PurePosixPath(name)
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    return name[: -len(path.suffix)] if is_image else name


def _base(name: str) -> str:
    """Return a name without its folders."""
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    """Return a name without its folders and the suffix of an image."""
    return _without_suffix(_base(name))
