"""What predict says of one image, and how it is written: a row of CSV, an object of JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import files


@dataclass(frozen=True)
class Prediction:
    """One image's labels and probabilities, or the reason why it has none.

    Attributes:
        path: the file as it was named; None for an image that came as pixels.
        labels: classes whose probability reaches their threshold.
        probabilities: by class name; empty with an error.
        error: why the file cannot be used, or "".
    """

    path: Path | None
    labels: list[str]
    probabilities: dict[str, float]
    error: str = ""


def csv_head(class_names: Sequence[str]) -> str:
    """Return the line with the names of the columns: image, labels, error, p(CLASS) for each."""
    return _csv_lines([["image", "labels", "error", *(f"p({name})" for name in class_names)]])


def csv_rows(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """Return a line of CSV per image; labels are separated by ``|``."""
    return _csv_lines(
        [
            str(p.path),
            "|".join(p.labels),
            p.error,
            *(f"{p.probabilities[name]:.6f}" if p.probabilities else "" for name in class_names),
        ]
        for p in predictions
    )


def json_objects(predictions: Sequence[Prediction]) -> str:
    """Return what stands between the brackets of a JSON list: an object per image."""
    objects: list[dict[str, Any]] = [
        {
            "image": str(p.path),
            "labels": p.labels,
            "error": p.error or None,
            "probabilities": p.probabilities,
        }
        for p in predictions
    ]
    return files.to_json(objects).removeprefix("[").removesuffix("\n]\n")


def _csv_lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
