"""Scores of multi-label predictions: pure functions of scores and targets (NumPy, on the host).

Shapes: N images, C classes. ``targets_NC`` are booleans (or 0/1),
``scores_NC`` are any scores that grow with the belief in a label (probabilities or logits); a label
is predicted where ``score >= threshold``. A ratio without a denominator is 0, as in scikit-learn's
``zero_division=0``. A class without positives says nothing of a model: its average precision is
NaN, and mAP and macro-F1 leave it out. An unknown label has the target 0 and the score -inf: it is
never predicted and never counted, and no threshold looks at it.

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
    predicted_NC, targets_NC = as_bools(predicted_NC), as_bools(targets_NC)
    tp_C = (predicted_NC & targets_NC).sum(0)
    return Counts(tp=tp_C, fp=predicted_NC.sum(0) - tp_C, fn=targets_NC.sum(0) - tp_C)


def as_bools(flags: NDArray) -> Bools:
    """Return flags as booleans, without a copy where they are."""
    return np.asarray(flags).astype(bool, copy=False)


_CLASSES_AT_A_TIME = 16  # a cache line of float32 scores
_MAX_THREADS = 8  # each has its own copies to sort


def for_each_class(
    work: Callable[[Array, Bools], Any], scores_NC: Array, targets_NC: Bools
) -> list:
    """Return ``work(scores_N, targets_N)`` of each class, on as many threads as there are CPUs.

    NumPy sorts without holding Python's lock. Copying a block of columns at once reads each cache
    line of the scores once, not once per class.
    """

    def work_on_block(first: int) -> list:
        block = slice(first, first + _CLASSES_AT_A_TIME)
        scores_CN = np.ascontiguousarray(scores_NC[:, block].T)
        targets_CN = as_bools(np.ascontiguousarray(targets_NC[:, block].T))
        return [work(s, t) for s, t in zip(scores_CN, targets_CN, strict=True)]

    firsts = range(0, scores_NC.shape[1], _CLASSES_AT_A_TIME)
    with ThreadPoolExecutor(min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
        return [result for block in pool.map(work_on_block, firsts) for result in block]


def ratio(a: NDArray, b: NDArray) -> Array:
    """Return a / b, and 0 where b is 0."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def precision(c: Counts) -> Array:
    """Return the precision per class: which share of the predicted labels is right."""
    return ratio(c.tp, c.tp + c.fp)


def recall(c: Counts) -> Array:
    """Return the recall per class: which share of the true labels is predicted."""
    return ratio(c.tp, c.tp + c.fn)


def f1(c: Counts) -> Array:
    """Return F1 per class: the harmonic mean of precision and recall, 2TP / (2TP + FP + FN)."""
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def micro_f1(c: Counts) -> Array:
    """Return F1 of all labels of all classes in one pot (the last axis is summed)."""
    return f1(Counts(c.tp.sum(-1), c.fp.sum(-1), c.fn.sum(-1)))


def macro_f1(c: Counts) -> Array:
    """Return the plain mean of F1 over the classes that have positives; NaN if none has."""
    has_some = np.asarray(c.tp + c.fn) > 0
    total = np.where(has_some, f1(c), 0.0).sum(-1)
    num_classes = has_some.sum(-1)
    return np.where(num_classes > 0, total / np.maximum(num_classes, 1), np.nan)


def subset_accuracy(predicted_NC: Bools, targets_NC: Bools) -> float:
    """Return the share of images whose labels are all right (the report's "accuracy")."""
    return float((as_bools(predicted_NC) == as_bools(targets_NC)).all(1).mean())


def average_precision(scores_NC: Array, targets_NC: Bools) -> Array:
    """Return the average precision per class (C,), float64; NaN for a class without positives.

    As in scikit-learn: sum over the distinct scores of (recall step) x (precision), so that ties
    are one step and the order of the images does not matter.
    """
    return np.array(for_each_class(_average_precision, scores_NC, targets_NC), dtype=np.float64)


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


@dataclass(frozen=True)
class Reliability:
    """How often labels are true that are predicted with a probability, in bins (B,) of equal width.

    Attributes:
        edges: of the bins (B + 1).
        counts: labels, of all images and classes, whose probability is in the bin.
        predicted: mean probability, NaN in an empty bin.
        observed: share that is true, NaN in an empty bin.
        error: expected calibration error, the mean of ``|predicted - observed|`` over all labels.
    """

    edges: Array
    counts: NDArray[np.int64]
    predicted: Array
    observed: Array
    error: float


def reliability(probabilities_NC: Array, targets_NC: Bools, num_bins: int = 10) -> Reliability:
    """Return how well calibrated probabilities are.

    Source: Guo et al. 2017, arXiv 1706.04599; here every label of every image is one forecast.
    """
    scores = np.ravel(probabilities_NC)
    counts, edges = np.histogram(scores, num_bins, (0, 1))
    positives, _ = np.histogram(scores[as_bools(np.ravel(targets_NC))], num_bins, (0, 1))
    sums, _ = np.histogram(scores, num_bins, (0, 1), weights=scores)
    with np.errstate(invalid="ignore"):
        predicted, observed = sums / counts, positives / counts
    error = float(np.abs(sums - positives).sum() / max(1, counts.sum()))
    return Reliability(edges, counts, predicted, observed, error)


def co_occurrence(labels_NC: Bools) -> Array:
    """Return P(column | row) (C, C): the share of a class's images that have another one too.

    A row is NaN for a class that no image has.
    """
    together_CC = labels_NC.T.astype(np.float32) @ labels_NC.astype(np.float32)
    with np.errstate(invalid="ignore"):
        return together_CC.astype(np.float64) / np.diag(together_CC)[:, None]
