"""Scores of multi-label predictions: pure functions of scores and targets (NumPy, on the host).

Shapes: N images, C classes, R bootstrap replicates. ``targets_NC`` are booleans (or 0/1),
``scores_NC`` are any scores that grow with the belief in a label (probabilities or logits); a label
is predicted where ``score >= threshold``. A ratio without a denominator is 0, as in scikit-learn's
``zero_division=0``. Average precision of a class without positives does not exist: it is NaN, and
``mAP`` leaves such classes out.

Made for 100,000 images x 1,000 classes on two cores: scores stay in their own dtype, sorting is the
dearest step, and what has to be sorted class by class is shared among threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives per class, each of shape (..., C)."""

    tp: NDArray
    fp: NDArray
    fn: NDArray


def count(predicted_NC: Bools, targets_NC: Bools) -> Counts:
    """Return the counts per class of boolean predictions."""
    predicted_NC, targets_NC = _bools(predicted_NC), _bools(targets_NC)
    tp_C = (predicted_NC & targets_NC).sum(0)
    return Counts(tp=tp_C, fp=predicted_NC.sum(0) - tp_C, fn=targets_NC.sum(0) - tp_C)


def _bools(flags: NDArray) -> Bools:
    """Return flags as booleans, without a copy where they are."""
    return np.asarray(flags).astype(bool, copy=False)


_CLASSES_AT_A_TIME = 16  # a cache line of float32 scores
_MAX_THREADS = 8  # each has its own copies to sort


def _each_class(work: Callable[[Array, Bools], Any], scores_NC: Array, targets_NC: Bools) -> list:
    """Return ``work(scores_N, targets_N)`` of each class, on as many threads as there are CPUs.

    NumPy sorts without holding Python's lock. Copying a block of columns at once reads each cache
    line of the scores once, not once per class.
    """

    def work_on_block(first: int) -> list:
        block = slice(first, first + _CLASSES_AT_A_TIME)
        scores_CN = np.ascontiguousarray(scores_NC[:, block].T)
        targets_CN = _bools(np.ascontiguousarray(targets_NC[:, block].T))
        return [work(s, t) for s, t in zip(scores_CN, targets_CN, strict=True)]

    firsts = range(0, scores_NC.shape[1], _CLASSES_AT_A_TIME)
    with ThreadPoolExecutor(min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
        return [result for block in pool.map(work_on_block, firsts) for result in block]


def _ratio(a: NDArray, b: NDArray) -> Array:
    """Return a / b, and 0 where b is 0."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def precision(c: Counts) -> Array:
    """Return the precision per class: which share of the predicted labels is right."""
    return _ratio(c.tp, c.tp + c.fp)


def recall(c: Counts) -> Array:
    """Return the recall per class: which share of the true labels is predicted."""
    return _ratio(c.tp, c.tp + c.fn)


def f1(c: Counts) -> Array:
    """Return F1 per class: the harmonic mean of precision and recall, 2TP / (2TP + FP + FN)."""
    return _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def micro_f1(c: Counts) -> Array:
    """Return F1 of all labels of all classes in one pot (the last axis is summed)."""
    return f1(Counts(c.tp.sum(-1), c.fp.sum(-1), c.fn.sum(-1)))


def macro_f1(c: Counts) -> Array:
    """Return the plain mean of the classes' F1."""
    return f1(c).mean(-1)


def subset_accuracy(predicted_NC: Bools, targets_NC: Bools) -> float:
    """Return the share of images whose labels are all right (the report's "accuracy")."""
    return float((_bools(predicted_NC) == _bools(targets_NC)).all(1).mean())


def average_precision(scores_NC: Array, targets_NC: Bools) -> Array:
    """Return the average precision per class (C,), float64; NaN for a class without positives.

    As in scikit-learn: sum over the distinct scores of (recall step) x (precision), so that ties
    are one step and the order of the images does not matter.
    """
    return np.array(_each_class(_average_precision, scores_NC, targets_NC), dtype=np.float64)


def _average_precision(scores_N: Array, targets_N: Bools) -> float:
    """Return one class's average precision; O(N log N)."""
    if not targets_N.any():
        return float("nan")
    distinct_D, counts_D = np.unique(-scores_N, return_counts=True)  # the highest score first
    positives_P = np.sort(-scores_N[targets_N])  # sorted, they are found faster
    steps_D = np.bincount(np.searchsorted(distinct_D, positives_P), minlength=len(distinct_D))
    tp_D = steps_D.cumsum()
    return (steps_D * (tp_D / counts_D.cumsum())).sum() / len(positives_P)


def mean_average_precision(ap_C: Array) -> float:
    """Return the mean over the classes that have positives; NaN if none has."""
    known = ap_C[~np.isnan(ap_C)]
    return float(known.mean()) if len(known) else float("nan")


_WEIGHTS_AT_A_TIME = 10_000_000


def _weighted_average_precision(
    scores_NC: Array, targets_NC: Bools, weights_RN: NDArray
) -> NDArray:
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
            total_R = (steps_KR * _ratio(tp_KR, shown_KR)).sum(0)
            np.divide(total_R, positives_R, out=ap, where=positives_R > 0)
            ap_R.append(ap)
        return np.concatenate(ap_R)

    return np.stack(_each_class(of_class, scores_NC, targets_NC), axis=1)


def _sums(weights_NR: NDArray, group_N: NDArray[np.intp], num_groups: int) -> NDArray:
    """Return the sums of the weights of each group (G, R); groups from G on are left out."""
    member_GN = sparse.csc_array(
        (np.ones(len(group_N), np.float32), group_N, np.arange(len(group_N) + 1)),
        shape=(num_groups + 1, len(group_N)),
    )
    return (member_GN @ weights_NR)[:num_groups]


# ------------------------------------------------------------------------------- thresholds


def best_f1_threshold(scores: Array, targets: Bools) -> float:
    """Return the threshold on ``scores`` (any shape, flattened) that maximises F1, exactly.

    Every cut between two distinct scores counts: the result is the best there is, not the best of a
    grid. It lies midway between the last score that counts as positive and the first that does not,
    in float64 (float32 scores are to be compared with ``np.float64(threshold)``; a Python float
    would be rounded to float32 first); of several best cuts, the highest. Without any positive
    target F1 is 0 everywhere and the threshold is 0.5.

    A cut that is not at a positive's score shows more images than the last one that is, and no more
    hits. So the P positives are the candidates. All scores are counted into bins first, by the
    upper 16 bits of a float32: the cuts between bins bound F1 within them, and only the bins from
    the first to the last that could hold the best one are sorted. No copy of the scores is made.

    Source: Lipton et al. 2014, arXiv 1402.1892 (what the best threshold is for calibrated scores).
    """
    scores, targets = np.ravel(scores), _bools(np.ravel(targets))
    if not targets.any():
        return 0.5
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    parts = [slice(i, i + _PART) for i in range(0, len(scores), _PART)]

    # How many scores and positives each bin has, the highest scores first.
    counts = np.zeros(2 * _NUM_BINS, dtype=np.int64)
    for part in parts:
        counts += np.bincount(2 * _bins(scores[part]) + targets[part], minlength=2 * _NUM_BINS)
    positives_B = counts[1::2]
    hits_B, shown_B = positives_B.cumsum(), (counts[::2] + positives_B).cumsum()
    num_positives, num_before_B = hits_B[-1], shown_B - counts[::2]  # with its positives alone
    reached = (2 * hits_B / (shown_B + num_positives)).max()
    bounds_B = 2 * hits_B / (num_before_B + num_positives)
    near = np.flatnonzero((bounds_B >= reached) & (positives_B > 0))
    first, last = near[0], near[-1]

    # The scores of the bins that matter; negated, the highest is first (and NaN last).
    kept, kept_positives, below = [], [], -np.inf
    for part in parts:
        bins = _bins(scores[part])
        inside = (bins >= first) & (bins <= last)
        kept.append(scores[part][inside])
        kept_positives.append(scores[part][inside & targets[part]])
        below = max(below, np.max(scores[part], where=bins > last, initial=-np.inf))
    dtype = np.result_type(scores, np.float32)
    ordered = np.sort(np.negative(np.concatenate(kept), dtype=dtype))
    positives = np.sort(np.negative(np.concatenate(kept_positives), dtype=dtype))
    num_inside = np.searchsorted(ordered, positives, side="right")
    hits = hits_B[first] - positives_B[first] + np.arange(1, len(positives) + 1)
    shown = shown_B[first] - counts[2 * first] - positives_B[first] + num_inside
    # Of equal positives all but the last are counted with too few hits, and so are never the best.
    best = np.argmax(2 * hits / (shown + num_positives))

    cut = -float(positives[best])
    if num_inside[best] < len(ordered):
        below = -float(ordered[num_inside[best]])
    elif below == -np.inf:
        below = 0.0
    middle = (cut + float(below)) / 2
    return middle if below < middle <= cut else cut


_PART = 2**18  # scores that are looked at together: what a processor's cache can hold
_NUM_BINS = 2**16


def _bins(scores: Array) -> NDArray[np.int64]:
    """Return numbers of bins, 0 to 65,535: a higher score has the same or a lower one."""
    with np.errstate(over="ignore"):
        negated = np.negative(scores, dtype=np.float32, casting="unsafe")
    negated[np.isnan(negated)] = np.inf
    negated += 0.0  # -0.0 is 0.0
    bits = negated.view(np.int32)
    # As integers, negative floats are in the opposite order.
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 16).astype(np.int64) + _NUM_BINS // 2


def best_f1_thresholds(scores_NC: Array, targets_NC: Bools) -> Array:
    """Return the best threshold of each class (C,), float64.

    A class without positives has nothing to be tuned on: it gets the best global threshold.
    """
    thresholds_C = np.array(_each_class(best_f1_threshold, scores_NC, targets_NC))
    without_C = ~_bools(targets_NC).any(0)
    if without_C.any():
        thresholds_C[without_C] = best_f1_threshold(scores_NC, targets_NC)
    return thresholds_C


def cross_fit(
    tune: Callable[[Array, Bools], NDArray | float],
    scores_NC: Array,
    targets_NC: Bools,
    num_folds: int = 5,
    seed: int = 0,
) -> Bools:
    """Return predictions (N, C), each made with a threshold that was tuned on the other images.

    ``tune`` gets the scores and targets of four folds; what it returns is applied to the fifth.
    The score of these predictions is what tuned thresholds are worth on new images, which the
    score on the images they were tuned on overstates. Folds are random; a set of fewer images
    than folds has one fold per image, and one image alone is predicted at 0.5.
    """
    num_images = len(scores_NC)
    if num_images < 2:
        return scores_NC >= 0.5
    fold_N = np.random.default_rng(seed).permutation(num_images) % min(num_folds, num_images)
    predicted_NC = np.zeros(scores_NC.shape, dtype=bool)
    for fold in range(fold_N.max() + 1):
        held_out = fold_N == fold
        threshold = tune(scores_NC[~held_out], targets_NC[~held_out])
        # An array: NumPy would round a Python float to the float32 of the scores.
        predicted_NC[held_out] = scores_NC[held_out] >= np.asarray(threshold, dtype=np.float64)
    return predicted_NC


# ---------------------------------------------------------------------------------- curves


def precision_recall_curve(
    scores_N: Array, targets_N: Bools, max_points: int = 200
) -> tuple[Array, Array]:
    """Return recall and precision (K,) of one class at its cuts, the highest score first.

    A cut shows all images with the same score or a higher one; only cuts that find another positive
    are there, and of more than ``max_points`` those at evenly spaced recalls. Empty without
    positives.
    """
    targets_N = _bools(targets_N)
    cuts_K, steps_K = np.unique(-scores_N[targets_N], return_counts=True)
    if not len(cuts_K):
        return np.empty(0), np.empty(0)
    hits_K = steps_K.cumsum()
    shown_K = np.searchsorted(np.sort(-scores_N), cuts_K, side="right")
    kept = np.unique(np.linspace(0, len(cuts_K) - 1, max_points).round().astype(int))
    return (hits_K / hits_K[-1])[kept], (hits_K / shown_K)[kept]


@dataclass(frozen=True)
class OverThresholds:
    """Micro-averaged scores at each threshold (T,); precision is NaN where nothing is predicted."""

    thresholds: Array
    f1: Array
    precision: Array
    recall: Array


def over_thresholds(
    probabilities_NC: Array, targets_NC: Bools, num_steps: int = 200
) -> OverThresholds:
    """Return micro-F1, precision and recall at evenly spaced thresholds from 0 to 1."""
    counts, edges = np.histogram(probabilities_NC, num_steps, (0, 1))
    positives, _ = np.histogram(probabilities_NC[_bools(targets_NC)], num_steps, (0, 1))
    shown_T, tp_T = (np.cumsum(x[::-1])[::-1] for x in (counts, positives))
    c = Counts(tp=tp_T, fp=shown_T - tp_T, fn=positives.sum() - tp_T)
    precision_T = np.where(shown_T > 0, precision(c), np.nan)
    return OverThresholds(edges[:-1], f1(c), precision_T, recall(c))


@dataclass(frozen=True)
class Reliability:
    """How often what is said with a probability is so, in bins (B,) of equal width.

    Attributes:
        edges: of the bins (B + 1).
        counts: labels, of all images and classes, whose probability is in the bin.
        said: mean probability, NaN in an empty bin.
        found: share that is true, NaN in an empty bin.
        error: expected calibration error, the mean of ``|said - found|`` over all labels.
    """

    edges: Array
    counts: NDArray[np.int64]
    said: Array
    found: Array
    error: float


def reliability(probabilities_NC: Array, targets_NC: Bools, num_bins: int = 10) -> Reliability:
    """Return how well calibrated probabilities are.

    Source: Guo et al. 2017, arXiv 1706.04599; here every label of every image is one forecast.
    """
    scores = np.ravel(probabilities_NC)
    counts, edges = np.histogram(scores, num_bins, (0, 1))
    positives, _ = np.histogram(scores[_bools(np.ravel(targets_NC))], num_bins, (0, 1))
    sums, _ = np.histogram(scores, num_bins, (0, 1), weights=scores)
    with np.errstate(invalid="ignore"):
        said, found = sums / counts, positives / counts
    error = float(np.abs(sums - positives).sum() / max(1, counts.sum()))
    return Reliability(edges, counts, said, found, error)


def co_occurrence(labels_NC: Bools) -> Array:
    """Return P(column | row) (C, C): the share of a class's images that have another one too.

    A row is NaN for a class that no image has.
    """
    together_CC = labels_NC.T.astype(np.float32) @ labels_NC.astype(np.float32)
    with np.errstate(invalid="ignore"):
        return together_CC.astype(np.float64) / np.diag(together_CC)[:, None]


# -------------------------------------------------------------------------------- intervals


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


def bootstrap_weights(num_images: int, num_replicates: int = 1000, seed: int = 0) -> NDArray:
    """Return how often each replicate drew each image, shape (R, N), float32."""
    rng = np.random.default_rng(seed)
    weights_RN = np.empty((num_replicates, num_images), dtype=np.float32)
    for r in range(num_replicates):
        draws = rng.integers(num_images, size=num_images)
        weights_RN[r] = np.bincount(draws, minlength=num_images)
    return weights_RN


def bootstrap_map(scores_NC: Array, targets_NC: Bools, weights_RN: NDArray) -> Interval:
    """Return mAP and its 95 % percentile interval over the replicates."""
    value = mean_average_precision(average_precision(scores_NC, targets_NC))
    ap_RC = _weighted_average_precision(scores_NC, targets_NC, weights_RN)
    return _interval(value, np.array([mean_average_precision(ap_C) for ap_C in ap_RC]))


def bootstrap_scores(
    predicted_NC: Bools, targets_NC: Bools, map_interval: Interval, weights_RN: NDArray
) -> Scores:
    """Return the scores of predictions with 95 % percentile intervals over the replicates.

    Images are resampled, thresholds are not: the interval says how the score would vary over
    other validation sets of this size, for the thresholds given (Efron 1979). mAP does not depend
    on a threshold and is passed in.
    """
    c = count(predicted_NC, targets_NC)
    predicted_NC, targets_NC = _bools(predicted_NC), _bools(targets_NC)
    tp_RC = _weigh(weights_RN, predicted_NC & targets_NC)
    c_R = Counts(
        tp=tp_RC,
        fp=_weigh(weights_RN, predicted_NC) - tp_RC,
        fn=_weigh(weights_RN, targets_NC) - tp_RC,
    )
    right_N = (predicted_NC == targets_NC).all(1)
    right_R = weights_RN @ right_N.astype(np.float32) / len(right_N)
    return Scores(
        micro_f1=_interval(float(micro_f1(c)), micro_f1(c_R)),
        macro_f1=_interval(float(macro_f1(c)), macro_f1(c_R)),
        subset_accuracy=_interval(float(right_N.mean()), right_R),
        mAP=map_interval,
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


def _interval(value: float, replicates_R: NDArray) -> Interval:
    """Return the value between the 2.5 and 97.5 percentiles of its replicates."""
    known = replicates_R[~np.isnan(replicates_R)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))
