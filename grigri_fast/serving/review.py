"""Which labels to look at, what was decided of them, and how to take a decision back.

Shapes: N images of the data set, M scored images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..curation import label_issues
from ..curation.label_issues import Predictions
from ..data.corrections import GIVEN
from ..data.dataset import Dataset
from .journal import Journal

_MOST_ERRORS = 1000  # confident errors that are offered, of all classes


@dataclass(frozen=True)
class Question:
    """Whether an image has a label.

    Attributes:
        row: of the image.
        c: number of the class.
        probability: of a model that has not seen the image.
    """

    row: int
    c: int
    probability: float


def questions(
    data: Dataset, predictions: Predictions, thresholds_C: NDArray[np.float64]
) -> dict[str, list[Question]]:
    """Return what to look at by kind, what is likeliest wrong first.

    ``doubtful``: labels that are likely wrong by confident learning (see :mod:`label_issues`); not
    there where cleanlab is not installed. ``errors``: labels on which the model errs, by how sure
    it is.
    """
    found: dict[str, list[Question]] = {}
    try:
        issues = label_issues.find(data, predictions)
    except ImportError:
        pass
    else:
        found["doubtful"] = [Question(i.row, i.c, i.probability) for i in issues]
    found["errors"] = _errors(data, predictions, thresholds_C)
    return found


def _errors(
    data: Dataset, predictions: Predictions, thresholds_C: NDArray[np.float64]
) -> list[Question]:
    probabilities_MC = predictions.probabilities_NC
    has_MC = data.targets_NC[predictions.rows_N] > 0
    is_error_MC = (probabilities_MC >= thresholds_C) != has_MC
    if data.unknown_NC is not None:
        is_error_MC &= ~data.unknown_NC[predictions.rows_N]
    at_i, at_c = np.nonzero(is_error_MC)
    sure = np.where(has_MC, 1 - probabilities_MC, probabilities_MC)[at_i, at_c]
    order = np.argsort(-sure, kind="stable")[:_MOST_ERRORS]
    return [
        Question(int(predictions.rows_N[i]), int(c), float(probabilities_MC[i, c]))
        for i, c in zip(at_i[order], at_c[order], strict=True)
    ]


class Review:
    """Decisions about the labels of a data set.

    Args:
        data: the data set, with the labels that it has by itself.
        questions: what to look at, by kind.
        journal: where decisions are written.
    """

    def __init__(
        self, data: Dataset, questions: dict[str, list[Question]], journal: Journal
    ) -> None:
        self.data, self.questions, self.journal = data, questions, journal
        self._column_of = {name: c for c, name in enumerate(data.class_names)}
        self._row_of = {name: row for row, name in enumerate(data.names)}
        self._undo: list[tuple[int, int, str]] = []  # what was said of a label before

    def decide(self, row: int, c: int, value: str) -> None:
        """Write what somebody says of a label.

        Args:
            row, c: of image and class.
            value: one of :data:`corrections.VALUES`.

        Raises:
            IndexError: if there is no such image or class.
            GrigriError: if it cannot be written.
        """
        image, label = self._names(row, c)
        before = self.journal.value_of(image, label)
        self.journal.add(image, label, value)
        self._undo.append((row, c, before))

    def undo(self) -> tuple[int, int] | None:
        """Take the last decision of this session back; return of which image and class it was.

        Raises:
            GrigriError: if that cannot be written.
        """
        if not self._undo:
            return None
        row, c, before = self._undo[-1]
        self.journal.add(*self._names(row, c), before)
        self._undo.pop()
        return row, c

    def state(self) -> dict[str, Any]:
        """Return what a page shows of the decisions: each, and how many change a label."""
        decided = [
            (self._row_of[image], self._column_of[label], value)
            for (image, label), value in self.journal.values.items()
            if value != GIVEN and image in self._row_of and label in self._column_of
        ]
        changed = sum(value != self.given(row, c) for row, c, value in decided)
        return {
            "decided": decided,
            "num_changed": changed,
            "can_undo": bool(self._undo),
            "file": self.journal.path.name,
        }

    def labels(self, row: int) -> list[dict[str, Any]]:
        """Return the labels that an image has now, and those that were unknown or are removed.

        Each with ``c``, ``name``, ``value`` (``1``, ``0``, ``unknown``) and ``is_changed``.
        """
        image = self.data.names[row]
        found = []
        for c, name in enumerate(self.data.class_names):
            given = self.given(row, c)
            value = self.journal.value_of(image, name)
            now = given if value == GIVEN else value
            if "1" in (now, given) or now != given:
                found.append({"c": c, "name": name, "value": now, "is_changed": now != given})
        return found

    def given(self, row: int, c: int) -> str:
        """Return what the data say of a label: ``1``, ``0`` or ``unknown``."""
        if self.data.unknown_NC is not None and self.data.unknown_NC[row, c]:
            return "unknown"
        return "1" if self.data.targets_NC[row, c] > 0 else "0"

    def _names(self, row: int, c: int) -> tuple[str, str]:
        if not (0 <= row < len(self.data) and 0 <= c < len(self.data.class_names)):
            raise IndexError(f"no image {row} or no class {c}")
        return self.data.names[row], self.data.class_names[c]


def precision_and_recall(
    probabilities_M: NDArray[np.float64], has_M: NDArray[np.bool_], thresholds_T: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return precision and recall where a label is given from each threshold on.

    Precision is 1 where nothing is given, and recall is 0 where there is nothing to find.
    """
    all_M, hits = np.sort(probabilities_M), np.sort(probabilities_M[has_M])
    num_given_T = len(all_M) - np.searchsorted(all_M, thresholds_T)
    num_right_T = len(hits) - np.searchsorted(hits, thresholds_T)
    precision_T = np.where(num_given_T > 0, num_right_T / np.maximum(num_given_T, 1), 1.0)
    return precision_T.tolist(), (num_right_T / max(1, len(hits))).tolist()
