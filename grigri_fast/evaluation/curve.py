"""Scores over the number of training images, each with its interval: the part without files.

A classifier is fitted to growing subsets of the training part, each of which holds the one before,
and scored on the same validation images. Shapes: N images, C classes, F sizes, S subsets of a size,
R replicates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data import split
from ..errors import GrigriError
from ..runtime import files
from . import bootstrap, extrapolation, metrics, thresholds
from .bootstrap import Interval
from .extrapolation import Extrapolation

FILE = "learning-curve.json"  # in the folder of a run that has one
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_LEAST_IMAGES, _LEAST_SIZES = 10, 3  # a power law has three parameters
_NUM_REPLICATES = 500
# Assumed: the least gain in average precision that is worth naming a class for.
_LEAST_GAIN = 0.02

Array = NDArray[np.floating]
Rows = NDArray[np.intp]
Wants = Literal["yes", "perhaps", "no", ""]
# Returns probabilities of the validation images (N, C) by a classifier that was fitted to some rows
# of the training part; -inf for a label that is not known.
FitAndPredict = Callable[[Rows], Array]


@dataclass(frozen=True)
class Point:
    """The scores with some number of training images, means over the subsets of that size."""

    num_images: int
    num_subsets: int
    micro_f1: Interval
    mAP: Interval


@dataclass(frozen=True)
class ClassCurve:
    """What the number of training images does for one class.

    Attributes:
        name: of the class.
        num_train, num_val: images with its label.
        f1: cross-fitted, with all training images.
        average_precision: at each size; NaN without validation images.
        twice: what twice as many would bring to the average precision; None where it is NaN.
        wants_images: whether more would help: ``yes`` where that gain is worth naming and beyond
            chance, ``no`` where it is neither, else ``perhaps``; "" where nothing is known.
    """

    name: str
    num_train: int
    num_val: int
    f1: float
    average_precision: list[Interval]
    twice: Extrapolation | None
    wants_images: Wants


@dataclass(frozen=True)
class Curve:
    """Scores over the number of training images, and what twice as many would bring.

    Micro-F1 is cross-fitted. Intervals (95 %) say how a score would vary over other validation
    images and other subsets.
    """

    num_val: int
    points: list[Point]
    micro_f1: Extrapolation
    mAP: Extrapolation
    per_class: list[ClassCurve]

    @property
    def num_train(self) -> int:
        """Images of the training part."""
        return self.points[-1].num_images

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Curve":
        """Return the curve that ``dataclasses.asdict`` made this of.

        Raises:
            ValueError, KeyError, TypeError: if it is something else.
        """
        return cls(
            num_val=content["num_val"],
            points=[
                Point(**p | {key: _interval(p[key]) for key in ("micro_f1", "mAP")})
                for p in content["points"]
            ],
            micro_f1=_extrapolation(content["micro_f1"]),
            mAP=_extrapolation(content["mAP"]),
            per_class=[
                ClassCurve(
                    **c
                    | {"average_precision": [*map(_interval, c["average_precision"])]}
                    | {"twice": c["twice"] and _extrapolation(c["twice"])}
                )
                for c in content["per_class"]
            ],
        )


def read(folder: Path) -> Curve | None:
    """Return the curve in a folder; None where there is none.

    Raises:
        GrigriError: if the file cannot be read, or holds something else.
    """
    content = files.read_json(folder / FILE)
    try:
        return Curve.from_json(content) if content else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise GrigriError(f"{folder / FILE}: not written by grigri-fast: {e!r}") from e


def _interval(content: dict[str, Any]) -> Interval:
    """Return an interval from JSON, where NaN is null."""
    return Interval(**{k: math.nan if v is None else float(v) for k, v in content.items()})


def _extrapolation(content: dict[str, Any]) -> Extrapolation:
    scores = {key: _interval(content[key]) for key in ("score", "gain")}
    return Extrapolation(**content | scores | {"line": [*map(_interval, content["line"])]})


def sizes_of(num_images: int) -> NDArray[np.int64]:
    """Return how many training images the subsets have, of so many in all.

    Raises:
        GrigriError: if they are too few for a curve.
    """
    sizes_F = np.unique([round(share * num_images) for share in FRACTIONS])
    sizes_F = sizes_F[sizes_F >= _LEAST_IMAGES]
    if len(sizes_F) < _LEAST_SIZES:
        raise GrigriError(f"{num_images} training images are too few for a learning curve")
    return sizes_F


def measure(
    fit_and_predict: FitAndPredict,
    train_targets_NC: NDArray[np.float32],
    val_targets_NC: NDArray[np.float32],
    class_names: list[str],
    *,
    num_subsets: int = 3,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curve:
    """Return the curve of a way to fit a classifier.

    Args:
        fit_and_predict: called with rows of the training part.
        train_targets_NC, val_targets_NC: the labels of both parts.
        class_names: of the columns.
        num_subsets: how often each size but the largest is drawn.
        seed: of the subsets.
        on_progress: called with the classifiers that are fitted, and how many there will be.

    Raises:
        GrigriError: if there are too few training images.
    """
    num_train = len(train_targets_NC)
    sizes_F = sizes_of(num_train)
    orders = [split.nested_order(train_targets_NC, seed + s) for s in range(num_subsets)]
    jobs = [(f, order[:n]) for f, n in enumerate(sizes_F[:-1]) for order in orders]
    jobs.append((len(sizes_F) - 1, np.arange(num_train)))
    scorer = _Scorer(val_targets_NC)
    scored: list[list[_Scores]] = [[] for _ in sizes_F]
    for done, (f, rows) in enumerate(jobs):
        on_progress(done, len(jobs))
        scored[f].append(scorer.score(fit_and_predict(np.sort(rows))))
    on_progress(len(jobs), len(jobs))
    rng = np.random.default_rng(seed)
    of_size = [_Scores.mean_of(scores, rng) for scores in scored]
    f1_R, f1 = _stacked([s.micro_f1_R for s in of_size]), np.array([s.micro_f1 for s in of_size])
    map_R = _stacked([s.mAP_R for s in of_size])
    mean_ap = np.array([metrics.mean_average_precision(s.ap_C) for s in of_size])
    support = train_targets_NC.sum(0).astype(int).tolist(), val_targets_NC.sum(0).astype(int)
    num_labels = int(support[1].sum())
    return Curve(
        num_val=len(val_targets_NC),
        points=[
            Point(
                num_images=n,
                num_subsets=len(scores),
                micro_f1=bootstrap.score_interval(float(f1[f]), f1_R[:, f], num_labels),
                mAP=bootstrap.mean_interval(float(mean_ap[f]), map_R[:, f], support[1]),
            )
            for f, (n, scores) in enumerate(zip(sizes_F.tolist(), scored, strict=True))
        ],
        micro_f1=extrapolation.extrapolate(sizes_F, f1, f1_R),
        mAP=extrapolation.extrapolate(sizes_F, mean_ap, map_R),
        per_class=[
            _of_class(name, c, sizes_F, of_size, support[0][c], int(support[1][c]))
            for c, name in enumerate(class_names)
        ],
    )


def _stacked(values: list[Array]) -> Array:
    return np.stack(values, axis=1)


def _of_class(
    name: str,
    c: int,
    sizes_F: NDArray[np.int64],
    of_size: "list[_Scores]",
    num_train: int,
    num_val: int,
) -> ClassCurve:
    """Return the curve of class number ``c``."""
    ap_F = np.array([scores.ap_C[c] for scores in of_size])
    ap_RF = _stacked([scores.ap_RC[:, c] for scores in of_size])
    twice = extrapolation.extrapolate(sizes_F, ap_F, ap_RF) if num_val else None
    return ClassCurve(
        name=name,
        num_train=num_train,
        num_val=num_val,
        f1=float(of_size[-1].f1_C[c]),
        average_precision=[
            bootstrap.score_interval(float(ap), ap_RF[:, f], num_val) for f, ap in enumerate(ap_F)
        ],
        twice=twice,
        wants_images=wants(twice, num_val),
    )


def wants(twice: Extrapolation | None, num_val: int) -> Wants:
    """Return whether more images of a class would help, with so many validation images of it."""
    if twice is None:
        return ""
    if num_val < bootstrap.LEAST_POSITIVES:
        return "perhaps"
    if twice.gain.high < _LEAST_GAIN:
        return "no"
    return "yes" if twice.gain.low > 0 and twice.gain.value >= _LEAST_GAIN else "perhaps"


@dataclass(frozen=True)
class _Scores:
    """The scores of one set of probabilities, and those of the replicates."""

    micro_f1: float
    micro_f1_R: Array
    f1_C: Array
    ap_C: Array
    ap_RC: Array

    @property
    def mAP_R(self) -> Array:
        return np.array([metrics.mean_average_precision(ap_C) for ap_C in self.ap_RC])

    @classmethod
    def mean_of(cls, scores: "list[_Scores]", rng: np.random.Generator) -> "_Scores":
        """Return the means over the subsets of a size; each replicate draws subsets, too."""
        num_replicates, num_subsets = len(scores[0].micro_f1_R), len(scores)
        drawn_RS = rng.integers(num_subsets, size=(num_replicates, num_subsets))
        every = np.arange(num_replicates)[:, None]
        f1_RS, ap_RSC = (
            _stacked([s.micro_f1_R for s in scores]),
            _stacked([s.ap_RC for s in scores]),
        )
        return cls(
            micro_f1=float(np.mean([s.micro_f1 for s in scores])),
            micro_f1_R=f1_RS[every, drawn_RS].mean(1),
            f1_C=np.mean([s.f1_C for s in scores], axis=0),
            ap_C=np.mean([s.ap_C for s in scores], axis=0),
            ap_RC=ap_RSC[every, drawn_RS].mean(1),
        )


class _Scorer:
    """Scores probabilities of the validation images, always with the same replicates."""

    def __init__(self, targets_NC: NDArray[np.float32]) -> None:
        self._targets_NC = targets_NC.astype(bool)
        self._weights_RN = bootstrap.draw_weights(len(targets_NC), _NUM_REPLICATES)

    def score(self, probabilities_NC: Array) -> _Scores:
        """Return the scores of probabilities (N, C)."""
        targets_NC, weights_RN = self._targets_NC, self._weights_RN
        tune = thresholds.best_f1_threshold
        predicted_NC = thresholds.cross_fit(tune, probabilities_NC, targets_NC)
        counts = metrics.count(predicted_NC, targets_NC)
        counts_R = bootstrap.weighted_counts(predicted_NC, targets_NC, weights_RN)
        return _Scores(
            micro_f1=float(metrics.micro_f1(counts)),
            micro_f1_R=metrics.micro_f1(counts_R),
            f1_C=metrics.f1(counts),
            ap_C=metrics.average_precision(probabilities_NC, targets_NC),
            ap_RC=bootstrap.weighted_average_precision(probabilities_NC, targets_NC, weights_RN),
        )
