"""Labels for new images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checkpoint, evaluating, run
from .checkpoint import ModelInfo
from .errors import GrigriError
from .memory import Budget


@dataclass(frozen=True)
class Prediction:
    """One image's labels and probabilities, or the reason why it has none.

    Attributes:
        path: the file as it was named.
        labels: classes whose probability reaches their threshold.
        probabilities: by class name; empty with an error.
        error: why the file cannot be used, or "".
    """

    path: Path
    labels: list[str]
    probabilities: dict[str, float]
    error: str = ""


def predict(
    checkpoint_path: Path,
    paths: Sequence[Path],
    *,
    device: torch.device,
    amp: str,
    threads: int,
    max_pixels: int,
    budget: Budget,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Prediction], ModelInfo]:
    """Return a prediction per path, in order, and what the model is.

    A file that cannot be used gets a prediction with its reason; the others are unharmed.
    """
    torch.set_num_threads(threads)
    model, info = checkpoint.load(checkpoint_path, device)
    probabilities_NC, bad = evaluating.probabilities_of_files(
        model,
        info,
        paths,
        np.arange(len(paths)),
        device=device,
        amp=amp,
        threads=threads,
        max_pixels=max_pixels,
        budget=budget,
        on_progress=on_progress,
    )
    predictions = []
    rows_C = iter(probabilities_NC)
    for i, path in enumerate(paths):
        if i in bad:
            predictions.append(Prediction(path, [], {}, bad[i]))
            continue
        probabilities_C = next(rows_C)
        given = probabilities_C >= info.thresholds_C
        labels = [name for name, yes in zip(info.class_names, given, strict=True) if yes]
        by_name = dict(zip(info.class_names, probabilities_C.tolist(), strict=True))
        predictions.append(Prediction(path, labels, by_name))
    return predictions, info


def to_text(predictions: Sequence[Prediction], class_names: Sequence[str], suffix: str) -> str:
    """Return predictions as CSV (``.csv``) or JSON (``.json``).

    CSV: ``image,labels,error`` and a column of probabilities per class; labels are separated by
    ``|``. JSON: a list of objects with the same.
    """
    if suffix == ".json":
        return run.to_json(
            [
                {
                    "image": str(p.path),
                    "labels": p.labels,
                    "error": p.error or None,
                    "probabilities": p.probabilities,
                }
                for p in predictions
            ]
        )
    rows: list[dict[str, Any]] = []
    for p in predictions:
        row = {"image": str(p.path), "labels": "|".join(p.labels), "error": p.error}
        rows.append(row | {f"p({name})": _rounded(p, name) for name in class_names})
    return run.to_csv(rows)


def check_out(out: Path) -> None:
    """Raise GrigriError, before the work, if predictions could not be written to ``out``."""
    if out.suffix.lower() not in (".csv", ".json"):
        raise GrigriError(f"--out {out}: expected a name that ends in .csv or .json")
    if not out.parent.is_dir():
        raise GrigriError(f"--out {out}: there is no folder {out.parent}")


def _rounded(prediction: Prediction, name: str) -> str:
    return f"{prediction.probabilities[name]:.6f}" if prediction.probabilities else ""
