"""Run the experiments of the report of 2020 again, row by row, and write pages that compare.

Shapes: N images, C classes.
"""

import dataclasses
import gc
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import OPTIONS, TrainConfig, read_toml, resolve
from ..data import dataset, demo, split
from ..data.dataset import Dataset
from ..errors import GrigriError, Interrupted
from ..evaluation import bootstrap, evaluator, metrics
from ..inference.predictor import Classifier
from ..models import factory
from ..models.normalize import preprocessing_of
from ..pipeline.check import without
from ..runs import checkpoint, manifest, run_folder
from ..runtime import environment, files
from ..runtime.compute import AmpName, Compute, DeviceName
from ..runtime.files import StrPath
from ..runtime.option import write_toml
from ..training import trainer
from . import conclusions, report_2020, reproduce_report, reproduction, row_predictions
from .callbacks import ReproduceCallback
from .conclusions import Conclusion
from .report_2020 import Row
from .reproduction import SEED, Reproduction, RowResult
from .row_predictions import Predictions

# What a run folder may hold before there is a state to resume from.
_BEFORE_A_STATE = [
    *(run_folder.SPLIT, run_folder.DATA, run_folder.CONFIG),
    *(run_folder.ENVIRONMENT, run_folder.QUARANTINE),
]


@dataclass(frozen=True)
class Reproduced:
    """What :func:`reproduce` has left.

    Attributes:
        reproduction: how the rows were run, and where they are.
        rows: what every row's folder holds.
        failed: by name, why a row that was asked for could not be run.
        num_asked: how many rows were asked for.
        page: the HTML page.
        conclusions: whether the report's conclusions hold.
    """

    reproduction: Reproduction
    rows: list[RowResult]
    failed: dict[str, str]
    num_asked: int
    page: Path
    conclusions: list[Conclusion]


def reproduce(
    data: StrPath | None = None,
    *,
    only: Sequence[str] = (),
    network: str | None = None,
    epochs: int = report_2020.EPOCHS,
    limit: int | None = None,
    size_scale: float = 1.0,
    weights: StrPath = "imagenet",
    out: StrPath = "runs/reproduce",
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    callback: ReproduceCallback | None = None,
) -> Reproduced:
    """Run the report's experiments and compare, as ``grigri-fast reproduce`` does.

    A row that is finished is not run again, and one that was stopped goes on. What cannot be run
    is in the pages with the reason.

    Args:
        data: photographs and labels: a folder or a CSV. Without it: the generated demo set.
        only: names of rows; all by default.
        network: what runs in the place of every pretrained network of the report, like
            ``timm/tf_efficientnet_lite0``; by default each row has the report's.
        epochs: of each training row.
        limit: use about so many images; all by default.
        size_scale: factor on the report's image sizes of 128 and 224 px.
        weights: ``imagenet``, ``none``, or a folder of torchvision's files; with ``network``, its
            file.
        out: folder of the rows' folders and of ``report.html`` and ``report.md``.
        device, amp, memory_limit, threads: as in ``train``.
        callback: called as rows and trainings proceed.

    Raises:
        GrigriError: if an option is wrong, ``out`` holds rows that were run with others, or the
            data cannot be read.
        Interrupted: after a signal; everything is stored, and the pages show what there is.
    """
    for name in only:
        report_2020.row_named(name)  # an error if there is none
    of = Reproduction(
        data=os.fspath(demo.cached_folder() if data is None else data),
        out=Path(out),
        network=network,
        epochs=epochs,
        limit=limit,
        size_scale=size_scale,
        weights=os.fspath(weights),
        device=device,
        amp=amp,
        threads=threads,
        memory_limit=memory_limit,
    )
    rows = [row for row in of.rows if not only or row.name in only]
    compute = Compute.resolve(device, amp, threads, memory_limit)
    images = dataset.load(of.data)
    _require_same(of, images)
    _write_split(of, images)
    try:
        failed = _Runner(of, compute, images, callback or ReproduceCallback()).run_all(rows)
    except (Interrupted, KeyboardInterrupt) as e:
        advice = f"the same command goes on; so far: {reproduce_report.write(of)}"
        raise Interrupted(getattr(e, "signum", signal.SIGINT), advice) from e
    page, found = reproduce_report.write(of), of.results()
    concluded = conclusions.conclude({r.row.name: r for r in found}, of.weights)
    return Reproduced(of, found, failed, len(rows), page, concluded)


def _require_same(of: Reproduction, data: Dataset) -> None:
    """Raise GrigriError unless every row that is in ``out`` was run with the same options."""
    for row in of.rows:
        folder = of.folder(row)
        if row.options and (folder / run_folder.CONFIG).is_file():
            stored = resolve(TrainConfig(**read_toml(folder / run_folder.CONFIG)))
            wanted = resolve(of.config(row))
            for name in [*row.options, "weights", "epochs", "limit", "seed"]:
                was, now = getattr(stored, name), getattr(wanted, name)
                if was != now:
                    flag = "--network" if name == "arch" else OPTIONS[name].flag
                    raise GrigriError(
                        f"{flag} was {was} when {files.shown(folder)} was made, not {now}: take"
                        f" another --out for other options"
                    )
        if (folder / run_folder.DATA).is_file():
            try:
                manifest.require_same(folder / run_folder.DATA, data)
            except GrigriError as e:
                raise GrigriError(f"{files.shown(folder)}: {e}; take another --out") from e


def _write_split(of: Reproduction, data: Dataset) -> None:
    if of.split.is_file():
        split.read(of.split, data)  # an error if it is of other data
        return
    try:
        of.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise GrigriError(f"--out {of.out}: cannot be made: {e.strerror or e}") from e
    parts = split.stratify(data, report_2020.VAL, seed=SEED)
    files.write_atomic(of.split, split.to_json(parts, data))


def _remove_false_start(folder: Path) -> None:
    """Remove a run folder whose process was killed before there was a state to resume from.

    Raises:
        GrigriError: if other files are in it.
    """
    if not folder.exists():
        return
    try:
        files.remove_unfinished(folder, [*_BEFORE_A_STATE, run_folder.RESUME])
        others = {path.name for path in folder.iterdir()} - set(_BEFORE_A_STATE)
        if others:
            raise GrigriError(f"{folder} is in the way: it holds {min(others)}, but no state")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    except OSError as e:
        raise GrigriError(f"{folder} is in the way: {e.strerror or e}") from e


class _Runner:
    """Runs rows one after the other.

    ``compute`` is for what is computed here; trainings resolve theirs from the same options.
    """

    def __init__(
        self, of: Reproduction, compute: Compute, data: Dataset, callback: ReproduceCallback
    ) -> None:
        self._of, self._compute, self._data, self._callback = of, compute, data, callback
        # Why an architecture has no weights: a download that fails may take its time.
        self._unavailable: dict[str, str] = {}

    def run_all(self, rows: list[Row]) -> dict[str, str]:
        """Run the rows that are not finished; return by name why one could not be run."""
        run = {
            "data": self._describe_data,
            "train": self._train,
            "untrained": self._score_untrained,
            "thresholds": self._tune_thresholds,
        }
        failed: dict[str, str] = {}
        for number, row in enumerate(rows, start=1):
            if self._of.is_done(row):
                self._callback.log(f"{row.name} is there already")
                self._keep_predictions(row)
                continue
            self._of.note_reason(row, None)
            self._callback.on_row(number, len(rows), row)
            try:
                if row.options and not self._of.can_resume(row):
                    self._require_weights(row)
                run[row.kind](row)
                self._keep_predictions(row)
            except GrigriError as e:
                failed[row.name] = str(e)
                self._callback.log(f"could not be run: {e}")
                self._of.note_reason(row, failed[row.name])
            gc.collect()  # so that the next row has this one's memory
            torch.cuda.empty_cache()
        return failed

    def _require_weights(self, row: Row) -> None:
        """Raise GrigriError if a row's weights cannot be had, before its images are read."""
        weights, arch = self._of.weights_of(row), row.options["arch"]
        if weights == "none":
            return
        if weights != "imagenet" and not Path(weights).is_file():
            raise GrigriError(
                f"no pretrained weights: --weights {files.shown(self._of.weights)} has no file"
                f" {Path(weights).name}"
            )
        if arch in self._unavailable:
            raise GrigriError(self._unavailable[arch])
        try:
            num_classes = len(self._data.class_names)
            factory.build_pretrained(arch, num_classes, self._of.size_px(row), weights)
        except GrigriError as e:
            self._unavailable[arch] = str(e)
            raise

    # --------------------------------------------------------------------- rows that train

    def _train(self, row: Row) -> None:
        """Train, or resume."""
        of, folder = self._of, self._of.folder(row)
        if of.can_resume(row):
            names = ("data", "device", "threads", "amp", "memory_limit")
            given = {name: getattr(of, name) for name in names}
            given = {k: v for k, v in given.items() if v not in (None, "auto")}
            trainer.train(resume=folder, callback=self._callback, **given)
            return
        _remove_false_start(folder)
        trainer.run(of.config(row), self._callback)

    # --------------------------------------------------------------- rows that train nothing

    def _describe_data(self, row: Row) -> None:
        """Write frequencies and baselines of the data, and of the report's labels if they are here.

        ``summary.json`` has a list ``sets``, the report's own first.
        """
        parts = split.read(self._of.split, self._data)
        sets = [_description(self._data, parts, Path(self._of.data).name)]
        full = Path(self._of.data) / report_2020.FULL_LABELS
        if full.is_file():
            everything = dataset.load(full)
            parts = split.stratify(everything, report_2020.VAL, seed=SEED)
            sets.insert(0, _description(everything, parts, full.name))
        for one in sets:
            counts = " + ".join(f"{n:,}" for n in one["num_images"].values())
            self._callback.log(
                f"{one['name']}: {counts} images, {one['without_label']:.2%} without a label;"
                f" always {one['most_frequent']!r}: micro-F1 {one['always_micro_f1']:.4f}"
            )
        self._folder_with_manifest(row)
        content = {"sets": sets, "validation": {"scores": {evaluator.AT_HALF: sets[0]["nothing"]}}}
        self._write_summary(row, content)

    def _score_untrained(self, row: Row) -> None:
        """Write a run folder of no epochs, and score it.

        The head is as PyTorch makes it, as the report's was: without the log-odds of the
        frequencies, with which training starts here.
        """
        config = resolve(self._of.config(row))
        torch.manual_seed(SEED)
        num_classes = len(self._data.class_names)
        if config.weights == "none":
            model = factory.build(
                config.arch, num_classes, config.size, config.init, config.train_norms
            )
        else:
            model = factory.build_pretrained(config.arch, num_classes, config.size, config.weights)
        folder = self._folder_with_manifest(row)
        parts = split.read(self._of.split, self._data)
        if self._of.limit is not None:
            parts = parts.limited(self._of.limit, SEED)
        files.write_atomic(folder / run_folder.SPLIT, split.to_json(parts, self._data))
        pixels = preprocessing_of(model)
        info = checkpoint.ModelInfo(
            config.arch, config.size, self._data.class_names, mean=pixels.mean, std=pixels.std
        )
        checkpoint.save(folder / run_folder.LAST, model, info)
        absolute = {name: str(Path(getattr(config, name)).absolute()) for name in ("data", "split")}
        config = dataclasses.replace(config, **absolute)
        files.write_atomic(folder / run_folder.CONFIG, write_toml(config))
        described = environment.describe(self._compute.device, self._compute.amp)
        files.write_json(folder / run_folder.ENVIRONMENT, described)
        found = self._predict(folder, "val")
        evaluation = evaluator.score(
            found.probabilities_NC, found.targets_NC, self._data.class_names, "auto"
        )
        summary = {"epochs": 0, "validation": evaluation.summary()}
        files.write_json(folder / run_folder.SUMMARY, summary)

    def _tune_thresholds(self, row: Row) -> None:
        """Tune thresholds on the validation images of the base run, and cross-fit them."""
        base = next(row for row in self._of.rows if row.name == report_2020.BASE)
        if not self._of.is_done(base):
            raise GrigriError(f"needs the finished row {base.name}, whose thresholds these are")
        folder, class_names = self._of.folder(base), self._data.class_names
        found = self._predictions(base)["val"]
        probabilities_NC, targets_NC = found.probabilities_NC, found.targets_NC
        evaluation = evaluator.score(probabilities_NC, targets_NC, class_names, row.threshold)
        self._of.folder(row).mkdir(exist_ok=True)
        content = {
            "of": base.name,
            "of_sha256": row_predictions.sha256(folder / run_folder.LAST),
            "validation": evaluation.summary(),
            "class_names": class_names,
            "curve": _scores_over_threshold(probabilities_NC, targets_NC),
        }
        self._write_summary(row, content)

    def _keep_predictions(self, row: Row) -> None:
        """Store the predictions of a finished row that the conclusions need, if they can be had."""
        try:
            self._predictions(row)
        except GrigriError as e:
            self._callback.log(f"no predictions of {row.name}: {e}")

    def _predictions(self, row: Row) -> dict[str, Predictions]:
        """Return by part what a row's last model says; what is not stored is computed first."""
        folder, parts = self._of.folder(row), conclusions.parts_needed(row.name)
        found = row_predictions.read(folder)
        if not set(parts) <= set(found):
            found = {part: self._predict(folder, part) for part in parts}
            row_predictions.write(folder, found)
        return found

    def _predict(self, folder: Path, part: Literal["train", "val"]) -> Predictions:
        """Return what a run's last model says about a part of its split.

        Of the training part as many photographs, drawn at random, as the validation part has: that
        is as exact, and as quick. They are not augmented.
        """
        rows = run_folder.open_part(folder, part, self._data).rows
        if part == "train":
            num_val = len(run_folder.open_part(folder, "val", self._data).rows)
            rows = np.random.default_rng(SEED).permutation(rows)[:num_val]
        last, what = folder / run_folder.LAST, {"train": "training", "val": "validation"}[part]
        self._callback.log(f"scoring {len(rows):,} {what} images with {files.shown(last)}")
        with self._compute.open() as budget:
            classifier = Classifier.from_file(last, self._compute)
            probabilities_NC, bad = classifier.probabilities(self._data.paths, rows, budget)
        good = without(rows, bad)
        if not len(good):
            raise GrigriError(f"{folder}: no {what} image can be used")
        targets_NC = self._data.targets_NC[good].astype(bool)
        return Predictions(good.astype(np.int64), probabilities_NC, targets_NC)

    def _folder_with_manifest(self, row: Row) -> Path:
        """Make and return a row's folder, with the names and labels of the images in it."""
        folder = self._of.folder(row)
        folder.mkdir(exist_ok=True)
        unknown_N = np.full(len(self._data), -1)  # the contents of the files were not read
        files.write_atomic(folder / run_folder.DATA, manifest.to_json(self._data, unknown_N))
        return folder

    def _write_summary(self, row: Row, content: dict[str, Any]) -> None:
        content = {"format": reproduction.FORMAT, **content}
        files.write_json(self._of.folder(row) / run_folder.SUMMARY, content)


def _description(data: Dataset, parts: split.Split, name: str) -> dict[str, Any]:
    """Return frequencies per part, and the scores of answers that need no network."""
    targets_NC = data.targets_NC.astype(bool)
    most = int(targets_NC.sum(0).argmax())
    always_NC = np.zeros_like(targets_NC)
    always_NC[:, most] = True
    nothing = bootstrap.scores_with_intervals(
        np.zeros_like(targets_NC),
        targets_NC,
        bootstrap.Interval(np.nan, np.nan, np.nan),
        bootstrap.draw_weights(len(data), seed=SEED),
    )
    frequencies = split.frequencies(parts, data)
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
