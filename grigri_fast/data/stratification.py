"""Stratification of a data set: which image goes into which part.

First by iterative stratification of label pairs (scikit-multilearn, order 2: Szymański and
Kajdanowicz 2017, https://proceedings.mlr.press/v74/szyma%C5%84ski17a.html). It looks at one pair at
a time, so where most pairs have few images, it forgets how many images a part should have. Where
it does not keep the promise of :func:`split.stratify`, would take long, or images are in groups,
:mod:`balance` is used instead. Shapes: N images, C classes.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import imports
from . import balance
from .dataset import Dataset

# scikit-multilearn compares all pairs for each image, and searches it in the list of each of its
# pairs. More steps than these of either are not taken: some seconds (measured).
_MOST_WORK = 400_000_000


def stratify(dataset: Dataset, shares: Sequence[float], seed: int) -> NDArray[np.intp]:
    """Return the part of each image (N), a number from 0 on.

    Rows are sorted by name first, so that the same images get the same parts in whichever order a
    file lists them. Unknown labels count as absent.

    Args:
        dataset: the data set.
        shares: of the images, of train, val and perhaps test; they sum to 1.
        seed: breaks ties.

    Raises:
        GrigriError: if there are fewer than two images, or fewer groups than parts.
    """
    if len(dataset) < 2:
        raise GrigriError(f"{dataset.layout}: {len(dataset)} images are too few to be split")
    order = np.array(sorted(range(len(dataset)), key=lambda i: _natural_key(dataset.names[i])))
    has_NC = dataset.targets_NC[order] > 0
    if dataset.unknown_NC is not None:
        has_NC &= ~dataset.unknown_NC[order]
    labels_of = _labels_of(has_NC)
    groups = _groups(dataset, order)
    if groups is not None and len(groups) < len(shares):
        one = "all images are in one group" if len(groups) == 1 else f"only {len(groups)} groups"
        raise GrigriError(
            f"{dataset.layout}: {one}, and a group stays in one of {len(shares)} parts;"
            f" --group-column none takes images one by one"
        )
    part_of = None
    if groups is None:
        part_of = _by_pairs(has_NC, labels_of, shares, seed)
        if part_of is not None and not _is_kept(part_of, has_NC, shares):
            part_of = None
    if part_of is None:
        part_of = _by_balance(labels_of, groups, len(dataset.class_names), shares, seed)
    part_of_row = np.empty_like(part_of)
    part_of_row[order] = part_of
    return part_of_row


def _natural_key(name: str) -> str:
    """Sort im2 before im10; the name itself breaks ties such as im02 and im2.

    One text, since a million tuples take a gigabyte. A number is a NUL, which no name has and which
    comes before all else, the number of its digits as a character, and the digits.
    """

    def by_size(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        return f"\0{chr(1 + len(digits))}{digits}"

    return re.sub("[0-9]+", by_size, name) + "\0\0" + name


def _labels_of(has_NC: NDArray[np.bool_]) -> list[list[int]]:
    """Return the classes of each image, ascending."""
    _, classes = np.nonzero(has_NC)
    ends = np.cumsum(has_NC.sum(1)).tolist()
    flat = classes.tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _groups(dataset: Dataset, order: NDArray[np.intp]) -> list[list[int]] | None:
    """Return the places in ``order`` of each group's images; None if all images are alone."""
    if dataset.groups is None:
        return None
    places: dict[int, list[int]] = {}
    for place, group in enumerate(dataset.groups[order].tolist()):
        places.setdefault(group, []).append(place)
    return None if len(places) == len(dataset) else list(places.values())


def _by_pairs(
    has_NC: NDArray[np.bool_], labels_of: list[list[int]], shares: Sequence[float], seed: int
) -> NDArray[np.intp] | None:
    """Return the part of each image (N) by iterative stratification; None if it takes too long."""
    count: Counter[tuple[int, int]] = Counter()  # a class with itself is a pair, too
    for labels in labels_of:
        count.update((a, b) for i, a in enumerate(labels) for b in labels[i:])
        if 20 * len(count) * len(labels_of) > _MOST_WORK:
            return None
    if sum(n * n for n in count.values()) > _MOST_WORK:
        return None
    part_of = np.zeros(len(labels_of), dtype=np.intp)
    left = np.arange(len(labels_of))
    test = sum(shares[2:])
    for part, share in ((2, test), (1, shares[1] / (1 - test))):
        if share and len(left):
            inside = _cut(has_NC[left], share, seed)
            part_of[left[inside]] = part
            left = left[~inside]
    return part_of


def _cut(has_NC: NDArray[np.bool_], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which images (N) are in a stratified part of ``share`` of them."""
    # Imported here: it loads all of scikit-learn's model selection, and few commands split.
    with imports.heavy():
        from skmultilearn.model_selection.iterative_stratification import IterativeStratification

    stratifier = IterativeStratification(
        n_splits=2, order=2, sample_distribution_per_fold=[share, 1 - share]
    )
    # scikit-multilearn 0.2.0 draws from NumPy's global generator, and its random_state raises.
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        rows = np.zeros((len(has_NC), 1))
        _, inside = next(stratifier.split(rows, has_NC.astype(np.int64)))
    finally:
        np.random.set_state(before)
    return np.isin(np.arange(len(has_NC)), inside)


def _is_kept(part_of: NDArray[np.intp], has_NC: NDArray[np.bool_], shares: Sequence[float]) -> bool:
    """Return whether parts are as promised, so that there is no need for others."""
    num_images, num_classes = has_NC.shape
    far = max(0.01 * num_images, min(num_classes, 0.05 * num_images), 1)
    count_C = has_NC.sum(0)
    for part, share in enumerate(shares):
        is_in = part_of == part
        in_part_C = has_NC[is_in].sum(0)
        if abs(is_in.sum() - share * num_images) > far:
            return False
        if (np.abs(in_part_C - share * count_C) > far).any():
            return False
        if ((in_part_C == 0) & (count_C > part)).any():
            return False
    return True


def _by_balance(
    labels_of: list[list[int]],
    groups: list[list[int]] | None,
    num_classes: int,
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.intp]:
    """Return the part of each image (N) by :func:`balance.balance`."""
    if groups is None:
        ones = [[1] * n for n in range(1 + max(map(len, labels_of)))]  # the same list for many
        of_each = [ones[len(labels)] for labels in labels_of]
        alone = balance.Units(labels_of, of_each, [1] * len(labels_of), num_classes)
        return np.array(balance.balance(alone, shares, seed), dtype=np.intp)
    counts = [Counter(c for i in group for c in labels_of[i]) for group in groups]
    units = balance.Units(
        [sorted(count) for count in counts],
        [[count[c] for c in sorted(count)] for count in counts],
        [len(group) for group in groups],
        num_classes,
    )
    part_of = np.empty(len(labels_of), dtype=np.intp)
    for group, part in zip(groups, balance.balance(units, shares, seed), strict=True):
        part_of[group] = part
    return part_of
