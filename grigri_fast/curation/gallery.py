"""The page of a deep check: near-duplicates side by side, and labels that are likely wrong."""

import functools
from collections.abc import Sequence

import numpy as np

from ..reporting import html, photographs
from ..reporting.photographs import Kind, Photo, Shot, Tag
from .duplicates import Pair
from .findings import Findings
from .label_issues import Issue

_SHOWN_PAIRS = 100
_SHOWN_PER_KIND = 12  # issues of a class
_MAX_SHOWN_CLASSES = 40

Kinds = tuple[list[Issue], list[Issue]]  # labels that are not given, and that are


def write(findings: Findings, *, threads: int, max_pixels: int) -> str:
    """Return the page of what was found; the same text for the same findings.

    Args:
        findings: what was found.
        threads: for reading and decoding the photographs.
        max_pixels: larger photographs are not shown.
    """
    pairs, issues = findings.across_first()[:_SHOWN_PAIRS], shown_issues(findings)
    rows = {row for pair in pairs for row in (pair.first, pair.second)}
    rows |= {issue.row for kinds in issues.values() for kind in kinds for issue in kind}
    paths = findings.data.paths
    photos = photographs.read(paths, sorted(rows), threads=threads, max_pixels=max_pixels)
    return to_html(findings, pairs, issues, photos)


def shown_issues(findings: Findings) -> dict[int, Kinds]:
    """Return, by class, the likeliest errors among labels that are not given and that are."""
    issues = findings.issues or []
    counts = np.bincount([i.c for i in issues], minlength=len(findings.data.class_names))
    shown = sorted(np.argsort(-counts, kind="stable")[:_MAX_SHOWN_CLASSES].tolist())
    of_class = {c: [i for i in issues if i.c == c] for c in shown if counts[c]}
    return {
        c: (
            [i for i in those if not i.given][:_SHOWN_PER_KIND],
            [i for i in those if i.given][:_SHOWN_PER_KIND],
        )
        for c, those in of_class.items()
    }


def to_html(
    findings: Findings,
    pairs: Sequence[Pair],
    issues: dict[int, Kinds],
    photos: dict[int, Photo],
) -> str:
    """Return the page with some pairs and issues, and with photographs by row."""
    classes = [issue.c for issue in findings.issues or ()]
    return html.render(
        "gallery.html.j2",
        findings=findings,
        pairs=pairs,
        num_across=sum(map(findings.is_across, findings.pairs)),
        issues=issues,
        num_issues=np.bincount(classes, minlength=len(findings.data.class_names)).tolist(),
        shot=functools.partial(_shot, findings, photos),
    )


def _shot(
    findings: Findings,
    photos: dict[int, Photo],
    row: int,
    kind: Kind,
    probability: float | None = None,
) -> Shot:
    labels, path = findings.labels(row), findings.data.paths[row]
    return Shot(
        photo=photos.get(row, Photo(missing="not read")),
        path=path,
        kind=kind,
        alt=f"{path.name}; labels: {', '.join(labels) or 'none'}",
        tags=[Tag(name) for name in labels or ["no label"]],
        probability=probability,
    )
