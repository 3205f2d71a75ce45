"""Which labels to look at, what was decided of them, and how to take a decision back.

Shapes: N images of the data set, M scored images, C classes. Rows from N on are photographs that
the data do not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..curation import duplicates, label_issues
from ..curation.label_issues import Predictions
from ..curation.suggestions import Suggestion
from ..data.corrections import GIVEN
from ..data.dataset import Dataset
from ..errors import GrigriError
from .background import Background, Tell
from .journal import Journal

ALL = -1  # in the place of a class: all labels of a photograph that has none yet
_WORDS = {"1": "yes", "0": "no", "unknown": "that nobody can tell", GIVEN: "nothing"}
# Questions that are offered, of all classes: more than anybody answers.
_MOST_DOUBTFUL, _MOST_ERRORS = 5000, 1000
_MOST_CLASSES = 30  # that are offered for a photograph without labels; others are typed


@dataclass(frozen=True)
class Question:
    """Whether an image has a label.

    Attributes:
        row: of the image.
        c: number of the class, or ``ALL``.
        probability: of a model that has not seen the image; None if there is none.
        twin: row of an image that shows nearly the same, and of which the data say something else.
    """

    row: int
    c: int
    probability: float | None
    twin: int | None = None


@dataclass(frozen=True)
class Decision:
    """What somebody says of a label.

    Attributes:
        row, c: of image and class, or ``ALL``.
        value: one of :data:`corrections.VALUES`; of ``ALL`` labels ``1``: they are known.
        before: what had been said of it, as far as this person knew; None: whatever it was.
    """

    row: int
    c: int
    value: str
    before: str | None = None


class OvertakenError(GrigriError):
    """Somebody else, in another tab, has said something else of the label in the meantime."""


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
        found["doubtful"] = [Question(i.row, i.c, i.probability) for i in issues[:_MOST_DOUBTFUL]]
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


def of_duplicates(
    data: Dataset, predictions: Predictions, threads: int, max_pixels: int, tell: Tell
) -> list[Question]:
    """Return the labels that only one of two near-duplicates has, the most alike first.

    It looks at every image (see :mod:`duplicates`), and tells how far it is.
    """

    def on_progress(done: int, total: int) -> None:
        tell(f"looking for near-duplicates among {total:,} photographs", done / max(1, total))

    prints = duplicates.fingerprints(
        data.paths, threads=threads, max_pixels=max_pixels, on_progress=on_progress
    )
    at = {row: i for i, row in enumerate(predictions.rows_N.tolist())}
    found = []
    for pair in duplicates.near_duplicates(prints):
        first, second = pair.first, pair.second
        is_other_C = data.targets_NC[first] != data.targets_NC[second]
        if data.unknown_NC is not None:
            is_other_C &= ~(data.unknown_NC[first] | data.unknown_NC[second])
        for c in np.flatnonzero(is_other_C).tolist():
            known = first in at
            p = float(predictions.probabilities_NC[at[first], c]) if known else None
            found.append(Question(first, c, p, second))
    return found


class Review:
    """Decisions about the labels of a data set, and of photographs that are to be added to it.

    Args:
        data: the data set, with the labels that it has by itself.
        questions: what to look at, by kind.
        journal: where decisions are written.
        later: by kind, questions that take a while, and are looked for when somebody asks.
        unlabelled: photographs without labels: a kind by themselves, ``suggestions``, the first.
    """

    def __init__(
        self,
        data: Dataset,
        questions: dict[str, list[Question]],
        journal: Journal,
        later: dict[str, Background[list[Question]]] | None = None,
        unlabelled: Sequence[Suggestion] = (),
    ) -> None:
        self.data, self.journal, self.later = data, journal, later or {}
        self.questions, self._unlabelled = questions, unlabelled
        if unlabelled:
            rows = range(len(data), len(data) + len(unlabelled))
            self.questions = {"suggestions": [Question(r, ALL, None) for r in rows], **questions}
        self._column_of = {name: c for c, name in enumerate(data.class_names)}
        self._row_of = {name: row for row, name in enumerate(data.names)}
        self._undo: list[list[Decision]] = []  # what is to be said to take decisions back

    @property
    def kinds(self) -> list[str]:
        """The kinds of questions."""
        return [*self.questions, *self.later]

    def asked(self, kind: str) -> list[Question] | None:
        """Return the questions of a kind; None while they are looked for.

        Raises:
            GrigriError: if they could not be found.
        """
        if kind in self.questions:
            return self.questions[kind]
        self.later[kind].begin()
        return self.later[kind].result()

    def decide(self, *decisions: Decision) -> list[Decision]:
        """Write what somebody says of labels, all or nothing; return it.

        A decision that is there already, of another tab, is not written again.

        Raises:
            IndexError: if there is no such image or class.
            OvertakenError: if a decision is not what it was ``before``.
            GrigriError: if it cannot be written.
        """
        now = [(one, *self._names(one.row, one.c)) for one in decisions]
        for one, image, label in now:
            value = self.journal.value_of(image, label)
            if one.before not in (None, value) and value != one.value:
                raise OvertakenError(
                    f"{label}: another tab has said {_WORDS[value]} of {image} meanwhile"
                )
        new = [entry for entry in now if self.journal.value_of(*entry[1:]) != entry[0].value]
        if new:
            back = [Decision(one.row, one.c, self.journal.value_of(i, n)) for one, i, n in new]
            self.journal.add(*((image, label, one.value) for one, image, label in new))
            self._undo.append(back)
        return self._in_short(decisions)

    def label(self, row: int, has: Sequence[int]) -> list[Decision]:
        """Write all labels of a photograph that had none; return what :meth:`decide` does.

        Args:
            row: of the photograph.
            has: numbers of the classes of which it has the label; it has no other.

        Raises:
            IndexError: if there is no such photograph or class.
            OvertakenError: if another tab has said something else meanwhile.
            GrigriError: if it cannot be written.
        """
        num_classes = len(self.data.class_names)
        if row < len(self.data) or not set(has) <= set(range(num_classes)):
            raise IndexError(f"no photograph {row} to label, or no such class")
        decisions = [Decision(row, c, "1" if c in has else "0") for c in range(num_classes)]
        values = [self.journal.value_of(*self._names(row, c)) for c in range(num_classes)]
        if GIVEN not in values and values != [one.value for one in decisions]:
            raise OvertakenError(f"another tab has labelled {self.name(row)} meanwhile")
        return self.decide(*decisions)

    def undo(self) -> list[Decision]:
        """Take the last decision of this session back; return what holds now, if there was one.

        Raises:
            GrigriError: if that cannot be written.
        """
        if not self._undo:
            return []
        back = self._undo[-1]
        self.journal.add(*((*self._names(one.row, one.c), one.value) for one in back))
        return self._in_short(self._undo.pop())

    def decided(self) -> list[Decision]:
        """Return all decisions that hold about labels of the data."""
        return [
            Decision(self._row_of[image], self._column_of[label], value)
            for (image, label), value in list(self.journal.values.items())
            if value != GIVEN and image in self._row_of and label in self._column_of
        ]

    def labelled(self) -> list[Decision]:
        """Return a decision about ``ALL`` labels of each photograph that has been labelled."""
        rows = range(len(self.data), len(self.data) + len(self._unlabelled))
        return [Decision(row, ALL, "1") for row in rows if self._is_labelled(row)]

    @property
    def num_changed(self) -> int:
        """How many labels are not what the data say."""
        return sum(one.value != self.given(one.row, one.c) for one in self.decided())

    @property
    def num_added(self) -> int:
        """How many photographs that the data do not have are in the table, with a known label."""
        items = list(self.journal.values.items())
        known = {image for (image, _), value in items if value in ("1", "0")}
        return len(known - self._row_of.keys())

    @property
    def can_undo(self) -> bool:
        """Whether there is a decision of this session."""
        return bool(self._undo)

    def name(self, row: int) -> str:
        """Return the name of an image in the table of corrections.

        Raises:
            IndexError: if there is no such image.
        """
        return self.data.names[row] if self._is_own(row) else str(self.path(row))

    def path(self, row: int) -> Path:
        """Return where an image is.

        Raises:
            IndexError: if there is no such image.
        """
        return self.data.paths[row] if self._is_own(row) else self._of_row(row).path

    def why(self, row: int) -> str:
        """Return why a photograph without labels was chosen, in words.

        Raises:
            IndexError: if there is no such photograph.
        """
        return self._of_row(row).why

    def labels(self, row: int) -> list[dict[str, Any]]:
        """Return the labels that an image has now, and those that were unknown or are removed.

        Each with ``c``, ``name``, ``value`` (``1``, ``0``, ``unknown``) and ``is_changed``. Of a
        photograph without labels: what the model says of the likeliest classes, with its
        ``probability``.

        Raises:
            IndexError: if there is no such image.
        """
        if not self._is_own(row):
            return self._proposed(row)
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
        if not self._is_own(row):
            return "unknown"
        if self.data.unknown_NC is not None and self.data.unknown_NC[row, c]:
            return "unknown"
        return "1" if self.data.targets_NC[row, c] > 0 else "0"

    def _proposed(self, row: int) -> list[dict[str, Any]]:
        one = self._of_row(row)
        likeliest = sorted(one.probabilities, key=one.probabilities.__getitem__, reverse=True)
        return [
            {
                "c": self._column_of[name],
                "name": name,
                "value": "1" if name in one.labels else "0",
                "is_changed": False,
                "probability": round(one.probabilities[name], 4),
            }
            for name in likeliest[:_MOST_CLASSES]
        ]

    def _in_short(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Return decisions, with one about ``ALL`` labels for each photograph without labels."""
        others = {one.row for one in decisions if not self._is_own(one.row)}
        return [one for one in decisions if self._is_own(one.row)] + [
            Decision(row, ALL, "1" if self._is_labelled(row) else GIVEN) for row in sorted(others)
        ]

    def _is_labelled(self, row: int) -> bool:
        image = self.name(row)
        return all(self.journal.value_of(image, name) != GIVEN for name in self.data.class_names)

    def _is_own(self, row: int) -> bool:
        return 0 <= row < len(self.data)

    def _of_row(self, row: int) -> Suggestion:
        if row < len(self.data):
            raise IndexError(f"no image {row}")
        return self._unlabelled[row - len(self.data)]

    def _names(self, row: int, c: int) -> tuple[str, str]:
        if not 0 <= c < len(self.data.class_names):
            raise IndexError(f"no class {c}")
        return self.name(row), self.data.class_names[c]


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
