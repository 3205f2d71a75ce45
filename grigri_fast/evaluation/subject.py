"""What an evaluation scores: images that the model has not seen, and labels that are known.

Shapes: N images of the data set, C classes of the model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..errors import GrigriError
from ..pipeline import check
from ..pipeline.check import ImageCheck
from ..runs import run_folder
from ..runs.run_folder import CheckpointName, PartName
from ..runs.trained_on import TrainedOn
from ..runtime.compute import Compute
from ..runtime.files import StrPath

# What the model, or the choice of its epoch, knew of the images that are scored.
Exposure: TypeAlias = Literal["unseen", "seen", "chosen", "unknown"]

_NAMED = 20  # classes in a message


@dataclass(frozen=True)
class Subject:
    """Images to score.

    Attributes:
        data: their data set.
        rows: which of its images.
        words: the same in words.
        exposure: ``unseen``; ``seen``: the model was trained on all of them; ``chosen``: its epoch
            was chosen by the score of some; ``unknown``: the run does not say what it was trained
            on.
        seen: rows that are left out because the model was trained on them.
        gone: names of images of the run's part that the data do not have.
        targets_NC: 1.0 where an image has a label, columns as in the model, float32.
        unknown_NC: where that is not known, bool; None: everything is known.
        missing: classes of the model that the data do not know; their labels are all unknown.
        checked: what the check of these images and those left out has found.
    """

    data: Dataset
    rows: NDArray[np.intp]
    words: str
    exposure: Exposure
    seen: NDArray[np.intp]
    gone: list[str]
    targets_NC: NDArray[np.float32]
    unknown_NC: NDArray[np.bool_] | None
    missing: list[str]
    checked: ImageCheck

    def paths(self, rows: NDArray[np.intp]) -> list[Path]:
        """Return the files of some rows."""
        return [self.data.paths[row] for row in rows]


def choose(
    folder: Path,
    part: PartName | None,
    data: Dataset | None,
    *,
    corrections: StrPath | None = None,
    class_names: list[str],
    checkpoint: CheckpointName,
    compute: Compute,
    max_pixels: int,
) -> Subject:
    """Return what to score of a run's own data, or of other data.

    An image that the model was trained on, which its checksum tells, is left out. If it is all of
    them, they are scored, and the scores are called ``seen``.

    Args:
        folder: the run folder.
        part: of the run's split; None: ``val``, or all of ``data``.
        data: other data, or the run's own in another place; None: the run's own.
        corrections: of the run's own labels, instead of those that it was trained with.
        class_names: of the model.
        checkpoint: of the run.
        compute: whose threads check the images.
        max_pixels: larger images are bad.

    Raises:
        GrigriError: if the run's data cannot be read, there is no such part, or the data have a
            class that the model does not know.
    """

    def check_rows(rows: NDArray[np.intp]) -> ImageCheck:
        return check.check_images(
            labelled.paths, rows, threads=compute.threads, max_pixels=max_pixels
        )

    trained_on, gone = TrainedOn.read(folder), list[str]()
    if data is None:
        own = run_folder.open_part(folder, part or "val", corrections=corrections)
        labelled, rows, words = own.data, own.rows, f"{part or 'val'} part of {own.data.layout}"
    else:
        labelled, rows, words = data, np.arange(data.num_own), f"images of {data.layout}"
        if part is not None:
            if trained_on is None:
                raise GrigriError(f"--part {part}: {folder} has no {run_folder.DATA} to find it by")
            rows, gone = trained_on.find(part, data, lambda r: check_rows(r).crc32_N[r])
            words = f"{part} part of {data.layout}"
    targets_NC, unknown_NC, missing = _in_order(labelled, class_names)
    checked = check_rows(rows)
    exposure: Exposure = "unseen"
    is_seen_N = np.zeros(len(rows), dtype=bool)
    if trained_on is None:
        exposure = "unknown"
    else:
        is_seen_N = trained_on.has_seen(checked.crc32_N[rows])
    if part == "train" or is_seen_N.all():
        exposure, is_seen_N = "seen", np.zeros(len(rows), dtype=bool)
    elif trained_on and checkpoint == "best" and trained_on.chose_by(checked.crc32_N).any():
        exposure = "chosen"
    seen, rows = rows[is_seen_N], rows[~is_seen_N]
    return Subject(
        labelled, rows, words, exposure, seen, gone, targets_NC, unknown_NC, missing, checked
    )


def _in_order(
    labelled: Dataset, class_names: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, list[str]]:
    """Return targets and unknown labels with the model's classes as columns, and missing ones."""
    others = sorted(set(labelled.class_names) - set(class_names))
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise GrigriError(
            f"{labelled.layout}: the model does not know the class {others[0]!r}{more}, so it"
            f" cannot be scored on these labels; it knows {', '.join(class_names[:_NAMED])}"
            f"{' and more' if len(class_names) > _NAMED else ''}"
        )
    columns = [class_names.index(name) for name in labelled.class_names]
    missing = [name for name in class_names if name not in set(labelled.class_names)]
    targets_NC = np.zeros((len(labelled), len(class_names)), dtype=np.float32)
    targets_NC[:, columns] = labelled.targets_NC
    if labelled.unknown_NC is None and not missing:
        return targets_NC, None, missing
    unknown_NC = np.ones(targets_NC.shape, dtype=bool)
    unknown_NC[:, columns] = False if labelled.unknown_NC is None else labelled.unknown_NC
    return targets_NC, unknown_NC, missing
