"""Which images an epoch has: each of them once, or those with rare labels more often."""

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig
from ..pipeline import batching

_AT_A_TIME = 1024  # images


class Sampler:
    """Draws the images of an epoch, as ``sampler`` in a resolved config says.

    Args:
        config: of the run.
        rows: the images to train on.
        targets_NC: 0/1 labels of these rows.
        frequency_C: share of the images that have each label.
    """

    def __init__(
        self,
        config: TrainConfig,
        rows: NDArray[np.intp],
        targets_NC: NDArray,
        frequency_C: NDArray,
    ) -> None:
        self._rows, self._seed, self._factors_N = rows, config.seed, None
        if config.sampler == "balanced":
            self._factors_N = repeat_factors(targets_NC, frequency_C, config.most_repeats)

    def rows_of(self, epoch: int) -> NDArray[np.intp]:
        """Return the rows of an epoch, not shuffled; they depend on seed and epoch alone."""
        if self._factors_N is None:
            return self._rows
        return drawn(batching.epoch_rng(self._seed, epoch, "sampling"), self._rows, self._factors_N)


def repeat_factors(targets_NC: NDArray, frequency_C: NDArray, most: float) -> NDArray[np.float64]:
    """Return how often each image is to be seen beside one without rare labels, (N,).

    LVIS' repeat factors (Gupta et al. 2019, arXiv 1908.03195): a class of frequency f asks for
    sqrt(t / f), at least 1, and an image for the most that one of its classes asks for. Our t is
    the median of the classes' frequencies instead of a number to be tuned, and ``most`` caps it.
    """
    has_some = frequency_C > 0
    middle = np.median(frequency_C[has_some]) if has_some.any() else 1.0
    factor_C = np.sqrt(middle / np.maximum(frequency_C, 1e-12)).clip(1, most)
    # A few images at a time: all of them may have 10,000 classes each.
    factors_N = np.empty(len(targets_NC))
    for first in range(0, len(targets_NC), _AT_A_TIME):
        rows = slice(first, first + _AT_A_TIME)
        factors_N[rows] = np.where(targets_NC[rows] > 0, factor_C, 1.0).max(1)
    return factors_N


def drawn(
    rng: np.random.Generator, rows: NDArray[np.intp], factors: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return as many rows as there are, each in proportion to its factor.

    Systematic sampling: each row comes as often as is expected of it, rounded up or down.
    """
    ends = np.cumsum(factors) * (len(rows) / factors.sum())
    ends[-1] = len(rows)
    marks = np.floor(np.concatenate([[0.0], ends]) + rng.random()).astype(np.int64)
    return np.repeat(rows, np.diff(marks))
