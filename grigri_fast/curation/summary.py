"""What a data set holds: the numbers of ``data check``."""

import contextlib
import warnings
from collections import Counter, defaultdict
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
    same_pixels: dict[str, list[Path]] = defaultdict(list)
    for i, digest in sorted(checked.digests.items()):
        same_pixels[digest].append(data.paths[i])
    good = [i for i in range(len(data)) if i not in checked.bad]
    sizes = Counter((int(height), int(width)) for height, width in checked.sizes_HW[good])
    labels = Counter(data.targets_NC.sum(1).astype(int).tolist())
    return Summary(
        count_C=data.targets_NC.sum(0).astype(np.int64),
        labels_per_image=dict(sorted(labels.items())),
        sizes=sizes.most_common(),
        num_grayscale=sum(_is_grayscale(data.paths[i]) for i in good),
        duplicates=[paths for paths in same_pixels.values() if len(paths) > 1],
        bad={data.paths[i]: reason for i, reason in checked.bad.items()},
    )


def _is_grayscale(path: Path) -> bool:
    """Return whether a file that can be decoded stores a single channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd headers
        refusals = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
        with contextlib.suppress(*refusals), Image.open(path) as image:
            return image.mode in ("1", "L", "LA", "I", "I;16", "F")
    return False
