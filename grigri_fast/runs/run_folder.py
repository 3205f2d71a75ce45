"""The run folder: its name, its files, the data it was trained on, and who may train in it."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig, read_toml
from ..data import dataset, split
from ..data.dataset import Dataset
from ..data.split import Split
from ..errors import GrigriError
from ..runtime import files
from ..runtime.files import StrPath

CONFIG, SPLIT, RESULTS = "config.toml", "split.json", "results.csv"
SUMMARY, ENVIRONMENT, CURVES = "summary.json", "environment.json", "curves.png"
DATA, QUARANTINE = "data.json", "quarantine.csv"
BEST, LAST = "best.safetensors", "last.safetensors"
TEST_LOOKS = "test-looks.csv"
RESUME, PREVIOUS = "resume.safetensors", "resume-previous.safetensors"
# The columns of results.csv that every run has, for train_ and val_ each.
_SCORES = ("loss", "micro_f1", "subset_accuracy")
_PARTS = ("train", "val")
_WRITTEN = (CONFIG, SPLIT, RESULTS, SUMMARY, ENVIRONMENT, CURVES, DATA, QUARANTINE)

CheckpointName: TypeAlias = Literal["last", "best"]
PartName: TypeAlias = Literal["train", "val", "test"]


def create_folder(parent: str | Path, name: str) -> Path:
    """Make and return ``parent/name``, or ``name-2``, ``name-3``, ... if that exists.

    ``mkdir`` fails where a folder exists, so two runs started at once never share one.

    Raises:
        GrigriError: if it cannot be written there.
    """
    parent = Path(parent)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
            return folder
    except OSError as e:
        raise GrigriError(f"--out {parent}: cannot make a run folder: {e.strerror or e}") from e


def name_of(data: str | Path, arch: str) -> str:
    """Return the name of a run folder that was not given one; ``timm/`` is no part of it."""
    return f"{Path(data).resolve().stem}-{arch.rpartition('/')[2]}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder, so that this process alone trains in it.

    The folder itself is locked (flock), not a file in it: the system ends the lock with the
    process, however that ends, and nothing is added to the run's files. On a file system without
    locks nothing is locked.

    Raises:
        GrigriError: if another process trains there.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as e:
        raise GrigriError(f"{folder}: {e.strerror or e}") from e
    try:
        if not files.lock(descriptor):
            raise GrigriError(f"{folder}: another process is training in this folder")
        files.remove_unfinished(folder, [*_WRITTEN, BEST, LAST, RESUME])
        yield
    finally:
        os.close(descriptor)


def read_results(path: Path) -> list[dict[str, float]]:
    """Return the rows of a ``results.csv``, numbers as numbers; none if there is no file.

    Raises:
        GrigriError: if it cannot be read, or lacks a column that every run has.
    """
    if not path.exists():
        return []
    try:
        rows = csv.DictReader(io.StringIO(files.read_text(path)))
        history = [{k: int(v) if k == "epoch" else float(v) for k, v in r.items()} for r in rows]
        _ = [row[f"{part}_{name}"] for row in history for name in _SCORES for part in _PARTS]
        return history
    except GrigriError as e:
        raise GrigriError(f"{path}: {e}") from e
    except (ValueError, TypeError, KeyError, csv.Error) as e:
        raise GrigriError(f"{path}: not written by grigri-fast: {e}") from e


def best_row(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch with the highest micro-F1, of several the one with the lowest loss."""
    return max(history, key=lambda row: (row["val_micro_f1"], -row["val_loss"]))


def num_epochs(history: list[dict[str, Any]]) -> int:
    """Return how many epochs have been trained; a linear probe is epoch 0."""
    return int(history[-1]["epoch"]) if history else 0


def require(folder: Path) -> None:
    """Raise GrigriError unless ``folder`` is a run folder."""
    if not folder.exists():
        raise GrigriError(f"{folder}: no such run folder")
    if not (folder / CONFIG).is_file():
        raise GrigriError(f"{folder}: not a run folder (it has no {CONFIG})")


def require_data_for_images(data: object, images: object) -> None:
    """Raise GrigriError if ``--images`` is given without the data whose images they are."""
    if images is not None and data is None:
        raise GrigriError("--images goes with --data")


def checkpoint_path(folder: Path, checkpoint: str) -> Path:
    """Return the path of a run's ``last`` or ``best`` checkpoint.

    Raises:
        GrigriError: if ``folder`` is not a run folder.
    """
    require(folder)
    return folder / {"last": LAST, "best": BEST}[checkpoint]


@dataclass(frozen=True)
class RunPart:
    """A part of the data that a run was trained on.

    Attributes:
        data: the whole data set.
        split: all parts of it.
        rows: the images of this part.
    """

    data: Dataset
    split: Split
    rows: NDArray[np.intp]


def open_part(
    folder: Path,
    part: str = "val",
    data: Dataset | None = None,
    corrections: StrPath | None = None,
) -> RunPart:
    """Return the ``train``, ``val`` or ``test`` part of the data that a run was trained on.

    Args:
        folder: the run folder.
        part: which part of the run's split.
        data: the run's data set where it is loaded already; else the run's config says where it is.
        corrections: of the labels, instead of those that the run was trained with.

    Raises:
        GrigriError: if config, data or split cannot be read, or there is no such part.
    """
    if data is None:
        config = TrainConfig(**read_toml(folder / CONFIG))
        if config.data is None:
            raise GrigriError(f"{folder / CONFIG} does not say which data")
        if not Path(config.data).exists():
            raise GrigriError(
                f"{files.shown(Path(config.data))}: no such file or folder; the data of {folder}"
                f" were there. If they have moved: eval {folder} --data NEW --part {part}"
            )
        how: dict[str, Any] = {**config.how_labels}
        if corrections is not None:
            how["corrections"] = corrections
        data = dataset.load(files.shown(Path(config.data)), config.images, **how)
    parts = split.read(folder / SPLIT, data)
    if part not in parts.parts:
        raise GrigriError(f"{folder}: its split has no {part} part, only {', '.join(parts.parts)}")
    return RunPart(data, parts, parts.parts[part])


def resumed_environment(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """Return a run's environment record with ``now`` added to its list ``resumed``."""
    try:
        record = json.loads(files.read_text(folder / ENVIRONMENT))
        return record | {"resumed": [*record.get("resumed", []), now]}
    except (GrigriError, ValueError, AttributeError, TypeError):
        return now


def record_test_score(folder: Path, checkpoint: str, threshold: str) -> int:
    """Record in ``test-looks.csv`` that the test part was scored; return how often it has been.

    What is chosen by the scores of a test part is tuned on it, so each time is on record. A folder
    that cannot be written to keeps no record.
    """
    now = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": checkpoint,
        "threshold": threshold,
    }
    before: list[dict[str, str]] = []
    with contextlib.suppress(GrigriError):
        before = list(csv.DictReader(io.StringIO(files.read_text(folder / TEST_LOOKS))))
    rows = [*({key: row.get(key, "") for key in now} for row in before), now]
    with contextlib.suppress(GrigriError):
        files.write_atomic(folder / TEST_LOOKS, files.to_csv(rows))
    return len(rows)
