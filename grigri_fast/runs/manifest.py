"""The images and labels that a run was trained on, and whether they have changed since."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..errors import GrigriError
from ..runtime import files

_FORMAT = "grigri-fast data 1"
_UNKNOWN = -1  # the checksum of a file that was not read


def to_json(data: Dataset, crc32_N: NDArray[np.int64]) -> str:
    """Return the text of ``data.json``: names, labels and checksums, a line per image."""
    lines = [
        json.dumps([name, np.flatnonzero(targets_C).tolist(), int(crc32)])
        for name, targets_C, crc32 in zip(data.names, data.targets_NC, crc32_N, strict=True)
    ]
    head = json.dumps({"format": _FORMAT, "class_names": data.class_names})
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
    return {crc32 for _, crc32 in _read(file)[0].values()} - {_UNKNOWN}


def _read(file: Path) -> tuple[dict[str, tuple[list[int], int]], list[str]]:
    """Return labels and checksum of each image by name, and the names of the classes."""
    try:
        stored = json.loads(files.read_text(file))
        if stored["format"] != _FORMAT:
            raise ValueError("of another version")
        then = {name: (labels, crc32) for name, labels, crc32 in stored["images"]}
        return then, stored["class_names"]
    except GrigriError as e:
        raise GrigriError(f"{file}: {e}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise GrigriError(f"{file}: not written by grigri-fast: {e}") from e


def _difference(
    then: dict[str, tuple[list[int], int]],
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
    relabelled = []
    for name, targets_C in zip(data.names, data.targets_NC, strict=True):
        before, after = (
            "+".join(class_names[c] for c in labels) or "no label"
            for labels in (then[name][0], np.flatnonzero(targets_C))
        )
        if before != after:
            relabelled.append(f"{name} (from {before} to {after})")
    if relabelled:
        return f"{_some(relabelled)} relabelled"
    changed = [
        name
        for name, crc32 in zip(data.names, crc32_N.tolist(), strict=True)
        if crc32 != then[name][1] and _UNKNOWN not in (crc32, then[name][1])
    ]
    return f"the content of {_some(changed)} changed" if changed else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
