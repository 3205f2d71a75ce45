"""A trained model's scores on images with labels, with thresholds and intervals.

Scores are called honest only if the model has not seen the images (see :mod:`subject`).
Shapes: N images, C classes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from . import bootstrap, metrics, subject, thresholds
from .bootstrap import Scores
from .subject import Exposure, Subject

Threshold: TypeAlias = Literal["auto", "per-class"] | float

AT_HALF = "at 0.5"
TUNED = "tuned on the same images"
CROSS_FITTED = "cross-fitted"
# What cross-fitted scores are to be called.
IN_WORDS: dict[Exposure, str] = {
    "unseen": "honest",
    "seen": "seen in training",
    "chosen": "epoch chosen here",
    "unknown": "perhaps seen",
}


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class; without positives recall, F1 and average precision are NaN."""

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
        per_class: a line per class, for the predictions of ``shown``.
        exposure: whether the model has seen the images; only ``unseen`` scores are honest.
        num_unknown: labels that are not known, and so not counted.
    """

    num_images: int
    at_half: Scores
    tuned: Scores | None
    cross_fitted: Scores | None
    at_threshold: Scores | None
    thresholds: float | list[float]
    threshold_source: str
    per_class: list[ClassScores]
    exposure: Exposure = "unseen"
    num_unknown: int = 0

    @property
    def shown(self) -> Scores:
        """The scores with thresholds that were not chosen by the images they are applied to."""
        return self.cross_fitted or self.at_threshold or self.at_half

    @property
    def honest(self) -> Scores:
        """The scores to expect on new images with thresholds chosen in the same way.

        Raises:
            GrigriError: if the model may have seen these; ``shown`` are the scores all the same.
        """
        if self.exposure != "unseen":
            raise GrigriError(f"these scores are not honest: {IN_WORDS[self.exposure]}")
        return self.shown

    @property
    def absent(self) -> list[str]:
        """Classes without positives here, which macro-F1 and mAP leave out."""
        return [c.name for c in self.per_class if not c.support]

    @property
    def remarks(self) -> list[str]:
        """What is to be said of macro-F1 and mAP, in sentences."""
        support_C = np.array([c.support for c in self.per_class])
        num_there = int((support_C > 0).sum())
        remarks = []
        if self.absent:
            classes = "class" if num_there == 1 else "classes"
            remarks.append(
                f"macro-F1 and mAP are of {num_there:,} {classes}; no image here has"
                f" {_first(self.absent)}"
            )
        if num_there and not bootstrap.has_enough_positives(support_C):
            mean, least = support_C.sum() / num_there, bootstrap.LEAST_POSITIVES
            remarks.append(
                f"macro-F1 and mAP have no interval: a class has {mean:.1f} images on average, and"
                f" it takes {least}"
            )
        return remarks

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
            "exposure": self.exposure,
            "num_unknown": self.num_unknown,
            "absent": self.absent,
            "remarks": self.remarks,
            "per_class": [asdict(of_class) for of_class in self.per_class],
        }

    def summary(self) -> dict[str, Any]:
        """Return what a run's ``summary.json`` holds of it, under ``validation``."""
        kept = self.to_json()
        return {
            "num_images": self.num_images,
            "threshold": self.thresholds,
            **{key: kept[key] for key in ("scores", "exposure", "num_unknown", "absent")},
        }


def score(
    probabilities_NC: NDArray[np.float64],
    targets_NC: NDArray,
    class_names: list[str],
    threshold: Threshold,
    *,
    unknown_NC: NDArray[np.bool_] | None = None,
    exposure: Exposure = "unseen",
) -> Evaluation:
    """Return the scores of probabilities, with thresholds chosen as ``threshold`` says.

    Args:
        probabilities_NC: predicted probabilities.
        targets_NC: 0/1 labels.
        class_names: names of the columns.
        threshold: ``auto`` (the global threshold with the best micro-F1), ``per-class`` (for each
            class the threshold with its best F1), or a number from 0 to 1.
        unknown_NC: labels that are not known, which count nowhere; None: all are known.
        exposure: whether the model has seen the images.

    Folds and halves are always the same, so that a model is never scored in two ways.
    """
    targets_NC = targets_NC.astype(bool)
    if unknown_NC is not None:
        probabilities_NC = np.where(unknown_NC, -np.inf, probabilities_NC)
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
    counts, support_C = metrics.count(honest_NC, targets_NC), targets_NC.sum(0)
    columns = (
        support_C,
        metrics.precision(counts),
        np.where(support_C > 0, metrics.recall(counts), np.nan),
        np.where(support_C > 0, metrics.f1(counts), np.nan),
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
        exposure=exposure,
        num_unknown=0 if unknown_NC is None else int(unknown_NC.sum()),
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
        paths: the files that are scored (N).
        probabilities_NC: theirs, float64; -inf for a label that is not known.
        targets_NC: their labels, bool.
        test_looks: how often the run's test part has been scored, this time included; 0 where it
            was not the test part.
        seen: files that are left out because the model was trained on what they hold.
        gone: names of images of the run's part that the data do not have.
        missing: classes of the model that the data do not know; they are left out.
        reading: how the labels were read, in sentences.
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
    seen: list[Path] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    reading: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """What is not scored, and what the model knew of the rest, in sentences."""
        remarks, evaluation = [], self.evaluation
        if self.seen:
            num, names = len(self.seen), _first([path.name for path in self.seen])
            remarks.append(f"{num:,} left out, for the model was trained on them: {names}")
        if self.gone:
            remarks.append(f"{len(self.gone):,} of the part are not there: {_first(self.gone)}")
        if self.missing:
            remarks.append(
                f"classes left out, for these data do not know them: {_first(self.missing)}"
            )
        num_unknown = evaluation.num_unknown - len(self.missing) * evaluation.num_images
        if num_unknown:
            remarks.append(f"{num_unknown:,} labels are not known, and count nowhere")
        if evaluation.exposure == "seen":
            remarks.append("the model was trained on all of these images, so its scores flatter")
        elif evaluation.exposure == "chosen":
            remarks.append("this epoch was chosen by its score on the val part, which flatters")
        elif evaluation.exposure == "unknown":
            remarks.append("the run does not say which images it was trained on: perhaps on these")
        return remarks

    def to_json(self) -> dict[str, Any]:
        """Return what ``eval --json`` prints."""
        return {
            "checkpoint": str(self.checkpoint),
            "images": self.images,
            "arch": self.info.arch,
            "epoch": self.info.epoch,
            **self.evaluation.to_json(),
            "test_looks": self.test_looks,
            "seen": [str(path) for path in self.seen],
            "gone": self.gone,
            "missing": self.missing,
            "reading": self.reading,
            "bad": {str(path): reason for path, reason in self.bad.items()},
        }


def _first(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


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
        data: other photographs and labels, or the run's own where they have moved to.
        images: with ``data``, the folder that a CSV's image names are relative to.
        part: of the run's split; ``val`` by default, and with ``data`` all of them.
        threshold: ``auto``, one for the best micro-F1; ``per-class``, one for each class's best F1;
            or a number from 0 to 1.
        checkpoint: ``last``, the final epoch; ``best``, the epoch with the best validation
            micro-F1, whose score there flatters.
        save: store the threshold in the checkpoint, for ``predict``. A class that the data do not
            know keeps the one that it has.
        max_bad: share of the images that may be unusable; they are left out.
        max_pixels: larger images are refused unread.
        device, amp, threads: what to compute on, in which number format, with how many CPU threads.
        memory_limit: the most that this process may take on the device, like ``4GiB``.
        on_progress: called with images done and images in all.
        how_labels: with ``data``, how its labels are to be read, as in :class:`HowLabels`;
            ``corrections`` also without.

    Images that the model was trained on are left out, wherever they lie and whatever their name
    is; if it was trained on all of them, ``exposure`` says that the scores are of seen images.

    Raises:
        GrigriError: if run, data and labels do not fit each other, or an option is wrong.
    """
    _check_options(data, images, part, threshold, checkpoint)
    others = [name for name in how_labels if name != "corrections"]
    if data is None and others:
        flag = "--" + others[0].replace("_", "-")
        raise GrigriError(f"{flag} goes with --data; the run knows its own")
    folder = Path(run)
    path = run_folder.checkpoint_path(folder, checkpoint)
    compute = Compute.resolve(device, amp, threads, memory_limit)
    with compute.open() as budget:
        classifier = Classifier.from_file(path, compute, max_pixels)
        found = subject.choose(
            folder,
            part,
            None if data is None else dataset.load(data, images, **how_labels),
            corrections=how_labels.get("corrections"),
            class_names=classifier.class_names,
            checkpoint=checkpoint,
            compute=compute,
            max_pixels=max_pixels,
        )
        probabilities_NC, bad = classifier.probabilities(
            found.data.paths, found.rows, budget, on_progress, found.checked
        )
    require_few({found.data.paths[row]: why for row, why in bad.items()}, len(found.rows), max_bad)
    test_looks = 0
    if part == "test":
        test_looks = run_folder.record_test_score(folder, checkpoint, str(threshold))
    scored = _scored(path, classifier.info, found, probabilities_NC, bad, threshold, test_looks)
    if save:
        checkpoints.set_thresholds(path, *_to_store(scored.evaluation, found, classifier.info))
    return scored


def _scored(
    checkpoint: Path,
    info: ModelInfo,
    found: Subject,
    probabilities_NC: NDArray[np.float64],
    bad: dict[int, str],
    threshold: Threshold,
    test_looks: int,
) -> RunEvaluation:
    """Return the evaluation of what was found, by the probabilities of all that is not bad."""
    good = without(found.rows, bad)
    targets_NC, unknown_NC = found.targets_NC[good].astype(bool), None
    if found.unknown_NC is not None:
        unknown_NC = found.unknown_NC[good]
        probabilities_NC = np.where(unknown_NC, -np.inf, probabilities_NC)
    return RunEvaluation(
        checkpoint=checkpoint,
        evaluation=score(
            probabilities_NC,
            targets_NC,
            info.class_names,
            threshold,
            unknown_NC=unknown_NC,
            exposure=found.exposure,
        ),
        info=info,
        images=found.words,
        bad={found.data.paths[row]: reason for row, reason in bad.items()},
        seen=found.paths(found.seen),
        gone=found.gone,
        missing=found.missing,
        reading=found.data.notes,
        paths=found.paths(good),
        probabilities_NC=probabilities_NC,
        targets_NC=targets_NC,
        test_looks=test_looks,
    )


def _to_store(
    evaluation: Evaluation, found: Subject, info: ModelInfo
) -> tuple[float | list[float], str]:
    """Return the thresholds that ``--save`` stores, and where they come from in words.

    A class that the data do not know keeps its threshold: the one that was found knows nothing of
    it.
    """
    source = f"{evaluation.threshold_source} on the {found.words}"
    if evaluation.exposure == "seen":
        source += ", which the model was trained on"
    if not found.missing or evaluation.threshold_source == "given":
        return evaluation.thresholds, source
    is_missing_C = np.isin(info.class_names, found.missing)
    stored_C = np.where(is_missing_C, info.thresholds_C, evaluation.thresholds)
    return stored_C.tolist(), f"{source}; as before for {', '.join(found.missing)}"


def _check_options(
    data: object, images: object, part: str | None, threshold: Threshold, checkpoint: str
) -> None:
    """Raise GrigriError, before the work, for options of :func:`evaluate` that are wrong."""
    run_folder.require_data_for_images(data, images)
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    require_one_of("--part", part or "val", PartName)
    is_number = isinstance(threshold, int | float) and 0 <= threshold <= 1
    if threshold not in ("auto", "per-class") and not is_number:
        raise GrigriError(
            f"--threshold {threshold!r} is not auto, per-class or a number from 0 to 1"
        )
