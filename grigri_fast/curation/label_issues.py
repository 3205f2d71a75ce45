"""Labels that are likely wrong, by models that have not seen the image.

By confident learning (cleanlab; Northcutt, Jiang and Chuang, "Confident Learning", 2021) from
probabilities that a run predicts for its validation part, or that models trained for this predict
for the fold that they were not trained on.

Shapes: N images, C classes.
"""

import csv
import io
import shutil
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig
from ..data import split
from ..data.dataset import Dataset
from ..data.layouts import HowLabels
from ..errors import GrigriError
from ..inference.predictor import Classifier
from ..pipeline.check import check_images, without
from ..runs import run_folder
from ..runs.trained_on import TrainedOn
from ..runtime import files
from ..runtime.compute import Compute
from ..training import trainer
from ..training.callbacks import Callback

# Few steps: the demo's rate, and no time to find out whether compiling pays.
_RECIPE: dict[str, Any] = {"arch": "grigri", "weights": "none", "lr": 0.05, "compile": "off"}


@dataclass(frozen=True)
class Issue:
    """A label that is likely wrong.

    Attributes:
        row: of the image.
        c: number of the class.
        given: whether the image has the label.
        probability: of a model that has not seen the image.
        score: cleanlab's quality of the label, from 0; the lower, the likelier it is wrong.
    """

    row: int
    c: int
    given: bool
    probability: float
    score: float


@dataclass(frozen=True)
class Predictions:
    """Probabilities from models that have not seen the images.

    Attributes:
        rows_N: which images.
        probabilities_NC: float64, classes in the data set's order.
        source: where they come from, in words.
    """

    rows_N: NDArray[np.intp]
    probabilities_NC: NDArray[np.float64]
    source: str


def find(data: Dataset, predictions: Predictions) -> list[Issue]:
    """Return the labels that are likely wrong, the likeliest first.

    Which and how many: confident learning, class by class. Their order: by cleanlab's
    self-confidence with probabilities measured against what is usual for the class, or else every
    label of a rare class would come first. A class that all or none of the images have says
    nothing.
    """
    if data.unknown_NC is not None:
        return _find_where_known(data, predictions)
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    targets_NC = data.targets_NC[predictions.rows_N].astype(bool)
    usable = [c for c in range(targets_NC.shape[1]) if 0 < targets_NC[:, c].sum() < len(targets_NC)]
    if not usable:
        return []
    # Not exactly 0 or 1, with which cleanlab's class thresholds can divide by nothing.
    probabilities_NC = np.clip(predictions.probabilities_NC[:, usable], 1e-6, 1 - 1e-6)
    labels = [np.flatnonzero(row).tolist() for row in targets_NC[:, usable]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few images
        flags_NC = find_multilabel_issues_per_class(labels, probabilities_NC, n_jobs=1)
        scores_NC = get_label_quality_scores_per_class(
            labels, probabilities_NC, adjust_pred_probs=True
        )
    issues = [
        Issue(
            int(predictions.rows_N[i]),
            usable[k],
            bool(targets_NC[i, usable[k]]),
            float(predictions.probabilities_NC[i, usable[k]]),
            float(scores_NC[i, k]),
        )
        for i, k in np.argwhere(flags_NC).tolist()
    ]
    return sorted(issues, key=lambda issue: (issue.score, issue.row, issue.c))


def _find_where_known(data: Dataset, predictions: Predictions) -> list[Issue]:
    """Return what :func:`find` does, class by class, of the images whose label is known."""
    assert data.unknown_NC is not None
    issues = []
    for c, name in enumerate(data.class_names):
        is_known_N = ~data.unknown_NC[predictions.rows_N, c]
        alone = replace(data, targets_NC=data.targets_NC[:, [c]], class_names=[name])
        of_class = Predictions(
            predictions.rows_N[is_known_N],
            predictions.probabilities_NC[is_known_N][:, [c]],
            predictions.source,
        )
        issues += [replace(one, c=c) for one in find(replace(alone, unknown_NC=None), of_class)]
    return sorted(issues, key=lambda issue: (issue.score, issue.row, issue.c))


# --------------------------------------------- probabilities by models that have not seen them


@dataclass(frozen=True)
class Setting:
    """With what models are trained and run.

    Attributes:
        data: the data set.
        source: what DATA was on the command line.
        images: folder of a CSV's images.
        compute: what to compute on.
        max_pixels: larger images are left out.
        epochs, size_px: of the models of the folds.
        how_labels: how the labels of DATA are to be read.
    """

    data: Dataset
    source: str
    images: str | None
    compute: Compute
    max_pixels: int
    epochs: int = 10
    size_px: int = 64
    how_labels: HowLabels = field(default_factory=HowLabels)


def predict_by_run(
    folder: Path, setting: Setting, classifier: Classifier | None = None
) -> tuple[Predictions, split.Split]:
    """Return a run's predictions on its validation part alone, and its split.

    The images that it was trained on are left out: what a model has learned by heart is no
    evidence. ``classifier`` is its model, where it is loaded already; else its last one is.

    Raises:
        GrigriError: if it is no run, or of other images or classes.
    """
    path = run_folder.checkpoint_path(folder, "last")
    part = run_folder.open_part(folder, "val", setting.data)
    rows, trained_on = part.rows, TrainedOn.read(folder)
    if trained_on is not None:  # copies of training images are left out, too
        crc32_N = check_images(
            setting.data.paths,
            rows,
            threads=setting.compute.threads,
            max_pixels=setting.max_pixels,
        ).crc32_N
        rows = rows[~trained_on.has_seen(crc32_N[rows])]
    rows_N, probabilities_NC = _predict(path, rows, setting, classifier)
    source = f"{len(rows_N):,} images of the validation part of {folder}"
    return Predictions(rows_N, probabilities_NC, source), part.split


def predict_by_folds(
    num_folds: int, out: Path, setting: Setting, callback: Callback
) -> Predictions:
    """Return predictions on all images, each by a model that was trained on the other folds.

    A fold that is finished leaves ``fold-<k>.csv`` in ``out`` and is not trained again; one that
    was stopped goes on.

    Args:
        num_folds: how many models.
        out: a folder of this check.
        setting: the data, and how models are trained.
        callback: called as training proceeds.

    Raises:
        GrigriError: as :func:`trainer.train`.
        Interrupted: when a signal has stopped it.
    """
    data = setting.data
    rows: list[NDArray[np.intp]] = []
    probabilities: list[NDArray[np.float64]] = []
    folds = split.folds(data, num_folds)
    for number, rows_N in enumerate(folds, start=1):
        name = f"fold-{number}"
        done = out / f"{name}.csv"
        if not done.exists():
            callback.log(f"fold {number} of {num_folds}")
            others = np.sort(np.concatenate([f for f in folds if f is not rows_N]))
            parts = split.Split({"train": others, "val": rows_N})
            path = _train_fold(parts, out / name, setting, callback)
            _write_predictions(done, data, *_predict(path, rows_N, setting))
            shutil.rmtree(out / name)
        of_fold = _read_predictions(done, data)
        rows.append(of_fold[0])
        probabilities.append(of_fold[1])
    words = f"{sum(map(len, rows)):,} images, each by one of {num_folds} models"
    return Predictions(np.concatenate(rows), np.concatenate(probabilities), words)


def _train_fold(parts: split.Split, folder: Path, setting: Setting, callback: Callback) -> Path:
    """Train on all but a fold, or resume, or do nothing where it is done; return the checkpoint."""
    file = folder.with_name(f"{folder.name}-split.json")
    if not (folder / run_folder.SUMMARY).is_file():
        if any((folder / name).is_file() for name in (run_folder.RESUME, run_folder.PREVIOUS)):
            trainer.train(setting.source, resume=folder, callback=callback)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # a false start
            files.write_atomic(file, split.to_json(parts, setting.data))
            how: dict[str, Any] = {**setting.how_labels, **_RECIPE}
            config = TrainConfig(
                data=setting.source,
                images=setting.images,
                split=str(file),
                out=str(folder.parent),
                name=folder.name,
                size=setting.size_px,
                epochs=setting.epochs,
                threads=setting.compute.threads,
                max_pixels=setting.max_pixels,
                max_bad=0.99,  # data check names the bad files anyway
                **how,
            )
            trainer.run(config, callback)
    file.unlink(missing_ok=True)
    return folder / run_folder.LAST


def _predict(
    path: Path, rows: NDArray[np.intp], setting: Setting, classifier: Classifier | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the rows that can be read, and a model's probabilities in the data set's order."""
    data = setting.data
    with setting.compute.open() as budget:
        if classifier is None:
            classifier = Classifier.from_file(path, setting.compute, setting.max_pixels)
        unknown = sorted(set(data.class_names) - set(classifier.class_names))
        if unknown:
            raise GrigriError(f"{data.layout}: the model does not know the class {unknown[0]!r}")
        probabilities_NC, bad = classifier.probabilities(data.paths, rows, budget)
    columns = [classifier.class_names.index(name) for name in data.class_names]
    return without(rows, bad), probabilities_NC[:, columns]


def _write_predictions(
    path: Path, data: Dataset, rows_N: NDArray[np.intp], probabilities_NC: NDArray[np.float64]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *data.class_names])
    for row, values_C in zip(rows_N.tolist(), probabilities_NC.tolist(), strict=True):
        writer.writerow([data.names[row], *values_C])
    files.write_atomic(path, text.getvalue())


def _read_predictions(path: Path, data: Dataset) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    row_of = {name: row for row, name in enumerate(data.names)}
    try:
        header, *lines = csv.reader(io.StringIO(files.read_text(path)))
        if header[1:] != data.class_names:
            raise ValueError("its classes are others")
        rows = [row_of[name] for name, *_ in lines]
        values = [[float(value) for value in line[1:]] for line in lines]
        return np.array(rows, dtype=np.intp), np.array(values).reshape(len(rows), len(header) - 1)
    except (GrigriError, ValueError, KeyError, IndexError, csv.Error) as e:
        raise GrigriError(f"{path}: not of this check: {e}; remove it, or use --out") from e
