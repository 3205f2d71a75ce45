"""What a data set holds: the numbers of ``data check``."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.dataset import Dataset
from ..pipeline import check


@dataclass(frozen=True)
class Summary:
    """What a data set holds, by its labels and by decoding every image.

    Attributes:
        count_C: images with each class's label.
        labels_per_image: how many images have how many labels, by number of labels.
        sizes: how many good images have each (height, width), the commonest first.
        num_grayscale: good images with a single channel.
        duplicates: groups of images whose decoded pixels are equal, as lists of paths.
        bad: reason by path, for each file that cannot be used.
    """

    count_C: NDArray[np.int64]
    labels_per_image: dict[int, int]
    sizes: list[tuple[tuple[int, int], int]]
    num_grayscale: int
    duplicates: list[list[Path]]
    bad: dict[Path, str]


def summarize(
    data: Dataset,
    *,
    threads: int,
    max_pixels: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Decode every image once and return what the data set holds."""
    checked = check.check_images(
        data.paths,
        threads=threads,
        max_pixels=max_pixels,
        digests=True,
        on_progress=on_progress,
    )
    good = check.without(np.arange(len(data)), checked.bad)
    sizes = Counter((int(height), int(width)) for height, width in checked.sizes_HW[good])
    numbers, counts = np.unique(data.targets_NC.sum(1).astype(np.int64), return_counts=True)
    assert checked.digests_N2 is not None
    return Summary(
        count_C=data.targets_NC.sum(0).astype(np.int64),
        labels_per_image=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        sizes=sizes.most_common(),
        num_grayscale=sum(_is_grayscale(data.paths[row]) for row in good),
        duplicates=[[data.paths[row] for row in rows] for rows in _equal(checked.digests_N2, good)],
        bad={data.paths[i]: reason for i, reason in checked.bad.items()},
    )


def _equal(digests_N2: NDArray[np.uint64], rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the groups of rows with equal digests, in the order of the first of each."""
    order = rows[np.lexsort((rows, digests_N2[rows, 1], digests_N2[rows, 0]))]
    is_new = np.ones(len(order) + 1, dtype=bool)
    is_new[1:-1] = (digests_N2[order[1:]] != digests_N2[order[:-1]]).any(1)
    starts = np.flatnonzero(is_new)
    several = np.flatnonzero(np.diff(starts) > 1)
    groups = [order[starts[i] : starts[i + 1]] for i in several]
    return sorted(groups, key=lambda group: group[0])


def _is_grayscale(path: Path) -> bool:
    """Return whether a file that can be decoded stores a single channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd headers
        refusals = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
        with contextlib.suppress(*refusals), Image.open(path) as image:
            return image.mode in ("1", "L", "LA", "I", "I;16", "F")
    return False
