"""The site over a run of a small set, without a browser."""

import csv
import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_set import CLASSES, write_image
from small_site import NASTY, client_of, write_twins

import grigri_fast
from grigri_fast.errors import GrigriError
from grigri_fast.runtime.compute import Compute
from grigri_fast.serving import serve
from grigri_fast.serving.review import precision_and_recall
from grigri_fast.serving.scored_run import ScoredRun


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    """Return a black image, in a bit for each pixel: a large one is made quickly, too."""
    content = io.BytesIO()
    Image.new("1", size).save(content, format="PNG")
    return content.getvalue()


def test_predict_gives_what_predict_gives(site, run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg", 5)
    answer = site.post("/predict", content=(tmp_path / "x.jpg").read_bytes())
    (expected,) = grigri_fast.predict(run, tmp_path / "x.jpg", threads=1, device="cpu")
    assert answer.json()["labels"] == expected.labels
    assert answer.json()["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert set(answer.json()["thresholds"]) == set(expected.probabilities)


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 400, "send the bytes"),
        (b"hello", 422, "not a JPEG"),
        (png()[:50], 422, ""),
        (png((20000, 20000)), 422, "pixels"),
    ],
    ids=["nothing", "text", "cut", "bomb"],
)
def test_what_is_no_photograph_is_one_line(site, content: bytes, status: int, says: str) -> None:
    answer = site.post("/predict", content=content)
    assert answer.status_code == status and says in answer.json()["error"]


def test_decisions_are_written_undone_and_used(site, scored: ScoredRun, tmp_path: Path) -> None:
    row, c = int(scored.predictions.rows_N[0]), 1
    was = bool(scored.data.targets_NC[row, c])
    decision = {"row": row, "c": c, "value": "0" if was else "1"}
    state = site.post("/review/decide", json=decision).json()
    assert state["num_changed"] == 1 and state["decisions"] == [[row, c, decision["value"]]]
    lines = list(csv.DictReader(site.corrections.open()))
    assert [(line["image"], line["class"], line["value"]) for line in lines] == [
        (scored.data.names[row], scored.data.class_names[c], decision["value"])
    ]
    labels = {label["c"]: label for label in site.get(f"/labels/{row}").json()}
    assert labels[c]["is_changed"] and labels[c]["value"] == decision["value"]
    done = grigri_fast.check(scored.config.data, corrections=site.corrections, threads=1)
    assert bool(done.data.targets_NC[row, c]) is not was
    state = site.post("/review/undo").json()
    assert state["decisions"] == [[row, c, "given"]] and not state["can_undo"]
    assert state["num_changed"] == 0 and not site.get("/review/state").json()["decisions"]
    assert site.post("/review/undo").json()["decisions"] == []
    after = grigri_fast.check(scored.config.data, corrections=site.corrections, threads=1)
    assert np.array_equal(after.data.targets_NC, scored.data.targets_NC)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"row": 0, "c": 99, "value": "1"}, 404),
        ({"row": -1, "c": 0, "value": "1"}, 404),
        ({"row": 10**6, "c": 0, "value": "1"}, 404),
        ({"row": 0, "c": 0, "value": "yes"}, 400),
        ({"row": "0", "c": 0, "value": "1"}, 400),
        ({"row": True, "c": 0, "value": "1"}, 400),
        ([], 400),
        ({"row": 0, "c": 0, "value": None}, 400),
        ({"row": 0, "c": 0, "value": "1", "before": "no"}, 400),
        ([{"row": 0, "c": 0, "value": "1"}, {"row": 0, "c": 99, "value": "1"}], 404),
        ([{"row": 0, "c": 0, "value": "1"}] * 101, 400),
    ],
)
def test_a_wrong_decision_is_refused_and_nothing_is_written(site, said, status: int) -> None:
    assert site.post("/review/decide", json=said).status_code == status
    assert not site.corrections.exists()


def test_only_photographs_of_the_data_are_shown_and_only_by_number(
    site, run: Path, scored: ScoredRun
) -> None:
    shown = site.get("/photo/0")
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.headers["vary"] == "Cookie"  # a browser forgets it with the site's token
    assert Image.open(io.BytesIO(shown.content)).size[0] == 640
    for address in (
        f"/photo/{len(scored.data)}", "/photo/-1", "/photo/../../etc/passwd", "/photo/%2e%2e%2fx",
        "/static/../site.py", "/static/..%2fsite.py", "/static/journal.py", "/etc/passwd",
    ):  # fmt: skip
        assert site.get(address).status_code == 404, address


def test_a_link_to_something_else_is_not_shown(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run.parent.parent, tmp_path / "copy")
    config = moved / "runs" / run.name / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent.parent), str(moved)))
    link = moved / "photos" / "images" / "im1.jpg"
    link.unlink()
    link.symlink_to("/etc/passwd")
    compute = Compute.resolve(device="cpu", threads=1)
    scored = ScoredRun.of(moved / "runs" / run.name, "last", compute, 10_000_000)
    photo = scored.photo(scored.data.paths[scored.data.names.index("im1.jpg")])
    assert photo.missing and not photo.jpeg


def test_names_are_escaped(site, scored: ScoredRun) -> None:
    assert NASTY in scored.data.class_names
    for page in ("/", "/review"):
        answer = site.get(page)
        assert answer.status_code == 200
        assert NASTY not in answer.text and "\\u003cscript\\u003e" in answer.text


def test_precision_and_recall_by_threshold() -> None:
    precision, recall = precision_and_recall(
        np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]), [0, 0.3, 0.85, 1]
    )
    assert precision == [0.5, 2 / 3, 1, 1]
    assert recall == [1, 1, 0.5, 0]


def test_the_curve_ends_where_the_labels_are(site, scored: ScoredRun) -> None:
    curve = site.get("/over-thresholds/0").json()
    num = int(scored.data.targets_NC[scored.predictions.rows_N, 0].sum())
    assert curve["num_with_label"] == num and curve["recall"][0] == 1
    assert curve["precision"][0] == pytest.approx(num / curve["num_images"])
    assert site.get(f"/over-thresholds/{len(CLASSES)}").status_code == 404


def test_what_serve_cannot_do_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="not a run folder"):
        grigri_fast.serve(tmp_path)
    moved = shutil.copytree(run.parent.parent, tmp_path / "copy")
    config = moved / "runs" / run.name / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent.parent), "/gone"))
    with pytest.raises(GrigriError, match="its data were in"):
        grigri_fast.serve(moved / "runs" / run.name)


def test_corrections_that_cannot_be_written_are_said_before_the_run_is_scored(
    run: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(ScoredRun, "of", lambda *args: pytest.fail("the run is scored"))
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    for wrong in (other, tmp_path / "nowhere" / "corrections.csv"):
        with pytest.raises(GrigriError, match=rf"^(--corrections )?{wrong}: "):
            grigri_fast.serve(run, corrections=wrong)


def questions_of(site, kind: str) -> list[list]:
    for _ in range(300):
        answer = site.get(f"/review/questions?kind={kind}")
        if answer.status_code != 202:
            return answer.json()
        assert answer.json()["words"]
        time.sleep(0.1)
    raise AssertionError("it takes half a minute")


def test_near_duplicates_with_other_labels_are_asked(run: Path, tmp_path: Path) -> None:
    """A photograph that is there twice, with another label: the question is about that label."""
    moved = shutil.copytree(run.parent.parent, tmp_path / "copy")
    config = moved / "runs" / run.name / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent.parent), str(moved)))
    write_twins(moved / "photos")
    compute = Compute.resolve(device="cpu", threads=1)
    scored = ScoredRun.of(moved / "runs" / run.name, "last", compute, 10_000_000)
    with client_of(scored, tmp_path / "c.csv", later=serve.later(scored)) as site:
        pairs = [q for q in questions_of(site, "duplicates") if "im2.jpg" in (q[4], q[7])]
        cat = scored.data.class_names.index("cat")
        ((first, c, _, given, name, second, given_of_second, name_of_second),) = pairs
        assert {name: given, name_of_second: given_of_second} == {"im2.jpg": "1", "im11.jpg": "0"}
        assert c == cat and (scored.data.names[first], scored.data.names[second]) == (
            name,
            name_of_second,
        )
        decisions = [{"row": row, "c": cat, "value": "1"} for row in (second, first)]
        assert site.post("/review/decide", json=decisions).json()["num_changed"] == 1
        done = grigri_fast.check(scored.config.data, corrections=site.corrections, threads=1)
        assert done.data.targets_NC[[first, second], cat].tolist() == [1, 1]
        undone = site.post("/review/undo").json()  # both, since they were one answer
        assert undone["decisions"] == [[second, cat, "given"], [first, cat, "given"]]
        assert not site.get("/review/state").json()["decisions"]


def test_an_answer_of_another_tab_is_neither_doubled_nor_lost(site) -> None:
    said = {"row": 3, "c": 1, "value": "1", "before": "given"}
    assert site.post("/review/decide", json=said).status_code == 200
    again = site.post("/review/decide", json=said)  # the same answer, of a tab that lags behind
    assert again.status_code == 200 and again.json()["decisions"] == [[3, 1, "1"]]
    assert len(site.corrections.read_text().splitlines()) == 2
    other = site.post("/review/decide", json=said | {"value": "0"})
    assert other.status_code == 409 and "another tab has said yes" in other.json()["error"]
    assert site.get("/review/state").json()["decisions"] == [[3, 1, "1"]]
    knowing = site.post("/review/decide", json=said | {"value": "0", "before": "1"})
    assert knowing.json()["decisions"] == [[3, 1, "0"]]
    assert site.post("/review/undo").json()["decisions"] == [[3, 1, "1"]]


def test_an_upload_of_a_gigabyte_is_refused_before_it_is_read(site) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(1024):
            yield bytes(2**20)

    told = site.post("/predict", content=b"x", headers={"Content-Length": str(2**30)})
    assert told.status_code == 413
    untold = site.post("/predict", content=pieces())
    assert untold.status_code == 413 and "100,000,000 bytes" in untold.json()["error"]
