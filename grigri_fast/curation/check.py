"""The command ``data check``: what a data set holds, and with ``deep`` what is wrong with it."""

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..config import MAX_PIXELS
from ..data import dataset
from ..data import split as splits
from ..data.dataset import Dataset
from ..data.layouts import HowLabels
from ..errors import GrigriError, Interrupted
from ..runs import run_folder
from ..runtime import files
from ..runtime.compute import Compute
from ..runtime.files import StrPath
from ..training.callbacks import Callback
from . import duplicates, gallery, label_issues
from .findings import GALLERY, ISSUES, NEAR, Findings, issues_csv, near_csv
from .label_issues import Setting
from .options import require_libraries, require_used
from .summary import Summary, summarize

SETTINGS = "check.json"


@dataclass(frozen=True)
class Checked:
    """What a check has found.

    Attributes:
        data: the data set.
        summary: what it holds.
        findings: what the deep check has found; None without one.
    """

    data: Dataset
    summary: Summary
    findings: Findings | None


def check(
    data: StrPath,
    *,
    images: StrPath | None = None,
    deep: bool = False,
    run: StrPath | None = None,
    folds: int | None = None,
    epochs: int | None = None,
    size: int | None = None,
    split: StrPath | None = None,
    distance: int | None = None,
    out: StrPath | None = None,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_summary: Callable[[Dataset, Summary], None] = lambda data, summary: None,
    callback: Callback | None = None,
    **how_labels: Unpack[HowLabels],
) -> Checked:
    """Decode every image of a data set and return what it holds, and which files are no use.

    With ``deep`` also look for near-duplicates and, if there is a model to tell, for labels that
    are likely wrong; tables and a gallery of both are written.

    Args:
        data: a folder or a CSV file.
        images: folder that a CSV's image names are relative to.
        deep: whether to look for more than files that cannot be used.
        run: a run folder whose model judges the labels of its validation part.
        folds: train so many small models, which judge the labels of all images.
        epochs, size: of the models of ``folds``; 10, and 64 px by default.
        split: a split file; near-duplicates across it are marked. With ``run``, its own is used.
        distance: bits of 64 in which near-duplicates may differ; 10 by default.
        out: folder of the tables and the gallery; ``runs/check-<data>`` by default.
        max_pixels: larger images are refused unread.
        threads: CPU threads.
        on_progress: called with images decoded and images in all.
        on_summary: called with the data set and what it holds, before the deep check begins.
        callback: called as the deep check and the training of ``folds`` proceed.
        how_labels: how the labels are to be read, as in :class:`HowLabels`.

    Raises:
        UsageError: if an option would be ignored.
        GrigriError: if something does not fit, cannot be read or cannot be written.
        Interrupted: when a signal has stopped the deep check.
    """
    require_used(
        deep=deep,
        run=run,
        folds=folds,
        epochs=epochs,
        size=size,
        split=split,
        distance=distance,
        out=out,
    )
    source, images = os.fspath(data), None if images is None else os.fspath(images)
    compute = Compute.resolve(threads=threads)
    labelled = dataset.load(source, images, **how_labels)
    if deep:
        require_libraries(label_errors=run is not None or folds is not None)
    summary = summarize(
        labelled, threads=compute.threads, max_pixels=max_pixels, on_progress=on_progress
    )
    on_summary(labelled, summary)
    findings = None
    if deep:
        findings = _check_deeply(
            Setting(
                labelled, source, images, compute, max_pixels, epochs or 10, size or 64, how_labels
            ),
            Path("runs", f"check-{Path(source).resolve().stem}") if out is None else Path(out),
            run=None if run is None else Path(run),
            num_folds=folds,
            split_file=None if split is None else Path(split),
            distance=duplicates.DISTANCE if distance is None else distance,
            callback=callback or Callback(),
        )
    return Checked(labelled, summary, findings)


# ----------------------------------------------------------------------------- the deep check


def _check_deeply(
    setting: Setting,
    out: Path,
    *,
    run: Path | None,
    num_folds: int | None,
    split_file: Path | None,
    distance: int,
    callback: Callback,
) -> Findings:
    """Find near-duplicates and label errors, and write tables and gallery to ``out``."""
    data, max_pixels, threads = setting.data, setting.max_pixels, setting.compute.threads
    parts = splits.read(split_file, data) if split_file is not None else None
    for note in parts.notes if parts else ():
        callback.log(note)
    settings = {"data": digest_of(data), "max_pixels": max_pixels}
    if num_folds is not None:
        settings |= {"folds": num_folds, "epochs": setting.epochs, "size": setting.size_px}
    with _opened(out, settings):
        predictions = None
        if run is not None:
            predictions, parts = label_issues.predict_by_run(run, setting)
        prints = duplicates.fingerprints(
            data.paths, threads=threads, max_pixels=max_pixels, on_progress=callback.on_check
        )
        pairs = duplicates.near_duplicates(prints, distance)
        if num_folds is not None:
            predictions = label_issues.predict_by_folds(num_folds, out, setting, callback)
        findings = Findings(
            data=data,
            pairs=pairs,
            part_of={
                row: name
                for name, rows in (parts.parts if parts else {}).items()
                for row in rows.tolist()
            },
            issues=label_issues.find(data, predictions) if predictions else None,
            source=predictions.source if predictions else "",
            out=out,
        )
        files.write_atomic(out / NEAR, near_csv(findings))
        if findings.issues is not None:
            files.write_atomic(out / ISSUES, issues_csv(findings))
        page = gallery.write(findings, threads=threads, max_pixels=max_pixels)
        files.write_atomic(out / GALLERY, page)
    return findings


def digest_of(data: Dataset) -> str:
    """Return a digest of names and labels: the same data set, the same digest."""
    digest = hashlib.sha256(json.dumps([data.names, data.class_names]).encode())
    digest.update(np.ascontiguousarray(data.targets_NC).data)
    if data.unknown_NC is not None:
        digest.update(np.ascontiguousarray(data.unknown_NC).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Make the folder of a check, or go on in it; only one process works there.

    Raises:
        GrigriError: if it holds something else, or a check with other settings.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / SETTINGS).is_file():
        raise GrigriError(f"--out {out}: holds something else; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise GrigriError(f"--out {out}: {e.strerror or e}") from e
    with run_folder.locked(out):
        # Only folds are kept from one call to the next.
        before = files.read_json(out / SETTINGS) if any(out.glob("fold-*")) else {}
        for name, value in settings.items():
            if name in before and before[name] != value:
                raise GrigriError(
                    f"--out {out}: its folds were made with {name} {before[name]}, not {value};"
                    f" choose another folder"
                )
        files.write_json(out / SETTINGS, before | settings)
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as e:
            signum = e.signum if isinstance(e, Interrupted) else signal.SIGINT
            raise Interrupted(signum, "the same command goes on") from e
