"""The site over runs of a small set, whose names are HTML, without a browser."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_set import write_photos
from starlette.testclient import TestClient

import grigri_fast
from grigri_fast.curation.suggestions import Suggestion
from grigri_fast.serving.background import Background
from grigri_fast.serving.compared_runs import ComparedRuns
from grigri_fast.serving.journal import Journal
from grigri_fast.serving.review import Question, Review, questions
from grigri_fast.serving.scored_run import ScoredRun
from grigri_fast.serving.site import make_site

NASTY = "<script>alert(1)<script>"  # it is the name of a class and of a file, too


def write_nasty_photos(folder: Path) -> Path:
    """Write the small set with a class whose name is HTML."""
    data = write_photos(folder)
    (data / "annotations" / "sky.txt").rename(data / "annotations" / f"{NASTY}.txt")
    return data


def write_twins(data: Path) -> None:
    """Let im2, which is called a cat, and im11, which has no label, show nearly the same."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    noise = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    for number in (2, 11):
        noise.save(data / "images" / f"im{number}.jpg", quality=60 + 3 * number)


def train(data: Path, **options: Any) -> Path:
    """Train for an epoch, and return the run folder, beside the data by default."""
    chosen = {"epochs": 1, "val": 0.5, "out": data.parent / "runs", **options}
    if "split" in chosen:
        del chosen["val"]
    result = grigri_fast.train(
        data, arch="grigri", weights="none", size=32, batch_size=16, threads=1, flip_test=False,
        **chosen,
    )  # fmt: skip
    return result.folder


@contextlib.contextmanager
def client_of(
    scored: ScoredRun,
    corrections: Path,
    others: Sequence[Path] = (),
    later: dict[str, Background[list[Question]]] | None = None,
    unlabelled: Sequence[Suggestion] = (),
) -> Iterator[Any]:
    """Yield a client of the site; it has the token, and the file of ``corrections``."""
    journal = Journal(corrections)
    thresholds_C = scored.classifier.info.thresholds_C
    asked = questions(scored.data, scored.predictions, thresholds_C)
    review = Review(scored.data, asked, journal, later, unlabelled)
    runs = ComparedRuns(scored, others, "last", journal)
    guard = make_site(scored, review, runs, port=8765, token="t")
    client = TestClient(guard, base_url="http://127.0.0.1:8765")
    client.headers["Authorization"] = "Bearer t"
    client.corrections, client.review = corrections, review
    yield client
    journal.close()
