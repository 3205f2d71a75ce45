"""Runs beside each other: which photographs count, by which labels, and who is right where."""

import contextlib
import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import Page
from small_site import NASTY, client_of, train, write_nasty_photos

import grigri_fast
from grigri_fast.data import packed
from grigri_fast.errors import GrigriError
from grigri_fast.evaluation import evaluator
from grigri_fast.runtime.compute import Compute
from grigri_fast.serving.scored_run import ScoredRun

pytestmark = pytest.mark.slow  # two runs are trained


@pytest.fixture(scope="module")
def better(run: Path) -> Path:
    """Return a run with the split of the first, trained for longer."""
    data = run.parent.parent / "photos"
    return train(data, split=str(run / "split.json"), epochs=12, lr=0.05, name="better")


@pytest.fixture(scope="module")
def swapped(run: Path, tmp_path_factory) -> Path:
    """Return a run that was trained on what the first was not, and the other way round."""
    split = json.loads((run / "split.json").read_text())
    parts = split["parts"]
    parts["train"], parts["val"] = parts["val"], parts["train"]
    file = tmp_path_factory.mktemp("swapped") / "split.json"
    file.write_text(json.dumps(split))
    return train(run.parent.parent / "photos", split=str(file), name="swapped")


@pytest.fixture
def compared(scored: ScoredRun, tmp_path: Path) -> Iterator[Callable]:
    with contextlib.ExitStack() as stack:

        def begin(*others: Path):
            return done(stack.enter_context(client_of(scored, tmp_path / "c.csv", others)))

        yield begin


def done(client):
    """Return a client when the runs are compared."""
    assert client.get("/compare").status_code == 200
    for _ in range(600):
        if client.get("/compare/progress").json()["is_done"]:
            return client
        time.sleep(0.1)
    raise AssertionError("it takes a minute")


def shown(client, address: str = "/compare") -> Page:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    page = Page(answer.text.replace("<!doctype html>", ""))
    assert not any("style" in attributes for _, attributes in page.tags)  # the policy forbids it
    return page


def tables(page: Page) -> list[str]:
    return " ".join(page.text.split())


def test_two_runs_are_scored_on_the_same_photographs(
    compared, scored: ScoredRun, better: Path
) -> None:
    client = compared(better)
    num = len(scored.predictions.rows_N)
    page = tables(shown(client))
    assert f"On {num} images that are in the validation part of each run" in page
    own = evaluator.evaluate(better, threads=1, device="cpu").evaluation.honest
    assert f"{own.micro_f1.value:.4f} {own.micro_f1.low:.3f} to {own.micro_f1.high:.3f}" in page
    first = evaluator.evaluate(scored.folder, threads=1, device="cpu").evaluation.honest
    assert f"{own.micro_f1.value - first.micro_f1.value:+.4f}" in page
    assert "first" in page and "better" in page and "epochs 1 12" in page


def test_who_is_right_where_is_counted_and_shown(compared, scored: ScoredRun, better: Path) -> None:
    client = compared(better)
    rows = scored.predictions.rows_N
    of_first = [scored.classifier.predict(scored.data.paths[row])[0].labels for row in rows]
    model = grigri_fast.load(better, threads=1, device="cpu")
    of_better = [model.predict(scored.data.paths[row])[0].labels for row in rows]
    has = scored.data.targets_NC[rows] > 0
    for c, name in enumerate(scored.data.class_names):
        is_first_right = np.array([name in some for some in of_first]) == has[:, c]
        is_better_right = np.array([name in some for some in of_better]) == has[:, c]
        for side, is_here in (
            ("won", is_better_right & ~is_first_right),
            ("lost", is_first_right & ~is_better_right),
        ):
            page = shown(client, f"/compare/changed?run=1&class={c}&side={side}")
            photos = [img["src"] for img in page.all("img")]
            assert sorted(photos) == sorted(f"/photo/{row}?small" for row in rows[is_here])
            assert client.get(f"/compare/changed?class={c}&side=won").status_code == 200
    everything = shown(client, "/compare/changed")
    assert len(everything.all("img")) == min(
        24, int(re.search(r"(\d+) labels?", everything.text)[1])
    )
    assert everything.all("img"), "they are the same model"
    assert client.get(everything.all("img")[0]["src"]).headers["content-type"] == "image/jpeg"


def test_corrected_labels_are_the_truth(compared, scored: ScoredRun, better: Path) -> None:
    client = compared(better)
    assert "corrects none of them here" in tables(shown(client))
    before = tables(shown(client, "/compare/changed"))
    photo = shown(client, "/compare/changed").all("img")[0]["src"]
    row = int(re.search(r"/photo/(\d+)", photo)[1])
    assert "row" not in before
    for c in range(len(scored.data.class_names)):
        was = bool(scored.data.targets_NC[row, c])
        client.post("/review/decide", json={"row": row, "c": c, "value": "0" if was else "1"})
    num = len(scored.data.class_names)
    assert f"which change {num} of the labels here" in tables(shown(client))
    after = tables(shown(client, "/compare/changed"))
    assert before != after  # who was right of it is wrong now
    client.post("/review/undo")
    assert f"which change {num - 1} of the labels here" in tables(shown(client))


def test_runs_that_cannot_be_compared_are_told_and_the_others_compared(
    compared, run: Path, better: Path, swapped: Path, tmp_path: Path
) -> None:
    data = write_nasty_photos(tmp_path / "photos")
    (data / "annotations" / "dog.txt").rename(data / "annotations" / "hound.txt")
    other_classes = train(data, name="other")
    broken = shutil.copytree(better, tmp_path / "broken")
    (broken / "data.json").write_text("{}")
    silent = shutil.copytree(better, tmp_path / "silent")
    (silent / "data.json").unlink()
    page = tables(shown(compared(swapped, other_classes, broken, silent, better)))
    assert "swapped cannot be compared: no photograph is in the validation part of both" in page
    assert "other cannot be compared: its classes are others: it has hound and lacks dog." in page
    assert "broken cannot be compared: " in page
    assert "silent cannot be compared: one of the two does not say which photographs" in page
    assert "is better than" in page or "cannot be told" in page  # the one that can be compared
    alone = tables(shown(compared(swapped)))
    assert "swapped cannot be compared" in alone and "Scores" not in alone


@pytest.mark.parametrize("is_trained_on", [True, False])
def test_only_what_all_have_for_validation_and_none_was_trained_on_counts(
    compared, better: Path, tmp_path: Path, is_trained_on: bool
) -> None:
    """Half of the photographs are also in the other run's training part, or in no part of it."""
    other = shutil.copytree(better, tmp_path / "other")
    split = json.loads((other / "split.json").read_text())
    parts = split["parts"]
    val = parts["val"]
    if is_trained_on:
        parts["train"] = sorted([*parts["train"], *val[::2]])
    else:
        parts["val"] = val[1::2]
    (other / "split.json").write_text(json.dumps(split))
    page = tables(shown(compared(other)))
    assert f"On {len(val[1::2])} images that are in the validation part of each" in page


def test_one_run_alone_says_how_to_compare(site) -> None:
    assert "There is one run here" in tables(shown(site))


def test_names_are_escaped(scored: ScoredRun, better: Path, tmp_path: Path) -> None:
    """Of classes, of photographs and of runs."""
    nasty = shutil.copytree(better, tmp_path / NASTY)
    names = packed.names(f"{NASTY}{name}" for name in scored.data.names)
    data = dataclasses.replace(scored.data, names=names)
    named = dataclasses.replace(scored, data=data)
    with client_of(named, tmp_path / "c.csv", [nasty]) as client:
        done(client)
        for address in ("/compare", "/compare/changed"):
            text = client.get(address).text
            assert NASTY not in text and "&lt;script&gt;alert(1)&lt;script&gt;" in text
            assert {attrs.get("src") for attrs in shown(client, address).all("script")} <= {
                "/static/compare.js"
            }
        photos = shown(client, "/compare/changed").all("img")
        assert photos and all(NASTY in photo["alt"] for photo in photos)
        asked = client.get("/review/questions?kind=errors")
        assert NASTY in asked.json()[0][4]
        assert asked.headers["content-type"] == "application/json"
        assert asked.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "query", ["run=0", "run=2", "run=x", "class=99", "class=-1", "side=left", "page=0", "page=x"]
)
def test_what_is_not_there_is_said(compared, better: Path, query: str) -> None:
    assert compared(better).get(f"/compare/changed?{query}").status_code == 404


def test_wrong_runs_are_one_line_at_once(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="named twice"):
        grigri_fast.serve([run, run])
    with pytest.raises(GrigriError, match="no such run folder"):
        grigri_fast.serve([run, tmp_path / "gone"])
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.toml").write_text("")
    with pytest.raises(GrigriError, match=r"has no last\.safetensors yet"):
        grigri_fast.serve([run, tmp_path / "young"])


def test_the_best_model_is_served_with_its_own_thresholds(
    run: Path, better: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    shutil.copy(better / "last.safetensors", folder / "best.safetensors")
    grigri_fast.evaluate(folder, checkpoint="best", threshold=0.3, save=True, threads=1)
    compute = Compute.resolve(device="cpu", threads=1)
    last, best = (ScoredRun.of(folder, name, compute, 10_000_000) for name in ("last", "best"))
    expected = ScoredRun.of(better, "last", compute, 10_000_000)
    said_MC, their_MC = best.predictions.probabilities_NC, expected.predictions.probabilities_NC
    assert np.array_equal(said_MC, their_MC)
    assert not np.array_equal(said_MC, last.predictions.probabilities_NC)
    assert set(best.classifier.thresholds.values()) == {0.3}
    assert set(last.classifier.thresholds.values()) == {0.5}
