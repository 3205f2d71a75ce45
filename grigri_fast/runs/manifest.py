"""The images and labels that a run was trained on, and whether they have changed since."""

import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import packed
from ..data.dataset import Dataset
from ..data.packed import Packed
from ..errors import GrigriError
from ..runtime import files

# The second says of each image, too, which labels are unknown; it is written where some are.
_FORMATS = ("grigri-fast data 1", "grigri-fast data 2")
_UNKNOWN = -1  # the checksum of a file that was not read
_BEFORE_IMAGES, _AFTER_IMAGES = ',\n"images": [\n', "\n]}\n"
_AT_A_TIME = 1024  # lines that are joined
_MOST_NAMED = 100  # classes in a message


class _Classes:
    """Numbers of classes of each of many images: two arrays instead of a list for each.

    Args:
        flat: the numbers of all images, one after the other.
        ends: where those of each image end (N).
    """

    def __init__(self, flat: NDArray[np.integer], ends: NDArray[np.integer]) -> None:
        self.flat, self.ends = flat.astype(np.int32), ends.astype(np.int64)

    @classmethod
    def of(cls, flags_NC: NDArray) -> "_Classes":
        """Return the classes whose flag is set."""
        rows, classes = np.nonzero(flags_NC)
        return cls(classes, np.bincount(rows, minlength=len(flags_NC)).cumsum())

    @classmethod
    def none(cls, num_images: int) -> "_Classes":
        """Return no class for any image."""
        return cls(np.empty(0, np.int32), np.zeros(num_images, np.int64))

    def __getitem__(self, row: int) -> list[int]:
        return self.flat[self.ends[row - 1] if row else 0 : self.ends[row]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.__getitem__, range(len(self.ends)))

    def same(self, other: "_Classes") -> bool:
        """Return whether all images have the same classes."""
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.flat, other.flat)


@dataclass(frozen=True)
class _Images:
    """What is stored of images: their names, classes and those unknown, and checksums, (N) each."""

    names: Packed[str]
    labels: _Classes
    unknown: _Classes
    crc32_N: NDArray[np.int64]

    def in_words(self, row: int, class_names: Sequence[str]) -> str:
        """Return the labels of an image, with a question mark where they are unknown."""
        names = [class_names[c] for c in self.labels[row]]
        return "+".join(names + [f"{class_names[c]}?" for c in self.unknown[row]]) or "no label"


def _images_of(data: Dataset, crc32_N: NDArray[np.int64]) -> _Images:
    """Return what is stored of a data set."""
    known = data.unknown_NC is None
    return _Images(
        packed.names(data.names),
        _Classes.of(data.targets_NC),
        _Classes.none(len(data)) if known else _Classes.of(data.unknown_NC),
        crc32_N,
    )


def to_json(data: Dataset, crc32_N: NDArray[np.int64], before: Iterable[int] = ()) -> str:
    """Return the text of ``data.json``: names, labels and checksums, a line per image.

    ``before``: checksums of what the weights that a run begins with were trained on.
    """
    has_unknown = data.unknown_NC is not None
    images = _images_of(data, crc32_N)
    unknown: Iterable[list[list[int]]] = ([one] for one in images.unknown)
    of_each = zip(
        images.names,
        images.labels,
        map(int, crc32_N),
        unknown if has_unknown else ([] for _ in crc32_N),
        strict=True,
    )
    lines = (json.dumps([*one, *more]) for *one, more in of_each)
    joined = iter(lambda: ",\n".join(itertools.islice(lines, _AT_A_TIME)), "")
    about = {"format": _FORMATS[has_unknown], "class_names": data.class_names}
    head = json.dumps(about | ({"seen_before": sorted(before)} if before else {}))
    return "".join([head[:-1], _BEFORE_IMAGES, ",\n".join(joined), _AFTER_IMAGES])


def require_same(file: Path, data: Dataset, crc32_N: NDArray[np.int64] | None = None) -> None:
    """Raise GrigriError, naming the difference, unless ``data`` is what ``file`` was made from.

    The arguments are those of :func:`difference`.
    """
    changed = difference(file, data, crc32_N)
    if changed:
        raise GrigriError(
            f"{data.layout} is not what this run was trained on: {changed}; a run is resumed on"
            f" the same data only (to go on from its weights with new data: train --weights"
            f" {file.parent / 'last.safetensors'})"
        )


def difference(file: Path, data: Dataset, crc32_N: NDArray[np.int64] | None = None) -> str:
    """Return in words how ``data`` differs from what ``file`` was made of, "" if it does not.

    Args:
        file: what :func:`to_json` wrote.
        data: the data set now.
        crc32_N: checksums now, -1 where unknown; names and labels alone are compared without.

    Raises:
        GrigriError: if the file cannot be read.
    """
    then, about = _read(file)
    if crc32_N is None:
        crc32_N = np.full(len(data), _UNKNOWN)
    return _difference(then, about["class_names"], _images_of(data, crc32_N), data.class_names)


@dataclass(frozen=True)
class Contents:
    """What :func:`to_json` wrote, without labels.

    Attributes:
        names: of the images (N).
        crc32_N: their checksums; -1: unknown.
        seen_before: checksums of what the weights that the run began with were trained on.
    """

    names: Packed[str]
    crc32_N: NDArray[np.int64]
    seen_before: frozenset[int]


def contents(file: Path) -> Contents:
    """Return what :func:`to_json` wrote, without labels.

    Raises:
        GrigriError: if the file cannot be read.
    """
    images, about = _read(file)
    return Contents(images.names, images.crc32_N, frozenset(about.get("seen_before", [])))


def checksums(file: Path) -> set[int]:
    """Return the checksums of the images in what :func:`to_json` wrote, without unknown ones.

    Raises:
        GrigriError: if the file cannot be read.
    """
    return set(_read(file)[0].crc32_N.tolist()) - {_UNKNOWN}


def _read(file: Path) -> tuple[_Images, dict[str, Any]]:
    """Return what is stored of the images, and of all of them together."""
    try:
        text = files.read_text(file)
        end = text.find(_BEFORE_IMAGES)
        if end >= 0 and text.endswith(_AFTER_IMAGES):  # as it was written: line by line
            about = json.loads(text[:end] + "}")
            lines = _lines(text, end + len(_BEFORE_IMAGES), len(text) - len(_AFTER_IMAGES))
            images: Iterable[Any] = map(json.loads, lines)
        else:
            about = json.loads(text)
            images = about["images"]
        if about["format"] not in _FORMATS:
            raise ValueError("of another version")
        return _collected(images, len(about["class_names"])), about
    except GrigriError as e:
        raise GrigriError(f"{file}: {e}") from e
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise GrigriError(f"{file}: not written by grigri-fast: {e}") from e


def _lines(text: str, start: int, end: int) -> Iterator[str]:
    """Yield the lines in a part of a text, without the comma at the end of each but the last."""
    while start < end:
        stop = text.find(",\n", start, end)
        stop = end if stop < 0 else stop
        yield text[start:stop]
        start = stop + 2


def _collected(images: Iterable[Any], num_classes: int) -> _Images:
    """Return what is stored of images, of a list for each.

    Raises:
        TypeError, ValueError, OverflowError: if one is not as it should be.
    """
    crc32, flat = array("q"), [array("q"), array("q")]
    ends = [array("q"), array("q")]

    def names() -> Iterator[str]:
        for name, labels, crc, *more in images:
            if not isinstance(name, str) or len(more) > 1:
                raise ValueError("an image must have a name, labels and a checksum")
            crc32.append(crc)
            for of_kind, numbers, end in zip(flat, (labels, *(more or [[]])), ends, strict=True):
                of_kind.extend(numbers)
                end.append(len(of_kind))
            yield name

    packed_names = packed.names(names())
    with_labels, with_unknown = (
        _Classes(np.array(of_kind, dtype=np.int64), np.array(end, dtype=np.int64))
        for of_kind, end in zip(flat, ends, strict=True)
    )
    for of_kind in (with_labels, with_unknown):
        if len(of_kind.flat) and not 0 <= of_kind.flat.min() <= of_kind.flat.max() < num_classes:
            raise ValueError("a label is none of the classes")
    return _Images(packed_names, with_labels, with_unknown, np.array(crc32, dtype=np.int64))


def _difference(
    then: _Images, classes_then: Sequence[str], now: _Images, classes_now: Sequence[str]
) -> str:
    """Return the first kind of difference in words, or ""."""
    if list(classes_then) != list(classes_now):
        return f"the classes were {_classes(classes_then)} and are {_classes(classes_now)}"
    if then.names != now.names:
        return _other_names(then.names, now.names)
    if not (then.labels.same(now.labels) and then.unknown.same(now.unknown)):
        relabelled = [
            f"{now.names[row]} (from {was} to {now.in_words(row, classes_now)})"
            for row in range(len(now.names))
            if (was := then.in_words(row, classes_now)) != now.in_words(row, classes_now)
        ]
        if relabelled:
            return f"{_some(relabelled)} relabelled"
    is_known_N = (then.crc32_N != _UNKNOWN) & (now.crc32_N != _UNKNOWN)
    rows = np.flatnonzero((then.crc32_N != now.crc32_N) & is_known_N)
    changed = [now.names[row] for row in rows.tolist()]
    return f"the content of {_some(changed)} changed" if changed else ""


def _other_names(then: Packed[str], now: Packed[str]) -> str:
    """Return in words how the names of images differ."""
    names_then, names_now = set(then), set(now)
    added = [name for name in now if name not in names_then]
    removed = [name for name in then if name not in names_now]
    if added or removed:
        kinds = [("added", added), ("removed", removed)]
        return ", ".join(f"{_some(names)} {verb}" for verb, names in kinds if names)
    pairs = enumerate(zip(then, now, strict=True), start=1)
    number, (was, name) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    return f"the order of the images has changed: number {number} was {was}, is {name}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _classes(names: Sequence[str]) -> str:
    """Return the names of classes, not all of them if they are very many."""
    return ", ".join(names) if len(names) <= _MOST_NAMED else _some(list(names))
