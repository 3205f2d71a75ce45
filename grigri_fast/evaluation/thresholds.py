"""Thresholds: the best one for F1, what it is worth on new images, and scores at all of them.

Shapes: N images, C classes, T thresholds. Scores and targets are those of :mod:`metrics`: a label
is predicted where ``score >= threshold``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import Array, Bools, Counts, as_bools, f1, for_each_class, precision, recall

_PART = 2**18  # scores that are searched at a time: what a processor's cache can hold
_NUM_BINS = 2**16


def best_f1_threshold(scores: Array, targets: Bools) -> float:
    """Return the threshold on ``scores`` (any shape, flattened) that maximises F1, exactly.

    Every cut between two distinct scores counts: the result is the best there is, not the best of a
    grid. It lies midway between the last score that counts as positive and the first that does not,
    in float64 (float32 scores are to be compared with ``np.float64(threshold)``; a Python float
    would be rounded to float32 first); of several best cuts, the highest. Without any positive
    target F1 is 0 everywhere and the threshold is 0.5.

    A cut that is not at a positive's score predicts more images than the last one that is, and has
    no more hits. So the P positives are the candidates. All scores are counted into bins first, by
    the upper 16 bits of a float32: the cuts between bins bound F1 within them, and only the bins
    from the first to the last that could hold the best one are sorted. No copy of all scores is
    made.

    Source: Lipton et al. 2014, arXiv 1402.1892 (what the best threshold is for calibrated scores).
    """
    scores, targets = np.ravel(scores), as_bools(np.ravel(targets))
    if not targets.any():
        return 0.5
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if len(scores) < _NUM_BINS:
        return _best_of(scores, scores[targets], 0, 0, -np.inf)
    parts = [slice(i, i + _PART) for i in range(0, len(scores), _PART)]

    # How many scores and positives each bin has, the highest scores first.
    counts = np.zeros(2 * _NUM_BINS, dtype=np.int64)
    for part in parts:
        counts += np.bincount(2 * _bins(scores[part]) + targets[part], minlength=2 * _NUM_BINS)
    positives_B = counts[1::2]
    hits_B, predicted_B = positives_B.cumsum(), (counts[::2] + positives_B).cumsum()
    num_positives, num_before_B = hits_B[-1], predicted_B - counts[::2]  # with its positives alone
    reached = (2 * hits_B / (predicted_B + num_positives)).max()
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
    return _best_of(
        np.concatenate(kept),
        np.concatenate(kept_positives),
        hits_B[first] - positives_B[first],
        predicted_B[first] - counts[2 * first] - positives_B[first],
        below,
        num_positives,
    )


def _best_of(
    scores: Array,
    positives: Array,
    num_hits_above: int,
    num_above: int,
    below: float,
    num_positives: int | None = None,
) -> float:
    """Return the threshold of the best cut at a positive's score, sorting all scores.

    Args:
        scores: among which the cut is.
        positives: those of them whose target is set.
        num_hits_above, num_above: positives, and all scores, that are higher than these.
        below: the highest score that is lower than these, -inf if there is none.
        num_positives: in all; None: there are none but these.
    """
    num_positives = len(positives) if num_positives is None else num_positives
    dtype = np.result_type(scores, np.float32)
    ordered = np.sort(np.negative(scores, dtype=dtype))
    positives = np.sort(np.negative(positives, dtype=dtype))
    num_inside = np.searchsorted(ordered, positives, side="right")
    hits = num_hits_above + np.arange(1, len(positives) + 1)
    predicted = num_above + num_inside
    # Of equal positives all but the last are counted with too few hits, and so are never the best.
    best = np.argmax(2 * hits / (predicted + num_positives))

    cut = -float(positives[best])
    if num_inside[best] < len(ordered):
        below = -float(ordered[num_inside[best]])
    if below == -np.inf:  # nothing is below, or only unknown labels are
        below = 0.0
    middle = (cut + float(below)) / 2
    return middle if below < middle <= cut else cut


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

    A class without positives, which cannot be tuned, gets the best global threshold.
    """
    thresholds_C = np.array(for_each_class(best_f1_threshold, scores_NC, targets_NC))
    without_C = ~as_bools(targets_NC).any(0)
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

    ``tune`` gets the scores and targets of all folds but one, and the threshold that it returns is
    applied to that one. The score of these predictions estimates the score on new images; the score
    on the images that a threshold was tuned on is too high. Folds are random; a set of fewer images
    than folds has one fold per image, and a single image is predicted at 0.5.
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


# ------------------------------------------------------------------ scores at all thresholds


def precision_recall_curve(
    scores_N: Array, targets_N: Bools, max_points: int = 200
) -> tuple[Array, Array]:
    """Return recall and precision (K,) of one class at its cuts, the highest score first.

    A cut predicts the label for all images with its score or a higher one. Only the cuts at the
    scores of positives are returned; if they are more than ``max_points``, those at evenly spaced
    recalls. Without positives the arrays are empty.
    """
    targets_N = as_bools(targets_N)
    cuts_K, steps_K = np.unique(-scores_N[targets_N], return_counts=True)
    if not len(cuts_K):
        return np.empty(0), np.empty(0)
    hits_K = steps_K.cumsum()
    predicted_K = np.searchsorted(np.sort(-scores_N), cuts_K, side="right")
    kept = np.unique(np.linspace(0, len(cuts_K) - 1, max_points).round().astype(int))
    return (hits_K / hits_K[-1])[kept], (hits_K / predicted_K)[kept]


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
    positives, _ = np.histogram(probabilities_NC[as_bools(targets_NC)], num_steps, (0, 1))
    predicted_T, tp_T = (np.cumsum(x[::-1])[::-1] for x in (counts, positives))
    c = Counts(tp=tp_T, fp=predicted_T - tp_T, fn=positives.sum() - tp_T)
    precision_T = np.where(predicted_T > 0, precision(c), np.nan)
    return OverThresholds(edges[:-1], f1(c), precision_T, recall(c))
