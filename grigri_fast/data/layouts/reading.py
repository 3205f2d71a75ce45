"""What the readers of data sets share: safe JSON and XML, names and parts, where images are."""

import codecs
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import GrigriError
from ...runtime import files
from .cells import PART_OF
from .labels import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES, Labels

_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
MAX_NAME = 1000  # characters; no file system has longer names
_MAX_BYTES = 2**30  # of a label file
_SAMPLE = 100  # so many images tell in which folder they are


def part_of(word: str) -> str:
    """Return "train", "val" or "test" for a word such as Validation or val2017, else ""."""
    return PART_OF.get(word.lower().rstrip("0123456789").rstrip("-_"), "")


def counted(num: int, noun: str) -> str:
    """Return a number with its noun, like "1 box" or "2,000 boxes"."""
    ending = "" if num == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{num:,} {noun}{ending}"


def listed(names: Iterable[str]) -> str:
    """Return names with commas, not all of them if there are many."""
    words = [name if len(name) <= 40 else f"{name[:37]}..." for name in names]
    return ", ".join([*words[:8], "..."] if len(words) > 8 else words)


# ------------------------------------------------------------------------------------- files


def read_text(file: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with its mark, as Excel's "Unicode Text".

    Raises:
        GrigriError: if it is none, or cannot be read.
    """
    try:
        content = files.read_bytes(file, _MAX_BYTES)
    except GrigriError as e:
        raise GrigriError(f"{file}: {e}") from e
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as e:
        line = 1 + content.count(b"\n", 0, e.start)
        raise GrigriError(
            f"{file} line {line}: not UTF-8 text (byte {e.start}); save the file as UTF-8 (in"
            ' Excel: "CSV UTF-8")'
        ) from e
    if "\0" in text:
        raise GrigriError(f"{file}: not a text file (it contains NUL)")
    return text


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, with their numbers from 1."""
    lines = enumerate(read_text(file).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        GrigriError: if it is no JSON, has a key twice in an object, or is nested too deeply to be
            labels.
    """
    try:
        return json.loads(read_text(file), object_pairs_hook=_unique)
    except ValueError as e:
        raise GrigriError(f"{file}: not valid JSON: {e}") from e
    except RecursionError as e:
        raise GrigriError(f"{file}: not labels: its JSON is nested too deeply") from e


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return found


def read_xml(file: Path) -> ElementTree.Element:
    """Return the root of an XML file.

    Raises:
        GrigriError: if it is no XML, or defines entities: a few lines of those expand to gigabytes
            (https://docs.python.org/3/library/xml.html#xml-security).
    """
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise GrigriError(f"{file}: XML with a DOCTYPE is not read; label files have none")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as e:
        raise GrigriError(f"{file}: not valid XML: {e}") from e


def head(file: Path, size: int = 65536, end: bool = False) -> str:
    """Return the first characters of a file (or its last), to guess what it is; "" if none."""
    try:
        with files.open_regular(file) as opened:
            if end:
                opened.seek(max(0, opened.seek(0, os.SEEK_END) - size))
            return opened.read(size).decode("utf-8", errors="replace").lstrip("\ufeff")
    except GrigriError:
        return ""


def visible(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder with one of the suffixes (lower case), without hidden ones.

    A folder that is not there has none.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 (a million names: far cheaper than paths)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        folder / name
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith(".")
    )


def folders_in(folder: Path, at_most: int = 100) -> list[Path]:
    """Return the folders in a folder, without hidden ones; none if there are very many."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []
    return [folder / name for name in names] if len(names) <= at_most else []


def only(data: Path, found: Sequence[Path], shown: str, missing: str) -> Path:
    """Return the one file or folder that was found.

    Args:
        data: where, for messages.
        found: what was found.
        shown: that in words.
        missing: what to say if nothing was found.

    Raises:
        GrigriError: if there is none, or there are several.
    """
    if len(found) == 1:
        return found[0]
    what = f"found {shown}; name one of them as DATA" if found else missing
    raise GrigriError(f"{data}: {what}")


# ------------------------------------------------------------------------------------ images


def image_name(value: object, where: str) -> str:
    """Return the name of an image as a relative path with '/'.

    Raises:
        GrigriError: if it is no text, empty, very long, or has control characters.
    """
    if not isinstance(value, str) or not value.strip():
        raise GrigriError(f"{where}: expected the name of an image, not {_short(value)}")
    if _CONTROL.search(value) or len(value) > MAX_NAME:
        raise GrigriError(f"{where}: {_short(value)} is not the name of a file")
    return os.path.normpath(value.strip().replace("\\", "/"))


def looks_like_image(cell: str) -> bool:
    """Return whether a cell ends like the name of an image file."""
    return bool(re.search(r"\.\w{3,4}$", cell)) and any(
        cell.lower().endswith(suffix) for suffix in (*IMAGE_SUFFIXES, *OPTIONAL_SUFFIXES)
    )


def image_file_name(value: object, where: str) -> str:
    """Return the name of an image, where names have an image's suffix.

    So a column that is not that of the images (a damaged header names another) is noticed.

    Raises:
        GrigriError: as :func:`image_name`, and if it has no such suffix.
    """
    name = image_name(value, where)
    if not looks_like_image(name):
        raise GrigriError(f"{where}: expected the name of an image file, not {_short(value)}")
    return name


def class_name(value: object, where: str) -> str:
    """Return the name of a class.

    Raises:
        GrigriError: if it is no text, empty, or very long.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME:
        raise GrigriError(f"{where}: expected the name of a class, not {_short(value)}")
    return value.strip()


def _short(value: object) -> str:
    text = repr(value[:60] if isinstance(value, str | bytes | list) else value)
    return text if len(text) < 80 else text[:77] + "..."


def exists(path: Path) -> bool:
    """Return whether there is such a file; a name that cannot be one is none."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for names that are too long)


def fitting_folder(names: Iterable[str], folders: Sequence[Path]) -> Path:
    """Return the folder that has most of the first names; the first folder if none has any."""
    sample = [name for name, _ in zip(names, range(_SAMPLE), strict=False)]
    return max(folders, key=lambda folder: sum(exists(folder / name) for name in sample))


def image_of_stem(folder: Path) -> dict[str, str]:
    """Return the names of a folder's images by their names without suffix.

    Raises:
        GrigriError: if two images differ only in the suffix.
    """
    found: dict[str, str] = {}
    for path in visible(folder, *IMAGE_SUFFIXES):
        if path.stem in found:
            raise GrigriError(
                f"{folder}: {found[path.stem]} and {path.name} differ only in the suffix, and the "
                f"labels name none; rename or remove one"
            )
        found[path.stem] = path.name
    return found


class Rows:
    """The images as a reader meets them. A name that comes twice is an error."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels: list[list[str]] = []
        self._unknown: list[list[str]] = []
        self._parts: list[str] = []
        self._where: dict[str, str] = {}

    def add(
        self,
        name: str,
        where: str,
        labels: Iterable[str],
        unknown: Iterable[str] = (),
        part: str = "",
    ) -> None:
        """Add an image; ``where`` is the place in the label file, for messages.

        Raises:
            GrigriError: if there is such an image already.
        """
        if name in self._where:
            raise GrigriError(f"{where}: {name} was in {self._where[name]} already")
        self._where[name] = where
        self.names.append(name)
        self.labels.append(list(dict.fromkeys(labels)))
        self._unknown.append(list(dict.fromkeys(unknown)))
        self._parts.append(part)

    def classes(self) -> list[str]:
        """Return the labels that images have, sorted."""
        return sorted({label for labels in self.labels for label in labels})

    def result(
        self, paths: list[Path], class_names: list[str], layout: str, notes: list[str]
    ) -> Labels:
        """Return all images; a part that is the only one is no split."""
        parts = None
        if {"val", "test"} & set(self._parts):
            parts = self._parts
        return Labels(
            self.names,
            paths,
            self.labels,
            class_names,
            layout,
            unknown=self._unknown if any(self._unknown) else None,
            parts=parts,
            notes=notes,
        )
