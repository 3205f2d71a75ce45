"""What a deep check finds, and the tables of it."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.dataset import Dataset
from .duplicates import Pair
from .label_issues import Issue

NEAR, ISSUES, GALLERY = "near-duplicates.csv", "label-issues.csv", "gallery.html"


@dataclass(frozen=True)
class Findings:
    """What a deep check has found.

    Attributes:
        data: the data set.
        pairs: near-duplicates.
        part_of: each row's part in the split; empty without one.
        issues: labels that are likely wrong; None where no model was there to tell.
        source: where the model's probabilities come from, in words.
        out: the folder with the tables and the gallery.
    """

    data: Dataset
    pairs: list[Pair]
    part_of: dict[int, str]
    issues: list[Issue] | None
    source: str
    out: Path

    def is_across(self, pair: Pair) -> bool:
        """Return whether the two are in different parts of the split."""
        parts = {self.part_of.get(row) for row in (pair.first, pair.second)}
        return len(parts - {None}) == 2

    def across_first(self) -> list[Pair]:
        """Return the pairs: those across the split first, then by distance."""
        return sorted(self.pairs, key=lambda pair: not self.is_across(pair))

    def labels(self, row: int) -> list[str]:
        """Return the labels of an image."""
        return [self.data.class_names[c] for c in np.flatnonzero(self.data.targets_NC[row])]


def near_csv(findings: Findings) -> str:
    """Return the table of near-duplicates: those across the split first, then by distance."""
    head = "first,second,distance,correlation,part_of_first,part_of_second,across_the_split"
    rows = []
    for p in findings.across_first():
        labels = [findings.labels(row) for row in (p.first, p.second)]
        rows.append(
            [
                *(findings.data.names[row] for row in (p.first, p.second)),
                p.distance,
                f"{p.correlation:.4f}",
                *(findings.part_of.get(row, "") for row in (p.first, p.second)),
                _yes(findings.is_across(p)) if findings.part_of else "",
                *("|".join(names) for names in labels),
                _yes(labels[0] == labels[1]),
            ]
        )
    return _csv([*head.split(","), "labels_of_first", "labels_of_second", "same_labels"], rows)


def issues_csv(findings: Findings) -> str:
    """Return the table of labels that are likely wrong, the likeliest first."""
    names, classes = findings.data.names, findings.data.class_names
    rows = [
        [names[i.row], classes[i.c], int(i.given), f"{i.probability:.6f}", f"{i.score:.6f}"]
        for i in findings.issues or ()
    ]
    return _csv(["image", "class", "given", "probability", "score"], rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue()


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
