"""Which images a run has seen: by checksum, wherever they lie now and whatever their name is.

A model knows by heart what it was trained on. So a score on those images says nothing of new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import packed, split
from ..data.dataset import Dataset
from ..data.packed import Packed
from ..errors import GrigriError
from . import manifest, run_folder

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class TrainedOn:
    """The images of a run's parts, as they were when it began.

    Attributes:
        names: of the images of each part (``train``, ``val``, perhaps ``test``).
        crc32_of: their checksums by part, int64; -1 where one was not read.
        before: checksums of what the weights that it began with were trained on, as far as their
            run says.
    """

    names: dict[str, Packed[str]]
    crc32_of: dict[str, NDArray[np.int64]]
    before: frozenset[int] = frozenset()

    @classmethod
    def read(cls, folder: Path) -> "TrainedOn | None":
        """Return what a run folder says of it; None for one without ``data.json``.

        Raises:
            GrigriError: if a file is not what ``train`` writes.
        """
        file = folder / run_folder.DATA
        if not file.is_file():
            return None
        stored = manifest.contents(file)
        parts = split.names(folder / run_folder.SPLIT)
        return cls(
            {part: packed.names(names) for part, names in parts.items()},
            _checksums_of(parts, stored),
            stored.seen_before,
        )

    @property
    def checksums(self) -> frozenset[int]:
        """Those of all images that the weights have been trained on."""
        return self.before | set(self.crc32_of["train"].tolist()) - {-1}

    def has_seen(self, crc32_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which checksums (N) are of images that the weights have been trained on."""
        before = np.fromiter(self.before, dtype=np.int64)
        seen = np.concatenate([before, self.crc32_of["train"]])
        return np.isin(crc32_N, seen[seen != -1])

    def chose_by(self, crc32_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which checksums (N) are of validation images, by which the best was chosen."""
        of_val = self.crc32_of["val"]
        return np.isin(crc32_N, of_val[of_val != -1])

    def find(
        self, part: str, data: Dataset, checksums: Callable[[Rows], NDArray[np.int64]]
    ) -> tuple[Rows, list[str]]:
        """Return where images of a part are in data that have moved, and the names of the others.

        An image is found by its name; where the data have none of that name, by its checksum.

        Args:
            part: of the run's split.
            data: where to look.
            checksums: returns those of some rows of ``data``; called only if names differ.

        Raises:
            GrigriError: if the run has no such part, or the data have none of its images.
        """
        if part not in self.crc32_of:
            raise GrigriError(
                f"the run's split has no {part} part, only {', '.join(self.crc32_of)}"
            )
        row_of = {name: row for row, name in enumerate(data.names)}
        wanted = self.names[part]
        rows = np.array([row_of.get(name, -1) for name in wanted], dtype=np.intp)
        if (rows < 0).any():
            others = np.setdiff1d(np.arange(len(data)), rows)
            at = dict(zip(checksums(others).tolist(), others.tolist(), strict=True))
            at.pop(-1, None)
            for i in np.flatnonzero(rows < 0):
                rows[i] = at.get(int(self.crc32_of[part][i]), -1)
        if (rows < 0).all():
            raise GrigriError(
                f"{data.layout}: no image of the run's {part} part is there, neither by name nor by"
                f" content; without --part all images there are scored"
            )
        gone = [wanted[i] for i in np.flatnonzero(rows < 0).tolist()]
        return np.unique(rows[rows >= 0]), gone


def _checksums_of(
    parts: dict[str, list[str]], stored: manifest.Contents
) -> dict[str, NDArray[np.int64]]:
    """Return the checksums of the images of each part, -1 for one that is not stored.

    A part lists its images in the order of the data. So one walk along both finds all of them, in
    a time that does not grow faster than their number, as look-ups in a large dictionary do.
    """
    found: dict[str, list[int]] = {part: [] for part in parts}
    for name, crc32 in zip(stored.names, stored.crc32_N.tolist(), strict=True):
        for part, names in parts.items():
            number = len(found[part])
            if number < len(names) and names[number] == name:
                found[part].append(crc32)
    if any(len(found[part]) < len(names) for part, names in parts.items()):  # another order
        crc32_of = dict(zip(stored.names, stored.crc32_N.tolist(), strict=True))
        found = {part: [crc32_of.get(n, -1) for n in names] for part, names in parts.items()}
    return {part: np.array(of_part, dtype=np.int64) for part, of_part in found.items()}
