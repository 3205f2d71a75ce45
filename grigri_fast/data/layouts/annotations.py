"""The MIRFLICKR layout: ``images/im<N>.jpg``, and a file of image numbers per class."""

from pathlib import Path

from ...errors import GrigriError
from .labels import LabelOptions, Labels
from .reading import read_text


def is_here(data: Path) -> bool:
    """Whether it is a folder with annotations/ of text files."""
    folder = data / "annotations"
    return folder.is_dir() and any(path.suffix == ".txt" for path in folder.iterdir())


def read(data: Path, options: LabelOptions) -> Labels:
    """Read ``images/im<N>.jpg`` and ``annotations/<class>.txt``, a line N for each image.

    Raises:
        GrigriError: if a line is no number of an image, or files are missing.
    """
    options.require_only("images/ + annotations/")
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
        for line_number, line in enumerate(read_text(file).split("\n"), start=1):
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


def _image_number(text: str) -> int | None:
    """Return the number that ``text`` is in ASCII digits (18 at most), or None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
