"""A trained model's scores on images with labels, with thresholds and intervals.

Shapes: N images, C classes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from ..config import MAX_PIXELS
from ..data import dataset
from ..data.layouts import HowLabels
from ..errors import GrigriError
from ..inference.predictor import Classifier
from ..pipeline.check import require_few, without
from ..runs import checkpoint as checkpoints
from ..runs import run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName, PartName
from ..runtime.compute import AmpName, Compute, DeviceName, require_one_of
from ..runtime.files import StrPath
from . import bootstrap, metrics, thresholds
from .bootstrap import Scores

Threshold: TypeAlias = Literal["auto", "per-class"] | float

AT_HALF = "at 0.5"
TUNED = "tuned on the same images"
CROSS_FITTED = "cross-fitted"


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class; ``average_precision`` is NaN without positives."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float
    average_precision: float
    threshold: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of images, with thresholds chosen in one to three ways.

    Attributes:
        num_images: how many.
        at_half: with a threshold of 0.5.
        tuned: with thresholds tuned on these very images, which flatters; None where none was.
        cross_fitted: with thresholds tuned on four fifths of the images and applied to the rest;
            None where none was tuned.
        at_threshold: with a threshold that was given; None where none was, or it was 0.5.
        thresholds: what ``eval --save`` stores: one for all classes, or one each.
        threshold_source: where they come from, in words.
        per_class: a line per class, for the predictions of ``honest``.
    """

    num_images: int
    at_half: Scores
    tuned: Scores | None
    cross_fitted: Scores | None
    at_threshold: Scores | None
    thresholds: float | list[float]
    threshold_source: str
    per_class: list[ClassScores]

    @property
    def honest(self) -> Scores:
        """The scores to expect on new images with thresholds chosen in the same way."""
        return self.cross_fitted or self.at_threshold or self.at_half

    def by_name(self) -> dict[str, Scores]:
        """Return the scores that there are, by how their threshold came about."""
        named = [(AT_HALF, self.at_half), (TUNED, self.tuned), (CROSS_FITTED, self.cross_fitted)]
        if self.at_threshold:
            named.append((f"at {self.thresholds:g}", self.at_threshold))
        return {name: scores for name, scores in named if scores}

    def to_json(self) -> dict[str, Any]:
        """Return what ``eval --json`` prints of it."""
        return {
            "num_images": self.num_images,
            "scores": {name: asdict(scores) for name, scores in self.by_name().items()},
            "thresholds": self.thresholds,
            "threshold_source": self.threshold_source,
            "per_class": [asdict(of_class) for of_class in self.per_class],
        }

    def summary(self) -> dict[str, Any]:
        """Return what a run's ``summary.json`` holds of it, under ``validation``."""
        scores = self.to_json()["scores"]
        return {"num_images": self.num_images, "threshold": self.thresholds, "scores": scores}


def score(
    probabilities_NC: NDArray[np.float64],
    targets_NC: NDArray,
    class_names: list[str],
    threshold: Threshold,
) -> Evaluation:
    """Return the scores of probabilities, with thresholds chosen as ``threshold`` says.

    Args:
        probabilities_NC: predicted probabilities.
        targets_NC: 0/1 labels.
        class_names: names of the columns.
        threshold: ``auto`` (the global threshold with the best micro-F1), ``per-class`` (for each
            class the threshold with its best F1), or a number from 0 to 1.

    Folds and bootstrap are always the same, so that a model is never scored in two ways.
    """
    targets_NC = targets_NC.astype(bool)
    weights_RN = bootstrap.draw_weights(len(targets_NC))
    mean_ap = bootstrap.map_interval(probabilities_NC, targets_NC, weights_RN)

    def scores_of(predicted_NC: NDArray[np.bool_] | None) -> Scores | None:
        if predicted_NC is None:
            return None
        return bootstrap.scores_with_intervals(predicted_NC, targets_NC, mean_ap, weights_RN)

    tuned_NC = cross_fitted_NC = given_NC = None
    if isinstance(threshold, str):
        each = threshold == "per-class"
        tune = thresholds.best_f1_thresholds if each else thresholds.best_f1_threshold
        source = "best F1 of each class" if each else "best micro-F1"
        chosen = tune(probabilities_NC, targets_NC)
        tuned_NC = probabilities_NC >= chosen
        honest_NC = cross_fitted_NC = thresholds.cross_fit(tune, probabilities_NC, targets_NC)
    else:
        chosen, source = float(threshold), "given"
        honest_NC = probabilities_NC >= chosen
        given_NC = None if chosen == 0.5 else honest_NC
    counts = metrics.count(honest_NC, targets_NC)
    columns = (
        targets_NC.sum(0),
        metrics.precision(counts),
        metrics.recall(counts),
        metrics.f1(counts),
        metrics.average_precision(probabilities_NC, targets_NC),
        np.broadcast_to(chosen, (len(class_names),)),
    )
    return Evaluation(
        num_images=len(targets_NC),
        at_half=scores_of(probabilities_NC >= 0.5),
        tuned=scores_of(tuned_NC),
        cross_fitted=scores_of(cross_fitted_NC),
        at_threshold=scores_of(given_NC),
        thresholds=chosen.tolist() if isinstance(chosen, np.ndarray) else chosen,
        threshold_source=source,
        per_class=[
            ClassScores(name, int(support), *map(float, rest))
            for name, support, *rest in zip(class_names, *columns, strict=True)
        ],
    )


# ------------------------------------------------------------------------- evaluating a run


@dataclass(frozen=True)
class RunEvaluation:
    """An evaluation of a run, and what it was made from.

    Attributes:
        checkpoint: the model's file.
        evaluation: the scores.
        info: what the model is.
        images: what was evaluated, in words.
        bad: reason by path, for the files that could not be used.
        paths: the files that could be used (N).
        probabilities_NC, targets_NC: theirs; float64, and bool.
        test_looks: how often the run's test part has been scored, this time included; 0 where it
            was not the test part.
    """

    checkpoint: Path
    evaluation: Evaluation
    info: ModelInfo
    images: str
    bad: dict[Path, str]
    paths: list[Path]
    probabilities_NC: NDArray[np.float64]
    targets_NC: NDArray[np.bool_]
    test_looks: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what ``eval --json`` prints."""
        return {
            "checkpoint": str(self.checkpoint),
            "images": self.images,
            "arch": self.info.arch,
            "epoch": self.info.epoch,
            **self.evaluation.to_json(),
            "test_looks": self.test_looks,
            "bad": {str(path): reason for path, reason in self.bad.items()},
        }


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
    **how_labels: Unpack[HowLabels],
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
        how_labels: with ``data``, how its labels are to be read, as in :class:`HowLabels`.

    Raises:
        GrigriError: if run, data and labels do not fit each other, or an option is wrong.
    """
    _check_options(data, images, part, threshold, checkpoint)
    if data is None and how_labels:
        flag = "--" + next(iter(how_labels)).replace("_", "-")
        raise GrigriError(f"{flag} goes with --data; the run knows its own")
    folder, part = Path(run), part or "val"
    path = run_folder.checkpoint_path(folder, checkpoint)
    compute = Compute.resolve(device, amp, threads, memory_limit)
    with compute.open() as budget:
        classifier = Classifier.from_file(path, compute, max_pixels)
        if data is None:
            own = run_folder.open_part(folder, part)
            labelled, rows, words = own.data, own.rows, f"{part} part of {own.data.layout}"
        else:
            labelled = dataset.load(data, images, **how_labels)
            rows, words = np.arange(len(labelled)), labelled.layout
        targets_NC = _targets_in_order(labelled, classifier.class_names)
        probabilities_NC, bad = classifier.probabilities(labelled.paths, rows, budget, on_progress)
    by_path = {labelled.paths[row]: reason for row, reason in bad.items()}
    require_few(by_path, len(rows), max_bad)
    good = without(rows, bad)
    targets_NC = targets_NC[good].astype(bool)
    evaluation = score(probabilities_NC, targets_NC, classifier.class_names, threshold)
    test_looks = 0
    if data is None and part == "test":
        test_looks = run_folder.record_test_score(folder, checkpoint, str(threshold))
    if save:
        source = f"{evaluation.threshold_source} on the {words}"
        checkpoints.set_thresholds(path, evaluation.thresholds, source)
    return RunEvaluation(
        checkpoint=path,
        evaluation=evaluation,
        info=classifier.info,
        images=words,
        bad=by_path,
        paths=[labelled.paths[row] for row in good],
        probabilities_NC=probabilities_NC,
        targets_NC=targets_NC,
        test_looks=test_looks,
    )


def _check_options(
    data: object, images: object, part: str | None, threshold: Threshold, checkpoint: str
) -> None:
    """Raise GrigriError, before the work, for options of :func:`evaluate` that are wrong."""
    run_folder.require_one_source(data, images, part)
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    require_one_of("--part", part or "val", PartName)
    is_number = isinstance(threshold, int | float) and 0 <= threshold <= 1
    if threshold not in ("auto", "per-class") and not is_number:
        raise GrigriError(
            f"--threshold {threshold!r} is not auto, per-class or a number from 0 to 1"
        )


def _targets_in_order(labelled: dataset.Dataset, class_names: list[str]) -> NDArray[np.float32]:
    """Return targets with the model's classes as columns; zeros for a class without images."""
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
