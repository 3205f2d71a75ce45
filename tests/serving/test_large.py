"""100,000 photographs: what a page sends and does depends on what it shows, not on their number."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_site import client_of

from grigri_fast.curation.label_issues import Predictions
from grigri_fast.data import packed
from grigri_fast.reporting import photographs
from grigri_fast.serving import compare_page
from grigri_fast.serving.compare_page import PER_PAGE, Choice
from grigri_fast.serving.compared_runs import Compared, Contestant, changed_labels
from grigri_fast.serving.scored_run import ScoredRun

NUM = 100_000


@pytest.fixture(scope="module")
def large(scored: ScoredRun) -> ScoredRun:
    """Return the run with 100,000 photographs, which are a few files, all of them scored."""
    files = list(scored.data.paths)[:5]
    rng = np.random.default_rng(0)
    targets_NC = (rng.random((NUM, 3)) < 0.3).astype(np.float32)
    data = dataclasses.replace(
        scored.data,
        names=packed.names(f"{n:06}.jpg" for n in range(NUM)),
        paths=packed.paths(files[n % 5] for n in range(NUM)),
        targets_NC=targets_NC,
        unknown_NC=None,
    )
    has_NC = np.where(rng.random((NUM, 3)) < 0.1, 1 - targets_NC, targets_NC)  # a tenth is wrong
    said_NC = np.clip(has_NC * 0.4 + rng.random((NUM, 3)) * 0.6, 0.01, 0.99)
    return dataclasses.replace(
        scored, data=data, predictions=Predictions(np.arange(NUM), said_NC, "made up")
    )


@pytest.fixture(scope="module")
def site(large: ScoredRun, tmp_path_factory) -> Iterator[Any]:
    with client_of(large, tmp_path_factory.mktemp("large") / "c.csv") as client:
        yield client


def test_a_page_of_the_review_does_not_grow_with_the_photographs(site) -> None:
    assert len(site.get("/review").text) < 20_000
    assert len(site.get("/").text) < 20_000
    asked = site.get("/review/questions?kind=errors").json()
    assert len(asked) == 1000  # the surest of tens of thousands
    doubtful = site.get("/review/questions?kind=doubtful").json()
    assert len(doubtful) == 5000


def test_an_answer_sends_itself_alone(site) -> None:
    for row in range(20):
        state = site.post("/review/decide", json={"row": row, "c": 0, "value": "unknown"}).json()
        assert state["decisions"] == [[row, 0, "unknown"]]
    assert len(site.get("/review/state").json()["decisions"]) == 20


def test_a_photograph_is_read_alone(site, large: ScoredRun, monkeypatch) -> None:
    read = photographs.read
    asked = []
    monkeypatch.setattr(
        photographs, "read", lambda p, rows, **how: asked.append((p, rows)) or read(p, rows, **how)
    )
    answer = site.get(f"/photo/{NUM - 1}?small")
    assert answer.headers["content-type"] == "image/jpeg"
    assert asked == [([large.data.paths[NUM - 1]], [0])]


def test_photographs_that_changed_sides_come_by_the_page(large: ScoredRun) -> None:
    """Of two runs that differ in tens of thousands of labels."""
    said_NC = large.predictions.probabilities_NC, np.random.default_rng(1).random((NUM, 3))
    info, config = large.classifier.info, large.config
    first, other = (
        Contestant(Path(name), config, [], info, said, np.full(3, 0.5))
        for name, said in zip(("first", "other"), said_NC, strict=True)
    )
    has_NC = large.data.targets_NC > 0
    changed = [changed_labels(first, one, has_NC, None) for one in (first, other)]
    rows_N = large.predictions.rows_N
    compared = Compared([first, other], rows_N, has_NC, None, 0, models=[], changed=changed)
    pages = [
        compare_page.changed(compared, large.data, Choice(1, 2, "lost", page))
        for page in (1, 2, 10**6)
    ]
    assert [len(page["shown"]) for page in pages] == [PER_PAGE, PER_PAGE, 0]
    is_lost_N = ((said_NC[0][:, 2] >= 0.5) == has_NC[:, 2]) & (
        (said_NC[1][:, 2] >= 0.5) != has_NC[:, 2]
    )
    assert pages[0]["total"] == is_lost_N.sum() > 10_000
    apart_N = np.where(is_lost_N, np.abs(said_NC[0] - said_NC[1])[:, 2], 0)
    shown = [photo.row for page in pages for photo in page["shown"]]
    assert shown == np.argsort(-apart_N, kind="stable")[: 2 * PER_PAGE].tolist()
