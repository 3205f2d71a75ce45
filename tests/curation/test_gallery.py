"""The gallery: names stay names."""

import dataclasses
from pathlib import Path

import numpy as np
from pages import Page
from small_set import labelled

from grigri_fast.curation import gallery
from grigri_fast.curation.duplicates import Pair
from grigri_fast.curation.findings import Findings
from grigri_fast.curation.label_issues import Issue


def test_names_cannot_get_out_of_the_gallery(tmp_path: Path) -> None:
    naughty = "<script>&\"'"
    data = dataclasses.replace(
        labelled(np.array([[1, 0], [0, 1]])),
        paths=[Path(f"{naughty}.jpg"), Path("b.jpg")],
        class_names=[naughty, "c"],
        layout=naughty,
    )
    issue = Issue(0, 0, True, 0.1, 0.1)
    findings = Findings(
        data, [Pair(0, 1, 2, 0.9)], {0: "train", 1: "val"}, [issue], naughty, tmp_path
    )
    assert findings.is_across(findings.pairs[0])
    text = gallery.to_html(findings, findings.pairs, {0: ([], [issue])}, {})
    page = Page(text)
    assert not page.all("script") and page.text.count(naughty) >= 4
    assert "not read" in page.text
