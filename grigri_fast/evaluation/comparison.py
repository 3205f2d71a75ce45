"""Several models on the same images: scores, paired differences, and who is right where.

Scores are those of ``eval``: with thresholds that were tuned on other images than they are applied
to. Shapes: M images, C classes, R replicates of the bootstrap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import bootstrap, metrics, thresholds
from .bootstrap import Interval, Replicated, Scores

Probabilities = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class OfModel:
    """One model beside the first.

    Attributes:
        scores: with 95 % intervals.
        differences: by the name of a score, how far it is above the first model's, with the 95 %
            interval of that.
        f1_C, average_precision_C: of each class, NaN without positives.
        f1_differences, average_precision_differences: of each class, as ``differences``.
    """

    scores: Scores
    differences: dict[str, Interval]
    f1_C: metrics.Array
    average_precision_C: metrics.Array
    f1_differences: list[Interval]
    average_precision_differences: list[Interval]


def compare(
    probabilities: Sequence[Probabilities], targets_MC: NDArray, unknown_MC: Bools | None = None
) -> list[OfModel]:
    """Return the scores of each model and how far they are above those of the first.

    The differences are paired: each replicate has the same images for all models.

    Args:
        probabilities: of each model, (M, C).
        targets_MC: 0/1 labels.
        unknown_MC: labels that are not known, which count nowhere; None: all are known.
    """
    targets_MC = targets_MC.astype(bool)
    if unknown_MC is not None:
        probabilities = [np.where(unknown_MC, -np.inf, one_MC) for one_MC in probabilities]
    weights_RM = bootstrap.draw_weights(len(targets_MC))
    has_enough = bootstrap.has_enough_positives(targets_MC.sum(0))
    found: list[OfModel] = []
    for one_MC in probabilities:
        each = _Replicates.of(one_MC, targets_MC, weights_RM)
        if not found:
            first = each
        differences = {
            name: (replicated - first.scores[name]).interval()
            if has_enough or name in ("micro_f1", "subset_accuracy")
            else _without_bounds(replicated.value - first.scores[name].value)
            for name, replicated in each.scores.items()
        }
        found.append(
            OfModel(
                each.with_intervals,
                differences,
                each.f1_C,
                each.average_precision_C,
                _by_class(each.f1_C, each.f1_RC, first.f1_C, first.f1_RC),
                _by_class(
                    each.average_precision_C,
                    each.average_precision_RC,
                    first.average_precision_C,
                    first.average_precision_RC,
                ),
            )
        )
    return found


@dataclass(frozen=True)
class _Replicates:
    """A model's scores in each replicate."""

    scores: dict[str, Replicated]
    with_intervals: Scores
    f1_C: metrics.Array
    f1_RC: metrics.Array
    average_precision_C: metrics.Array
    average_precision_RC: metrics.Array

    @classmethod
    def of(
        cls, probabilities_MC: Probabilities, targets_MC: Bools, weights_RM: NDArray
    ) -> "_Replicates":
        predicted_MC = thresholds.cross_fit(
            thresholds.best_f1_threshold, probabilities_MC, targets_MC
        )
        each = bootstrap.replicated_scores(predicted_MC, targets_MC, weights_RM)
        ap_C = metrics.average_precision(probabilities_MC, targets_MC)
        ap_RC = bootstrap.weighted_average_precision(probabilities_MC, targets_MC, weights_RM)
        mean_ap = bootstrap.replicated_mean(ap_C, ap_RC)
        support_C = targets_MC.sum(0)
        map_interval = bootstrap.mean_interval(mean_ap.value, mean_ap.replicates_R, support_C)
        return cls(
            scores={
                "micro_f1": each.micro_f1,
                "macro_f1": each.macro_f1,
                "subset_accuracy": each.subset_accuracy,
                "mAP": mean_ap,
            },
            with_intervals=bootstrap.intervals_of(each, targets_MC, map_interval),
            f1_C=np.where(support_C > 0, metrics.f1(each.counts), np.nan),
            f1_RC=metrics.f1(each.counts_R),
            average_precision_C=ap_C,
            average_precision_RC=ap_RC,
        )


def _by_class(
    value_C: NDArray, value_RC: NDArray, of_first_C: NDArray, of_first_RC: NDArray
) -> list[Interval]:
    """Return each class's difference to the first model, with its interval."""
    return [
        bootstrap.interval(float(value), replicates_R)
        for value, replicates_R in zip(
            value_C - of_first_C, (value_RC - of_first_RC).T, strict=True
        )
    ]


def _without_bounds(value: float) -> Interval:
    return Interval(value, float("nan"), float("nan"))


def changed_sides(
    first_MC: Bools, other_MC: Bools, targets_MC: NDArray, unknown_MC: Bools | None = None
) -> tuple[Bools, Bools]:
    """Return which labels another model gets right and the first wrong, and the other way round.

    Args:
        first_MC, other_MC: what each model predicts.
        targets_MC, unknown_MC: as in :func:`compare`.
    """
    targets_MC = targets_MC.astype(bool)
    is_changed_MC = first_MC != other_MC
    if unknown_MC is not None:
        is_changed_MC &= ~unknown_MC
    return is_changed_MC & (other_MC == targets_MC), is_changed_MC & (first_MC == targets_MC)
