"""The page of a deep check: near-duplicates side by side, and labels that are likely wrong."""

from collections.abc import Sequence

import numpy as np

from ..reporting import html, photographs
from ..reporting.photographs import Kind, Photo, Shot, Tag
from .duplicates import Pair
from .findings import ISSUES, NEAR, Findings
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
    data, names = findings.data, findings.data.class_names
    num_across = sum(map(findings.is_across, findings.pairs))
    num_issues = np.bincount([i.c for i in findings.issues or ()], minlength=len(names)).tolist()
    return html.render(
        "gallery.html.j2",
        layout=data.layout,
        facts=[
            ("Images", f"{len(data):,}"),
            ("Near-duplicates", f"{len(findings.pairs):,}"),
            ("Across the split", f"{num_across:,}" if findings.part_of else "no split given"),
            ("Labels likely wrong", f"{sum(num_issues):,}" if findings.issues is not None else "-"),
        ],
        pairs=[_pair(findings, pair, photos) for pair in pairs],
        num_pairs=len(findings.pairs),
        with_labels=findings.issues is not None,
        source=findings.source,
        links=[(f"class-{c}", names[c]) for c in issues],
        classes=[
            (c, names[c], num_issues[c], _rows(findings, kinds, photos))
            for c, kinds in issues.items()
        ],
        foot=f"Written by grigri-fast data check --deep. {NEAR} and {ISSUES} hold all of it.",
    )


def _pair(findings: Findings, pair: Pair, photos: dict[int, Photo]) -> tuple[str, Kind, list[Shot]]:
    """Return what is said of a pair, the colour of its frames, and its photographs."""
    words = f"{pair.distance} of 64 bits differ, correlation {pair.correlation:.3f}"
    kind: Kind = "right"
    if findings.is_across(pair):
        words += f"; {findings.part_of[pair.first]} and {findings.part_of[pair.second]}"
        kind = "false"
    return words, kind, [_shot(findings, row, photos, kind) for row in (pair.first, pair.second)]


def _rows(
    findings: Findings, kinds: Kinds, photos: dict[int, Photo]
) -> list[tuple[str, str, Kind, list[Shot]]]:
    """Return a class's issues as rows of photographs."""
    heads: tuple[tuple[str, Kind], ...] = (
        ("Not given, but probable", "missed"),
        ("Given, but improbable", "false"),
    )
    return [
        (
            name,
            "the likeliest errors first",
            kind,
            [_shot(findings, i.row, photos, kind, i.probability) for i in those],
        )
        for (name, kind), those in zip(heads, kinds, strict=True)
    ]


def _shot(
    findings: Findings,
    row: int,
    photos: dict[int, Photo],
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
