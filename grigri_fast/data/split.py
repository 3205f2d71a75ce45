"""Training, validation and test parts with equal class frequencies: iterative stratification."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files
from ..runtime.files import StrPath
from .dataset import Dataset, load
from .layouts import HowLabels

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Rows of a data set per part (``train``, ``val`` and perhaps ``test``), each ascending."""

    parts: dict[str, NDArray[np.intp]]

    def limited(self, num_images: int, seed: int) -> "Split":
        """Return a split with about ``num_images`` images in all, drawn at random per part.

        Raises:
            GrigriError: if too few images are left to train on.
        """
        total = sum(map(len, self.parts.values()))
        if num_images >= total:
            return self
        rng = np.random.default_rng(seed)
        fewer = {}
        for name, rows in self.parts.items():
            count = max(1, round(len(rows) * num_images / total))
            fewer[name] = np.sort(rng.permutation(rows)[:count])
        _check(fewer, "raise --limit")
        return Split(fewer)


@dataclass(frozen=True)
class SplitResult:
    """What :func:`split` returns; ``path`` is the file that was written, None if there is none."""

    dataset: Dataset
    split: Split
    path: Path | None


def split(
    data: StrPath,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    out: StrPath | None = None,
    images: StrPath | None = None,
    **how_labels: Unpack[HowLabels],
) -> SplitResult:
    """Split a data set by iterative stratification: the command ``data split``.

    It uses the labels alone: the images need not be there.

    Args:
        data: images and labels: a folder or a CSV.
        val: share of the images for validation, above 0.
        test: share of the images for the test part; 0 makes none.
        seed: breaks ties.
        out: write the split to this file, which ``train --split`` reads.
        images: the folder that a CSV's names are relative to.
        how_labels: how the labels are to be read, as in :class:`HowLabels`.

    Raises:
        GrigriError: if a value is out of range, the labels cannot be read, a part would get no
            image, or the file cannot be written.
    """
    if not 0 < val < 1:
        raise GrigriError(f"--val must be more than 0 and less than 1, not {val}")
    if not 0 <= test < 1:
        raise GrigriError(f"--test must be at least 0 and less than 1, not {test}")
    if val + test >= 1:
        raise GrigriError("--val and --test together leave nothing to train on")
    if not 0 <= seed < 2**32:
        raise GrigriError(f"--seed must be from 0 to {2**32 - 1}, not {seed}")
    dataset = load(data, images, **how_labels)
    parts = stratify(dataset, val, test, seed)
    path = None if out is None else Path(out)
    if path is not None:
        files.write_atomic(path, to_json(parts, dataset))
    return SplitResult(dataset, parts, path)


def stratify(dataset: Dataset, val: float, test: float = 0.0, seed: int = 0) -> Split:
    """Split a data set so that every part has the class frequencies of the whole.

    Iterative stratification of label pairs (scikit-multilearn, order 2: Szymański and Kajdanowicz
    2017). The rows are sorted by name first, so that the same images get the same parts in
    whichever order a file lists them. The result depends on names, labels and seed alone; the seed
    also deals out the images without labels. ``val`` and ``test`` are shares as in :func:`split`.

    Raises:
        GrigriError: if a part would get no image.
    """
    order = np.array(sorted(range(len(dataset)), key=lambda i: _natural_key(dataset.names[i])))
    targets_NC = dataset.targets_NC[order].astype(np.int64)
    rows = {}
    left = np.arange(len(dataset))
    for part, share in (("test", test), ("val", val / (1 - test))):
        if share == 0:
            continue
        if len(left) < 2:
            raise GrigriError(f"{dataset.layout}: {len(dataset)} images are too few to be split")
        inside, outside = _cut(targets_NC[left], share, seed)
        rows[part], left = order[left[inside]], left[outside]
    rows["train"] = order[left]
    parts = {name: np.sort(rows[name]) for name in PARTS if name in rows}
    _check(parts, "change --val or --test")
    return Split(parts)


def folds(dataset: Dataset, num_folds: int, seed: int = 0) -> list[NDArray[np.intp]]:
    """Return the rows of stratified parts of about equal size; each image is in one of them.

    Raises:
        GrigriError: if a part would get no image.
    """
    left = np.arange(len(dataset))
    parts = []
    for number in range(num_folds, 1, -1):
        if len(left) < 2 * number:
            raise GrigriError(f"{dataset.layout}: too few images for {num_folds} folds")
        rest = stratify(dataset.only(left), 1 / number, 0.0, seed).parts
        parts.append(left[rest["val"]])
        left = left[rest["train"]]
    return [*parts, left]


def nested_order(targets_NC: NDArray[np.float32], seed: int = 0) -> NDArray[np.intp]:
    """Return all rows in an order of which every beginning has the class frequencies of the whole.

    For subsets of growing size each of which holds the one before. An image stands for the rarest
    of its labels; the images of each class are spread evenly over the order, which of them comes
    first is random. So each beginning has of the rarest labels what it should have, but for one.
    """
    rng = np.random.default_rng(seed)
    num_images, num_classes = targets_NC.shape
    count_NC = np.where(targets_NC > 0, targets_NC.sum(0), np.inf)
    group_N = np.where(targets_NC.any(1), count_NC.argmin(1), num_classes)
    place_N = np.empty(num_images)
    for group in np.unique(group_N):
        rows = rng.permutation(np.flatnonzero(group_N == group))
        place_N[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place_N, kind="stable")


def _cut(
    targets_NC: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows inside and outside a stratified part of ``share`` of the images."""
    # Imported here: it loads all of scikit-learn's model selection, and few commands split.
    from skmultilearn.model_selection.iterative_stratification import IterativeStratification

    stratifier = IterativeStratification(
        n_splits=2, order=2, sample_distribution_per_fold=[share, 1 - share]
    )
    # scikit-multilearn 0.2.0 draws from NumPy's global generator, and its random_state raises.
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        outside, inside = next(stratifier.split(np.zeros((len(targets_NC), 1)), targets_NC))
    finally:
        np.random.set_state(before)
    return np.sort(inside), np.sort(outside)


def _natural_key(name: str) -> tuple:
    """Sort im2 before im10; the name itself breaks ties such as im02 and im2."""
    pieces = re.split(r"([0-9]+)", name)  # text and numbers by turns
    # A number by its length, then its digits: int() refuses numbers of thousands of digits.
    by_size = [(len(p.lstrip("0")), p.lstrip("0")) if i % 2 else p for i, p in enumerate(pieces)]
    return tuple(by_size), name


def _check(parts: dict[str, NDArray[np.intp]], advice: str) -> None:
    """Raise GrigriError if a part is too small to be used."""
    for name, rows in parts.items():
        if not len(rows):
            total = sum(map(len, parts.values()))
            raise GrigriError(f"the {name} part of {total} images is empty; {advice}")
    if len(parts["train"]) < 2:
        raise GrigriError(f"the train part has only one image, at least 2 are needed; {advice}")


def to_json(split: Split, dataset: Dataset) -> str:
    """Return the text of a split file: the image names of each part."""
    parts = {name: [dataset.names[i] for i in rows] for name, rows in split.parts.items()}
    return json.dumps({"format": "grigri-fast split 1", "parts": parts}, indent=1) + "\n"


def names(file: str | Path) -> dict[str, list[str]]:
    """Return the names of each part's images in a file that :func:`to_json` wrote.

    Raises:
        GrigriError: if the file is no split file.
    """
    try:
        content = json.loads(files.read_text(file))
        parts = content["parts"]
        if set(parts) - set(PARTS) or not {"train", "val"} <= set(parts):
            raise ValueError("the parts must be train, val and perhaps test")
        for part in parts.values():
            if not isinstance(part, list) or not all(isinstance(name, str) for name in part):
                raise ValueError("a part must be a list of image names")
        return parts
    except GrigriError as e:
        raise GrigriError(f"split file {file}: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise GrigriError(f"split file {file}: not written by `data split --out`: {e}") from e


def read(file: str | Path, dataset: Dataset) -> Split:
    """Return the split in a file that :func:`to_json` wrote, as rows of ``dataset``.

    Images of the data set that the file does not name are in no part.

    Raises:
        GrigriError: if the file is no split file, or names an image twice or one that the data
            set does not have.
    """
    parts = names(file)
    row_of = {name: i for i, name in enumerate(dataset.names)}
    part_of: dict[str, str] = {}
    for part, of_part in parts.items():
        for name in of_part:
            if name not in row_of:
                raise GrigriError(
                    f"split file {file}: {name} is in {part}, but not in {dataset.layout}"
                )
            if name in part_of:
                raise GrigriError(f"split file {file}: {name} is in {part_of[name]} and {part}")
            part_of[name] = part
    rows = {
        part: np.sort(np.array([row_of[n] for n in parts[part]], dtype=np.intp))
        for part in PARTS
        if part in parts
    }
    _check(rows, f"see split file {file}")
    return Split(rows)


def frequencies(split: Split, dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """Return each part's class frequencies (C,): the share of its images with the label."""
    return {
        name: dataset.targets_NC[rows].mean(0, dtype=np.float64)
        for name, rows in split.parts.items()
    }
