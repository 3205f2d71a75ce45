"""The deep part of ``data check``: near-duplicates and labels that are likely wrong."""

import contextlib
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data import split as splits
from ..data.dataset import Dataset
from ..errors import GrigriError, Interrupted
from ..runs import run_folder
from ..runtime import files
from ..runtime.files import StrPath
from ..training.callbacks import Callback
from . import duplicates, gallery, label_issues
from .findings import GALLERY, ISSUES, NEAR, Findings, issues_csv, near_csv
from .label_issues import Setting

SETTINGS = "check.json"


def check_deeply(
    setting: Setting,
    *,
    run: StrPath | None,
    num_folds: int | None,
    split: StrPath | None,
    distance: int | None,
    out: StrPath | None,
    callback: Callback,
) -> Findings:
    """Find near-duplicates and label errors, and write tables and gallery.

    Args and errors are those of :func:`check.check`.
    """
    out = Path("runs", f"check-{Path(setting.source).resolve().stem}") if out is None else Path(out)
    data, max_pixels, threads = setting.data, setting.max_pixels, setting.compute.threads
    parts = None if split is None else splits.read(Path(split), data)
    for note in parts.notes if parts else ():
        callback.log(note)
    settings = {"data": digest_of(data), "max_pixels": max_pixels}
    if num_folds is not None:
        settings |= {"folds": num_folds, "epochs": setting.epochs, "size": setting.size_px}
    with _opened(out, settings):
        predictions = None
        if run is not None:
            predictions, parts = label_issues.predict_by_run(Path(run), setting)
        prints = duplicates.fingerprints(
            data.paths, threads=threads, max_pixels=max_pixels, on_progress=callback.on_check
        )
        pairs = duplicates.near_duplicates(
            prints, duplicates.DISTANCE if distance is None else distance
        )
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
    digest = hashlib.sha256(json.dumps([list(data.names), data.class_names]).encode())
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
