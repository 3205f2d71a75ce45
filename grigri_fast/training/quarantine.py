"""The images that are not used: which, why and since when; and how many are too many."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..errors import BetweenStepsError, GrigriError
from ..pipeline.check import require_few, without
from ..runs import run_folder
from ..runtime import files

BEFORE = 0  # the "epoch" of what was bad before training


class Quarantine:
    """What a run leaves out.

    Args:
        data: the data set.
        num_images: how many of its images the run uses.
        max_bad: share of them that may be bad.
        bad: reason and epoch by name; kept up to date, since it is part of a run's state.
    """

    def __init__(
        self, data: Dataset, num_images: int, max_bad: float, bad: dict[str, tuple[str, int]]
    ) -> None:
        self._data, self._num_images, self._max_bad = data, num_images, max_bad
        # Of what is bad alone: of all images it would be the largest part of a run's memory.
        self._row_of = {name: row for row, name in enumerate(data.names) if name in bad}
        self.bad = bad

    @property
    def num_allowed(self) -> int:
        """How many images may be bad."""
        return int(self._max_bad * self._num_images)

    def add(self, bad: dict[int, str], epoch: int) -> None:
        """Enter rows with their reasons.

        Raises:
            BetweenStepsError: if they would be too many then; none of them is entered.
        """
        self._row_of |= {self._data.names[row]: row for row in bad}
        names = {self._data.names[row]: (reason, epoch) for row, reason in bad.items()}
        all_bad = names | self.bad
        by_path = {self._path(name): reason for name, (reason, _) in all_bad.items()}
        try:
            require_few(by_path, self._num_images, self._max_bad)
        except GrigriError as e:
            raise BetweenStepsError(str(e)) from e
        for name in names:
            self.bad.setdefault(name, names[name])

    def rows(self, since: int = BEFORE) -> list[int]:
        """Return the rows that turned bad in epoch ``since`` or later."""
        return [self._row_of[name] for name, (_, epoch) in self.bad.items() if epoch >= since]

    def good(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of ``rows`` that are not in quarantine."""
        return without(rows, self.rows())

    def good_before(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of ``rows`` that were good when training began."""
        return without(rows, set(self.rows()) - set(self.rows(since=BEFORE + 1)))

    def write(self, folder: Path) -> None:
        """Write ``quarantine.csv`` if there is something to write."""
        rows = [
            {"path": self._path(name), "reason": reason, "since": _since(epoch)}
            for name, (reason, epoch) in self.bad.items()
        ]
        if rows:
            files.write_atomic(folder / run_folder.QUARANTINE, files.to_csv(rows))

    def in_words(self, folder: Path) -> str:
        """Return a line that says how many they are, and names the last one."""
        name, (reason, epoch) = list(self.bad.items())[-1]
        count = len(self.bad)
        return (
            f"{count:,} of {self._num_images:,} images cannot be used and"
            f" {'is' if count == 1 else 'are'} left out, listed in"
            f" {folder / run_folder.QUARANTINE};"
            f" {'the last is' if count > 1 else 'it is'} {self._path(name)}: {reason}"
            + (f" ({_since(epoch)})" if epoch != BEFORE else "")
        )

    def _path(self, name: str) -> Path:
        return self._data.paths[self._row_of[name]]


def _since(epoch: int) -> str:
    return "before training" if epoch == BEFORE else f"epoch {epoch}"
