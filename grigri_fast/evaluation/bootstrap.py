"""Intervals of scores, from the scores of random halves of the images.

Shapes: N images, C classes, R replicates. A replicate is a row of ``weights_RN``: 1 for the images
of a random half, else 0. Scores and targets are those of :mod:`metrics`.

A mean over half of the images varies about the mean over all of them as that varies about the
truth, so halves tell the variance, as draws with replacement do. They tell the bias, too: average
precision is too high with few positives by about c / n, and with half of them by twice that. Draws
with replacement have every image several times, as a tie with itself, and get that bias wrong.
``benchmarks/bench_coverage.py`` compares the ways to make an interval.

Source: Owen and Eckles 2012, doi 10.1214/12-AOAS547 (the "double-or-nothing" bootstrap); McCarthy
1969, doi 10.2307/1402116 (half-samples, with the complement of each); Wilson 1927,
doi 10.1080/01621459.1927.10502953 (the interval of a share).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

_WEIGHTS_AT_A_TIME = 4_000_000  # of each thread, as float32


# Positives per class, on average, below which the mean over classes gets no interval: it would hold
# the truth in far less than 19 of 20 cases (measured: benchmarks/bench_coverage.py).
LEAST_POSITIVES = 5
_Z = 1.959964  # standard deviations on both sides of a mean that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Interval:
    """A score with the bounds of its 95 % interval, which holds it; NaN where there are none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """The four scores of one set of predictions, each with its interval.

    Macro-F1 and mAP have none where the classes have too few positives (``LEAST_POSITIVES``).
    """

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
        """Return the value with its 95 % interval."""
        return interval(self.value, self.replicates_R)


def draw_weights(num_images: int, num_replicates: int = 1000, seed: int = 0) -> NDArray:
    """Return which images each replicate has, shape (R, N), uint8: 1 for about half, else 0.

    Two replicates in a row are the two halves of all images. A thousand of them take 1 kB per
    image, so they are in bytes and become float32, for sums of them, some at a time.
    """
    rng = np.random.default_rng(seed)
    weights_RN = np.empty((num_replicates, num_images), dtype=np.uint8)
    for r in range(0, num_replicates, 2):
        weights_RN[r] = rng.integers(0, 2, num_images, dtype=np.uint8)
        weights_RN[r + 1 : r + 2] = 1 - weights_RN[r]
    return weights_RN


def map_interval(scores_NC: Array, targets_NC: Bools, weights_RN: NDArray) -> Interval:
    """Return mAP and its 95 % interval over the replicates."""
    found = replicated_map(scores_NC, targets_NC, weights_RN)
    return mean_interval(found.value, found.replicates_R, as_bools(targets_NC).sum(0))


def replicated_map(scores_NC: Array, targets_NC: Bools, weights_RN: NDArray) -> Replicated:
    """Return mAP over the replicates."""
    ap_C = average_precision(scores_NC, targets_NC)
    return replicated_mean(ap_C, weighted_average_precision(scores_NC, targets_NC, weights_RN))


def replicated_mean(ap_C: Array, ap_RC: Array) -> Replicated:
    """Return mAP over the replicates, from average precisions."""
    return Replicated(
        mean_average_precision(ap_C), np.array([mean_average_precision(one_C) for one_C in ap_RC])
    )


def replicated_micro_f1(predicted_NC: Bools, targets_NC: Bools, weights_RN: NDArray) -> Replicated:
    """Return micro-F1 over the replicates."""
    predicted_NC, targets_NC = as_bools(predicted_NC), as_bools(targets_NC)
    value = float(micro_f1(count(predicted_NC, targets_NC)))
    return Replicated(value, micro_f1(weighted_counts(predicted_NC, targets_NC, weights_RN)))


@dataclass(frozen=True)
class ReplicatedScores:
    """What predictions score in each replicate, and the counts that F1 is of.

    Attributes:
        counts: of all images, (C,); counts_R: of each replicate, (R, C).
        micro_f1, macro_f1: of these counts.
        subset_accuracy: the share of images whose labels are all right.
    """

    counts: Counts
    counts_R: Counts
    micro_f1: Replicated
    macro_f1: Replicated
    subset_accuracy: Replicated


def replicated_scores(
    predicted_NC: Bools, targets_NC: Bools, weights_RN: NDArray
) -> ReplicatedScores:
    """Return the scores of predictions, but for mAP, over the replicates."""
    predicted_NC, targets_NC = as_bools(predicted_NC), as_bools(targets_NC)
    c, c_R = count(predicted_NC, targets_NC), weighted_counts(predicted_NC, targets_NC, weights_RN)
    right_N = (predicted_NC == targets_NC).all(1)
    right_R = ratio(_weigh(weights_RN, right_N[:, None])[:, 0], weights_RN.sum(1))
    return ReplicatedScores(
        counts=c,
        counts_R=c_R,
        micro_f1=Replicated(float(micro_f1(c)), micro_f1(c_R)),
        macro_f1=Replicated(float(macro_f1(c)), macro_f1(c_R)),
        subset_accuracy=Replicated(float(right_N.mean()), right_R),
    )


def scores_with_intervals(
    predicted_NC: Bools, targets_NC: Bools, mean_ap: Interval, weights_RN: NDArray
) -> Scores:
    """Return the scores of predictions with 95 % intervals over the replicates.

    Images are resampled, thresholds are not tuned again: an interval says where the score would be
    on endless images of the same kind, with these thresholds. mAP, which does not depend on a
    threshold, is passed in.
    """
    found = replicated_scores(predicted_NC, targets_NC, weights_RN)
    return intervals_of(found, as_bools(targets_NC), mean_ap)


def intervals_of(found: ReplicatedScores, targets_NC: Bools, mean_ap: Interval) -> Scores:
    """Return scores with their 95 % intervals; that of mAP is passed in."""
    c, micro, accuracy = found.counts, found.micro_f1, found.subset_accuracy
    macro = found.macro_f1
    num_labels = int((c.tp + c.fp + c.fn).sum())  # those that say something of F1
    return Scores(
        micro_f1=score_interval(micro.value, micro.replicates_R, num_labels),
        macro_f1=mean_interval(macro.value, macro.replicates_R, targets_NC.sum(0)),
        subset_accuracy=score_interval(accuracy.value, accuracy.replicates_R, len(targets_NC)),
        mAP=mean_ap,
    )


def has_enough_positives(support_C: NDArray) -> bool:
    """Return whether classes have the positives that an interval of their mean score takes."""
    with_some = support_C[support_C > 0]
    return len(with_some) > 0 and bool(with_some.mean() >= LEAST_POSITIVES)


def mean_interval(value: float, replicates_R: NDArray, support_C: NDArray) -> Interval:
    """Return a mean of classes' scores, with an interval if they have enough positives.

    ``support_C``: positives of each class.
    """
    if not has_enough_positives(support_C):
        return Interval(value, float("nan"), float("nan"))
    return score_interval(value, replicates_R, int(support_C.sum()))


def weighted_counts(predicted_NC: Bools, targets_NC: Bools, weights_RN: NDArray) -> Counts:
    """Return the counts (R, C) of predictions on images that count ``weights_RN`` times each."""
    tp_RC = _weigh(weights_RN, predicted_NC & targets_NC)
    return Counts(
        tp=tp_RC,
        fp=_weigh(weights_RN, predicted_NC) - tp_RC,
        fn=_weigh(weights_RN, targets_NC) - tp_RC,
    )


def _weigh(weights_RN: NDArray, flags_NC: Bools) -> NDArray:
    """Return the summed weights of the flagged images (R, C), float64, some of both at a time.

    The product is made in float32, where sums of draws are exact up to 2**24 images.
    """
    sums_RC = np.empty((len(weights_RN), flags_NC.shape[1]))
    most = max(1, _WEIGHTS_AT_A_TIME // max(1, weights_RN.shape[1]))
    for r in range(0, len(weights_RN), most):
        some_RN = weights_RN[r : r + most].astype(np.float32, copy=False)
        for c in range(0, flags_NC.shape[1], 64):
            sums_RC[r : r + most, c : c + 64] = some_RN @ flags_NC[:, c : c + 64].astype(np.float32)
    return sums_RC


def interval(value: float, replicates_R: NDArray) -> Interval:
    """Return a number of any sign, such as a difference of scores, with its 95 % interval."""
    bias, variance = _moments(value, replicates_R)
    if np.isnan(variance):
        return Interval(value, float("nan"), float("nan"))
    centre, reach = value - bias, _Z * variance**0.5
    return _around(value, centre - reach, centre + reach)


def score_interval(value: float, replicates_R: NDArray, num_labels: int) -> Interval:
    """Return a score from 0 to 1 with its 95 % interval; NaN in the replicates is left out.

    Wilson's interval of a share of as many labels as vary like the score, but of 4 times
    ``num_labels`` at most. Its centre is the score without its bias, and it is stretched to hold
    the score.

    Args:
        value: the score.
        replicates_R: what it is in each replicate.
        num_labels: how many labels (or images) it rests on.
    """
    bias, variance = _moments(value, replicates_R)
    if np.isnan(variance) or num_labels < 1:
        return Interval(value, float("nan"), float("nan"))
    centre = min(max(value - bias, 0.0), 1.0)
    spread = centre * (1 - centre)
    most = 4 * num_labels if 0 < value < 1 else num_labels
    n = min(most, spread / variance) if variance > 0 and spread > 0 else most
    middle = (centre + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * (spread / n + _Z**2 / (4 * n**2)) ** 0.5
    return _around(value, middle - reach, middle + reach)


def percentiles(value: float, replicates_R: NDArray) -> Interval:
    """Return a number between the 2.5 and 97.5 percentiles of its replicates, or its own bound."""
    known = replicates_R[~np.isnan(replicates_R)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    return _around(value, *np.percentile(known, [2.5, 97.5]))


def _moments(value: float, replicates_R: NDArray) -> tuple[float, float]:
    """Return the bias of a value and the square of its error, by its replicates; NaN if unknown.

    The error is that of the value without bias, which is not known well: half of its square is
    added to the variance (measured: benchmarks/bench_coverage.py).
    """
    known = replicates_R[~np.isnan(replicates_R)]
    if not len(known):
        return float("nan"), float("nan")
    bias = float(known.mean() - value)
    return bias, float(known.var() + bias**2 / 2)


def _around(value: float, low: float, high: float) -> Interval:
    return Interval(value, float(min(value, low)), float(max(value, high)))


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
        first_cut_N = np.searchsorted(cuts_K, -scores_N)
        shown = np.flatnonzero(first_cut_N < len(cuts_K))  # the others are below all positives
        positive = np.flatnonzero(targets_N)
        ap_R = []
        for weights_NR in chunks:
            shown_KR = _sums(weights_NR[shown], first_cut_N[shown], len(cuts_K)).cumsum(0)
            steps_KR = _sums(weights_NR[positive], first_cut_N[positive], len(cuts_K))
            tp_KR = steps_KR.cumsum(0)
            positives_R = steps_KR.sum(0)
            ap = np.full(len(positives_R), np.nan)
            total_R = (steps_KR * ratio(tp_KR, shown_KR)).sum(0)
            np.divide(total_R, positives_R, out=ap, where=positives_R > 0)
            ap_R.append(ap)
        return np.concatenate(ap_R)

    return np.stack(for_each_class(of_class, scores_NC, targets_NC), axis=1)


def _sums(weights_NR: NDArray, group_N: NDArray[np.intp], num_groups: int) -> NDArray:
    """Return the sums of the weights of each group (G, R), float32 for weights in bytes."""
    from scipy import sparse  # it takes as long to load as a small run to score

    if weights_NR.dtype.kind != "f":
        weights_NR = weights_NR.astype(np.float32)
    member_GN = sparse.csc_array(
        (np.ones(len(group_N), np.float32), group_N, np.arange(len(group_N) + 1)),
        shape=(num_groups, len(group_N)),
    )
    return member_GN @ weights_NR
