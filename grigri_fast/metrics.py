"""Scores of multi-label predictions: pure functions of scores and targets (NumPy, on the host).

Shapes: N images, C classes, R bootstrap replicates. ``targets_NC`` are booleans (or 0/1),
``scores_NC`` are any scores that grow with the belief in a label (probabilities or logits); a label
is predicted where ``score >= threshold``. A ratio without a denominator is 0, as in scikit-learn's
``zero_division=0``. Average precision of a class without positives does not exist: it is NaN, and
``mAP`` leaves such classes out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    predicted_NC, targets_NC = predicted_NC.astype(bool), targets_NC.astype(bool)
    return Counts(
        tp=(predicted_NC & targets_NC).sum(0),
        fp=(predicted_NC & ~targets_NC).sum(0),
        fn=(~predicted_NC & targets_NC).sum(0),
    )


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
    return float((predicted_NC.astype(bool) == targets_NC.astype(bool)).all(1).mean())


def average_precision(scores_NC: Array, targets_NC: Bools) -> Array:
    """Return the average precision per class (C,), float64; NaN for a class without positives.

    As in scikit-learn: sum over the distinct scores of (recall step) x (precision), so that ties
    are one step and the order of the images does not matter.
    """
    weights_RN = np.ones((1, len(scores_NC)))
    return _weighted_average_precision(scores_NC, targets_NC, weights_RN)[0]


def mean_average_precision(ap_C: Array) -> float:
    """Return the mean over the classes that have positives; NaN if none has."""
    known = ap_C[~np.isnan(ap_C)]
    return float(known.mean()) if len(known) else float("nan")


def _weighted_average_precision(
    scores_NC: Array, targets_NC: Bools, weights_RN: NDArray
) -> NDArray:
    """Return AP (R, C) of images that count ``weights_RN`` times each."""
    num_classes = scores_NC.shape[1]
    ap_RC = np.full((len(weights_RN), num_classes), np.nan)
    for c in range(num_classes):
        order = np.argsort(-scores_NC[:, c], kind="stable")
        scores, weights_RK = scores_NC[order, c], weights_RN[:, order]
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last of equal scores
        tp_RK = np.cumsum(weights_RK * targets_NC[order, c], axis=1)[:, ends]
        shown_RK = np.cumsum(weights_RK, axis=1)[:, ends]
        positives_R = tp_RK[:, -1]
        steps_RK = np.diff(tp_RK, axis=1, prepend=0)
        total_R = (steps_RK * _ratio(tp_RK, shown_RK)).sum(1)
        there = positives_R > 0
        ap_RC[there, c] = total_R[there] / positives_R[there]
    return ap_RC


# ------------------------------------------------------------------------------- thresholds


def best_f1_threshold(scores: Array, targets: Bools) -> float:
    """Return the threshold on ``scores`` (any shape, flattened) that maximises F1, exactly.

    Every cut between two distinct scores is tried (one sort, two cumulative sums): the result is
    the best there is, not the best of a grid. It lies midway between the last score that counts as
    positive and the first that does not; of several best cuts, the highest. Without any positive
    target F1 is 0 everywhere and the threshold is 0.5.

    Source: Lipton et al. 2014, arXiv 1402.1892 (what the best threshold is for calibrated scores).
    """
    scores, targets = np.ravel(scores).astype(np.float64), np.ravel(targets).astype(bool)
    num_positives = int(targets.sum())
    if not num_positives:
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(targets[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    f1_K = 2 * hits[ends] / (ends + 1 + num_positives)
    best = ends[np.argmax(f1_K)]
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    middle = (scores[best] + below) / 2
    return float(middle if below < middle <= scores[best] else scores[best])


def best_f1_thresholds(scores_NC: Array, targets_NC: Bools) -> Array:
    """Return the best threshold of each class (C,).

    A class without positives has nothing to be tuned on: it gets the best global threshold.
    """
    fallback = best_f1_threshold(scores_NC, targets_NC)
    return np.array(
        [
            best_f1_threshold(s, t) if t.any() else fallback
            for s, t in zip(scores_NC.T, targets_NC.T, strict=True)
        ]
    )


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
        predicted_NC[held_out] = scores_NC[held_out] >= threshold
    return predicted_NC


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
    num_chunks = 1 + weights_RN.size // 1_000_000  # some 8 MB of weights at a time
    ap_RC = np.concatenate(
        [
            _weighted_average_precision(scores_NC, targets_NC, chunk_RN)
            for chunk_RN in np.array_split(weights_RN, num_chunks)
        ]
    )
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
    predicted_NC, targets_NC = predicted_NC.astype(bool), targets_NC.astype(bool)

    def weigh(flags_NC: Bools) -> NDArray:
        return weights_RN @ flags_NC.astype(np.float32)

    c_R = Counts(
        tp=weigh(predicted_NC & targets_NC),
        fp=weigh(predicted_NC & ~targets_NC),
        fn=weigh(~predicted_NC & targets_NC),
    )
    right_N = (predicted_NC == targets_NC).all(1)
    return Scores(
        micro_f1=_interval(float(micro_f1(c)), micro_f1(c_R)),
        macro_f1=_interval(float(macro_f1(c)), macro_f1(c_R)),
        subset_accuracy=_interval(float(right_N.mean()), weigh(right_N) / len(right_N)),
        mAP=map_interval,
    )


def _interval(value: float, replicates_R: NDArray) -> Interval:
    """Return the value between the 2.5 and 97.5 percentiles of its replicates."""
    known = replicates_R[~np.isnan(replicates_R)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))
