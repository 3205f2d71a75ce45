"""What a row's last model says about photographs, kept beside it.

So the pages compare two rows photograph by photograph without a network. Shapes: N images, C
classes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runs import run_folder, sealed_file
from ..runtime import files

FILE = "predictions.safetensors"
_FORMAT = "grigri-fast predictions 1"


@dataclass(frozen=True)
class Predictions:
    """What one model says about some photographs.

    Attributes:
        rows_N: which photographs, as rows of the data set.
        probabilities_NC: of the labels, float64.
        targets_NC: the true labels, bool.
    """

    rows_N: NDArray[np.int64]
    probabilities_NC: NDArray[np.float64]
    targets_NC: NDArray[np.bool_]

    def among(self, rows: NDArray[np.int64]) -> "Predictions":
        """Return those of some photographs, all of which are among these."""
        order = np.argsort(self.rows_N)
        here = order[np.searchsorted(self.rows_N, rows, sorter=order)]
        return Predictions(rows, self.probabilities_NC[here], self.targets_NC[here])


def on_the_same(several: list[Predictions]) -> list[Predictions]:
    """Return several models' predictions on the photographs that all of them have, in one order."""
    rows = several[0].rows_N
    for one in several[1:]:
        rows = np.intersect1d(rows, one.rows_N)
    return [one.among(np.sort(rows)) for one in several]


def write(folder: Path, by_part: dict[str, Predictions]) -> None:
    """Store the predictions of a folder's last model, by part of the split.

    Raises:
        GrigriError: if they cannot be written, or there is no such model.
    """
    tensors = {
        f"{part}.{name}": torch.from_numpy(np.ascontiguousarray(array))
        for part, predictions in by_part.items()
        for name, array in vars(predictions).items()
    }
    fields = {"of_sha256": sha256(folder / run_folder.LAST)}
    sealed_file.write(folder / FILE, tensors, fields, _FORMAT)


def read(folder: Path) -> dict[str, Predictions]:
    """Return by part what :func:`write` stored; nothing if that is not of the model there now."""
    try:
        tensors, fields = sealed_file.read(folder / FILE, _FORMAT)
        if fields["of_sha256"] != sha256(folder / run_folder.LAST):
            return {}
        parts = sorted({name.partition(".")[0] for name in tensors})
        return {
            part: Predictions(
                tensors[f"{part}.rows_N"].numpy(),
                tensors[f"{part}.probabilities_NC"].numpy(),
                tensors[f"{part}.targets_NC"].numpy(),
            )
            for part in parts
        }
    except (GrigriError, KeyError):  # missing or damaged: they can be computed again
        return {}


def sha256(path: Path) -> str:
    """Return the checksum of a file.

    Raises:
        GrigriError: if it cannot be read.
    """
    return hashlib.sha256(files.read_bytes(path)).hexdigest()
