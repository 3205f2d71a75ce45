"""Model and images -> logits; logits and labels -> thresholds and honest scores.

Shapes: N images, C classes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import MAX_PIXELS
from ..data import dataset
from ..errors import GrigriError
from ..inference.predictor import Classifier
from ..pipeline.check import require_few, without
from ..runs import checkpoint as checkpoints
from ..runs import run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName, PartName
from ..runtime.compute import AmpName, Compute, DeviceName, require_one_of
from ..runtime.files import StrPath
from . import metrics
from .metrics import Scores

Threshold: TypeAlias = Literal["auto", "per-class"] | float

AT_HALF = "at 0.5"
TUNED = "tuned on the same images"
CROSS_FITTED = "cross-fitted"


@dataclass(frozen=True)
class ClassScores:
    """One class's line in the table; ``average_precision`` is NaN without positives."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float
    average_precision: float
    threshold: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of images.

    Attributes:
        num_images: how many.
        scores: by the way in which the threshold was found (``AT_HALF``, ``TUNED``, ...).
        thresholds: what ``eval --save`` stores: one for all classes, or one each.
        threshold_source: where it comes from, in words.
        per_class: a line per class, from the most honest predictions there are: cross-fitted where
            a threshold was tuned.
    """

    num_images: int
    scores: dict[str, Scores]
    thresholds: float | list[float]
    threshold_source: str
    per_class: list[ClassScores]


def score(
    probabilities_NC: NDArray[np.float64],
    targets_NC: NDArray,
    class_names: list[str],
    threshold: str | float,
) -> Evaluation:
    """Score probabilities with thresholds found in ``threshold``'s way.

    Args:
        probabilities_NC: predicted probabilities.
        targets_NC: 0/1 labels.
        class_names: names of the columns.
        threshold: ``auto`` (the global threshold with the best micro-F1), ``per-class`` (for each
            class the threshold with its best F1), or a number from 0 to 1.

    Folds and bootstrap are always the same, so that a model is never scored in two ways.
    """
    targets_NC = targets_NC.astype(bool)
    if threshold == "auto":
        tune, source = metrics.best_f1_threshold, "best micro-F1"
    elif threshold == "per-class":
        tune, source = metrics.best_f1_thresholds, "best F1 of each class"
    else:
        tune, source = None, "given"
    chosen = tune(probabilities_NC, targets_NC) if tune else float(threshold)

    predictions = {AT_HALF: probabilities_NC >= 0.5}
    if tune:
        predictions[TUNED] = probabilities_NC >= chosen
        predictions[CROSS_FITTED] = metrics.cross_fit(tune, probabilities_NC, targets_NC)
    elif chosen != 0.5:
        predictions[f"at {chosen:g}"] = probabilities_NC >= chosen

    weights_RN = metrics.bootstrap_weights(len(targets_NC))
    mean_ap = metrics.bootstrap_map(probabilities_NC, targets_NC, weights_RN)
    scores = {
        name: metrics.bootstrap_scores(predicted_NC, targets_NC, mean_ap, weights_RN)
        for name, predicted_NC in predictions.items()
    }
    honest = metrics.count(list(predictions.values())[-1], targets_NC)
    columns = (
        targets_NC.sum(0),
        metrics.precision(honest),
        metrics.recall(honest),
        metrics.f1(honest),
        metrics.average_precision(probabilities_NC, targets_NC),
        np.broadcast_to(chosen, (len(class_names),)),
    )
    per_class = [
        ClassScores(name, int(support), *map(float, rest))
        for name, support, *rest in zip(class_names, *columns, strict=True)
    ]
    thresholds = chosen.tolist() if isinstance(chosen, np.ndarray) else chosen
    return Evaluation(len(targets_NC), scores, thresholds, source, per_class)


# ------------------------------------------------------------------------- evaluating a run


@dataclass(frozen=True)
class RunEvaluation:
    """An evaluation of a run, and what it was made from.

    Attributes:
        evaluation: the scores.
        info: what the model is.
        images: what was evaluated, in words.
        bad: reason by path, for the files that could not be used.
        paths: the files that could be used (N).
        probabilities_NC, targets_NC: theirs; float64, and bool.
        test_looks: how often the run's test part has been scored, this time included; 0 where it
            was not the test part.
    """

    evaluation: Evaluation
    info: ModelInfo
    images: str
    bad: dict[Path, str]
    paths: list[Path]
    probabilities_NC: NDArray[np.float64]
    targets_NC: NDArray[np.bool_]
    test_looks: int = 0


def evaluate(
    run: StrPath,
    *,
    data: StrPath | None = None,
    images: StrPath | None = None,
    part: PartName | None = None,
    threshold: Threshold = "auto",
    checkpoint: CheckpointName = "last",
    save: bool = False,
    max_bad: float = 0.05,
    max_pixels: int = MAX_PIXELS,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RunEvaluation:
    """Score a trained model, with 95 % intervals, as ``grigri-fast eval`` does.

    Args:
        run: a run folder of ``train``.
        data: other photographs and labels, all of which are scored, instead of the run's own.
        images: with ``data``, the folder that a CSV's image names are relative to.
        part: of the run's own data; ``val`` by default.
        threshold: ``auto``, one for the best micro-F1; ``per-class``, one for each class's best F1;
            or a number from 0 to 1.
        checkpoint: ``last``, the final epoch; ``best``, the epoch with the best validation
            micro-F1, whose score there flatters.
        save: store the threshold in the checkpoint, for ``predict``.
        max_bad: share of the images that may be unusable; they are left out.
        max_pixels: larger images are refused unread.
        device, amp, threads: what to compute on, in which number format, with how many CPU threads.
        memory_limit: the most that this process may take on the device, like ``4GiB``.
        on_progress: called with images done and images in all.

    Raises:
        GrigriError: if run, data and labels do not fit each other, or an option is wrong.
    """
    if data is not None and part is not None:
        raise GrigriError("--part is of the run's own data; with --data all images are scored")
    if images is not None and data is None:
        raise GrigriError("--images goes with --data")
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    require_one_of("--part", part or "val", PartName)
    _require_threshold(threshold)
    folder = Path(run)
    path = run_folder.checkpoint_path(folder, checkpoint)
    compute = Compute.resolve(device, amp, threads, memory_limit)
    with compute.open() as budget:
        classifier = Classifier.from_file(path, compute, max_pixels)
        if data is None:
            own = run_folder.open_part(folder, part or "val")
            labelled, rows = own.data, own.rows
            described = f"{part or 'val'} part of {labelled.layout}"
        else:
            labelled = dataset.load(os.fspath(data), None if images is None else os.fspath(images))
            rows = np.arange(len(labelled))
            described = labelled.layout
        targets_NC = _targets_in_order(labelled, classifier.class_names)
        probabilities_NC, bad = classifier.probabilities(labelled.paths, rows, budget, on_progress)
    by_path = {labelled.paths[row]: reason for row, reason in bad.items()}
    require_few(by_path, len(rows), max_bad)
    good = without(rows, bad)
    targets_NC = targets_NC[good].astype(bool)
    evaluation = score(probabilities_NC, targets_NC, classifier.class_names, threshold)
    scored = RunEvaluation(
        evaluation=evaluation,
        info=classifier.info,
        images=described,
        bad=by_path,
        paths=[labelled.paths[row] for row in good],
        probabilities_NC=probabilities_NC,
        targets_NC=targets_NC,
        test_looks=(
            run_folder.note_test_look(folder, checkpoint, str(threshold)) if part == "test" else 0
        ),
    )
    if save:
        source = f"{evaluation.threshold_source} on the {described}"
        checkpoints.set_thresholds(path, evaluation.thresholds, source)
    return scored


def _require_threshold(threshold: Threshold) -> None:
    if threshold in ("auto", "per-class"):
        return
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise GrigriError(
            f"--threshold {threshold!r} is not auto, per-class or a number from 0 to 1"
        )


def _targets_in_order(labelled: dataset.Dataset, class_names: list[str]) -> NDArray[np.float32]:
    """Return targets with the model's classes as columns; a class nobody has is all zeros."""
    unknown = sorted(set(labelled.class_names) - set(class_names))
    if unknown:
        raise GrigriError(
            f"{labelled.layout}: the model does not know the class {unknown[0]!r};"
            f" it knows {', '.join(class_names)}"
        )
    targets_NC = np.zeros((len(labelled), len(class_names)), dtype=np.float32)
    columns = [class_names.index(name) for name in labelled.class_names]
    targets_NC[:, columns] = labelled.targets_NC
    return targets_NC
