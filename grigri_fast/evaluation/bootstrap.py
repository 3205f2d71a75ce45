"""Intervals of scores by the bootstrap: images are drawn again and again, with replacement.

Shapes: N images, C classes, R replicates. A replicate is a row of ``weights_RN``: how often it drew
each image. Scores and targets are those of :mod:`metrics`.

Source: Efron 1979, doi 10.1214/aos/1176344552 (percentile intervals).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .metrics import (
    Array,
    Bools,
    Counts,
    as_bools,
    average_precision,
    count,
    for_each_class,
    macro_f1,
    mean_average_precision,
    micro_f1,
    ratio,
)

_WEIGHTS_AT_A_TIME = 10_000_000


@dataclass(frozen=True)
class Interval:
    """A score with the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """The four scores of one set of predictions, each with its bootstrap interval."""

    micro_f1: Interval
    macro_f1: Interval
    subset_accuracy: Interval
    mAP: Interval


@dataclass(frozen=True)
class Replicated:
    """A score, and what it is in each replicate (R,).

    Two scores on the same images with the same weights are paired: their difference, replicate by
    replicate, varies less than either, for what is hard in an image is hard for both.
    """

    value: float
    replicates_R: NDArray

    def __sub__(self, other: "Replicated") -> "Replicated":
        return Replicated(self.value - other.value, self.replicates_R - other.replicates_R)

    def interval(self) -> Interval:
        """Return the value with its 95 % percentile interval."""
        return interval(self.value, self.replicates_R)


def draw_weights(num_images: int, num_replicates: int = 1000, seed: int = 0) -> NDArray:
    """Return how often each replicate drew each image, shape (R, N), float32."""
    rng = np.random.default_rng(seed)
    weights_RN = np.empty((num_replicates, num_images), dtype=np.float32)
    for r in range(num_replicates):
        draws = rng.integers(num_images, size=num_images)
        weights_RN[r] = np.bincount(draws, minlength=num_images)
    return weights_RN


def map_interval(scores_NC: Array, targets_NC: Bools, weights_RN: NDArray) -> Interval:
    """Return mAP and its 95 % percentile interval over the replicates."""
    return replicated_map(scores_NC, targets_NC, weights_RN).interval()


def replicated_map(scores_NC: Array, targets_NC: Bools, weights_RN: NDArray) -> Replicated:
    """Return mAP over the replicates."""
    value = mean_average_precision(average_precision(scores_NC, targets_NC))
    ap_RC = weighted_average_precision(scores_NC, targets_NC, weights_RN)
    return Replicated(value, np.array([mean_average_precision(ap_C) for ap_C in ap_RC]))


def replicated_micro_f1(predicted_NC: Bools, targets_NC: Bools, weights_RN: NDArray) -> Replicated:
    """Return micro-F1 over the replicates."""
    predicted_NC, targets_NC = as_bools(predicted_NC), as_bools(targets_NC)
    value = float(micro_f1(count(predicted_NC, targets_NC)))
    return Replicated(value, micro_f1(weighted_counts(predicted_NC, targets_NC, weights_RN)))


def scores_with_intervals(
    predicted_NC: Bools, targets_NC: Bools, mean_ap: Interval, weights_RN: NDArray
) -> Scores:
    """Return the scores of predictions with 95 % percentile intervals over the replicates.

    Images are resampled, thresholds are not tuned again: an interval says how the score would vary
    over other validation sets of this size, with these thresholds. mAP, which does not depend on a
    threshold, is passed in.
    """
    c = count(predicted_NC, targets_NC)
    predicted_NC, targets_NC = as_bools(predicted_NC), as_bools(targets_NC)
    c_R = weighted_counts(predicted_NC, targets_NC, weights_RN)
    right_N = (predicted_NC == targets_NC).all(1)
    right_R = weights_RN @ right_N.astype(np.float32) / len(right_N)
    return Scores(
        micro_f1=interval(float(micro_f1(c)), micro_f1(c_R)),
        macro_f1=interval(float(macro_f1(c)), macro_f1(c_R)),
        subset_accuracy=interval(float(right_N.mean()), right_R),
        mAP=mean_ap,
    )


def weighted_counts(predicted_NC: Bools, targets_NC: Bools, weights_RN: NDArray) -> Counts:
    """Return the counts (R, C) of predictions on images that count ``weights_RN`` times each."""
    tp_RC = _weigh(weights_RN, predicted_NC & targets_NC)
    return Counts(
        tp=tp_RC,
        fp=_weigh(weights_RN, predicted_NC) - tp_RC,
        fn=_weigh(weights_RN, targets_NC) - tp_RC,
    )


def _weigh(weights_RN: NDArray, flags_NC: Bools) -> NDArray:
    """Return the summed weights of the flagged images (R, C), float64, a few classes at a time.

    The product is made in float32, where sums of draws are exact up to 2**24 images.
    """
    blocks = [
        weights_RN @ flags_NC[:, first : first + 64].astype(np.float32)
        for first in range(0, flags_NC.shape[1], 64)
    ]
    return np.concatenate(blocks, axis=1, dtype=np.float64)


def interval(value: float, replicates_R: NDArray) -> Interval:
    """Return the value between the 2.5 and 97.5 percentiles of its replicates; NaN is left out."""
    known = replicates_R[~np.isnan(replicates_R)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))


# ----------------------------------------------------------- average precision of replicates


def weighted_average_precision(scores_NC: Array, targets_NC: Bools, weights_RN: NDArray) -> NDArray:
    """Return AP (R, C) of images that count ``weights_RN`` times each.

    Precision matters only at the distinct scores of positives, the K cuts of a class. Which images
    each cut adds to those above is the same in all replicates: a sparse matrix of ones times the
    weights sums them, O(NR) per class without sorting or gathering any weight. In float32 the sums
    are exact for whole weights that come to less than 2**24.
    """
    num_chunks = 1 + weights_RN.size // _WEIGHTS_AT_A_TIME
    chunks = [np.ascontiguousarray(w.T) for w in np.array_split(weights_RN, num_chunks)]

    def of_class(scores_N: Array, targets_N: Bools) -> NDArray:
        cuts_K = np.unique(-scores_N[targets_N])  # the highest score first
        first_cut_N = np.searchsorted(cuts_K, -scores_N)  # K: below all positives
        ap_R = []
        for weights_NR in chunks:
            shown_KR = _sums(weights_NR, first_cut_N, len(cuts_K)).cumsum(0)
            steps_KR = _sums(weights_NR[targets_N], first_cut_N[targets_N], len(cuts_K))
            tp_KR = steps_KR.cumsum(0)
            positives_R = steps_KR.sum(0)
            ap = np.full(len(positives_R), np.nan)
            total_R = (steps_KR * ratio(tp_KR, shown_KR)).sum(0)
            np.divide(total_R, positives_R, out=ap, where=positives_R > 0)
            ap_R.append(ap)
        return np.concatenate(ap_R)

    return np.stack(for_each_class(of_class, scores_NC, targets_NC), axis=1)


def _sums(weights_NR: NDArray, group_N: NDArray[np.intp], num_groups: int) -> NDArray:
    """Return the sums of the weights of each group (G, R); groups from G on are left out."""
    member_GN = sparse.csc_array(
        (np.ones(len(group_N), np.float32), group_N, np.arange(len(group_N) + 1)),
        shape=(num_groups + 1, len(group_N)),
    )
    return (member_GN @ weights_NR)[:num_groups]
