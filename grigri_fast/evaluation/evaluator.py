"""Model and images -> logits; logits and labels -> thresholds and honest scores.

Shapes: N images, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import TrainConfig, read_toml
from ..data import dataset, split
from ..errors import GrigriError
from ..inference import forward
from ..pipeline.check import require_few, without
from ..runs import checkpoint, run_folder
from ..runs.checkpoint import ModelInfo
from ..runtime import files
from ..runtime.memory import Budget
from . import metrics
from .metrics import Scores

_BATCH_SIZE = 32

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


def evaluate(
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


def evaluate_run(
    folder: Path,
    *,
    which: str = "last",
    data: str | None = None,
    images: str | None = None,
    part: str = "val",
    threshold: str | float = "auto",
    device: torch.device,
    amp: str,
    threads: int,
    max_bad: float,
    max_pixels: int,
    budget: Budget,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RunEvaluation:
    """Score a run's checkpoint on a part of its own data, or on the whole of other data.

    Args:
        folder: the run folder.
        which: checkpoint ``last`` or ``best``.
        data: other data, all of which is scored; the run's own by default.
        images: folder of a CSV's images, with ``data``.
        part: ``train``, ``val`` or ``test`` of the run's split; not used with ``data``.
        threshold: as in :func:`evaluate`.
        device, amp, threads: what to compute on and how.
        max_bad: share of the images that may be unusable; they are left out.
        max_pixels: larger images are refused.
        budget: of memory, with or without a limit.
        on_progress: called with images done and images in all.

    Raises:
        GrigriError: if run, data and labels do not fit together.
    """
    torch.set_num_threads(threads)
    model, info = checkpoint.load(checkpoint_path(folder, which), device)
    if data is None:
        config = TrainConfig(**read_toml(folder / run_folder.CONFIG))
        if config.data is None:
            raise GrigriError(f"{folder / run_folder.CONFIG} does not say which data; use --data")
        labelled = dataset.load(files.shown(config.data), config.images)
        parts = split.read(folder / run_folder.SPLIT, labelled).parts
        if part not in parts:
            raise GrigriError(f"{folder}: its split has no {part} part, only {', '.join(parts)}")
        rows = parts[part]
        described = f"{part} part of {labelled.layout}"
    else:
        labelled = dataset.load(data, images)
        rows = np.arange(len(labelled))
        described = labelled.layout
    targets_NC = _targets_in_order(labelled, info.class_names)
    probabilities_NC, bad = forward.probabilities_of_files(
        model,
        info,
        labelled.paths,
        rows,
        device=device,
        amp=amp,
        threads=threads,
        max_pixels=max_pixels,
        budget=budget,
        on_progress=lambda done: on_progress(done, len(rows)),
    )
    by_path = {labelled.paths[row]: reason for row, reason in bad.items()}
    require_few(by_path, len(rows), max_bad)
    good = without(rows, bad)
    targets_NC = targets_NC[good].astype(bool)
    is_test = data is None and part == "test"
    return RunEvaluation(
        evaluation=evaluate(probabilities_NC, targets_NC, info.class_names, threshold),
        info=info,
        images=described,
        bad=by_path,
        paths=[labelled.paths[row] for row in good],
        probabilities_NC=probabilities_NC,
        targets_NC=targets_NC,
        test_looks=run_folder.note_test_look(folder, which, str(threshold)) if is_test else 0,
    )


def checkpoint_path(folder: Path, which: str) -> Path:
    """Return the path of a run's ``last`` or ``best`` checkpoint."""
    run_folder.require(folder)
    return folder / {"last": run_folder.LAST, "best": run_folder.BEST}[which]


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
