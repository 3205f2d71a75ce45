"""The images and labels that a run was trained on, and whether they have changed since."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..errors import GrigriError
from ..runtime import files

# The second says of each image, too, which labels are unknown; it is written where some are.
_FORMATS = ("grigri-fast data 1", "grigri-fast data 2")
_UNKNOWN = -1  # the checksum of a file that was not read


@dataclass(frozen=True)
class _Image:
    """What is stored of an image: numbers of its classes and of those unknown, and checksum."""

    labels: list[int]
    crc32: int
    unknown: list[int]

    def in_words(self, class_names: Sequence[str]) -> str:
        """Return the labels, with a question mark where they are unknown."""
        names = [class_names[c] for c in self.labels] + [f"{class_names[c]}?" for c in self.unknown]
        return "+".join(names) or "no label"


def _images_of(data: Dataset, crc32_N: NDArray[np.int64]) -> list[_Image]:
    """Return what is stored of each image (N)."""
    unknown: list[list[int]] = [[]] * len(data)
    if data.unknown_NC is not None:
        unknown = [np.flatnonzero(row).tolist() for row in data.unknown_NC]
    labels = [np.flatnonzero(row).tolist() for row in data.targets_NC]
    return [_Image(*one) for one in zip(labels, crc32_N.tolist(), unknown, strict=True)]


def to_json(data: Dataset, crc32_N: NDArray[np.int64], before: Iterable[int] = ()) -> str:
    """Return the text of ``data.json``: names, labels and checksums, a line per image.

    ``before``: checksums of what the weights that a run begins with were trained on.
    """
    has_unknown = data.unknown_NC is not None
    lines = [
        json.dumps([name, one.labels, one.crc32, *([one.unknown] if has_unknown else [])])
        for name, one in zip(data.names, _images_of(data, crc32_N), strict=True)
    ]
    about = {"format": _FORMATS[has_unknown], "class_names": data.class_names}
    head = json.dumps(about | ({"seen_before": sorted(before)} if before else {}))
    images = ",\n".join(lines)
    return f'{head[:-1]},\n"images": [\n{images}\n]}}\n'


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
    then, class_names = _read(file)
    if crc32_N is None:
        crc32_N = np.full(len(data), _UNKNOWN)
    return _difference(then, class_names, data, crc32_N)


def checksums(file: Path) -> set[int]:
    """Return the checksums of the images in what :func:`to_json` wrote, without unknown ones.

    Raises:
        GrigriError: if the file cannot be read.
    """
    return set(checksum_of(file).values()) - {_UNKNOWN}


def checksum_of(file: Path) -> dict[str, int]:
    """Return by name the checksums of the images in what :func:`to_json` wrote; -1: unknown.

    Raises:
        GrigriError: if the file cannot be read.
    """
    return {name: one.crc32 for name, one in _read(file)[0].items()}


def seen_before(file: Path) -> set[int]:
    """Return the checksums of what the weights that a run began with were trained on.

    Raises:
        GrigriError: if the file cannot be read.
    """
    return set(_stored(file).get("seen_before", []))


def _read(file: Path) -> tuple[dict[str, _Image], list[str]]:
    """Return what is stored of each image by name, and the names of the classes."""
    stored = _stored(file)
    try:
        then = {
            name: _Image(labels, crc32, *(unknown or [[]]))
            for name, labels, crc32, *unknown in stored["images"]
        }
        return then, stored["class_names"]
    except (ValueError, KeyError, TypeError) as e:
        raise GrigriError(f"{file}: not written by grigri-fast: {e}") from e


def _stored(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(files.read_text(file))
        if stored["format"] not in _FORMATS:
            raise ValueError("of another version")
        return stored
    except GrigriError as e:
        raise GrigriError(f"{file}: {e}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise GrigriError(f"{file}: not written by grigri-fast: {e}") from e


def _difference(
    then: dict[str, _Image],
    class_names: Sequence[str],
    data: Dataset,
    crc32_N: NDArray[np.int64],
) -> str:
    """Return the first kind of difference in words, or ""."""
    if list(class_names) != data.class_names:
        return f"the classes were {', '.join(class_names)} and are {', '.join(data.class_names)}"
    now = set(data.names)
    added = [name for name in data.names if name not in then]
    removed = [name for name in then if name not in now]
    if added or removed:
        kinds = [("added", added), ("removed", removed)]
        return ", ".join(f"{_some(names)} {verb}" for verb, names in kinds if names)
    for i, (before, name) in enumerate(zip(then, data.names, strict=True)):
        if before != name:
            return f"the order of the images has changed: number {i + 1} was {before}, is {name}"
    images = dict(zip(data.names, _images_of(data, crc32_N), strict=True))
    words = {
        name: [image.in_words(class_names) for image in (then[name], one)]
        for name, one in images.items()
    }
    relabelled = [
        f"{name} (from {was} to {now})" for name, (was, now) in words.items() if was != now
    ]
    if relabelled:
        return f"{_some(relabelled)} relabelled"
    changed = [
        name
        for name, one in images.items()
        if one.crc32 != then[name].crc32 and _UNKNOWN not in (one.crc32, then[name].crc32)
    ]
    return f"the content of {_some(changed)} changed" if changed else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
