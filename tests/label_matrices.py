"""Random label matrices, and data sets of labels alone."""

from pathlib import Path

import numpy as np

from grigri_fast.data.dataset import Dataset


def labelled(targets_NC: np.ndarray, names: list[str] | None = None, **fields) -> Dataset:
    """Return a data set without images."""
    n, num_classes = targets_NC.shape
    names = names or [f"im{i + 1}.jpg" for i in range(n)]
    classes = [f"class{c}" for c in range(num_classes)]
    targets_NC = targets_NC.astype(np.float32)
    return Dataset(names, [Path(x) for x in names], targets_NC, classes, "a set", **fields)


def matrix(
    num_images: int, num_classes: int, most_labels: int, uneven: float, seed: int, least: int = 1
) -> np.ndarray:
    """Return random labels (N, C), from ``least`` to ``most_labels`` an image.

    The frequency of class c goes with (c + 1) to the power of ``-uneven``.
    """
    rng = np.random.default_rng(seed)
    weight_C = np.arange(1, num_classes + 1, dtype=np.float64) ** -uneven
    num_N = rng.integers(least, min(most_labels, num_classes) + 1, num_images)
    # The largest of weighted random keys are a weighted draw (Efraimidis and Spirakis 2006).
    targets_NC = np.zeros((num_images, num_classes), dtype=np.bool_)
    for start in range(0, num_images, 10_000):
        of_rows = targets_NC[start : start + 10_000]
        keys_NC = rng.exponential(size=of_rows.shape) / weight_C
        num = num_N[start : start + 10_000]
        place_NC = np.argsort(np.argsort(keys_NC, axis=1), axis=1)
        of_rows[:] = place_NC < num[:, None]
    return targets_NC
