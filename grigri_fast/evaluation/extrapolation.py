"""What more training images would bring: a power law through scores, and its uncertainty.

With n images a score is about ``ceiling - factor * n ** -exponent``. Shapes: F sizes of the
training part, ascending; R replicates, each of which has a score at every size.

Source: Hestness et al. 2017, arXiv 1712.00409 (errors fall by a power law of the number of images);
Mahmood et al. 2022, arXiv 2207.01725 (such extrapolations are too sure of themselves far out, which
is why ours ends at twice as many images).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import bootstrap
from .bootstrap import Interval

Array = NDArray[np.floating]

# Assumed: the exponents that learning curves of classifiers have, and then some.
_EXPONENTS = np.linspace(0.05, 1.5, 30)


@dataclass(frozen=True)
class PowerLaw:
    """One curve per replicate: ``ceiling_R - factor_R * (n / num_images) ** -exponent_R``.

    Attributes:
        num_images: the largest size that was measured, where n / num_images is 1.
        ceiling_R: the score that no number of images reaches, 1 at most.
        factor_R: how far below it the score with ``num_images`` is, 0 at least.
        exponent_R: how fast the distance shrinks.
    """

    num_images: int
    ceiling_R: Array
    factor_R: Array
    exponent_R: Array

    def at(self, num_images: Array | float) -> Array:
        """Return the scores with some numbers of images, shape (R,) or (R, numbers)."""
        share = np.asarray(num_images, dtype=np.float64) / self.num_images
        shape = (-1,) + (1,) * share.ndim
        ceiling, factor, exponent = (
            values_R.reshape(shape) for values_R in (self.ceiling_R, self.factor_R, self.exponent_R)
        )
        return ceiling - factor * share**-exponent


def fit_power_law(sizes_F: NDArray[np.int64], scores_RF: Array) -> PowerLaw:
    """Return the power laws that are nearest to scores, in the least squares.

    The exponent is the best of a grid; for each of them ceiling and factor are those of a straight
    line, with the factor not below 0 (more images do no harm) and the ceiling not above 1.
    """
    share_F = sizes_F / sizes_F[-1]
    mean_R = scores_RF.mean(1)
    best = np.full((4, len(scores_RF)), np.inf)  # error, ceiling, factor, exponent
    for exponent in _EXPONENTS:
        below_F = share_F**-exponent
        centred_F = below_F - below_F.mean()
        slope_R = -(scores_RF @ centred_F) / (centred_F @ centred_F)
        factor_R = np.maximum(slope_R, 0.0)
        ceiling_R = mean_R + factor_R * below_F.mean()
        too_high_R = ceiling_R > 1
        factor_R[too_high_R] = (1 - scores_RF[too_high_R]) @ below_F / (below_F @ below_F)
        ceiling_R[too_high_R] = 1.0
        fitted_RF = ceiling_R[:, None] - factor_R[:, None] * below_F
        error_R = ((scores_RF - fitted_RF) ** 2).sum(1)
        fit = np.stack([error_R, ceiling_R, factor_R, np.full_like(error_R, exponent)])
        best = np.where(error_R < best[0], fit, best)
    return PowerLaw(int(sizes_F[-1]), *best[1:])


@dataclass(frozen=True)
class Extrapolation:
    """What a score would be with more training images, by a power law.

    Attributes:
        num_images: how many that would be, twice as many as there are.
        score: the score with so many.
        gain: how much more that is than with all that there are.
        line: the law's score at each of ``line_images``, from the fewest measured to
            ``num_images``.
    """

    num_images: int
    score: Interval
    gain: Interval
    line_images: list[int]
    line: list[Interval]


def extrapolate(
    sizes_F: NDArray[np.int64], scores_F: Array, replicates_RF: Array, num_points: int = 40
) -> Extrapolation:
    """Return what twice as many images would bring.

    Args:
        sizes_F: numbers of training images.
        scores_F: the score with each.
        replicates_RF: the same scores of replicates, whose spread becomes that of the law's
            scores; a replicate with a NaN is left out.
        num_points: of the line.
    """
    twice = 2 * int(sizes_F[-1])
    known_RF = replicates_RF[~np.isnan(replicates_RF).any(1)]
    law = fit_power_law(sizes_F, scores_F[None])
    laws = fit_power_law(sizes_F, known_RF)
    points = np.unique(np.geomspace(sizes_F[0], twice, num_points).round())
    line, lines_R = law.at(points)[0], laws.at(points)
    gain, gains_R = (one.at(twice) - one.at(sizes_F[-1]) for one in (law, laws))
    return Extrapolation(
        num_images=twice,
        score=bootstrap.percentiles(float(law.at(twice)[0]), laws.at(twice)),
        gain=bootstrap.percentiles(float(gain[0]), gains_R),
        line_images=points.astype(int).tolist(),
        line=[bootstrap.percentiles(float(y), lines_R[:, i]) for i, y in enumerate(line)],
    )
