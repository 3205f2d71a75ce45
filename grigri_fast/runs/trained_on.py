"""Which images a run has seen: by checksum, wherever they lie now and whatever their name is.

A model knows by heart what it was trained on. So a score on those images says nothing of new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import split
from ..data.dataset import Dataset
from ..errors import GrigriError
from . import manifest, run_folder

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class TrainedOn:
    """The images of a run's parts, as they were when it began.

    Attributes:
        crc32_of: by part (``train``, ``val``, perhaps ``test``) and name, the checksum of each
            image; -1 where it was not read.
        before: checksums of what the weights that it began with were trained on, as far as their
            run says.
    """

    crc32_of: dict[str, dict[str, int]]
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
        crc32_of = manifest.checksum_of(file)
        parts = split.names(folder / run_folder.SPLIT)
        return cls(
            {part: {n: crc32_of.get(n, -1) for n in names} for part, names in parts.items()},
            frozenset(manifest.seen_before(file)),
        )

    @property
    def checksums(self) -> frozenset[int]:
        """Those of all images that the weights have been trained on."""
        return self.before | set(self.crc32_of["train"].values()) - {-1}

    def has_seen(self, crc32_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which checksums (N) are of images that the weights have been trained on."""
        return np.isin(crc32_N, list(self.checksums))

    def chose_by(self, crc32_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which checksums (N) are of validation images, by which the best was chosen."""
        return np.isin(crc32_N, list(set(self.crc32_of["val"].values()) - {-1}))

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
        wanted = self.crc32_of[part]
        rows = {name: row_of[name] for name in wanted if name in row_of}
        if len(rows) < len(wanted):
            others = np.setdiff1d(np.arange(len(data)), list(rows.values()))
            at = dict(zip(checksums(others).tolist(), others.tolist(), strict=True))
            at.pop(-1, None)
            rows |= {n: at[c] for n, c in wanted.items() if n not in rows and c in at}
        if not rows:
            raise GrigriError(
                f"{data.layout}: no image of the run's {part} part is there, neither by name nor by"
                f" content; without --part all images there are scored"
            )
        found = np.unique(np.fromiter(rows.values(), dtype=np.intp))
        return found, [name for name in wanted if name not in rows]
