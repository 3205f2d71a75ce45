"""The study of the report of 2020, run again: a row is an experiment, and a folder of results.

Rows are run, or gone on with, by :func:`reproduce`; what they left behind is read by
:func:`findings`, and nothing else is shown (see ``study``).

Shapes: N images, C classes.
"""

import contextlib
import dataclasses
import gc
import hashlib
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import TrainConfig, read_toml, resolve
from ..data import dataset, split
from ..errors import GrigriError, Interrupted
from ..evaluation import evaluator, metrics
from ..inference.predictor import Classifier
from ..models import factory
from ..runs import checkpoint, manifest, run_folder
from ..runtime import environment, files
from ..runtime.compute import Compute
from ..runtime.option import write_toml
from ..training import trainer
from ..training.callbacks import Callback

_FORMAT = "grigri-fast reproduce 1"  # of the summaries that are written here
REASONS = "could-not-run.json"
FULL_LABELS = "labels_20000.csv"  # labels of all of the report's images, beside those that are here
SEED = 0
EPOCHS = 20  # given for the first experiment, assumed for the others
VAL = 0.2
_MIN_SIZE_PX = 32  # below, deep networks have no pixels left

# ------------------------------------------------------------------- what the report gives

CLASS_NAMES = [
    *("baby", "bird", "car", "clouds", "dog", "female", "flower"),
    *("male", "night", "people", "portrait", "river", "sea", "tree"),
]
# Class frequencies after the report's stratification, as printed there.
FREQUENCIES = {
    "train": [
        *(0.0046875, 0.018, 0.0159375, 0.05475, 0.022375, 0.161375, 0.0380625),
        *(0.1489375, 0.029875, 0.320125, 0.1560625, 0.006, 0.008625, 0.02625),
    ],
    "val": [
        *(0.005, 0.018, 0.016, 0.05475, 0.0225, 0.16125, 0.038),
        *(0.149, 0.03, 0.32025, 0.156, 0.006, 0.00875, 0.02625),
    ],
}
NUM_SIMPLE_PARAMETERS = 11_098_110
THRESHOLD = 0.375  # the best global one there

Kind = Literal["data", "train", "untrained", "thresholds"]


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        name: of its folder, and what ``--only`` takes.
        title: what it is, in words.
        kind: how it is run.
        reported: ``micro_f1`` and ``subset_accuracy`` in the report; empty where no figure of it
            is known.
        options: of its :class:`TrainConfig`, with the report's size in pixels; all that matter are
            said, so that other defaults make no other study.
        threshold: ``auto`` or ``per-class``, of a row of kind ``thresholds``.
    """

    name: str
    title: str
    kind: Kind = "train"
    reported: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    threshold: str = "auto"


def _scores(micro_f1: float, subset_accuracy: float) -> dict[str, float]:
    return {"micro_f1": micro_f1, "subset_accuracy": subset_accuracy}


# The report's weight decay of the first experiments is not given: none is assumed.
_PLAIN = {
    **{"recipe": "report", "arch": "resnet18", "size": 128, "batch_size": 32},
    **{"freeze_backbone": False},
    **{"loss": "bce", "optimizer": "sgd", "schedule": "constant", "lr": 0.01, "momentum": 0.9},
    **{"momentum_min": None, "weight_decay": 0.0, "augment": False},
}
_ONECYCLE = _PLAIN | {
    **{"schedule": "onecycle", "lr": 0.01, "momentum": 0.95, "momentum_min": 0.85},
    "weight_decay": 1e-3,
}
_FINAL = _ONECYCLE | {"augment": True, "weight_decay": 1e-4}
_RESNET34 = _FINAL | {"arch": "resnet34", "size": 224}

BASE = "resnet34"  # whose thresholds are tuned
ROWS = (
    Row("data", "The data; predicting nothing", "data", _scores(0.0, 0.4912)),
    Row("bce", "ResNet18, BCE, SGD", reported=_scores(0.7170, 0.6402), options=_PLAIN),
    Row(
        "mse",
        "ResNet18, MSE, SGD",
        reported=_scores(0.6594, 0.5880),
        options=_PLAIN | {"loss": "mse"},
    ),
    Row("adam", "ResNet18, Adam", options=_PLAIN | {"optimizer": "adam", "lr": 1e-3}),
    Row(
        "rmsprop",
        "ResNet18, RMSprop",
        options=_PLAIN | {"optimizer": "rmsprop", "lr": 1e-3, "momentum": 0.0},
    ),
    Row("amsgrad", "ResNet18, AMSGrad", options=_PLAIN | {"optimizer": "amsgrad", "lr": 1e-3}),
    Row("onecycle", "ResNet18, SGD one-cycle", options=_ONECYCLE),
    Row(
        "augmentation",
        "ResNet18, augmented, one-cycle",
        reported=_scores(0.6668, 0.6218),
        options=_ONECYCLE | {"augment": True},
    ),
    Row(
        "resnet34",
        "ResNet34 at 224 px, augmented, one-cycle",
        reported=_scores(0.7709, 0.6913),
        options=_RESNET34,
    ),
    Row(
        "wide_resnet50_2",
        "Wide ResNet-50-2, augmented, one-cycle",
        reported=_scores(0.7535, 0.6780),
        options=_FINAL | {"arch": "wide_resnet50_2"},
    ),
    Row(
        "untrained",
        "ResNet34 with an untrained head",
        "untrained",
        _scores(0.1256, 0.0),
        _RESNET34,
    ),
    Row(
        "frozen",
        "ResNet34, backbone frozen",
        reported=_scores(0.6315, 0.5920),
        options=_RESNET34 | {"freeze_backbone": True},
    ),
    Row("threshold", "ResNet34, one threshold tuned", "thresholds", _scores(0.7870, 0.7015)),
    Row(
        "thresholds_per_class",
        "ResNet34, a threshold per class",
        "thresholds",
        _scores(0.7834, 0.7120),
        threshold="per-class",
    ),
    Row(
        "simple",
        "SimpleConvNet from scratch",
        reported=_scores(0.0, 0.4926),
        options=_FINAL | {"arch": "simple"},
    ),
)
NAMES = [row.name for row in ROWS]


def row_named(name: str) -> Row:
    """Return the row of that name.

    Raises:
        GrigriError: if there is none.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise GrigriError(f"--only {name}: no such row; the rows are {', '.join(NAMES)}")


# ------------------------------------------------------------------------------ the study


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is run, on what, and at which scale.

    Attributes:
        data: a folder or a CSV.
        out: where the folders of the rows and the reports are.
        epochs: of each training row.
        limit: use about so many images; None: all.
        size_scale: what the report's image sizes are multiplied with, above 0 and at most 1.
        weights: ``imagenet``, ``none``, or a folder of torchvision's files.
        device, amp, threads, memory_limit: as in :class:`TrainConfig`.
    """

    data: str
    out: Path
    epochs: int = EPOCHS
    limit: int | None = None
    size_scale: float = 1.0
    weights: str = "imagenet"
    device: str = "auto"
    amp: str = "auto"
    threads: int | None = None
    memory_limit: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.size_scale <= 1:
            raise GrigriError(
                f"--size-scale must be more than 0 and at most 1, not {self.size_scale}"
            )
        if self.weights not in ("imagenet", "none") and not Path(self.weights).is_dir():
            raise GrigriError(
                f"--weights {self.weights}: no such folder (imagenet, none, or a folder of"
                f" torchvision's files are taken)"
            )
        train_config(ROWS[1], self)  # checks the other values

    def folder(self, row: Row) -> Path:
        """Return where a row's results are."""
        return self.out / row.name

    @property
    def split(self) -> Path:
        """The split that all rows share."""
        return self.out / run_folder.SPLIT


def size_px(row: Row, study: Study) -> int:
    """Return the side of a row's images at the study's scale."""
    scaled = round(row.options["size"] * study.size_scale)
    return min(row.options["size"], max(_MIN_SIZE_PX, scaled))


def weights_of(row: Row, study: Study) -> str:
    """Return ``imagenet``, ``none`` or the path of a file (which need not exist)."""
    if row.options["arch"] == "simple" or study.weights == "none":
        return "none"
    if study.weights == "imagenet":
        return "imagenet"
    names = factory.weight_files(row.options["arch"])
    # The report had the oldest; the last is what torchvision calls its default now.
    there = [name for name in names if (Path(study.weights) / name).is_file()]
    return str((Path(study.weights) / (there or names[-1:])[0]).absolute())


def train_config(row: Row, study: Study) -> TrainConfig:
    """Return the options with which ``grigri-fast train`` would run the row."""
    options = row.options | {"size": size_px(row, study), "weights": weights_of(row, study)}
    return TrainConfig(
        data=study.data,
        split=str(study.split),
        limit=study.limit,
        epochs=study.epochs,
        seed=SEED,
        device=study.device,
        amp=study.amp,
        threads=study.threads,
        memory_limit=study.memory_limit,
        out=str(study.out),
        name=row.name,
        **options,
    )


# ------------------------------------------------------------------------------ running it


class StudyCallback(Callback):
    """A :class:`Callback` that is also told which row begins."""

    def row(self, number: int, total: int, row: Row) -> AbstractContextManager[Callback]:
        """Row ``number`` of ``total`` begins; return the callback of its training."""
        return contextlib.nullcontext(self)


def reproduce(study: Study, names: list[str], callback: StudyCallback) -> dict[str, str]:
    """Run the rows that are not finished, or go on with those that were stopped.

    Args:
        study: at which scale.
        names: of the rows.
        callback: told of the progress.

    Returns:
        By name why a row could not be run.

    Raises:
        GrigriError: if ``out`` holds the rows of another study, or the data cannot be read.
        Interrupted: after a signal; all is stored.
    """
    data = dataset.load(study.data)
    _require_same_study(study, data)
    _write_split(study, data)
    failed: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    wanted = [row for row in ROWS if row.name in names]
    try:
        for number, row in enumerate(wanted, start=1):
            if is_done(row, study):
                callback.log(f"{row.name} is there already")
                continue
            _note_reason(study, row, None)
            with callback.row(number, len(wanted), row) as row_callback:
                try:
                    if row.options and not _can_go_on(row, study):
                        _require_weights(row, study, len(data.class_names), unavailable)
                    _RUN[row.kind](row, study, data, row_callback)
                except GrigriError as e:
                    failed[row.name] = str(e)
                    row_callback.log(f"could not be run: {e}")
            if row.name in failed:
                _note_reason(study, row, failed[row.name])
            gc.collect()  # what a row has left on the device is not the next one's
            torch.cuda.empty_cache()
    except (Interrupted, KeyboardInterrupt) as e:
        signum = e.signum if isinstance(e, Interrupted) else signal.SIGINT
        raise Interrupted(signum, "the same command goes on") from e
    return failed


def is_done(row: Row, study: Study) -> bool:
    """Return whether a row's results are complete."""
    folder = study.folder(row)
    if not (folder / run_folder.SUMMARY).is_file():
        return False
    if row.kind in ("train", "untrained"):
        return True
    stored = files.read_json(folder / run_folder.SUMMARY)
    if row.kind == "thresholds":
        last = study.out / BASE / run_folder.LAST
        if last.is_file() and stored.get("of_sha256") != _sha256(last):
            return False
    return stored.get("format") == _FORMAT


def _can_go_on(row: Row, study: Study) -> bool:
    folder = study.folder(row)
    states = [folder / run_folder.RESUME, folder / run_folder.PREVIOUS]
    return (folder / run_folder.CONFIG).is_file() and any(path.is_file() for path in states)


def _require_same_study(study: Study, data: dataset.Dataset) -> None:
    """Raise GrigriError unless every row that is in ``out`` is one of this very study."""
    for row in ROWS:
        folder = study.folder(row)
        if row.options and (folder / run_folder.CONFIG).is_file():
            stored = resolve(TrainConfig(**read_toml(folder / run_folder.CONFIG)))
            wanted = resolve(train_config(row, study))
            for name in [*row.options, "weights", "epochs", "limit", "seed"]:
                was, now = getattr(stored, name), getattr(wanted, name)
                if was != now:
                    raise GrigriError(
                        f"--{name.replace('_', '-')} was {was} when {files.shown(folder)} was made,"
                        f" not {now}: take another --out for another study"
                    )
        if (folder / run_folder.DATA).is_file():
            try:
                manifest.require_same(folder / run_folder.DATA, data)
            except GrigriError as e:
                raise GrigriError(f"{files.shown(folder)}: {e}; take another --out") from e


def _write_split(study: Study, data: dataset.Dataset) -> None:
    if study.split.is_file():
        split.read(study.split, data)  # says at once if it is of other data
        return
    try:
        study.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise GrigriError(f"--out {study.out}: cannot be made: {e.strerror or e}") from e
    parts = split.stratify(data, VAL, seed=SEED)
    files.write_atomic(study.split, split.to_json(parts, data))


def _train(row: Row, study: Study, data: dataset.Dataset, callback: Callback) -> None:
    """Train, or go on."""
    folder = study.folder(row)
    if _can_go_on(row, study):
        given = {"data": study.data, "device": study.device, "threads": study.threads}
        given |= {"amp": study.amp, "memory_limit": study.memory_limit}
        given = {k: v for k, v in given.items() if v not in (None, "auto")}
        trainer.train(trainer.resumed_config(folder, given), callback, folder)
        return
    _remove_false_start(folder)
    trainer.train(train_config(row, study), callback)


def _require_weights(row: Row, study: Study, num_classes: int, unavailable: dict[str, str]) -> None:
    """Raise GrigriError if a row's weights cannot be had, before its images are looked at.

    ``unavailable`` keeps the reasons by architecture: a download that fails may take its time.
    """
    weights, arch = weights_of(row, study), row.options["arch"]
    if weights == "none":
        return
    if arch not in unavailable:
        try:
            if weights != "imagenet" and not Path(weights).is_file():
                raise GrigriError(
                    f"no pretrained weights: --weights {files.shown(study.weights)} has no file"
                    f" {Path(weights).name}"
                )
            factory.build_pretrained(arch, num_classes, size_px(row, study), weights)
        except GrigriError as e:
            unavailable[arch] = str(e)
    if arch in unavailable:
        raise GrigriError(unavailable[arch])


def _remove_false_start(folder: Path) -> None:
    """Remove a run folder whose process was killed before there was anything to go on from.

    Raises:
        GrigriError: if other files are in it.
    """
    if not folder.exists():
        return
    left = [
        run_folder.SPLIT,
        run_folder.DATA,
        run_folder.CONFIG,
        run_folder.ENVIRONMENT,
        run_folder.QUARANTINE,
    ]
    try:
        files.remove_unfinished(folder, [*left, run_folder.RESUME])
        others = {path.name for path in folder.iterdir()} - set(left)
        if others:
            raise GrigriError(f"{folder} is in the way: it holds {min(others)}, but no state")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    except OSError as e:
        raise GrigriError(f"{folder} is in the way: {e.strerror or e}") from e


def _note_reason(study: Study, row: Row, reason: str | None) -> None:
    """Keep why a row could not be run, for reports that are written later."""
    reasons = files.read_json(study.out / REASONS)
    reasons.pop(row.name, None)
    if reason is not None:
        reasons[row.name] = reason
    files.write_json(study.out / REASONS, reasons)


# ------------------------------------------------------------------- rows without training


def _describe_data(row: Row, study: Study, data: dataset.Dataset, callback: Callback) -> None:
    """Write frequencies and baselines of the data, and of all the report's labels if they are here.

    ``summary.json`` has a list ``sets``, the report's own first.
    """
    parts = split.read(study.split, data)
    sets = [_description(data, parts, files.shown(data.layout.partition(" ")[0]).name)]
    full = Path(study.data) / FULL_LABELS
    if full.is_file():
        everything = dataset.load(full)
        parts = split.stratify(everything, VAL, seed=SEED)
        sets.insert(0, _description(everything, parts, FULL_LABELS))
    for found in sets:
        counts = " + ".join(f"{n:,}" for n in found["num_images"].values())
        callback.log(
            f"{found['name']}: {counts} images, {found['without_label']:.2%} without a label;"
            f" always {found['most_frequent']!r}: micro-F1 {found['always_micro_f1']:.4f}"
        )
    folder = study.folder(row)
    folder.mkdir(exist_ok=True)
    _write_provenance(folder, data)
    content = {
        "format": _FORMAT,
        "sets": sets,
        "validation": {"scores": {evaluator.AT_HALF: sets[0]["nothing"]}},
    }
    files.write_json(folder / run_folder.SUMMARY, content)


def _description(data: dataset.Dataset, parts: split.Split, name: str) -> dict[str, Any]:
    """Return frequencies per part, and what answers cost that need no network."""
    targets_NC = data.targets_NC.astype(bool)
    most = int(targets_NC.sum(0).argmax())
    always_NC = np.zeros_like(targets_NC)
    always_NC[:, most] = True
    frequencies = split.frequencies(parts, data)
    nan = float("nan")
    nothing = metrics.bootstrap_scores(
        np.zeros_like(targets_NC),
        targets_NC,
        metrics.Interval(nan, nan, nan),
        metrics.bootstrap_weights(len(data), seed=SEED),
    )
    return {
        "name": name,
        "class_names": data.class_names,
        "num_images": {part: len(rows) for part, rows in parts.parts.items()},
        "frequencies": {part: values.tolist() for part, values in frequencies.items()},
        "without_label": float((~targets_NC.any(1)).mean()),
        "val_without_label": float((~targets_NC[parts.parts["val"]].any(1)).mean()),
        "labels_per_image": float(targets_NC.sum() / len(data)),
        "most_frequent": data.class_names[most],
        "always_micro_f1": float(metrics.micro_f1(metrics.count(always_NC, targets_NC))),
        "nothing": dataclasses.asdict(nothing),
    }


def _score_untrained(row: Row, study: Study, data: dataset.Dataset, callback: Callback) -> None:
    """Write a run folder of no epochs, and score it.

    The head is as PyTorch makes it, as the report's was: without the log-odds of the frequencies,
    with which training starts here.
    """
    config = resolve(train_config(row, study))
    torch.manual_seed(SEED)
    num_classes = len(data.class_names)
    if config.weights == "none":
        model = factory.build(
            config.arch, num_classes, config.size, config.init, config.train_norms
        )
    else:
        model = factory.build_pretrained(config.arch, num_classes, config.size, config.weights)
    folder = study.folder(row)
    folder.mkdir(exist_ok=True)
    parts = split.read(study.split, data)
    if study.limit is not None:
        parts = parts.limited(study.limit, SEED)
    files.write_atomic(folder / run_folder.SPLIT, split.to_json(parts, data))
    _write_provenance(folder, data)
    info = checkpoint.ModelInfo(config.arch, config.size, data.class_names)
    checkpoint.save(folder / run_folder.LAST, model, info)
    absolute = {"data": str(Path(config.data).absolute()), "split": str(study.split.absolute())}
    files.write_atomic(
        folder / run_folder.CONFIG, write_toml(dataclasses.replace(config, **absolute))
    )
    compute = _compute(study)
    files.write_json(
        folder / run_folder.ENVIRONMENT, environment.describe(compute.device, compute.amp)
    )
    probabilities_NC, targets_NC = _validation_probabilities(folder, study, data, callback)
    evaluation = evaluator.score(probabilities_NC, targets_NC, data.class_names, "auto")
    files.write_json(folder / run_folder.SUMMARY, {"epochs": 0, "validation": evaluation.summary()})


def _tune_thresholds(row: Row, study: Study, data: dataset.Dataset, callback: Callback) -> None:
    """Tune thresholds on the validation images of the base run, and cross-fit them beside it."""
    base = study.out / BASE
    if not is_done(row_named(BASE), study):
        raise GrigriError(f"needs the finished row {BASE}, whose thresholds these are")
    probabilities_NC, targets_NC = _validation_probabilities(base, study, data, callback)
    evaluation = evaluator.score(probabilities_NC, targets_NC, data.class_names, row.threshold)
    folder = study.folder(row)
    folder.mkdir(exist_ok=True)
    content = {
        "format": _FORMAT,
        "of": BASE,
        "of_sha256": _sha256(base / run_folder.LAST),
        "validation": evaluation.summary(),
        "class_names": data.class_names,
        "curve": _scores_over_threshold(probabilities_NC, targets_NC),
    }
    files.write_json(folder / run_folder.SUMMARY, content)


def _scores_over_threshold(
    probabilities_NC: NDArray[np.float64], targets_NC: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """Return micro-F1 and subset accuracy at 101 thresholds from 0 to 1."""
    thresholds = np.linspace(0, 1, 101)
    predictions = [probabilities_NC >= t for t in thresholds]
    return {
        "threshold": thresholds.tolist(),
        "micro_f1": [float(metrics.micro_f1(metrics.count(p, targets_NC))) for p in predictions],
        "subset_accuracy": [metrics.subset_accuracy(p, targets_NC) for p in predictions],
    }


def _validation_probabilities(
    folder: Path, study: Study, data: dataset.Dataset, callback: Callback
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return probabilities and targets (N, C) of a run's last model on its validation part."""
    compute = _compute(study)
    rows = run_folder.open_part(folder, "val", data).rows
    last = folder / run_folder.LAST
    callback.log(f"scoring {len(rows):,} validation images with {files.shown(last)}")
    with compute.open() as budget:
        classifier = Classifier.from_file(last, compute)
        probabilities_NC, bad = classifier.probabilities(data.paths, rows, budget)
    good = np.array([row for row in rows if row not in bad], dtype=np.intp)
    if not len(good):
        raise GrigriError(f"{folder}: no validation image can be used")
    return probabilities_NC, data.targets_NC[good].astype(bool)


def _write_provenance(folder: Path, data: dataset.Dataset) -> None:
    unknown_N = np.full(len(data), -1)  # the files' contents were not looked at
    files.write_atomic(folder / run_folder.DATA, manifest.to_json(data, unknown_N))


def _compute(study: Study) -> Compute:
    return Compute.resolve(study.device, study.amp, study.threads, study.memory_limit)


_RUN: dict[Kind, Callable[[Row, Study, dataset.Dataset, Callback], None]] = {
    "data": _describe_data,
    "train": _train,
    "untrained": _score_untrained,
    "thresholds": _tune_thresholds,
}


# ----------------------------------------------------------------------- what has come of it


@dataclass(frozen=True)
class Finding:
    """What a row has left behind.

    Attributes:
        row: which row.
        why: why there is no result, "" if there is one.
        summary: its ``summary.json``, empty without a result.
        history: the rows of its ``results.csv``, numbers as numbers.
        environment: its ``environment.json``.
    """

    row: Row
    why: str
    summary: dict[str, Any]
    history: list[dict[str, float]]
    environment: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return not self.why

    def score(self, key: str, way: str | None = None) -> metrics.Interval | None:
        """Return a score of the last epoch on the validation part, None if there is none.

        Args:
            key: ``micro_f1``, ``macro_f1``, ``subset_accuracy`` or ``mAP``.
            way: how the threshold was found; what the report did by default.
        """
        way = way or (evaluator.TUNED if self.row.kind == "thresholds" else evaluator.AT_HALF)
        found = self.summary.get("validation", {}).get("scores", {}).get(way, {}).get(key)
        if found is None or found["value"] is None:
            return None
        return metrics.Interval(found["value"], found["low"], found["high"])


_NOT_YET = "not run yet"


def findings(study: Study) -> list[Finding]:
    """Return what the folders in ``out`` hold, a finding per row."""
    reasons = files.read_json(study.out / REASONS)
    found = []
    for row in ROWS:
        folder = study.folder(row)
        done = is_done(row, study)
        why = "" if done else reasons.get(row.name) or _NOT_YET
        history = run_folder.read_results(folder / run_folder.RESULTS)
        if why == _NOT_YET and _can_go_on(row, study):
            why = f"stopped after {len(history)} of {study.epochs} epochs; the same command goes on"
        summary = files.read_json(folder / run_folder.SUMMARY) if done else {}
        found.append(
            Finding(row, why, summary, history, files.read_json(folder / run_folder.ENVIRONMENT))
        )
    return found


def num_simple_parameters(num_classes: int = len(CLASS_NAMES), side_px: int = 128) -> int:
    """Return how many numbers SimpleConvNet learns; none of them is made for this."""
    with torch.device("meta"):
        return sum(p.numel() for p in factory.build("simple", num_classes, side_px).parameters())


def _sha256(path: Path) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()
